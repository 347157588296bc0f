"""Documents to a corpus directory, in two passes over the source and with one rename at the end.

The first pass checks the source and keeps a sample, from which the tagger and, unless one is given,
the vocabulary are learnt. The second cuts batches of documents into passages, in worker processes,
and writes them in order.
"""

import contextlib
import errno
import itertools
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ralm_jax.data import salient, tokenizer
from ralm_jax.data.corpus_writer import CorpusWriter
from ralm_jax.data.cutting import SPECIAL_TOKENS, Cutter, Passages
from ralm_jax.data.sources import Document, GivenSpan, read_documents
from ralm_jax.data.tokenizer_settings import BERT, TokenizerSettings
from ralm_jax.errors import UserError

_SAMPLE_CHARACTERS = 1 << 24  # 16M: enough to know how words are written and to train a vocabulary
_BATCH_CHARACTERS = 1 << 19
_MIN_TOKENS = 16


class Survey(NamedTuple):
    """What the first pass found."""

    sample: list[str]  # texts, spread evenly over the source
    untagged: bool  # whether any document came without spans


def prepare(
    source: str,
    out: str | Path,
    *,
    vocab_file: str | Path | None = None,
    vocab_size: int = 30522,
    passage_tokens: int = 288,
    settings: TokenizerSettings = BERT,
    tagger: salient.Tagger | None = None,
    processes: int | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, int]:
    """Prepares the corpus directory `out` from `source` (see `sources.read_documents`).

    Args:
      vocab_file: a BERT vocab.txt; without one a vocabulary of `vocab_size` is learnt.
      passage_tokens: wordpieces of a passage, its title and three special tokens included.
      settings: what is done to a text before it is cut into wordpieces.
      tagger: finds the salient spans of documents that bring none; by default one is learnt.
      processes: worker processes, by default one a core; none are started for a single batch.
    Returns:
      The counts in the manifest: passages, sentences, spans, and what was rejected, by reason.
    Raises:
      UserError: `out` exists, the source is not as it should be, or the disk is full. Nothing is
        left behind.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists; remove it or give another --out")
    if passage_tokens < _MIN_TOKENS:
        raise UserError(
            f"a passage of {passage_tokens} wordpieces is too short; give at least {_MIN_TOKENS}"
        )
    say(f"Reading {source}")
    survey = _survey(source)
    pieces = _vocabulary(vocab_file, survey.sample, vocab_size, settings, say)
    documents = read_documents(source)
    if tagger is None:
        fitted: salient.Tagger = salient.fit_tagger(survey.sample if survey.untagged else ())
    else:
        fitted, documents = salient.no_spans, _tag(documents, tagger)
    del survey
    width = passage_tokens - SPECIAL_TOKENS
    say(f"Cutting passages of at most {passage_tokens} wordpieces")
    with (
        _published(out) as partial,
        contextlib.closing(CorpusWriter(partial, pieces, width)) as writer,
    ):
        cutter = _CutterMaker(partial / "vocab.txt", settings, width, fitted)
        for passages in _cut(_batches(documents), cutter, processes or os.cpu_count() or 1):
            writer.add(passages)
        counts = writer.finish(passage_tokens=passage_tokens, **settings.as_record())
    for name, count in counts.items():
        say(f"{count:>12,}  {name}")
    return counts


@contextlib.contextmanager
def _published(out: Path) -> Iterator[Path]:
    """A directory to fill; it becomes `out` if that succeeds, and is gone if it does not."""
    partial = out.parent / f".{out.name}.{os.getpid()}.partial"
    try:
        partial.mkdir(parents=True)
        yield partial
        os.rename(partial, out)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(f"disk full while writing {out}; free some space and run again") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _survey(source: str) -> Survey:
    sample: list[str] = []
    stride, characters, untagged = 1, 0, False
    for number, document in enumerate(read_documents(source)):
        untagged |= document.spans is None
        if number % stride == 0:
            sample.append(document.text)
            characters += len(document.text)
            if characters > _SAMPLE_CHARACTERS and len(sample) > 1:
                sample, stride = sample[::2], 2 * stride
                characters = sum(map(len, sample))
    return Survey(sample, untagged)


def _vocabulary(
    vocab_file: str | Path | None,
    sample: list[str],
    size: int,
    settings: TokenizerSettings,
    say: Callable[[str], object],
) -> list[str]:
    """The pieces of the vocabulary in `vocab_file`, or of one trained on the sample."""
    if vocab_file is not None:
        pieces = tokenizer.load_tokenizer(vocab_file, settings).get_vocab()
        return sorted(pieces, key=pieces.__getitem__)
    say(f"Training a vocabulary of at most {size:,} wordpieces")
    return tokenizer.train_vocabulary(sample, size, settings)


def _tag(documents: Iterable[Document], tagger: salient.Tagger) -> Iterator[Document]:
    """Spans by the caller's own tagger, which may be one that no other process can have."""
    for document in documents:
        if document.spans is None:
            document = document._replace(
                spans=tuple(GivenSpan(*span) for span in tagger(document.text))
            )
        yield document


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class _CutterMaker(NamedTuple):
    """What a worker process needs in order to make its cutter."""

    vocab_file: Path
    settings: TokenizerSettings
    width: int
    tagger: salient.Tagger

    def make(self) -> Cutter:
        loaded = tokenizer.load_tokenizer(self.vocab_file, self.settings)
        return Cutter(
            tokenizer.Encoder(loaded), tokenizer.vocabulary_of(loaded), self.width, self.tagger
        )


_cutter: Cutter  # of this process, where it is a worker


def _start_worker(maker: _CutterMaker) -> None:
    global _cutter
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core has its own process already
    _cutter = maker.make()


def _work(batch: list[Document]) -> Passages:
    return _cutter(batch)


def _cut(
    batches: Iterator[list[Document]], maker: _CutterMaker, processes: int
) -> Iterator[Passages]:
    """The passages of each batch, in order, with at most a few batches in memory."""
    head = list(itertools.islice(batches, 2))
    batches = itertools.chain(head, batches)
    if len(head) == 1 or processes == 1:
        yield from map(maker.make(), batches)
        return
    spawn = multiprocessing.get_context(
        "spawn"
    )  # the caller may have threads, and JAX's do not survive a fork
    executor = ProcessPoolExecutor(processes, spawn, _start_worker, (maker,))
    try:
        pending: deque[Future[Passages]] = deque()
        for batch in batches:
            pending.append(executor.submit(_work, batch))
            if len(pending) > 2 * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
