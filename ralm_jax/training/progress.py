"""What a person sees of a run, and the same in files: progress bar, metrics, the start-up lines."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from ralm_jax.hosts.watch import reached
from ralm_jax.metrics.means import Mean
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval.searcher import Published
from ralm_jax.runs.writers import MetricWriter
from ralm_jax.terminal import say

SHORT = {
    "retrieval_utility": "utility",
    "in_batch_accuracy": "accuracy",
    "prior_entropy": "entropy",
}


# Of the index that is served: repeated in every line until the next one is.
SHOWN = ("index_step", "index_recall")
# The activity of the host while the model is evaluated, which is not counted as idle time.
EVAL = "eval"


class Progress:
    """Accumulates the metrics of steps between log lines; only process 0 shows and writes them."""

    def __init__(self, path: Path, params: dict):
        self._lead = jax.process_index() == 0
        self._writer = MetricWriter(path) if self._lead else None
        self._bar, self._mean = tqdm(disable=True), Mean()
        self._name, self._batch = "", 0  # of the present stage
        self._index: dict[str, float] = {}
        # Steps of this stage whose loss or gradient was not finite.
        self.skipped = 0
        self._since = (0, time.perf_counter())
        self._measuring = 0.0  # seconds of it that were not training
        sizes = {part: sum(x.size for x in jax.tree.leaves(p)) for part, p in params.items()}
        self.say(
            f"process {jax.process_index()} of {jax.process_count()}, {jax.device_count()} x "
            f"{jax.devices()[0].device_kind}; parameters: "
            + ", ".join(f"{part} {size:,}" for part, size in sizes.items())
        )

    def say(self, line: str, left_out: Mapping[str, int] | None = None) -> None:
        """One line, with the counts of what was left out and why."""
        if self._lead:
            for reason, count in (left_out or {}).items():
                line += f"; {count:,} left out: {reason}" if count else ""
            say(line)

    def begin(self, name: str, batch: int, steps: int, step: int) -> None:
        """A stage begins, or goes on, at `step` of `steps`."""
        self._bar.close()
        self._name, self._batch = name, batch
        self._mean, self._index, self.skipped = Mean(), {}, 0
        self._since, self._measuring = (step, time.perf_counter()), 0.0
        self._bar = tqdm(
            desc=name,
            initial=step,
            total=steps,
            # None: shown on a terminal alone.
            disable=None if self._lead else True,
            dynamic_ncols=True,
            mininterval=1.0,
        )
        if step:
            self.say(f"{name}: going on from step {step}")
        # A run that was killed before its first checkpoint has left lines too.
        if self._writer:
            self._recall(self._writer.resume(name, step or -1))

    def before_first(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step of the stage. Its first call on an accelerator, which may compile for minutes, says so."""
        told = jax.default_backend() == "cpu"

        def call(*given):
            nonlocal told
            if not told:
                self.say(f"{self._name}: compiling the step, once on this machine")
                told = True
            return step(*given)

        return call

    def _recall(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """What lines that follow repeat, as those before a run was interrupted say it."""
        for line in lines:
            if "publish/index_step" in line:
                self._index = {name: line[f"publish/{name}"] for name in SHOWN}
            self.skipped = int(line.get("skipped_steps", self.skipped))

    def published(self, step: int, published: Published | None) -> None:
        """An index is served to the queries of `step` and on: its recall is shown until the next one."""
        if published is None:
            return
        self._index = dict(zip(SHOWN, (published.step, published.recall), strict=True))
        if self._writer:
            event = {
                **self._index,
                "index_build_seconds": published.build_seconds,
                "index_wait_seconds": published.wait_seconds,
            }
            if not math.isnan(published.churn):
                event["index_churn"] = published.churn
            self._writer.write(step, {f"publish/{k}": v for k, v in event.items()}, self._name)

    def step(
        self, done: int, metrics: Mapping[str, Any], staleness: Mapping[str, float]
    ) -> str | None:
        """Metrics {name: (sum, count)} of the step that brought the count to `done`, and what is known of its
        candidates: {name: value}.

        Returns what of them is not finite: such a step is counted, and is in no mean.
        """
        reached()
        mean = Mean.of(metrics).merge(Mean.of({k: (v, 1) for k, v in staleness.items()}))
        self._bar.update(done - self._bar.n)
        bad = {name for name, value in mean.compute().items() if not math.isfinite(value)}
        if "loss" in bad or any(name.startswith("grad_norm") for name in bad):
            self.skipped += 1
            return "the loss" if "loss" in bad else "a gradient"
        self._mean = self._mean.merge(mean)
        return None

    def log(self, done: int, idle: Mapping[str, float]) -> None:
        """Writes and shows the means since the last call, and what the device waited for."""
        first, start = self._since
        seconds = max(time.perf_counter() - start - self._measuring, 1e-9)
        self._since, self._measuring = (done, time.perf_counter()), 0.0
        scalars = {**self._mean.compute(), **self._index}
        if self.skipped:
            scalars["skipped_steps"] = self.skipped
        self._mean = Mean()
        scalars["examples_per_second"] = (done - first) * self._batch / seconds
        scalars["step_seconds"] = seconds / max(done - first, 1)
        for name, spent in idle.items():
            if name != EVAL:
                scalars[f"idle/{name}"] = spent / seconds
        if self._writer:
            self._writer.write(done, scalars, self._name)
        self._bar.set_postfix_str(postfix(scalars), refresh=False)

    def evaluated(self, step: int, scalars: Mapping[str, float], seconds: float) -> None:
        """Measurements made as training runs: a line of their own, and `seconds` that are not training's."""
        if self._writer:
            self._writer.write(step, {f"eval/{k}": v for k, v in scalars.items()}, self._name)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scalars.items())
        self.say(f"{self._name} {step}: {shown}")
        self._measuring += seconds

    def close(self) -> None:
        self._bar.close()
        if self._writer:
            self._writer.close()


def computed(model: Ralm | OpenQA) -> str:
    """How a device computes the model, for the log."""
    config = model.reader_config
    if config.attention == "cudnn":
        return "computes in bfloat16; attention by cuDNN, by XLA where a text has an odd length"
    kind = jnp.dtype(config.dtype).name
    return f"computes in {kind}; attention by XLA"


def postfix(scalars: Mapping[str, float]) -> str:
    """The figures beside the bar; idle are shares of the time in which the device had nothing to do."""
    shown = [f"loss {scalars.get('loss', math.nan):.3f}"]
    for name in ("in_batch_accuracy", "retrieval_utility"):
        if name in scalars:
            shown.append(f"{SHORT[name]} {scalars[name]:.2f}")
    if (
        "reading_loss" in scalars
    ):  # fine-tuning; its index is right for as long as the passage tower stays
        shown.append(
            f"answer read {scalars['answer_in_read']:.0%}, said {scalars['span_accuracy']:.0%}"
        )
    elif "index_recall" in scalars:
        shown.append(f"index recall {scalars['index_recall']:.3f}")
        shown.append(f"stale {scalars.get('staleness', math.nan):.0f}")
    shown.append(f"{scalars['examples_per_second']:.0f} ex/s")
    idle = {k[5:]: v for k, v in scalars.items() if k.startswith("idle/") and v >= 0.005}
    if idle:
        shown.append("idle " + " ".join(f"{k} {v:.0%}" for k, v in sorted(idle.items())))
    return ", ".join(shown)
