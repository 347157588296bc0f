"""The parser of the `ralm` command."""

import argparse
from collections.abc import Callable, Mapping

from ralm_jax.arguments import asking, texts, training


def parser(verbs: Mapping[str, Callable[[argparse.Namespace], None]]) -> argparse.ArgumentParser:
    """The parser; `verb` of what it parses is the function of `verbs` to call."""
    ralm = argparse.ArgumentParser(
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
