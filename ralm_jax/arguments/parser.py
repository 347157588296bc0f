"""The parser of the `ralm` command."""

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ralm_jax.arguments import asking, machine, texts, training
from ralm_jax.errors import UserError, nearest
from ralm_jax.release import VERSION


class _Once(argparse.Action):
    """Keeps the value of an option, of which two that differ are a mistake: one would be lost.

    So is an empty one: as a path it would be the present folder.
    """

    may_be_empty = False

    def __call__(self, parser, namespace, values: Any, option_string=None) -> None:
        given = namespace.__dict__.setdefault("given", {})
        if option_string and repr(given.setdefault(self.dest, values)) != repr(values):
            parser.error(f"{option_string} is given twice: {given[self.dest]} and {values}")
        empty = values == "" or (isinstance(values, list) and "" in values)
        if empty and not self.may_be_empty:
            parser.error(f"{option_string or self.metavar} is empty")
        setattr(namespace, self.dest, values)


class _Text(_Once):
    """An option whose value may be no text at all."""

    may_be_empty = True


class Parser(argparse.ArgumentParser):
    """Raises UserError, one line with the nearest name, where argparse prints its usage and exits."""

    # Of the command itself; a verb has none.
    verbs: Collection[str] = ()

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register("action", None, _Once)
        self.register("action", "store", _Once)
        self.register("action", "text", _Text)

    def error(self, message: str) -> Any:
        raise UserError(f"{' '.join(message.split())}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, once every name is known: a misspelt one would else be missed as another."""
        words = sys.argv[1:] if args is None else args
        self._check_verb(words) if self.verbs else self._check_options(words)
        return super().parse_known_args(words, namespace)

    def _check_verb(self, words: Sequence[str]) -> None:
        verb = next((word for word in words if not word.startswith("-")), None)
        if verb is not None and verb not in self.verbs:
            raise UserError(f"there is no verb {verb!r}{self._meant(verb, self.verbs)}")

    def _check_options(self, words: Sequence[str]) -> None:
        options = self._option_string_actions
        for word in words:
            if word == "--":
                return
            name = word.partition("=")[0]
            # argparse takes what has a space in it for a value, and the beginning of a name for the name.
            if not name.startswith("--") or " " in name or any(o.startswith(name) for o in options):
                continue
            raise UserError(f"{self.prog} has no option {name}{self._meant(name, options)}")

    def _meant(self, name: str, known: Collection[str]) -> str:
        return nearest(name, known) or f"; see {self.prog} --help"


def parser(verbs: Mapping[str, Callable[..., None]]) -> argparse.ArgumentParser:
    """The parser; `verb` of what it parses is the function of `verbs` to call."""
    ralm = Parser(
        prog="ralm",
        description="Train a language model together with its retriever, on your own text.",
        epilog="Start with `ralm quickstart`. Exit code: 0 success, 2 usage error, 130 interrupted, 143 "
        "terminated, 1 an error of ralm_jax itself.",
    )
    ralm.add_argument("--version", action="version", version=version())
    parsers = ralm.add_subparsers(required=True, metavar="VERB")
    for add in (
        training.quickstart,
        training.adapt,
        texts.prepare,
        texts.update,
        texts.import_,
        training.pretrain,
        training.index,
        training.finetune,
        training.estimate,
        asking.evaluate,
        asking.ask,
        asking.serve,
        asking.check,
        texts.embed,
        texts.export,
        texts.push,
        machine.configs,
        machine.doctor,
        machine.completion,
    ):
        name, verb = add(parsers)
        verb.set_defaults(verb=verbs[name], parser=ralm)
    ralm.verbs = parsers.choices.keys()
    return ralm


def version() -> str:
    """Of ralm_jax, and of what it runs on."""
    jax = importlib.metadata.version("jax")
    return f"ralm_jax {VERSION} (jax {jax}, Python {platform.python_version()})"
