"""Training curves: one JSON line a step for programs, TensorBoard event files for eyes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tensorboardX import SummaryWriter

from ralm_jax import json_text
from ralm_jax.checksums import CHECKSUM, sealed, unsealed
from ralm_jax.errors import UserError
from ralm_jax.former_names import METRICS


class MetricWriter:
    """Appends scalars to `RUN/metrics.jsonl` and to `RUN/tensorboard/STAGE/`.

    A run goes through stages (inverse cloze, warm-up, joint) that count their steps from 0, so a
    line is `{"stage": ..., "step": ..., name: value, ..., "crc32": ...}`, with a checksum of the
    other fields. A value that is not finite is written as null, which every JSON reader takes.
    """

    def __init__(self, run_dir: str | Path):
        self._run_dir = Path(run_dir)
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._boards: dict[str, SummaryWriter] = {}
        self._lines = _open_whole(metrics_file(run_dir))

    def resume(self, stage: str, step: int) -> list[dict[str, Any]]:
        """Forgets what was written of `stage` beyond `step`, the step the run goes on from.

        Returns the lines of the stage that are kept, oldest first.

        TensorBoard files are not rewritten; a mark in them makes TensorBoard drop those points.
        """
        path = metrics_file(self._run_dir)
        kept = [
            line for line in read_metrics(path) if line["stage"] != stage or line["step"] <= step
        ]
        self._lines.close()
        partial = path.with_suffix(".jsonl.partial")
        partial.write_text("".join(map(_line, kept)), "utf-8")
        partial.replace(path)
        self._lines = _open_whole(path)
        self._boards[stage] = SummaryWriter(self._board_dir(stage), purge_step=step + 1)
        return [line for line in kept if line["stage"] == stage]

    def write(self, step: int, scalars: Mapping[str, Any], stage: str) -> None:
        """Writes and flushes one line; `scalars` may be Python, numpy or jax numbers."""
        if clash := {"stage", "step", CHECKSUM} & scalars.keys():
            raise ValueError(f"a scalar cannot be named {clash}")
        values = {name: float(value) for name, value in scalars.items()}
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        self._lines.write(_line({"stage": stage, "step": int(step), **finite}))
        self._lines.flush()
        if stage not in self._boards:
            self._boards[stage] = SummaryWriter(self._board_dir(stage))
        for name, value in finite.items():
            if value is not None:
                self._boards[stage].add_scalar(name, value, step)

    def close(self) -> None:
        self._lines.close()
        for board in self._boards.values():
            board.close()

    def _board_dir(self, stage: str) -> str:
        return str(self._run_dir / "tensorboard" / stage)


def metrics_file(run_dir: str | Path) -> Path:
    return Path(run_dir) / "metrics.jsonl"


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, oldest first; a line still being written is left out.

    Raises UserError, naming the line, for any that is not as it was written. Runs of earlier releases begin
    with lines that have no checksums.
    """
    lines, is_sealed = [], False
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                break
            try:
                record = json_text.parse(line)
                lines.append(_checked(record, is_sealed))
                is_sealed = CHECKSUM in record
            except ValueError:
                raise UserError(
                    f"{path}, line {number}: not as it was written; remove that line, or restore the file "
                    "from a copy"
                ) from None
    return [{_present_name(name): value for name, value in line.items()} for line in lines]


def _checked(found: Any, is_sealed: bool) -> dict[str, Any]:
    """The scalars of a line. Raises ValueError for what no line holds, or not behind one with a checksum."""
    record = unsealed(found)
    if is_sealed and CHECKSUM not in found:
        raise ValueError("no checksum")
    if not isinstance(record.get("stage"), str) or not isinstance(record.get("step"), int):
        raise ValueError("no stage or no step")
    if any(not isinstance(x, int | float | None) for n, x in record.items() if n != "stage"):
        raise ValueError("no number")
    return record


def _present_name(name: str) -> str:
    return next(
        (new + name[len(old) :] for old, new in METRICS.items() if name.startswith(old)), name
    )


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(sealed(dict(record))) + "\n"


def _open_whole(path: Path) -> IO[str]:
    """Opens for appending, after cutting off a last line that a killed run left half written."""
    if path.exists():
        with open(path, "rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    return open(path, "a", encoding="utf-8")
