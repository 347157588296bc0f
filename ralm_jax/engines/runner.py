"""Apache Beam: the runner that was asked for, pipelines run on it, and what goes wrong there as one line.

Beam's own direct runner is named FnApiRunner here: DirectRunner first looks for a program on the network.
"""

import contextlib
import importlib.util
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ralm_jax.errors import UserError, nearest

BEAM, DIRECT = "beam", "DirectRunner"
# Seconds for a thread to see that its process has ended.
_PATIENCE = 5.0


class Runner(NamedTuple):
    """The name of one of Beam's runners, and its options as Beam takes them: --NAME=VALUE."""

    name: str
    options: tuple[str, ...]


def chosen(runner: str | None, options: Sequence[str] = ()) -> Runner | None:
    """The runner of `beam[:RUNNER]` with options NAME=VALUE; None for None.

    Raises UserError where there is none of that name, an option is none of Beam's, or Beam is not installed.
    """
    if runner is None:
        if options:
            raise UserError(
                f"--runner-option {options[0]} is for an engine; give --runner beam too"
            )
        return None
    engine, _, name = runner.partition(":")
    if engine != BEAM:
        raise UserError(
            f"there is no runner {runner!r}{nearest(engine, [BEAM])}; give {BEAM} or {BEAM}:RUNNER"
        )
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError(
            "--runner beam needs Apache Beam: install it with pip install 'ralm_jax[beam]'"
        )
    with _unwarned():
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    # Some stand there by the full names of their classes.
    known = {each.rpartition(".")[2] for each in StandardOptions.KNOWN_RUNNER_NAMES}
    name = name or DIRECT
    if name not in known:
        raise UserError(
            f"Apache Beam has no runner {name!r}{nearest(name, known)}; it has {', '.join(sorted(known))}"
        )
    names = PipelineOptions([]).get_all_options()
    given = dict(_pair(option, names) for option in options)
    if name == DIRECT and given.get("direct_num_workers", "1") != "1":
        given.setdefault("direct_running_mode", "multi_processing")
    return Runner(name, tuple(f"--{key}={value}" for key, value in given.items()))


@contextlib.contextmanager
def _unwarned() -> Generator[None]:
    """While it is imported, Beam warns of packages for Google's cloud that are not there."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _pair(option: str, names: dict[str, Any]) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if not equals:
        raise UserError(f"--runner-option {option}: expected NAME=VALUE")
    if name not in names:
        raise UserError(
            f"--runner-option {name}: Apache Beam has no such option{nearest(name, names)}"
        )
    return name, value


def run(runner: Runner, build: Callable[[Any], object], folder: Path) -> None:
    """Builds a pipeline and runs it to its end.

    Args:
      folder: where its workers `report`.
    Raises:
      UserError: what a worker reported, or else that the runner failed, and why.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    direct = runner.name == DIRECT
    try:
        with contextlib.ExitStack() as held:
            if direct:
                held.enter_context(_logged(folder / "log"))
                held.enter_context(_ended_with_a_worker())
            pipeline = beam.Pipeline(
                runner=FnApiRunner() if direct else runner.name,
                options=PipelineOptions(list(runner.options)),
            )
            build(pipeline)
            pipeline.run().wait_until_finish()
    except UserError:
        raise
    except Exception as error:
        for report in sorted(folder.glob("error-*.json")):
            raise UserError(json.loads(report.read_text("utf-8"))) from error
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"Apache Beam's {runner.name} failed: {said[-1]}") from error


class _WorkerKilled(BaseException):
    """Raised in the main thread, in the midst of the direct runner, which catches any Exception."""


@contextlib.contextmanager
def _ended_with_a_worker() -> Generator[None]:
    """The direct runner waits for ever for a process that was killed; the thread that had started it knows.

    Raises UserError then, where this is the main thread. However the block ends, no process stays.
    """
    main, before, killed = threading.main_thread(), threading.excepthook, []
    handler = signal.getsignal(signal.SIGUSR1)
    in_main = threading.current_thread() is main

    def ended(told: threading.ExceptHookArgs) -> None:
        if told.thread is not None and told.thread.name == "run_worker" and not killed:
            killed.append(told.exc_value)
            # The direct runner waits for the others too, before it ends.
            _end_workers()
            # It waits on a lock, which nothing but a signal ends.
            signal.pthread_kill(main.ident or 0, signal.SIGUSR1)
        else:
            before(told)

    def raising(*_: object) -> None:
        raise _WorkerKilled

    if in_main:
        signal.signal(signal.SIGUSR1, raising)
        threading.excepthook = ended
    try:
        yield
    except _WorkerKilled:
        raise UserError(
            "a worker process was killed, perhaps because memory ran out; free some and run again"
        ) from None
    finally:
        killed.append(None)
        _end_workers()
        for thread in threading.enumerate():
            if thread.name in ("run_worker", "beam_control_read"):
                thread.join(_PATIENCE)
        if in_main:
            threading.excepthook = before
            signal.signal(signal.SIGUSR1, handler)


def _end_workers() -> None:
    """Ends the processes that the direct runner has left, or this one would wait for them when it ends."""
    parents = [os.getpid()]
    for parent in parents:
        for file in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for child in map(int, file.read_text().split()):
                    command = Path(f"/proc/{child}/cmdline").read_bytes()
                    if b"apache_beam.runners.worker.sdk_worker_main" in command:
                        parents.append(child)
    for worker in parents[1:]:
        with contextlib.suppress(OSError):
            os.kill(worker, signal.SIGKILL)


@contextlib.contextmanager
def _logged(file: Path) -> Generator[None]:
    """Standard error goes to a file: the direct runner and its processes tell each step there."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with file.open("ab") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


@contextlib.contextmanager
def reported(folder: Path, number: int) -> Generator[None]:
    """In a worker: leaves a UserError of the block where `run` finds that of the least number."""
    try:
        yield
    except UserError as error:
        write_json(folder / f"error-{number:08d}.json", str(error))
        raise


def write_json(file: Path, value: Any) -> None:
    """Writes a file of the working folder by one rename, for an engine may do a thing twice."""
    partial = file.with_name(f".{file.name}.{id(value)}")
    partial.write_text(json.dumps(value), "utf-8")
    partial.replace(file)
