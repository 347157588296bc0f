"""Parts of pages that are made from the code while the site is built: verbs and settings."""

import argparse
import re
import textwrap
from collections.abc import Iterator

import gin

from ralm_jax import cli, gin_config
from ralm_jax.arguments.parser import parser
from ralm_jax.arguments.shared import configs, described

# The configuration whose settings are listed one by one.
CHAIN = "runs/pretrain.gin"
# On the site the results are a page; in the repository they are the README of the experiments.
_ELSEWHERE = {"../experiments/README.md": "results.md", "../README.md": "index.md"}


def fill(app, page, source) -> None:
    """Puts what is made here in the place of the comments that ask for it. Called by Sphinx for each page."""
    text = source[0]
    for marker, make in (("verbs", verbs), ("settings", settings), ("files", files)):
        if f"<!-- made: {marker} -->" in text:
            text = text.replace(f"<!-- made: {marker} -->", "\n".join(make()))
    for there, here in _ELSEWHERE.items():
        up = "../" * page.count("/")
        text = text.replace(f"]({up}{there}", f"]({up}{here}")
    source[0] = text


def verbs() -> Iterator[str]:
    """A section for each verb: what it does, how it is called, and its options."""
    whole = parser(cli.VERBS)
    (choices,) = (a for a in whole._actions if isinstance(a, argparse._SubParsersAction))
    summaries = {each.dest: each.help for each in choices._choices_actions}
    for name, verb in choices.choices.items():
        yield f"## {name}\n\n*{summaries[name]}*\n\n{verb.description}\n"
        usage = " ".join(verb.format_usage().removeprefix("usage: ").split())
        usage = textwrap.fill(usage, 88, subsequent_indent="    ", break_on_hyphens=False)
        yield f"```text\n{usage}\n```\n"
        yield "| | |\n|---|---|"
        for action in verb._actions:
            if action.dest != "help":
                yield f"| {_called(action)} | {_cell(action.help or '')} |"
        yield f"\n{verb.epilog}\n" if verb.epilog else ""


def _called(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(action.choices) if action.choices else "")
    value = "" if action.nargs == 0 else str(value)
    return f"`{_cell(' '.join([', '.join(action.option_strings), value]).strip())}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def settings() -> Iterator[str]:
    """The settings of the whole chain: what they are and where they go."""
    gin_config.configure("pretrain.pretrain", CHAIN)
    given: dict[str, list[str]] = {}
    values: dict[str, object] = {}
    for (scope, selector), bound in gin.config._CONFIG.items():
        if selector == "gin.macro":
            values[scope] = bound["value"]
            continue
        short = ".".join(selector.split(".")[-2:])
        for argument, value in bound.items():
            if found := re.fullmatch(r"%(\w+)", str(value)):
                name = "/".join(filter(None, [scope, f"{short}.{argument}"]))
                given.setdefault(found[1], []).append(f"`{name}`")
    yield "| setting | value | given to |\n|---|---|---|"
    for name in sorted(values):
        yield f"| `{name}` | `{_cell(str(values[name]))}` | {', '.join(given.get(name, ['others']))} |"


def files() -> Iterator[str]:
    """The configurations that ship, as they are, but for the rows of the experiments."""
    for name in described():
        if not name.startswith("experiments/"):
            yield f"### {name}\n\n```text\n{(configs() / name).read_text('utf-8').rstrip()}\n```\n"
