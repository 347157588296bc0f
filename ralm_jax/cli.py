"""The `ralm` command: each verb parses its arguments and calls the function of the same name."""

import functools
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ralm_jax import memory
from ralm_jax.arguments.parser import parser
from ralm_jax.arguments.shared import columns
from ralm_jax.ending import exit_code
from ralm_jax.errors import UserError
from ralm_jax.signals import raise_on_sigterm


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
        _check_folder(getattr(arguments, option, None))
    with raise_on_sigterm():
        arguments.verb(arguments)


def _print_anything() -> None:
    """A terminal that knows ASCII alone shows a mark for what it cannot, rather than ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _check_folder(file: str | None) -> None:
    """What is measured for an hour must not be lost for want of a folder to write it to."""
    if file and Path(file).is_dir():
        raise UserError(f"{file} cannot be written: it is a folder; give a file")
    if file and file != "-" and not Path(file).absolute().parent.is_dir():
        raise UserError(
            f"{file} cannot be written: there is no folder {Path(file).parent}; make it"
        )


def _prepare(arguments) -> None:
    from ralm_jax.data.prepare import prepare
    from ralm_jax.data.tokenizer_settings import TokenizerSettings
    from ralm_jax.data.tokenizing import is_kept
    from ralm_jax.runs import directory

    vocab, settings = arguments.vocab, TokenizerSettings(lowercase=not arguments.cased)
    if vocab and Path(vocab).is_dir():
        vocab, settings = directory.vocabulary(Path(vocab))
        if arguments.cased and settings.lowercase:
            does = (
                "has a tokenizer that is taken as it is" if is_kept(vocab) else "lower-cases text"
            )
            raise UserError(f"--cased: the run {arguments.vocab} {does}; leave --cased out")
    counts = prepare(
        arguments.source,
        arguments.out,
        vocab_file=vocab,
        vocab_size=arguments.vocab_size,
        passage_tokens=arguments.passage_tokens,
        settings=settings,
        columns=columns(arguments),
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
    from ralm_jax import gin_config

    more = {"any_import": arguments.any_import}
    configured = gin_config.configure("pretrain.pretrain", arguments.config, arguments.set, **more)
    given = {name: getattr(arguments, name) for name in ("run", "corpus")}
    optional = ("init", "init_retriever", "init_reader", "init_reranker", "questions")
    given |= {name: path for name in optional if (path := getattr(arguments, name))}
    _until_stopped(configured, **given)


def _update(arguments) -> None:
    from ralm_jax.formats.lines import text_lines
    from ralm_jax.living.update import update

    given = {"prune": arguments.prune, "columns": columns(arguments)}
    if arguments.delete is not None:
        given["delete"] = [id for _, id in text_lines(Path(arguments.delete))]
    _write_json(arguments.json, update(arguments.corpus, arguments.source, **given))


def _adapt(arguments) -> None:
    """Trains by runs/domain.gin."""
    # Before anything asks which devices there are.
    _spread_over_cores()
    from ralm_jax.adapt import adapt

    length = f"PASSAGE_LENGTH = {arguments.passage_tokens}"
    train = _training("runs/domain.gin", [f"SEED = {arguments.seed}", length, *arguments.set])
    optional = {"questions": arguments.questions, "measure": arguments.measure}
    given = {"init": arguments.init, "passage_tokens": arguments.passage_tokens, **optional}
    given["columns"] = columns(arguments)
    made = functools.partial(adapt, arguments.source, arguments.out, train=train, **given)
    _write_json(arguments.json, _stopping(made))


def _training(config: str, changes: Sequence[str]) -> Callable[..., Any]:
    """`pretrain` with a configuration."""
    from ralm_jax import gin_config

    configured = gin_config.configure("pretrain.pretrain", config, changes)
    return functools.partial(configured.call, config=configured.text)


def _quickstart_on_real_text(arguments) -> None:
    _spread_over_cores()
    from ralm_jax.adapt import adapt, docstrings

    out = Path(arguments.run or f"quickstart-real-{arguments.seed}")
    train = _training("runs/real.gin", [f"SEED = {arguments.seed}", *arguments.set])
    documents, questions = docstrings(out)
    given = {"train": train, "passage_tokens": 128, "measure": questions}
    _write_json(arguments.json, _stopping(functools.partial(adapt, documents, out, **given)))


def _quickstart(arguments) -> None:
    from ralm_jax import gin_config

    if arguments.real:
        _quickstart_on_real_text(arguments)
        return
    _spread_over_cores()
    run = Path(arguments.run or f"quickstart-{arguments.seed}")
    changes = [f"SEED = {arguments.seed}", *arguments.set]
    configured = gin_config.configure("quickstart.quickstart", "runs/quickstart.gin", changes)
    _write_json(arguments.json, _until_stopped(configured, run=run))


def _spread_over_cores() -> None:
    """On a CPU, a device for every core (a power of two, at most 8): small steps gain a fifth."""
    import jax

    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", min(8, 1 << ((cores or 1).bit_length() - 1)))


def _finetune(arguments) -> None:
    from ralm_jax import gin_config
    from ralm_jax.evaluation.evaluate import evaluate, table
    from ralm_jax.questions.read import read_questions

    dev = read_questions(arguments.dev).asked
    more = {"any_import": arguments.any_import}
    configured = gin_config.configure("finetune.finetune", arguments.config, arguments.set, **more)
    given = {name: getattr(arguments, name) for name in ("out", "run", "stage", "train", "corpus")}
    if _until_stopped(configured, dev=dev, **given) is None:
        return
    report = evaluate(arguments.out, arguments.dev, arguments.corpus, bm25=not arguments.no_bm25)
    print(table(report))
    _write_json(arguments.json, report)


def _estimate(arguments) -> None:
    from ralm_jax import gin_config
    from ralm_jax.cost import estimate, sizes

    if (arguments.config is None) == (arguments.run is None):
        raise UserError("give --config FILE, or --run RUN of a run that has been trained")
    config = arguments.config or str(Path(arguments.run) / "config.gin")
    given = gin_config.pretraining(config, arguments.set, any_import=arguments.any_import)
    measured = sizes.logged(Path(arguments.run)) if arguments.run else []
    model = sizes.model(given, arguments.run or arguments.init)
    passages = sizes.passages(arguments.passages, arguments.corpus, arguments.run)
    about = {"on": arguments.on, "dollars": arguments.price, "here": arguments.probe}
    about |= {"compute": given.get("compute")}
    report = estimate.estimate(model, given["stages"], passages, **about)
    sizes.add_measured(report, measured)
    print(estimate.table(report))
    _write_json(arguments.json, report)


def _ask(arguments) -> None:
    from ralm_jax.inference.ask import ask

    given = {"run": arguments.run, "corpus": arguments.corpus}
    ask(**given, question=arguments.question, as_json=arguments.json == "-")


def _serve(arguments) -> None:
    from ralm_jax.serving.serve import serve

    names = ("run", "beside", "corpus", "host", "port", "api_key_file")
    serve(**{name: getattr(arguments, name) for name in names})


def _check(arguments) -> None:
    from ralm_jax.check import check, require_sound, table

    parts = check(arguments.path)
    print(table(arguments.path, parts))
    _write_json(arguments.json, [{**part._asdict(), "path": str(part.path)} for part in parts])
    require_sound(parts)


def _evaluate(arguments) -> None:
    from ralm_jax.evaluation.evaluate import evaluate, table

    report = evaluate(
        arguments.run,
        arguments.questions,
        arguments.corpus,
        stage=arguments.stage,
        predictions=arguments.predictions,
        reference=arguments.reference,
        each=arguments.each,
        rankings=arguments.rankings,
        bm25=not arguments.no_bm25,
    )
    print(table(report))
    _write_json(arguments.json, report)


def _until_stopped(configured, **given) -> Any:
    return _stopping(functools.partial(configured.call, config=configured.text, **given))


def _stopping(call: Callable[[], Any]) -> Any:
    """What a call returns, or None where a signal stopped its training with a checkpoint."""
    from ralm_jax.training.loop import Stopped

    try:
        return call()
    except Stopped as stopped:
        said = f"ralm: {stopped}".splitlines()[0]
        print(f"{said}; run the same command again to go on", file=sys.stderr)


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
    "adapt": _adapt,
    "prepare": _prepare,
    "update": _update,
    "import": _import,
    "pretrain": _pretrain,
    "finetune": _finetune,
    "estimate": _estimate,
    "evaluate": _evaluate,
    "ask": _ask,
    "serve": _serve,
    "check": _check,
    "export": _export,
}

if __name__ == "__main__":
    sys.exit(main())
