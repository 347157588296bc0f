"""Verbs that train, or say what training will take."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ralm_jax.arguments.shared import columns
from ralm_jax.errors import UserError
from ralm_jax.terminal import say
from ralm_jax.verbs.figures import Write


def quickstart(arguments, write: Write) -> None:
    from ralm_jax import gin_config

    if arguments.real:
        _quickstart_on_real_text(arguments, write)
        return
    _spread_over_cores()
    run = Path(arguments.run or f"quickstart-{arguments.seed}")
    changes = [f"SEED = {arguments.seed}", *arguments.set]
    configured = gin_config.configure("quickstart.quickstart", "runs/quickstart.gin", changes)
    write(_until_stopped(configured, run=run))


def _quickstart_on_real_text(arguments, write: Write) -> None:
    _spread_over_cores()
    from ralm_jax.adapt import adapt, docstrings

    out = Path(arguments.run or f"quickstart-real-{arguments.seed}")
    train = _training("runs/real.gin", [f"SEED = {arguments.seed}", *arguments.set])
    documents, questions = docstrings(out)
    given = {"train": train, "passage_tokens": 128, "measure": questions}
    write(_stopping(functools.partial(adapt, documents, out, **given)))


def adapt(arguments, write: Write) -> None:
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
    write(_stopping(made))


def pretrain(arguments, write: Write) -> None:
    # Before anything asks which devices there are, as the import of what a configuration names does.
    from ralm_jax.hosts import start

    _check_patience(arguments.patience)
    flags = (arguments.coordinator, arguments.processes, arguments.process)
    with start.joined(start.given(*flags) or start.found(), arguments.patience):
        _pretrain(arguments)


def _pretrain(arguments) -> None:
    from ralm_jax import gin_config

    more = {"any_import": arguments.any_import}
    configured = gin_config.configure("pretrain.pretrain", arguments.config, arguments.set, **more)
    given = {name: getattr(arguments, name) for name in ("run", "corpus")}
    optional = ("init", "init_retriever", "init_reader", "init_reranker", "questions")
    given |= {name: path for name in optional if (path := getattr(arguments, name))}
    _until_stopped(configured, index_job=arguments.index_job, **given)


def index(arguments, write: Write) -> None:
    from ralm_jax.loaders.indexing import embed_for

    _check_patience(arguments.patience)
    made = embed_for(arguments.run, arguments.corpus, patience=arguments.patience)
    say(f"Made {made:,} versions of the index of {arguments.run}; nobody trains it any more")


def _check_patience(seconds: float) -> None:
    if not seconds > 0:
        raise UserError(f"--patience is {seconds}: give a number of seconds above 0")


def finetune(arguments, write: Write) -> None:
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
    write(report)
    print(table(report))


def estimate(arguments, write: Write) -> None:
    from ralm_jax import gin_config
    from ralm_jax.cost import estimate, sizes

    if (arguments.config is None) == (arguments.run is None):
        raise UserError("give --config FILE, or --run RUN of a run that has been trained")
    config = arguments.config or str(Path(arguments.run) / "config.gin")
    given = gin_config.pretraining(config, arguments.set, any_import=arguments.any_import)
    measured = sizes.logged(Path(arguments.run)) if arguments.run else []
    model = sizes.model(given, arguments.run or arguments.init)
    corpus = None
    if arguments.passages is None or arguments.probe:
        corpus = sizes.corpus(arguments.corpus, arguments.run)
    passages = sizes.passages(arguments.passages, corpus)
    about = {"on": arguments.on, "dollars": arguments.price, "here": arguments.probe}
    about |= {"compute": given.get("compute"), "corpus": corpus}
    report = estimate.estimate(model, given["stages"], passages, **about)
    sizes.add_measured(report, measured)
    write(report)
    print(estimate.table(report))


def _training(config: str, changes: Sequence[str]) -> Callable[..., Any]:
    """`pretrain` with a configuration."""
    from ralm_jax import gin_config

    configured = gin_config.configure("pretrain.pretrain", config, changes)
    return functools.partial(configured.call, config=configured.text)


def _spread_over_cores() -> None:
    """On a CPU, a device for every core (a power of two, at most 8): small steps gain a fifth."""
    import jax

    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", min(8, 1 << ((cores or 1).bit_length() - 1)))


def _until_stopped(configured, **given) -> Any:
    return _stopping(functools.partial(configured.call, config=configured.text, **given))


def _stopping(call: Callable[[], Any]) -> Any:
    """What a call returns, or None where a signal stopped its training with a checkpoint."""
    from ralm_jax.training.loop import Stopped

    try:
        return call()
    except Stopped as stopped:
        said = f"ralm: {stopped}".partition("\n")[0]
        say(f"{said}; run the same command again to go on", sys.stderr)
