"""The next version of a corpus: its rows that stay, and the passages that are new behind them."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ralm_jax import json_text, versions
from ralm_jax.data.corpus import ARRAYS, DOCUMENTS, TAGGER, Corpus
from ralm_jax.data.corpus_writer import ArrayWriter, write_manifest
from ralm_jax.data.texts import ROWS, TEXTS, write_texts
from ralm_jax.data.tokenizer import VOCABULARY
from ralm_jax.data.tokenizer_json import FILES
from ralm_jax.errors import UserError

# Rows copied at a time.
CHUNK = 1 << 16
# Beyond these, the texts are written anew without those of passages that are gone.
_DEAD, _SHARDS = 0.2, 32
# Versions before this one whose rows are known by where they stand in it.
_ANCESTORS = 8


class Owners(NamedTuple):
    """Passages that an update touches, by content id: the documents that have them before and after it."""

    before: dict[str, list[str]]
    after: dict[str, list[str]]


def documents(corpus: Corpus) -> Iterator[tuple[str, str, list[str]]]:
    """Id, digest and content ids of each document; digests are "" in a corpus of an earlier release."""
    file = corpus.version.folder / DOCUMENTS
    if file.exists():
        corpus.check((DOCUMENTS,))
        with file.open(encoding="utf-8") as lines:
            try:
                for line in lines:
                    id, digest, contents = json_text.parse(line)
                    yield str(id), str(digest), [str(content) for content in contents]
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"the corpus {corpus.path} is damaged: {DOCUMENTS}: {error}; prepare it again"
                ) from None
        return
    found: dict[str, list[str]] = {}
    for record in corpus.texts():
        for id in record["documents"]:
            found.setdefault(id.decode(), []).append(record["id"].decode())
    yield from ((id, "", contents) for id, contents in found.items())


def merge(
    present: Corpus, new: Corpus | None, gone: set[str], out: Path, counts: dict[str, int]
) -> str:
    """Writes the next version to the folder `out`; returns its fingerprint.

    Args:
      new: the passages of documents that are added or changed.
      gone: documents whose passages as they were are not wanted any more: those deleted or changed.
      counts: what is said in the manifest beside the numbers of rows.
    Raises UserError where no passage would be left.
    """
    out.mkdir()
    owners = _owners(present, new, gone)
    dead = [content.encode() for content, ids in owners.after.items() if not ids]
    kept = ~np.isin(present.ids, np.array(dead, "S32"))
    staying = present.ids[kept]
    fresh = np.zeros(0, bool) if new is None else ~np.isin(new.ids, staying)
    if not len(staying) and not fresh.any():
        raise UserError(
            f"no passage of the corpus {present.path} would be left; it stays as it was"
        )
    kinds = _arrays(present, new, kept, fresh, out)
    rows = _texts(present, new, kept, fresh, owners, out)
    _documents(present, new, gone, out)
    share(present, (VOCABULARY, *FILES, TAGGER), out)
    found = {"documents": sum(1 for _ in _lines(out / DOCUMENTS)), "passages": rows}
    found |= {n: len(np.load(out / f"{n}.npy", mmap_mode="r")) for n in ("sentences", "spans")}
    settings: dict[str, Any] = dict(present.tokenizer_settings.as_record())
    settings |= {"passage_tokens": present.passage_tokens, "kinds": kinds}
    settings["ancestors"] = _ancestors(present, kept, int(fresh.sum()), out)
    return write_manifest(out, counts | found, **settings)


def _owners(present: Corpus, new: Corpus | None, gone: set[str]) -> Owners:
    mine = [] if new is None else list(documents(new))
    touched = {content for _, _, contents in mine for content in contents}
    before: dict[str, list[str]] = {}
    for id, _, contents in documents(present):
        if id in gone:
            touched.update(contents)
    after: dict[str, list[str]] = {content: [] for content in touched}
    for id, _, contents in documents(present):
        for content in contents:
            if content in touched:
                before.setdefault(content, []).append(id)
                if id not in gone:
                    after[content].append(id)
    for id, _, contents in mine:
        for content in contents:
            after[content].append(id)
    return Owners(before, {content: list(dict.fromkeys(ids)) for content, ids in after.items()})


def _arrays(
    present: Corpus, new: Corpus | None, kept: np.ndarray, fresh: np.ndarray, out: Path
) -> list[str]:
    """Writes the arrays of the rows kept [N] and fresh [n]; returns the names of the kinds of spans."""
    kinds = list(dict.fromkeys([*present.kinds, *(new.kinds if new is not None else ())]))
    passages = 0
    # Closed however this ends: the disk may be full.
    with contextlib.ExitStack() as files:
        writers = {}
        for name in ARRAYS:
            array = getattr(present, name)
            writer = ArrayWriter(out / f"{name}.npy", array.dtype, array.shape[1:])
            writers[name] = files.enter_context(contextlib.closing(writer))
        for corpus, rows in ((present, kept), (new, fresh)):
            if corpus is None:
                continue
            for name in ("tokens", "lengths", "ids"):
                array = getattr(corpus, name)
                for start in range(0, corpus.size, CHUNK):
                    part = slice(start, start + CHUNK)
                    writers[name].append(array[part][rows[part]])
            number = np.array([kinds.index(kind) for kind in corpus.kinds], np.int32)
            _append_sentences(corpus, rows, passages, number, writers)
            passages += int(rows.sum())
        for writer in writers.values():
            writer.finish()
    return kinds


def _append_sentences(corpus, rows: np.ndarray, passages: int, kinds: np.ndarray, writers) -> None:
    """The sentences and spans of some rows [N], which stand from row `passages` on."""
    before = writers["sentences"].rows
    place = passages + np.cumsum(rows) - 1
    sentences = np.array(corpus.sentences)
    mine = rows[sentences[:, 0]]
    spans = np.array(corpus.spans)
    inside = mine[spans[:, 0]] if len(spans) else np.zeros(0, bool)
    sentence_place = before + np.cumsum(mine) - 1
    sentences[:, 0] = place[sentences[:, 0]]
    if len(spans):
        spans[:, 0] = sentence_place[spans[:, 0]]
        spans[:, 3] = kinds[spans[:, 3]]
    writers["sentences"].append(sentences[mine])
    writers["spans"].append(spans[inside])
    writers["span_groups"].append(np.array(corpus.span_groups)[inside])


def _texts(
    present: Corpus,
    new: Corpus | None,
    kept: np.ndarray,
    fresh: np.ndarray,
    owners: Owners,
    out: Path,
) -> int:
    """Writes the texts, and shares those before unless many of them are gone; returns the number of rows."""
    texts = present.texts()
    ids = [content.decode() for content in present.ids[kept].tolist()]
    # Passages that another document has now are written again with its id.
    redone = [
        place
        for place, content in enumerate(ids)
        if content in owners.after and owners.after[content] != owners.before.get(content)
    ]
    old_rows = np.arange(len(texts)) if texts.rows is None else texts.rows
    rows = np.append(old_rows[kept], np.zeros(int(fresh.sum()), np.int64))
    staying = np.flatnonzero(kept)
    added = [_record(texts[staying[place]], owners.after[ids[place]]) for place in redone]
    if new is not None:
        given = new.texts()
        more = (given[row] for row in np.flatnonzero(fresh).tolist())
        added += [_record(one, owners.after[one["id"].decode()]) for one in more]
    records = len(texts.source)
    behind = [*redone, *range(len(ids), len(rows))]
    rows[behind] = records + np.arange(len(behind))
    whole = 1 - len(rows) / (records + len(added)) > _DEAD or texts.shards >= _SHARDS
    if not whole:
        np.save(out / ROWS, rows)
        before = present.version.folder / TEXTS
        write_texts(out / TEXTS, iter(added), len(added), before)
        return len(rows)
    written = (
        _as_text(texts.source[row]) if row < records else added[row - records]
        for row in rows.tolist()
    )
    write_texts(out / TEXTS, written, len(rows))
    return len(rows)


def _record(record: dict[str, Any], owners: list[str]) -> dict[str, list[str]]:
    return _as_text(record) | {"documents": owners}


def _as_text(record: dict[str, Any]) -> dict[str, list[str]]:
    return {
        "id": [record["id"].decode()],
        "documents": [document.decode() for document in record["documents"]],
        "title": [record["title"].decode()],
        "text": [record["text"].decode()],
    }


def _documents(present: Corpus, new: Corpus | None, gone: set[str], out: Path) -> None:
    with (out / DOCUMENTS).open("w", encoding="utf-8") as file:
        for one in documents(present):
            if one[0] not in gone:
                file.write(json.dumps(one) + "\n")
        for one in documents(new) if new is not None else ():
            file.write(json.dumps(one) + "\n")


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        yield from lines


def share(present: Corpus, names: Sequence[str], out: Path) -> None:
    """Gives those files of a corpus that there are another name in the folder `out`."""
    for name in names:
        if (present.version.folder / name).exists():
            versions.link(present.version.folder / name, out / name)


def _ancestors(present: Corpus, kept: np.ndarray, fresh: int, out: Path) -> list[dict[str, Any]]:
    """Writes where the rows of this version stand in those before it, newest first."""
    new = np.full(fresh, -1, np.int32)
    longest = int(np.asarray(present.lengths).astype(int).sum(1).max())
    parent = {"fingerprint": present.fingerprint, "longest": longest}
    found = [(parent, np.arange(present.size, dtype=np.int32))]
    found += [(about, np.asarray(rows)) for about, rows in present.ancestors()][: _ANCESTORS - 1]
    out_of: list[dict[str, Any]] = []
    for about, rows in found:
        name = f"from_{about['fingerprint'][:16]}.npy"
        np.save(out / name, np.append(rows[kept], new))
        out_of.append({**about, "rows": name})
    return out_of
