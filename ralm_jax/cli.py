"""The `ralm` command: each verb parses its arguments and calls the function of the same name."""

import functools
import io
import sys
from collections.abc import Sequence

from ralm_jax import memory
from ralm_jax.arguments.parser import parser
from ralm_jax.ending import exit_code
from ralm_jax.signals import raise_on_sigterm
from ralm_jax.verbs import asking, machine, texts, training
from ralm_jax.verbs.figures import check_folder, figures


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Returns 0 when done (or stopped with a checkpoint), 2 for a usage error, 130 for Ctrl-C, 143 for SIGTERM.
    """
    _print_anything()
    return exit_code(functools.partial(_run, argv))


def _run(argv: Sequence[str] | None) -> None:
    arguments = parser(VERBS).parse_args(argv)
    memory.keep_freed()
    for option in ("json", "predictions", "each"):
        check_folder(getattr(arguments, option, None))
    with raise_on_sigterm(), figures(getattr(arguments, "json", None)) as write:
        arguments.verb(arguments, write)


def _print_anything() -> None:
    """A terminal that knows ASCII alone shows a mark for what it cannot, rather than ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


VERBS = {
    "quickstart": training.quickstart,
    "adapt": training.adapt,
    "prepare": texts.prepare,
    "update": texts.update,
    "import": texts.import_,
    "pretrain": training.pretrain,
    "finetune": training.finetune,
    "estimate": training.estimate,
    "evaluate": asking.evaluate,
    "ask": asking.ask,
    "serve": asking.serve,
    "check": asking.check,
    "embed": texts.embed,
    "export": texts.export,
    "push": texts.push,
    "configs": machine.configs,
    "doctor": machine.doctor,
    "completion": machine.completion,
}

if __name__ == "__main__":
    sys.exit(main())
