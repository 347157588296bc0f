"""Cuts batches of documents in worker processes, which end with the process that started them."""

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from ralm_jax.data import salient
from ralm_jax.data.cutting import Cutter, Passages
from ralm_jax.data.tokenizer_settings import TokenizerSettings
from ralm_jax.data.tokenizing import open_tokenizer
from ralm_jax.errors import UserError
from ralm_jax.sources.read import Document
from ralm_jax.terminal import watched


class CutterMaker(NamedTuple):
    """What a worker process needs in order to make its cutter."""

    vocab_file: Path
    settings: TokenizerSettings
    width: int
    tagger: salient.Tagger
    # A file to read it from in its place.
    tagger_file: Path | None = None

    def make(self) -> Cutter:
        """The cutter, which contains what cannot be sent to another process."""
        loaded, tagger = open_tokenizer(self.vocab_file, self.settings), self.tagger
        if self.tagger_file is not None:
            tagger = salient.CorpusTagger.read(self.tagger_file)
        return Cutter(loaded.encoder(), loaded.vocabulary, self.width, tagger)


def cut(
    batches: Iterator[list[Document]],
    cutting: CutterMaker,
    documents: int,
    processes: int | None = None,
) -> Iterator[Passages]:
    """The passages of each batch, in order, with at most a few batches in memory, and a bar on the terminal.

    Args:
      documents: how many there are in all batches.
      processes: to cut in, by default one a core.

    Raises:
      UserError: a worker process was killed. Other errors of a worker are raised as they are.
    """
    made = _cut(batches, cutting, processes or os.cpu_count() or 1)
    return watched(made, "cutting", documents, " documents", size=lambda one: len(one.sources))


def _cut(
    batches: Iterator[list[Document]], cutting: CutterMaker, processes: int
) -> Iterator[Passages]:
    head = list(itertools.islice(batches, 2))
    batches = itertools.chain(head, batches)
    if len(head) == 1 or processes == 1:
        yield from map(cutting.make(), batches)
        return
    with _sendable(cutting) as small:
        yield from _in_processes(batches, small, processes)


@contextlib.contextmanager
def _sendable(cutting: CutterMaker) -> Generator[CutterMaker]:
    """The same with its tagger in a file beside the vocabulary, while the block runs.

    What is sent must fit a pipe (64 KiB): a worker that ends before it has read all of more, as where a
    script starts processes outside of `if __name__ == "__main__"`, would be waited for without end.
    """
    if type(cutting.tagger) is not salient.CorpusTagger:
        yield cutting
        return
    file = cutting.vocab_file.parent / ".tagger.json"
    try:
        file.write_text(json.dumps(cutting.tagger.record()), "utf-8")
        yield cutting._replace(tagger=salient.no_spans, tagger_file=file)
    finally:
        file.unlink(missing_ok=True)


def _in_processes(
    batches: Iterator[list[Document]], cutting: CutterMaker, processes: int
) -> Iterator[Passages]:
    # The caller may have threads, and those of JAX do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    # It has the library's own process start, which follows what is shared.
    with _interrupts_blocked():
        executor = ProcessPoolExecutor(processes, spawn, _start_worker, (cutting,))
    try:
        pending: deque[Future[Passages]] = deque()
        for batch in batches:
            with _interrupts_blocked():
                pending.append(executor.submit(_work, batch))
            if len(pending) > 2 * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps because memory ran out; free some and run again"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_blocked() -> Generator[None]:
    """Processes started within inherit the mask: what ends the group is for their parent, which ends them."""
    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# Both of this process, where it is a worker.
_maker: CutterMaker
_cutter: Cutter | None = None


def _start_worker(cutting: CutterMaker) -> None:
    global _maker
    # Every core has its own process already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _maker = cutting
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent has ended, even if that was killed and could tell nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(batch: list[Document]) -> Passages:
    global _cutter
    # Not made by `_start_worker`: an error there would break the pool and print a traceback.
    _cutter = _cutter or _maker.make()
    return _cutter(batch)
