"""The parser of the `ralm` command."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ralm_jax.arguments import asking, texts, training
from ralm_jax.errors import UserError


class _Once(argparse.Action):
    """Keeps the value of an option, of which two that differ are a mistake: one would be lost.

    So is an empty one: as a path it would be the present folder.
    """

    def __call__(self, parser, namespace, values: Any, option_string=None) -> None:
        given = namespace.__dict__.setdefault("given", {})
        if option_string and repr(given.setdefault(self.dest, values)) != repr(values):
            parser.error(f"{option_string} is given twice: {given[self.dest]} and {values}")
        if values == "":
            parser.error(f"{option_string or self.metavar} is empty")
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else does."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register("action", None, _Once)
        self.register("action", "store", _Once)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{' '.join(message.split())}; see {self.prog} --help")


def parser(verbs: Mapping[str, Callable[[argparse.Namespace], None]]) -> argparse.ArgumentParser:
    """The parser; `verb` of what it parses is the function of `verbs` to call. It raises UserError."""
    ralm = _Parser(
        prog="ralm",
        description="Train a language model together with its retriever, on your own text.",
        epilog="Start with `ralm quickstart`. Exit code: 0 success, 2 usage error, 130 interrupted, 143 "
        "terminated, 1 an error of ralm_jax itself.",
    )
    parsers = ralm.add_subparsers(required=True, metavar="VERB")
    for add in (
        training.quickstart,
        training.adapt,
        texts.prepare,
        texts.update,
        texts.import_,
        training.pretrain,
        training.finetune,
        training.estimate,
        asking.evaluate,
        asking.ask,
        asking.serve,
        asking.check,
        texts.export,
    ):
        name, verb = add(parsers)
        verb.set_defaults(verb=verbs[name])
    return ralm
