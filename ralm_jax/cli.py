"""The `ralm` command: parse, gin, call. The only module that knows gin.

Files use dynamic registration, so nothing in the package is decorated: a file names what it imports, and
a misspelt name is an error.
"""

import argparse
import difflib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ralm_jax.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns 0 when done (or stopped with a checkpoint), 2 for the user's mistake."""
    arguments = parser().parse_args(argv)
    try:
        arguments.verb(arguments)
    except UserError as error:
        print(f"ralm: {error}".splitlines()[0], file=sys.stderr)  # gin adds a line on the call
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Every verb with a help that is written for a person."""
    ralm = argparse.ArgumentParser(
        prog="ralm",
        description="Train a language model together with its retriever, on your own text.",
        epilog="Start with `ralm quickstart`. Exit code: 0 done, 2 a mistake in what was given, 1 ours.",
    )
    verbs = ralm.add_subparsers(required=True, metavar="VERB")

    for add in (_quickstart_help, _prepare_help, _pretrain_help, _evaluate_help):
        add(verbs)
    return ralm


def _quickstart_help(verbs) -> None:
    verb = verbs.add_parser(
        "quickstart",
        help="watch a retriever learn from its reader, on an encyclopedia made up for it",
        description="Generates almanac, a fictional encyclopedia; trains the chain on it (inverse cloze, "
        "reader warm-up, joint REALM); shows what each stage taught, with a plot and examples. Needs "
        "no network and no accelerator. The same command again goes on where it stopped.",
    )
    verb.add_argument("--run", metavar="RUN", help="directory (default: ./quickstart-SEED)")
    verb.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the world and the training"
    )
    verb.add_argument("--json", metavar="FILE", help="also write the figures there")
    _add_set(verb)
    verb.set_defaults(verb=_quickstart)


def _prepare_help(verbs) -> None:
    verb = verbs.add_parser(
        "prepare",
        help="turn text into a corpus",
        description="Cuts documents into passages at sentence ends, finds dates, numbers and names "
        "to mask, and writes a corpus directory. Says what it left out, and why.",
    )
    verb.add_argument(
        "source",
        metavar="SOURCE",
        help="FILE.jsonl[.gz] with id, title, text; a folder of .txt, .md, .rst; or tfds:NAME[/CONFIG]",
    )
    verb.add_argument("--out", required=True, metavar="CORPUS", help="the directory to make")
    verb.add_argument(
        "--vocab", metavar="FILE", help="a BERT vocab.txt (default: trained on SOURCE)"
    )
    verb.add_argument(
        "--vocab-size", type=int, default=30522, metavar="V", help="of a trained one (30522)"
    )
    verb.add_argument(
        "--passage-tokens", type=int, default=288, metavar="P", help="wordpieces a passage (288)"
    )
    verb.add_argument("--cased", action="store_true", help="keep capitals and accents")
    verb.add_argument("--json", metavar="FILE", help="also write the counts there")
    verb.set_defaults(verb=_prepare)


def _pretrain_help(verbs) -> None:
    verb = verbs.add_parser(
        "pretrain",
        help="train retriever and reader on a corpus",
        description="Runs the stages a configuration names. The same command again resumes a run that "
        "was stopped or killed. Ctrl-C stops it with a checkpoint.",
    )
    verb.add_argument(
        "--config",
        required=True,
        metavar="FILE.gin",
        help="a file, or one that ships: " + ", ".join(shipped()),
    )
    verb.add_argument("--corpus", required=True, metavar="CORPUS", help="made by ralm prepare")
    verb.add_argument("--run", required=True, metavar="RUN", help="directory of the run")
    _add_set(verb)
    verb.set_defaults(verb=_pretrain)


def _evaluate_help(verbs) -> None:
    verb = verbs.add_parser(
        "evaluate",
        help="measure a run on questions, beside BM25",
        description="Zero-shot retrieval on questions (recall@1/5/20/100, MRR) with BM25 on the same ones, "
        "and held-out masked spans read with and without retrieved passages.",
    )
    verb.add_argument("--run", required=True, metavar="RUN", help="made by ralm pretrain")
    verb.add_argument(
        "--questions",
        required=True,
        metavar="FILE.jsonl[.gz]",
        help="one object a line: question, answers, and gold_ids where known",
    )
    verb.add_argument("--corpus", metavar="CORPUS", help="another corpus than the run's own")
    verb.add_argument(
        "--stage", metavar="NAME", help="measure after this stage (default: the last)"
    )
    verb.add_argument("--json", metavar="FILE", help="also write the figures there")
    verb.set_defaults(verb=_evaluate)


def _add_set(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="'NAME = VALUE'",
        help="change one setting of the configuration; may be given again",
    )


def shipped() -> list[str]:
    """Configurations of whole runs that come with the package."""
    return sorted(str(f.relative_to(configs())) for f in configs().glob("runs/*.gin"))


def configs() -> Path:
    """Inside the package when installed, beside it in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else inside.parents[1] / "configs"


def _prepare(arguments) -> None:
    from ralm_jax.data.prepare import prepare

    counts = prepare(
        arguments.source,
        arguments.out,
        vocab_file=arguments.vocab,
        vocab_size=arguments.vocab_size,
        passage_tokens=arguments.passage_tokens,
        lowercase=not arguments.cased,
    )
    _write_json(arguments.json, counts)


def _pretrain(arguments) -> None:
    from ralm_jax.data.corpus import open_corpus

    corpus = open_corpus(arguments.corpus)
    call = configure("training.pretrain", arguments.config, arguments.set, Path(arguments.run))
    _until_stopped(call, run=arguments.run, corpus=corpus)


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


def _evaluate(arguments) -> None:
    from ralm_jax import evaluation

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
        resolved = gin.config_str(max_line_length=100)
        bound = gin.get_configurable(target)
    except UserError:
        raise
    except Exception as error:  # gin raises whatever a file's own imports and parsing raise
        said = " ".join(str(error).split())
        raise UserError(f"configuration {config}: {said}") from error
    finally:
        logging.disable(logging.NOTSET)
    keep_config(run, resolved)
    return lambda **given: _called(bound, config, given)


def _apply(change: str) -> None:
    import gin

    name, equals, value = (part.strip() for part in change.partition("="))
    if not equals or not name or not value:
        raise UserError(f"--set {change!r}: write it as 'NAME = VALUE'")
    try:
        gin.parse_config(change)
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


if __name__ == "__main__":
    sys.exit(main())
