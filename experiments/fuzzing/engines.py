"""One target under one engine for some seconds, in a process of its own, which an input may end.

    python -m experiments.fuzzing.engines TARGET FOLDER SECONDS ENGINE

Where atheris is installed it is led by the coverage of ralm_jax and of what reads for it; hypothesis draws
the same changes without. FOLDER gets tally.json once a second and a file for each failure; `now` is the input
that is being read.
"""

import importlib.util
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from experiments.fuzzing.changes import LONG, changed
from experiments.fuzzing.outcome import Failure, Target, inputs, outcome, written

# Bytes that an input may take beyond what the process has when it begins.
MEMORY = 3 << 30
COVERED = ["ralm_jax", "pypdf", "gin", "zipfile", "csv"]


def kinds() -> Iterator[dict[str, Target]]:
    """Targets by their names; those of what needs jax are not imported unless they are asked for."""
    from experiments.fuzzing import data_files

    yield data_files.TARGETS
    from experiments.fuzzing import artefacts, released, text

    yield {**released.TARGETS, **artefacts.TARGETS, **text.TARGETS}


def known() -> dict[str, Target]:
    """Every target by its name."""
    return {name: target for targets in kinds() for name, target in targets.items()}


def found(name: str) -> Target:
    """The target of a name."""
    return next(targets[name] for targets in kinds() if name in targets)


class Trial:
    """What came of the inputs of a target; `call` ends the process when its time is over."""

    def __init__(self, target: Target, out: Path, seconds: float):
        self._target, self._out = target, out
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.names = written(target, self._folder)
        self.files = {name: (self._folder / name).read_bytes() for name in self.names}
        self._counts: Counter[str] = Counter()
        self._failures: dict[str, dict] = {}
        for name, data in self.files.items():
            # What is imported or compiled once takes its time here.
            try:
                outcome(target, self._folder, name, data)
            except Failure:
                outcome(target, self._folder, name, data)
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))
        self._began = self._told = time.monotonic()
        self._used = time.process_time()
        self._end = self._began + seconds

    def call(self, name: str, data: bytes) -> None:
        (self._out / "now").write_bytes(name.encode() + b"\n" + data)
        try:
            self._counts[outcome(self._target, self._folder, name, data)] += 1
        except Failure as failure:
            self._counts["failed"] += 1
            self._keep(failure, name, data)
        now = time.monotonic()
        if now > self._told + 1 or now > self._end:
            self._told = now
            self._tell()
        if now > self._end:
            shutil.rmtree(self._folder, ignore_errors=True)
            # libFuzzer would end the process as suddenly, without what this one knows.
            os._exit(0)

    def _keep(self, failure: Failure, name: str, data: bytes) -> None:
        known = self._failures.get(failure.kind)
        if known is None or len(data) < known["size"]:
            file = known["file"] if known else f"failure-{os.getpid()}-{len(self._failures)}"
            (self._out / file).write_bytes(data)
            said = str(failure).replace(str(self._folder), "")[:400]
            self._failures[failure.kind] = {
                "kind": failure.kind,
                "of": name,
                "said": said,
                "size": len(data),
                "file": file,
            }

    def _tell(self) -> None:
        used = time.process_time() - self._used
        about = {"seconds": self._told - self._began, "processor": used, "files": len(self.names)}
        tally = {**about, **self._counts, "failures": list(self._failures.values())}
        partial = self._out / "tally.partial"
        partial.write_text(json.dumps(tally))
        partial.replace(self._out / "tally.json")


def by_coverage(trial: Trial, out: Path) -> None:
    """An input is the number of a file in a byte, and its content."""
    import atheris

    def call(data: bytes) -> None:
        if data:
            trial.call(trial.names[data[0] % len(trial.names)], data[1:])

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if len(data) < 2 or random.randrange(4) == 0:
            return atheris.Mutate(data, most)
        return (data[:1] + changed(data[1:], random))[:most]

    seeds = out / "inputs"
    seeds.mkdir(exist_ok=True)
    for number, name in enumerate(trial.names):
        (seeds / f"sound-{number}").write_bytes(bytes([number]) + trial.files[name])
    options = [f"-max_len={4 * LONG}", "-len_control=0", "-timeout=300", "-rss_limit_mb=0"]
    argv = [sys.argv[0], str(seeds), *options, f"-artifact_prefix={out}/"]
    atheris.Setup(argv, call, custom_mutator=mutated)
    atheris.Fuzz()


def by_examples(trial: Trial) -> None:
    from hypothesis import HealthCheck, Phase, given, seed, settings

    number = int(time.time())
    while True:
        number += 1

        @seed(number)
        @settings(
            max_examples=1000,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs(trial.files))
        def examples(one: tuple[str, bytes]) -> None:
            trial.call(*one)

        examples()


def main() -> None:
    name, out, seconds, engine = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=COVERED):  # pyrefly: ignore
            target = found(name)
        by_coverage(Trial(target, out, seconds), out)
    else:
        by_examples(Trial(found(name), out, seconds))


def engine() -> str:
    return "atheris" if importlib.util.find_spec("atheris") else "hypothesis"


if __name__ == "__main__":
    main()
