"""Makes a corpus directory from documents, in two passes over the source and with one rename at the end.

The first pass checks the source and keeps a sample, from which the tagger and, unless one is given,
the vocabulary are learnt. The second cuts batches of documents into passages, in worker processes,
and writes them in order.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from ralm_jax import terminal
from ralm_jax.data import salient, tokenizer
from ralm_jax.data.corpus import TAGGER
from ralm_jax.data.corpus_writer import CorpusWriter, Repeats
from ralm_jax.data.cutting import SPECIAL_TOKENS, Passages
from ralm_jax.data.tokenizer_json import FAST
from ralm_jax.data.tokenizer_settings import BERT, TokenizerSettings
from ralm_jax.data.tokenizing import is_kept, keep, open_tokenizer
from ralm_jax.data.workers import CutterMaker, cut
from ralm_jax.errors import UserError
from ralm_jax.publishing import published
from ralm_jax.sources.documents import Document, GivenSpan
from ralm_jax.sources.read import Source, opened
from ralm_jax.sources.records import USUAL, Columns
from ralm_jax.terminal import watched

T = TypeVar("T")

# 16M: enough to know how words are written and to train a vocabulary.
SAMPLE_CHARACTERS = 1 << 24
_BATCH_CHARACTERS = 1 << 19
# Lengths are kept in 16 bits, and ids in 32.
_MIN_TOKENS, _MAX_TOKENS, _MAX_PIECES = 16, (1 << 16) - 1, 1 << 31
# Shares of the characters that the vocabulary does not know: above the first there is a warning, above
# the second no corpus. Text in English has some hundredths of a per cent.
MANY_UNKNOWN, _NEARLY_ALL_UNKNOWN = 0.05, 0.9


class Survey(NamedTuple):
    """What the first pass found."""

    # Texts, spread evenly over the source.
    sample: list[str]
    # Whether any document came without spans.
    untagged: bool
    documents: int


class Passes(Protocol):
    """Who goes over a source twice: this machine, or an engine (see `engines`)."""

    def survey(self, source: Source, folder: Path) -> Survey:
        """The first pass. `folder` is one to keep things in until the second has ended."""
        ...

    def cut(
        self, cutting: CutterMaker, rejected: Counter[str]
    ) -> Iterator[tuple[Passages, Repeats | None]]:
        """The second pass: what `CorpusWriter.add` takes, in order. Counts what the source left out."""
        ...


class Here:
    """The passes on this machine, the second in so many worker processes."""

    def __init__(self, processes: int | None):
        self._processes = processes

    def survey(self, source: Source, folder: Path) -> Survey:
        self._source, survey = source, _survey(source)
        self._documents = survey.documents
        return survey

    def cut(
        self, cutting: CutterMaker, rejected: Counter[str]
    ) -> Iterator[tuple[Passages, Repeats | None]]:
        documents = self._source.read(rejected)
        if not isinstance(cutting.tagger, salient.CorpusTagger):
            documents = _tag(documents, cutting.tagger)
            cutting = cutting._replace(tagger=salient.no_spans)
        for passages in cut(batches(documents), cutting, self._documents, self._processes):
            yield passages, None


def prepare(
    source: str | Sequence[str],
    out: str | Path,
    *,
    vocab_file: str | Path | None = None,
    vocab_size: int = 30522,
    passage_tokens: int = 288,
    settings: TokenizerSettings = BERT,
    tagger: salient.Tagger | None = None,
    processes: int | None = None,
    passes: Passes | None = None,
    columns: Columns = USUAL,
    say: Callable[[str], object] = terminal.say,
) -> dict[str, int]:
    """Prepares the corpus directory `out` from a source, or a list of files (see `sources.read.recognise`).

    Args:
      vocab_file: a BERT vocab.txt, or a tokenizer.json to be taken as it is; without one a vocabulary of
        `vocab_size` wordpieces is learnt.
      passage_tokens: wordpieces of a passage, its title and three special tokens included.
      settings: what is done to a text before it is cut into wordpieces.
      tagger: finds the salient spans of documents that bring none; by default one is learnt.
      processes: worker processes, by default one a core; none are started for a single batch.
      passes: who goes over the source, if not this machine.
      columns: which fields of the records are text, title and id, where they have unusual names.
    Returns:
      The counts in the manifest: passages, sentences, spans, and what was rejected, by reason.
    Raises:
      UserError: `out` exists or cannot be written, the source cannot be read, or nearly all of its
        text is unknown to the vocabulary. Nothing is left behind.
    """
    out = Path(out)
    _check_sizes(passage_tokens, vocab_size)
    check_outside(source, out)
    width = passage_tokens - SPECIAL_TOKENS
    passes = passes or Here(processes)
    with published(out) as partial, opened(source, columns) as found:
        say(f"Reading {found.name}: {found.kind}")
        survey = passes.survey(found, partial)
        vocabulary = _tokenizer(partial, vocab_file, survey.sample, vocab_size, settings, say)
        fitted = tagger or _learnt(survey, partial / TAGGER)
        del survey
        say(f"Cutting passages of at most {passage_tokens} wordpieces")
        cutting = CutterMaker(vocabulary, settings, width, fitted)
        unknown, characters, size = 0, 0, open_tokenizer(vocabulary, settings).vocabulary.size
        rejected: Counter[str] = Counter()
        with contextlib.closing(CorpusWriter(partial, size, width)) as writer:
            for passages, repeats in passes.cut(cutting, rejected):
                writer.add(passages, repeats)
                unknown += passages.unknown_characters
                characters += passages.characters
            _check_unknown(unknown / max(1, characters), found.name, say)
            writer.counts.update(rejected)
            counts = writer.finish(passage_tokens=passage_tokens, **settings.as_record())
    for name, count in counts.items():
        say(f"{count:>12,}  {name}")
    return counts


def check_outside(source: str | Sequence[str], out: Path) -> None:
    """Raises UserError where `out` would become a part of the source."""
    if (
        isinstance(source, str)
        and Path(source).is_dir()
        and out.resolve().is_relative_to(Path(source).resolve())
    ):
        raise UserError(
            f"{out} is inside the source {source}, and would become a part of it; give another --out"
        )


def _check_sizes(passage_tokens: int, vocab_size: int) -> None:
    if not _MIN_TOKENS <= passage_tokens <= _MAX_TOKENS:
        which = "short" if passage_tokens < _MIN_TOKENS else "long"
        raise UserError(
            f"a passage of {passage_tokens} wordpieces is too {which}; give at least {_MIN_TOKENS} and at "
            f"most {_MAX_TOKENS:,}"
        )
    if not len(tokenizer.SPECIALS) < vocab_size <= _MAX_PIECES:
        raise UserError(
            f"a vocabulary of {vocab_size} wordpieces cannot be made; give at least "
            f"{len(tokenizer.SPECIALS) + 1}, one beside the special ones, and at most {_MAX_PIECES:,}"
        )


def _learnt(survey: Survey, file: Path) -> salient.CorpusTagger:
    """A tagger, kept in a file for the documents that an update adds."""
    tagger = salient.fit_tagger(survey.sample if survey.untagged else ())
    file.write_text(json.dumps(tagger.record(), ensure_ascii=False), "utf-8")
    return tagger


def _check_unknown(share: float, source: str, say: Callable[[str], object]) -> None:
    """Says so where much of the text is unknown to the vocabulary, and refuses where nearly all is."""
    if share <= MANY_UNKNOWN:
        return
    problem = (
        f"{share:.0%} of the characters in {source} are in words that the vocabulary does not know: "
        "words of more than 100 characters, as in scripts without spaces, or characters that it lacks; "
        "put spaces between the words, or give a vocabulary for this language with --vocab"
    )
    if share > _NEARLY_ALL_UNKNOWN:
        raise UserError(problem)
    say(f"warning: {problem}")


class EvenSample(Generic[T]):
    """Every n-th of what is added, for the least n of 1, 2, 4, ... that keeps it at about 16M characters."""

    def __init__(self, characters: Callable[[T], int]):
        self.kept: list[T] = []
        self.stride, self.number = 1, 0
        self._count, self._characters = characters, 0

    def add(self, one: T) -> None:
        if self.number % self.stride == 0:
            self.kept.append(one)
            self._characters += self._count(one)
            if self._characters > SAMPLE_CHARACTERS and len(self.kept) > 1:
                self.kept, self.stride = self.kept[::2], 2 * self.stride
                self._characters = sum(map(self._count, self.kept))
        self.number += 1


def _survey(source: Source) -> Survey:
    sample, untagged = EvenSample[str](len), False
    for document in watched(source.read(), "reading", unit=" documents"):
        untagged |= document.spans is None
        sample.add(document.text)
    return Survey(sample.kept, untagged, sample.number)


def _tokenizer(
    out: Path,
    vocab_file: str | Path | None,
    sample: list[str],
    size: int,
    settings: TokenizerSettings,
    say: Callable[[str], object],
) -> Path:
    """The file of the tokenizer, put into `out`: that of `vocab_file`, or of one trained on the sample."""
    if vocab_file is not None and is_kept(vocab_file):
        keep(Path(vocab_file).parent, out)
        return out / FAST
    if vocab_file is not None:
        pieces = tokenizer.pieces_of(tokenizer.load_tokenizer(vocab_file, settings))
    else:
        say(f"Training a vocabulary of at most {size:,} wordpieces")
        pieces = tokenizer.train_vocabulary(sample, size, settings)
    text = "".join(f"{piece}\n" for piece in pieces)
    (out / tokenizer.VOCABULARY).write_text(text, encoding="utf-8")
    return out / tokenizer.VOCABULARY


def _tag(documents: Iterable[Document], tagger: salient.Tagger) -> Iterator[Document]:
    """Spans by the caller's own tagger, which may be one that cannot be sent to another process."""
    for document in documents:
        if document.spans is None:
            document = document._replace(
                spans=tuple(GivenSpan(*span) for span in tagger(document.text))
            )
        yield document


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents as many at a time as a worker process cuts."""
    return grouped(documents, lambda document: len(document.text))


def grouped(items: Iterable[T], characters: Callable[[T], int]) -> Iterator[list[T]]:
    """Batches of what has so many characters: which are together decides in what order kinds are numbered."""
    batch, size = [], 0
    for item in items:
        batch.append(item)
        size += characters(item)
        if size > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
