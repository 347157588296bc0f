"""`ralm index`: embeds the passages for a training that runs elsewhere, on devices of its own."""

import functools
import time
from collections.abc import Callable
from pathlib import Path

from ralm_jax import partition, terminal
from ralm_jax.data.corpus import Corpus, open_corpus
from ralm_jax.errors import UserError
from ralm_jax.inference.embedding import embed_passages, own_chunk_rows
from ralm_jax.loaders.refresh_job import RefreshJob
from ralm_jax.loaders.snapshots import GLANCE, Snapshot, at_work, claimed, waiting
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import index
from ralm_jax.runs import directory
from ralm_jax.runs.lock import is_owned


def embed_for(
    run: str | Path,
    corpus: str | Path | None = None,
    *,
    patience: float = 600.0,
    say: Callable[[str], object] = terminal.say,
) -> int:
    """Embeds every snapshot that the training of a run hands out, until nobody has trained it for a while.

    Several may do so at once, for the hosts of a training each have a share of the passages.

    Args:
      corpus: in place of where the run says that its own lies.
      patience: seconds to go on without a training, before it begins as after it.
    Returns:
      How many versions of the index were made.
    Raises:
      UserError: there is no run by then, or the corpus is not the one it is trained on.
    """
    run, since, made = Path(run), time.monotonic(), 0
    while not (run / directory.RUN).exists():
        if time.monotonic() - since > patience:
            raise UserError(
                f"there is no run at {run} after {patience:g} s: start ralm pretrain --run {run}"
            )
        time.sleep(GLANCE)
    opened = open_corpus(corpus or directory.own_corpus(run))
    model = directory.load_model(run)
    since = time.monotonic()
    with at_work(run):
        say(f"Embedding for {run}: waiting for its training")
        while time.monotonic() - since < patience:
            if is_owned(run):
                since = time.monotonic()
            for snapshot in waiting(run):
                with claimed(snapshot) as mine:
                    made += mine and _embed(snapshot, model, opened, say)
            time.sleep(GLANCE)
    return made


def _embed(
    snapshot: Snapshot, model: Ralm | OpenQA, corpus: Corpus, say: Callable[[str], object]
) -> bool:
    """Makes the version of a snapshot; False where the training takes it back meanwhile."""
    start, stop, width, fingerprint, known, length = snapshot.passages
    if corpus.fingerprint != known:
        raise UserError(
            f"the training embeds another corpus than {corpus.path}: say with --corpus where it lies"
        )
    begun = time.monotonic()
    chunk = own_chunk_rows(model, length)
    chunks = [(first, min(first + chunk, stop)) for first in range(start, stop, chunk)]
    params = snapshot.params()
    if params is None:
        return False
    shape = (stop - start, width)
    writer = index.create(snapshot.root, snapshot.step, shape, fingerprint, snapshot.encoder)
    embed = functools.partial(embed_passages, model, corpus, length)
    job = RefreshJob(snapshot.step, partition.replicate(params), embed, chunks, writer)
    try:
        for number in range(len(chunks)):
            if not snapshot.wanted:
                return False
            job.queue_until(number + 1)
            job.fetch(leave=1)
        job.fetch()
    finally:
        job.abandon()
    say(f"step {snapshot.step}: {stop - start:,} passages in {time.monotonic() - begun:.1f} s")
    return True
