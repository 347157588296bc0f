"""The `ralm` command: each verb parses its arguments and calls the function of the same name."""

import contextlib
import faulthandler
import functools
import io
import os
import sys
from collections.abc import Sequence

from ralm_jax import cache, memory
from ralm_jax.arguments.parser import parser
from ralm_jax.ending import exit_code
from ralm_jax.errors import UserError
from ralm_jax.signals import raise_on_signal
from ralm_jax.verbs import asking, machine, texts, training
from ralm_jax.verbs.figures import check_folder, figures


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Returns 0 when done (or stopped with a checkpoint), 2 for a usage error, 130 for Ctrl-C, 143 for SIGTERM,
    129 for SIGHUP.
    """
    _open_streams()
    _print_anything()
    # A bus error, of a mapped file that is cut short or a disk that fails, ends a process without a word.
    if not faulthandler.is_enabled():
        with contextlib.suppress(ValueError):
            faulthandler.enable()
    return exit_code(functools.partial(_run, argv))


def _run(argv: Sequence[str] | None) -> None:
    arguments = parser(VERBS).parse_args(argv)
    # Of the command alone: a program of one's own may train after it has imported.
    if argv is None and _computes_nothing(arguments):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    memory.keep_freed()
    cache.keep_programs()
    for option in ("json", "predictions", "each"):
        check_folder(getattr(arguments, option, None))
    for option in ("out", "run", "corpus", "init", "beside"):
        _check_name(option, getattr(arguments, option, None))
    with raise_on_signal(), figures(getattr(arguments, "json", None)) as write:
        arguments.verb(arguments, write)


def _computes_nothing(arguments) -> bool:
    """Whether a verb needs no accelerator, and so may run beside a training: a TPU serves one process alone.

    Nor does the compiler of a GPU that is not here, which otherwise looks for CUDA.
    """
    if arguments.verb is training.estimate:
        return not arguments.probe
    # The others embed the corpus.
    if arguments.verb is texts.export:
        return arguments.to in ("sentence-transformers", "transformers")
    return arguments.verb in (texts.import_, texts.push)


def _check_name(option: str, folder: str | None) -> None:
    """Raises UserError for a name that is not UTF-8: libraries that write and read there take no other."""
    try:
        (folder or "").encode()
    except UnicodeEncodeError:
        raise UserError(f"{option}: the name {folder} is not UTF-8; choose another") from None


def _open_streams() -> None:
    """A stream that is closed leads nowhere: else its number is that of the next file that is opened, and
    what a library prints would be written to that."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


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
    "index": training.index,
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
