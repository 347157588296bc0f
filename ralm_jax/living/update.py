"""`ralm update`: a corpus follows its source. Changed text is replaced, new text added, the same text stays.

Only documents that differ by their digest are cut. The next version is written beside the present one, from
its rows that stay and the passages that are new, and published by one rename (see `versions`). To repeat
an update changes nothing. Passages stay in their order, and new ones stand behind them.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import NamedTuple

from ralm_jax import terminal, versions
from ralm_jax.data import salient
from ralm_jax.data.corpus import TAGGER, Corpus, open_corpus
from ralm_jax.data.corpus_writer import CorpusWriter
from ralm_jax.data.cutting import SPECIAL_TOKENS
from ralm_jax.data.prepare import MANY_UNKNOWN, SAMPLE_CHARACTERS, batches
from ralm_jax.data.tokenizer import VOCABULARY
from ralm_jax.data.tokenizer_json import FILES
from ralm_jax.data.tokenizing import vocabulary_file
from ralm_jax.data.workers import CutterMaker, cut
from ralm_jax.errors import UserError, refusal
from ralm_jax.living import merging
from ralm_jax.sources.read import Source, opened
from ralm_jax.sources.records import USUAL, Columns
from ralm_jax.terminal import watched


class Changes(NamedTuple):
    """What an update does to the documents of a corpus, by id."""

    added: set[str]
    changed: set[str]
    deleted: set[str]
    unchanged: int
    # Whether any that is added or changed came without spans.
    untagged: bool

    @property
    def gone(self) -> set[str]:
        """Those whose passages as they were are not wanted any more."""
        return self.changed | self.deleted


def update(
    corpus: str | Path,
    source: str | None = None,
    *,
    prune: bool = False,
    delete: Collection[str] = (),
    columns: Columns = USUAL,
    processes: int | None = None,
    say: Callable[[str], object] = terminal.say,
) -> dict[str, int]:
    """Makes the next version of a corpus; none where nothing has changed.

    Args:
      source: documents to add, or to put in the place of those with their ids; see `sources.read`.
      prune: documents of the corpus that the source does not have are deleted.
      delete: ids of documents to delete.
      columns: as for `prepare`.
      processes: worker processes, by default one a core.
    Returns:
      Documents added, changed, deleted and unchanged, the passages there are, and the version.
    Raises:
      UserError: no corpus, another process updates it, the source cannot be read, or nothing would be left.
        The corpus stays as it was.
    """
    path = Path(corpus)
    if source is None and (prune or not delete):
        raise UserError("give a SOURCE of documents to update with, or ids to --delete")
    present = open_corpus(path)
    try:
        with versions.updating(path) as partial, _source(source, columns) as found:
            # Another update may have ended while this one waited for standard input.
            present = open_corpus(path)
            changes = _changes(present, found, prune, delete, say)
            counts = {
                "documents added": len(changes.added),
                "documents changed": len(changes.changed),
                "documents deleted": len(changes.deleted),
                "documents unchanged": changes.unchanged,
            }
            if not (changes.added or changes.gone):
                say("Nothing has changed")
                return {**counts, "passages": present.size, "version": present.version.number}
            new = _cut(present, found, changes, partial / "new", processes)
            if new is not None and (share := _unknown(new)) > MANY_UNKNOWN:
                say(f"warning: the vocabulary does not know {share:.0%} of the new wordpieces")
            next_one = partial / "next"
            fingerprint = merging.merge(present, new, changes.gone, next_one, counts)
            number = versions.publish(path, next_one, fingerprint)
            versions.clean(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {refusal(error, path)}") from error
    newest = open_corpus(path)
    counts |= {"passages": newest.size, "version": number}
    for name, count in counts.items():
        say(f"{count:>12,}  {name}")
    return counts


@contextlib.contextmanager
def _source(source: str | None, columns: Columns) -> Generator[Source | None]:
    if source is None:
        yield None
        return
    with opened(source, columns) as found:
        yield found


def _changes(
    present: Corpus,
    source: Source | None,
    prune: bool,
    delete: Collection[str],
    say: Callable[[str], object],
) -> Changes:
    """Compares the documents of the source with those of the corpus, by id and digest."""
    known = {id: digest for id, digest, _ in merging.documents(present)}
    added, changed, same = set(), set(), set()
    untagged = False
    if source is not None:
        say(f"Reading {source.name}: {source.kind}")
        for document in watched(source.read(), "reading", len(known), " documents"):
            if known.get(document.id) == document.digest():
                same.add(document.id)
                continue
            (changed if document.id in known else added).add(document.id)
            untagged |= document.spans is None
    deleted = {id for id in delete if id in known}
    if missing := len(set(delete)) - len(deleted):
        say(f"{missing:,} of the ids to delete are not in the corpus")
    if both := (added | changed) & set(delete):
        raise UserError(f"the document {sorted(both)[0]!r} is in the source and to be deleted")
    if prune:
        deleted |= known.keys() - same - changed
    unchanged = len(known) - len(changed) - len(deleted)
    return Changes(added, changed, deleted, unchanged, untagged)


def _cut(
    present: Corpus, source: Source | None, changes: Changes, out: Path, processes: int | None
) -> Corpus | None:
    """The passages of what is added or changed, as a corpus of their own; None where there are none."""
    wanted = changes.added | changes.changed
    if source is None or not wanted:
        return None
    out.mkdir()
    merging.share(present, (VOCABULARY, *FILES), out)
    width = present.passage_tokens - SPECIAL_TOKENS
    documents = (document for document in source.read(Counter()) if document.id in wanted)
    with contextlib.closing(CorpusWriter(out, present.vocabulary.size, width)) as writer:
        tagger = _tagger(present) if changes.untagged else salient.no_spans
        cutting = CutterMaker(vocabulary_file(out), present.tokenizer_settings, width, tagger)
        for passages in cut(batches(documents), cutting, len(wanted), processes):
            writer.add(passages)
        if writer.passages:
            settings = present.tokenizer_settings.as_record()
            writer.finish(passage_tokens=present.passage_tokens, **settings)
            return open_corpus(out)
    return None


def _unknown(new: Corpus) -> float:
    """The share of wordpieces that the vocabulary does not know."""
    return new.counts.get("unknown wordpieces", 0) / max(1, new.counts.get("wordpieces", 1))


def _tagger(present: Corpus) -> salient.CorpusTagger:
    """What found the salient spans of the corpus; of one made by an earlier release, learnt from it again."""
    file = present.version.folder / TAGGER
    if file.exists():
        present.check((TAGGER,))
        return salient.CorpusTagger.read(file)
    texts, characters, sample = present.texts(), 0, []
    for row in range(0, len(texts), max(1, len(texts) // 50_000)):
        sample.append(texts[row]["text"].decode())
        characters += len(sample[-1])
        if characters > SAMPLE_CHARACTERS:
            break
    return salient.fit_tagger(sample)
