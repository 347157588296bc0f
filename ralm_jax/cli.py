"""The `ralm` command: parse, gin, call. The only module that knows gin.

Files use dynamic registration, so nothing in the package is decorated: a file names what it imports, and
a misspelt name is an error.
"""

import difflib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ralm_jax import memory
from ralm_jax.arguments import configs, parser, shipped
from ralm_jax.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns 0 when done (or stopped with a checkpoint), 2 for the user's mistake."""
    arguments = parser(VERBS).parse_args(argv)
    memory.keep_freed()
    try:
        for option in ("json", "predictions"):
            _check_folder(getattr(arguments, option, None))
        arguments.verb(arguments)
    except UserError as error:
        print(f"ralm: {error}".splitlines()[0], file=sys.stderr)  # gin adds a line on the call
        return 2
    except BrokenPipeError:  # who read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _check_folder(file: str | None) -> None:
    """What is measured for an hour must not be lost for want of a folder to write it to."""
    if file and file != "-" and not Path(file).absolute().parent.is_dir():
        raise UserError(
            f"{file} cannot be written: there is no folder {Path(file).parent}; make it"
        )


def _prepare(arguments) -> None:
    from ralm_jax import runs
    from ralm_jax.data.prepare import prepare
    from ralm_jax.data.tokenizer_settings import TokenizerSettings

    vocab, settings = arguments.vocab, TokenizerSettings(lowercase=not arguments.cased)
    if vocab and Path(vocab).is_dir():
        vocab, settings = runs.vocabulary(Path(vocab))
        if arguments.cased and settings.lowercase:
            raise UserError(
                f"--cased: the run {arguments.vocab} lower-cases text; leave --cased out"
            )
    counts = prepare(
        arguments.source,
        arguments.out,
        vocab_file=vocab,
        vocab_size=arguments.vocab_size,
        passage_tokens=arguments.passage_tokens,
        settings=settings,
    )
    _write_json(arguments.json, counts)


def _import(arguments) -> None:
    from ralm_jax.weights.importing import import_model

    _write_json(arguments.json, import_model(arguments.source, arguments.out))


def _export(arguments) -> None:
    from ralm_jax.weights.exporting import export_model

    for file in export_model(arguments.run, arguments.to, arguments.out, arguments.corpus):
        print(f"{file}  {file.stat().st_size:,} bytes")


def _pretrain(arguments) -> None:
    from ralm_jax.data.corpus import open_corpus

    corpus = open_corpus(arguments.corpus)
    call = configure("training.pretrain", arguments.config, arguments.set, Path(arguments.run))
    given = {"init": arguments.init} if arguments.init else {}
    _until_stopped(call, run=arguments.run, corpus=corpus, **given)


def _quickstart(arguments) -> None:
    _spread_over_cores()
    run = Path(arguments.run or f"quickstart-{arguments.seed}")
    changes = [f"SEED = {arguments.seed}", *arguments.set]
    call = configure("quickstart.quickstart", "runs/quickstart.gin", changes, run)
    report = _until_stopped(call, run=run)
    _write_json(arguments.json, report)


def _spread_over_cores() -> None:
    """On a CPU, a device for every core (a power of two, at most 8): small steps gain a fifth."""
    import jax

    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", min(8, 1 << ((cores or 1).bit_length() - 1)))


def _finetune(arguments) -> None:
    from ralm_jax import answer_evaluation, answering
    from ralm_jax.data.question_sources import read_questions

    asked = read_questions(arguments.dev)
    call = configure("finetuning.finetune", arguments.config, arguments.set, Path(arguments.out))
    given = {name: getattr(arguments, name) for name in ("out", "run", "stage", "train", "corpus")}
    if _until_stopped(call, dev=asked.asked, **given) is None:
        return
    opened = answering.open_run(arguments.out, arguments.corpus)
    report = answer_evaluation.evaluate_answers(opened, asked)
    print(answer_evaluation.table(report))
    _write_json(arguments.json, report)


def _ask(arguments) -> None:
    from ralm_jax.asking import ask

    given = {"run": arguments.run, "corpus": arguments.corpus}
    ask(**given, question=arguments.question, as_json=arguments.json == "-")


def _evaluate(arguments) -> None:
    from ralm_jax import answer_evaluation, answering, evaluation, runs
    from ralm_jax.data.question_sources import read_questions
    from ralm_jax.models.openqa import OpenQA

    run = Path(arguments.run)
    runs.read_record(run)
    if isinstance(runs.load_model(run), OpenQA):
        asked = read_questions(arguments.questions)
        file = arguments.predictions and Path(arguments.predictions)
        opened = answering.open_run(run, arguments.corpus, arguments.stage)
        report = answer_evaluation.evaluate_answers(opened, asked, predictions=file)
        print(answer_evaluation.table(report))
        _write_json(arguments.json, report)
        return
    if arguments.predictions:
        raise UserError(
            f"--predictions: the run {run} does not answer; ralm finetune makes one that does"
        )
    report = evaluation.evaluate(
        run=arguments.run,
        questions=arguments.questions,
        corpus=arguments.corpus,
        stage=arguments.stage,
    )
    print(evaluation.table(report))
    _write_json(arguments.json, report)


def _until_stopped(call: Callable[..., Any], **given) -> Any:
    from ralm_jax import training

    try:
        return call(**given)
    except training.Stopped as stopped:
        said = f"ralm: {stopped}".splitlines()[0]
        print(f"{said}; run the same command again to go on", file=sys.stderr)


def configure(target: str, config: str, changes: Sequence[str], run: Path) -> Callable[..., Any]:
    """The function `target`, bound as a configuration says; resolved, that is kept in the run.

    Raises UserError: no such file, an unknown name (macros too), a value that cannot be read, or a run
    directory that another configuration has made.
    """
    import gin

    from ralm_jax.runs import keep_config

    resolved = _parse(config, changes)
    bound = gin.get_configurable(target)
    keep_config(run, resolved)
    return lambda **given: _called(bound, config, given)


def bindings(target: str, config: str, changes: Sequence[str] = ()) -> dict[str, Any]:
    """What a configuration gives to the function `target`, built. Raises UserError as `configure`."""
    import gin

    _parse(config, changes)
    return gin.get_bindings(target)


def _parse(config: str, changes: Sequence[str]) -> str:
    """Reads a configuration into gin; gives it back resolved."""
    import gin

    gin.clear_config()
    gin.add_config_file_search_path(str(configs()))
    file = Path(config)
    if not file.is_file() and not (configs() / config).is_file():
        raise UserError(f"there is no configuration {config}; shipped: {', '.join(shipped())}")
    logging.disable(logging.ERROR)  # gin logs every folder in which it does not find an include
    try:
        gin.parse_config_file(str(file if file.is_file() else configs() / config))
        for change in changes:
            _apply(change)
        _check_macros(config)
        gin.finalize()
        return gin.config_str(max_line_length=100)
    except UserError:
        raise
    except Exception as error:  # gin raises whatever a file's own imports and parsing raise
        said = " ".join(str(error).split())
        raise UserError(f"configuration {config}: {said}") from error
    finally:
        logging.disable(logging.NOTSET)


def _apply(change: str) -> None:
    import gin

    name, equals, value = (part.strip() for part in change.partition("="))
    if not equals or not name or not value:
        raise UserError(f"--set {change!r}: write it as 'NAME = VALUE'")
    # A change may name whatever the modules hold that the configuration imports.
    imports = [line for line in gin.config_str().splitlines() if line.startswith("from ")]
    try:
        gin.parse_config("\n".join([*imports, change]))
    except Exception as error:
        raise UserError(f"--set {change!r}: {error}") from error


def _check_macros(config: str) -> None:
    """Raises UserError for a macro that nothing reads: gin accepts a misspelt one in silence."""
    import gin

    bound = gin.config._CONFIG
    read = {
        to.scoped_selector.partition("/gin.macro")[0] for to in gin.config.iterate_references(bound)
    }
    for name in (scope for scope, selector in bound if selector == "gin.macro"):
        if name not in read:
            close = difflib.get_close_matches(name, read, n=1)
            hint = f"did you mean {close[0]}?" if close else "remove it"
            raise UserError(f"configuration {config}: nothing reads {name}; {hint}")


def _called(bound, config: str, given: dict[str, Any]) -> Any:
    try:
        return bound(**given)
    except TypeError as error:
        # gin adds the configurable to the message when a binding does not fit what it is given to.
        if "In call to configurable" not in str(error):
            raise
        raise UserError(f"configuration {config}: {' '.join(str(error).split())}") from error


def _write_json(file: str | None, report: Any) -> None:
    if file is None or report is None:
        return
    text = json.dumps(report, indent=1) + "\n"
    if file == "-":
        print(text, end="")
        return
    try:
        Path(file).write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error


VERBS = {
    "quickstart": _quickstart,
    "prepare": _prepare,
    "import": _import,
    "pretrain": _pretrain,
    "finetune": _finetune,
    "evaluate": _evaluate,
    "ask": _ask,
    "export": _export,
}

if __name__ == "__main__":
    sys.exit(main())
