"""What a shell needs in order to complete the `ralm` command, made of its parser by shtab."""

import argparse
from collections.abc import Iterator
from typing import Any

from ralm_jax.arguments.shared import described

# Functions of the two shells that offer the configurations that ship beside files.
_NAMES = {"bash": "_ralm_configs", "zsh": "_ralm_configs"}
_PREAMBLE = {
    "bash": '_ralm_configs() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": "_ralm_configs() {{ compadd -- {names}; _files; }}",
}
# Of a verb: words in capitals that stand for no path.
_NO_PATHS = (
    *("N", "V", "P", "D", "NAME", "'NAME = VALUE'", "DEVICE", "QUESTION", "SHELL", "VERB"),
    "OWNER/NAME",
)


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for "bash" or "zsh"."""
    # Nothing else has a use for it.
    import shtab

    for action in _actions(parser):
        if action.dest == "config":
            completes: Any = _NAMES
        elif action.metavar and action.metavar not in _NO_PATHS:
            completes = shtab.FILE
        else:
            continue
        action.complete = completes  # type: ignore[attr-defined]
    runs = " ".join(name for name in described() if name.startswith("runs/"))
    preamble: Any = {name: text.format(names=runs) for name, text in _PREAMBLE.items()}
    return shtab.complete(parser, shell, preamble=preamble)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Of every verb."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _actions(verb)
        else:
            yield action
