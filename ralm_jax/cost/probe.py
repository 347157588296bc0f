"""What a step takes on this machine: seconds, from one or two smaller ones, and memory, by formula."""

import dataclasses
import functools
import sys
import time
from typing import Any

import jax
import numpy as np

from ralm_jax import memory, partition
from ralm_jax.batches import ClozeBatch, QueryPassages, Text
from ralm_jax.cost import residuals, shapes
from ralm_jax.data.corpus import Corpus
from ralm_jax.examples import cloze_batches, windows
from ralm_jax.losses import microbatch
from ralm_jax.models import initial
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.training import steps
from ralm_jax.training.passage_windows import PassageWindows
from ralm_jax.training.schedule import Stage

# Queries of a device in the first step where nothing says how many it reads at a time; seconds that the
# second one may take; and how often each is timed once it is compiled.
FEW, LONG, TIMES = 2, 4.0, 3


@dataclasses.dataclass(frozen=True)
class Probe:
    """What one or two steps took: seconds of each, by queries of all devices, ascending."""

    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    def of(self, batch: int) -> float:
        """Seconds of a step of so many queries."""
        if len(self.rows) == 1:
            return self.seconds[0] * batch / self.rows[0]
        each = (self.seconds[1] - self.seconds[0]) / (self.rows[1] - self.rows[0])
        return self.seconds[0] + max(each, 0.0) * (batch - self.rows[0])


def probe(model: Ralm | OpenQA, stage: Stage, corpus: Corpus | None = None) -> Probe:
    """Trains for a few steps on texts that are drawn at random.

    corpus: texts are as long as its own; without one they fill their lengths.
    """
    devices = jax.device_count()
    every = max(1, stage.schedule.batch // devices)
    first = _at_a_time(stage, every)
    seconds = [_timed(model, stage, first, corpus)]
    second = first
    while 2 * second <= every and seconds[0] * 2 * second / first <= LONG:
        second *= 2
    if second == first < every:
        second = min(2 * first, every)
    sizes = [first] if second == first else [first, second]
    seconds += [_timed(model, stage, size, corpus) for size in sizes[1:]]
    return Probe(tuple(size * devices for size in sizes), tuple(seconds))


def resident(model: Ralm | OpenQA, stage: Stage) -> float | None:
    """Bytes of memory that a process takes that trains here: of this one, of the step by formula, and kept.

    None where devices have memory of their own, or the system does not say what is resident, as Linux does.
    """
    if jax.default_backend() != "cpu" or not sys.platform.startswith("linux"):
        return None
    devices = jax.device_count()
    every = max(1, stage.schedule.batch // devices)
    step = residuals.need(model, stage).memory(every, _at_a_time(stage, every))
    return memory.kept(memory.private_bytes() + devices * step.total)


def _at_a_time(stage: Stage, every: int) -> int:
    """Queries of a device that make one group, whose time is that of any other."""
    task: Any = stage.task
    if not hasattr(task, "microbatch_size"):
        return min(FEW, every)
    few = microbatch.few(task.candidates * task.lengths.joint, task.microbatch_size)
    return microbatch.divisor(every, few or FEW)


def _timed(model: Ralm | OpenQA, stage: Stage, rows: int, corpus: Corpus | None) -> float:
    """Seconds of a step of so many queries of each device, the median of several."""
    devices = jax.device_count()
    loss = stage.task.loss(model, corpus)
    step = partition.parallelize(functools.partial(steps.train_step, loss=loss))
    params = initial.drawn_params(model, 0)
    state = partition.replicate(steps.create_state(params, stage.schedule.optimizer))
    rng = np.random.default_rng(0)
    batch = drawn(shapes.batch(model, stage, rows, devices), devices, rng)
    if corpus is not None:
        batch = as_long_as_those(batch, stage, corpus, rng)
    taken = []
    for _ in range(1 + TIMES):
        begun = time.perf_counter()
        state, metrics = step(state, batch, jax.random.key(0))
        jax.block_until_ready((state, metrics))
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken[1:]))


def drawn(shaped: Any, devices: int, rng: np.random.Generator) -> Any:
    """A batch of `shapes`, for each of the devices, whose texts fill their lengths."""

    def one(x: jax.ShapeDtypeStruct | Text) -> Any:
        if isinstance(x, Text):
            # There are two types of wordpieces: any other would make numbers that are none.
            return Text(one(x.tokens), one(x.types) % 2)
        shape = (devices, *x.shape)
        if x.dtype == bool:
            return np.ones(shape, bool)
        if np.issubdtype(x.dtype, np.integer):
            # Wordpieces of any vocabulary, and places in any text.
            return rng.integers(1, 8, shape).astype(x.dtype)
        return rng.random(shape, np.float32)

    return jax.tree.map(one, shaped, is_leaf=lambda x: isinstance(x, Text))


def as_long_as_those(batch: Any, stage: Stage, corpus: Corpus, rng: np.random.Generator) -> Any:
    """The batch with passages as long as some of a corpus, where a step reads no more than they need."""
    task = stage.task
    if isinstance(batch, ClozeBatch):
        titles = not getattr(task, "freeze_retriever", False)
        needed = cloze_batches.needed(corpus, task.lengths, titles=titles)
        lengths = rng.choice(needed, batch.joint.tokens.shape[:-1])

        def cut(x: np.ndarray) -> np.ndarray:
            return x * (np.arange(x.shape[-1]) < lengths[..., None])

        cut_all = functools.partial(jax.tree.map, cut)
        return batch._replace(joint=cut_all(batch.joint), candidates=cut_all(batch.candidates))
    if isinstance(batch, QueryPassages) and isinstance(task, PassageWindows) and batch.passages:
        # As wide as the longest of a whole batch.
        count = stage.schedule.batch * (1 + task.negatives)
        most = batch.passages.tokens.shape[-1]
        width = windows.needed(corpus, rng.integers(0, corpus.size, count), most)
        return batch._replace(passages=jax.tree.map(lambda x: x[..., :width], batch.passages))
    return batch
