"""A corpus that is updated is the one that would be made of the new text, whatever happens on the way."""

import json
import multiprocessing
import os
import shutil
import time

import numpy as np
import pytest

from ralm_jax import versions
from ralm_jax.data.corpus import open_corpus, verify_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.living import merging
from ralm_jax.living.update import update

WORDS = "kiln salt road ferry tower archive glass harbour orchard mill stone bridge".split()


def document(number, edition=0):
    rng = np.random.default_rng((number, edition))
    sentences = [
        f"The {' '.join(rng.choice(WORDS, 6))} of Norford {number} was built in {1500 + number}."
        for _ in range(int(rng.integers(1, 6)))
    ]
    title = f"Place {number}"
    return {"id": f"d{number}", "title": title, "text": " ".join(sentences)}


def write(path, documents):
    path.write_text("".join(json.dumps(one) + "\n" for one in documents), "utf-8")
    return str(path)


def quiet(line):
    pass


def made(path, documents):
    """A corpus prepared of documents, with a vocabulary that knows all of the words."""
    source = write(path.with_suffix(".jsonl"), documents)
    options = {"vocab_file": path.parent / "vocab.txt", "passage_tokens": 48, "processes": 1}
    if not options["vocab_file"].exists():
        every = [document(i, e) | {"id": f"{i}-{e}"} for i in range(40) for e in (0, 1)]
        everything = write(path.parent / "all.jsonl", every)
        prepare(everything, path.parent / "all", vocab_size=300, passage_tokens=48, say=quiet)
        shutil.copy(path.parent / "all" / "vocab.txt", options["vocab_file"])
    prepare(source, path, say=quiet, **options)
    return path


def updated(path, documents, **options):
    source = write(path.parent / "next.jsonl", documents) if documents is not None else None
    return update(path, source, processes=1, say=quiet, **options)


def contents(corpus):
    """What is in a corpus, whatever the order of its passages."""
    texts, found = corpus.texts(), {}
    spans = np.array(corpus.spans)
    for row in range(corpus.size):
        record = texts[row]
        mine = np.flatnonzero(corpus.sentences[:, 0] == row)
        inside = np.isin(spans[:, 0], mine)
        assert record["id"] == corpus.ids[row]
        found[record["id"].decode()] = (
            sorted(record["documents"]),
            record["title"],
            record["text"],
            corpus.tokens[row].tolist(),
            corpus.lengths[row].tolist(),
            corpus.sentences[mine, 1:].tolist(),
            [
                (int(s - mine[0]), a, b, corpus.kinds[kind], int(group))
                for (s, a, b, kind), group in zip(
                    spans[inside].tolist(), corpus.span_groups[inside], strict=True
                )
            ],
        )
    return found


@pytest.fixture
def corpus(tmp_path):
    return made(tmp_path / "corpus", [document(i) for i in range(20)])


def rebuilt(tmp_path, documents, monkeypatch, tagger):
    from ralm_jax.data import salient

    monkeypatch.setattr(salient, "fit_tagger", lambda texts: salient.CorpusTagger.of(tagger))
    return open_corpus(made(tmp_path / "rebuilt", documents))


def test_it_is_what_would_be_made_of_the_new_text(corpus, tmp_path, monkeypatch):
    tagger = json.loads((corpus / "tagger.json").read_text())
    wanted = {i: document(i) for i in range(20)}
    steps = [
        ({3: 1, 7: 1}, [20, 21], []),
        ({3: 2}, [], [0, 5, 20]),
        ({}, [22, 23, 24], [1, 2]),
        ({3: 0, 7: 0}, [0, 5], [24]),
    ]
    for number, (changed, added, deleted) in enumerate(steps, 1):
        wanted |= {i: document(i, edition) for i, edition in changed.items()}
        wanted |= {i: document(i) for i in added}
        for i in deleted:
            del wanted[i]
        counts = updated(corpus, wanted.values(), prune=True)
        assert counts["version"] == number
        assert counts["documents added"] == len(added)
        assert counts["documents changed"] == len(changed)
        assert counts["documents deleted"] == len(deleted)
        assert counts["documents unchanged"] == len(wanted) - len(added) - len(changed)
        found = open_corpus(corpus)
        verify_corpus(corpus)
        anew = rebuilt(tmp_path, wanted.values(), monkeypatch, tagger)
        assert contents(found) == contents(anew)
        for name in ("documents", "passages", "sentences", "spans"):
            assert found.counts[name] == anew.counts[name]
        shutil.rmtree(tmp_path / "rebuilt")


def test_to_repeat_it_changes_nothing(corpus):
    documents = [document(i) for i in range(22)]
    first = updated(corpus, documents)
    before = (corpus / "manifest.json").read_bytes()
    again = updated(corpus, documents)
    assert (first["version"], again["version"]) == (1, 1)
    assert again["documents unchanged"] == 22 and not again["documents added"]
    assert (corpus / "manifest.json").read_bytes() == before


def test_without_prune_absent_documents_stay(corpus):
    counts = updated(corpus, [document(3, 1)])
    assert counts["documents unchanged"] == 19 and counts["documents changed"] == 1
    assert not counts["documents deleted"]


def test_documents_are_deleted_by_their_ids(corpus, capsys):
    said = []
    counts = update(corpus, delete=["d4", "d5", "nothing"], say=said.append)
    assert counts["documents deleted"] == 2
    assert "1 of the ids to delete are not in the corpus" in said
    found = {d for record in open_corpus(corpus).texts() for d in record["documents"]}
    assert found == {f"d{i}".encode() for i in range(20)} - {b"d4", b"d5"}


def test_a_passage_of_two_documents_stays_while_one_has_it(corpus, tmp_path):
    twin = document(6) | {"id": "twin"}
    updated(corpus, [twin])
    shared = {bytes(r["id"]): list(r["documents"]) for r in open_corpus(corpus).texts()}
    both = [content for content, ids in shared.items() if ids == [b"d6", b"twin"]]
    assert both and all(b"twin" not in ids or content in both for content, ids in shared.items())
    updated(corpus, None, delete=["d6"])
    after = {bytes(r["id"]): list(r["documents"]) for r in open_corpus(corpus).texts()}
    assert all(after[content] == [b"twin"] for content in both)
    updated(corpus, None, delete=["twin"])
    assert not set(both) & {bytes(record["id"]) for record in open_corpus(corpus).texts()}


def test_rows_of_versions_before_are_known(corpus):
    first = open_corpus(corpus)
    for edition in (1, 2, 3):
        updated(corpus, [document(3, edition), document(20 + edition)])
    newest = open_corpus(corpus)
    about = list(newest.ancestors())
    assert [a["fingerprint"] for a, _ in about][-1] == first.fingerprint and len(about) == 3
    rows = about[-1][1]
    assert len(rows) == newest.size and (rows < 0).any()
    for row, before in enumerate(rows.tolist()):
        known = newest.ids[row] in first.ids
        assert known == (before >= 0)
        assert before < 0 or first.ids[before] == newest.ids[row]


def test_texts_are_shared_until_many_are_gone(corpus, monkeypatch):
    updated(corpus, [document(30)])
    one = open_corpus(corpus)
    assert one.texts().shards == 2 and one.texts().rows is not None
    inodes = [
        os.stat(v / "texts" / name).st_nlink
        for v in [one.version.folder]
        for name in os.listdir(v / "texts")
        if "00000-of" in name
    ]
    assert inodes[0] > 1
    updated(corpus, [document(i) for i in range(10)], prune=True)
    whole = open_corpus(corpus)
    assert whole.texts().shards == 1 and whole.texts().rows is None
    monkeypatch.setattr(merging, "_SHARDS", 2)
    updated(corpus, [document(30)])
    updated(corpus, [document(31)])
    assert open_corpus(corpus).texts().shards == 1


def test_a_reader_keeps_its_version_through_many(corpus):
    reader = open_corpus(corpus)
    before, tokens = contents(reader), np.array(reader.tokens)
    assert reader.is_current
    (corpus / "notes.md").write_text("What a person keeps beside it.")
    for edition in range(1, 6):
        updated(corpus, [document(3, edition)])
        # It may open its texts late.
        assert contents(reader) == before and np.array_equal(reader.tokens, tokens)
    assert not reader.is_current
    numbers = sorted(int(f.name) for f in (corpus / "versions").iterdir() if f.name.isdecimal())
    assert numbers == [0, 4, 5]
    del reader
    updated(corpus, [document(3, 9)])
    numbers = sorted(int(f.name) for f in (corpus / "versions").iterdir() if f.name.isdecimal())
    assert numbers == [5, 6]
    # Of the first version, which lay beside the pointer, the vocabulary is left.
    names = {f.name for f in corpus.iterdir() if not f.name.startswith(".")}
    assert names == {"manifest.json", "versions", "vocab.txt", "notes.md"}


def test_a_corpus_of_an_earlier_release(corpus):
    """It has no digests of documents: all that are given are cut, and give the passages there are."""
    manifest = json.loads((corpus / "manifest.json").read_text())
    del manifest["crc32"]
    for name in ("documents.jsonl", "tagger.json"):
        (corpus / name).unlink()
        del manifest["files"][name], manifest["sizes"][name]
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    before = open_corpus(corpus)
    counts = updated(corpus, [document(i) for i in range(21)], prune=True)
    assert counts["documents changed"] == 20 and counts["documents added"] == 1
    after = open_corpus(corpus)
    assert np.array_equal(after.ids[: before.size], before.ids) and after.size > before.size
    assert updated(corpus, [document(i) for i in range(21)])["documents unchanged"] == 21


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        (None, {}, "give a SOURCE of documents to update with, or ids to --delete"),
        (None, {"prune": True, "delete": ["d1"]}, "give a SOURCE of documents"),
        (None, {"delete": [f"d{i}" for i in range(20)]}, "no passage of the corpus .* would be left"),
        ([document(1)], {"delete": ["d1"]}, None),
        ([document(1, 1)], {"delete": ["d1"]}, "the document 'd1' is in the source and to be deleted"),
        ([{"id": "x"}], {}, "line 1: the field 'text' is missing"),
        ([document(1, 1), document(1, 2)], {}, "line 2: the id 'd1' already occurs in line 1"),
    ],
)  # fmt: skip
def test_mistakes_leave_it_as_it_was(corpus, documents, options, message):
    before = sorted(f.name for f in corpus.iterdir())
    if message is None:
        assert updated(corpus, documents, **options)["documents deleted"] == 1
        return
    with pytest.raises(UserError, match=message):
        updated(corpus, documents, **options)
    after = {f.name for f in corpus.iterdir()} - {".update", "versions"}
    assert after == set(before) and open_corpus(corpus).version.number == 0


def test_two_at_once_are_refused(corpus):
    with versions.updating(corpus):
        with pytest.raises(UserError, match="is being updated by another process; wait for it"):
            updated(corpus, [document(30)])


def test_a_pointer_that_points_elsewhere_is_damage(corpus):
    updated(corpus, [document(30)])
    record = json.loads((corpus / "manifest.json").read_text())
    (corpus / "manifest.json").write_text(json.dumps(record | {"version": 7}))
    with pytest.raises(UserError, match=r"is damaged: manifest\.json: it is not as it was written"):
        open_corpus(corpus)
    del record["crc32"]
    (corpus / "manifest.json").write_text(json.dumps(record | {"current": "../elsewhere"}))
    with pytest.raises(UserError, match=r"is damaged: manifest\.json names no version of it"):
        open_corpus(corpus)


@pytest.mark.slow
def test_killed_at_any_moment_it_opens(corpus):
    """Each time it is the version before or the next, whole; and the next update goes through."""
    # Processes that begin without the threads of this one, which has read texts, and with all imported.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["ralm_jax.living.update", "tensorflow_datasets"])
    rng = np.random.default_rng(0)
    killed, whole = 0, 0.0
    for edition in range(51):
        write(corpus.parent / f"e{edition}.jsonl", [document(i, edition + 1) for i in (3, 7, 11)])
        before = open_corpus(corpus)
        source = str(corpus.parent / f"e{edition}.jsonl")
        options = {"processes": 1, "say": str}
        process = server.Process(target=update, args=(corpus, source), kwargs=options)
        began = time.monotonic()
        process.start()
        # Two go through: the first waits for the server to import, the second says how long one takes.
        process.join(None if edition < 2 else float(rng.uniform(0, 2 * whole)))
        whole = time.monotonic() - began if edition < 2 else whole
        process.kill()
        process.join()
        killed += process.exitcode != 0
        after = open_corpus(corpus)
        assert after.version.number - before.version.number in (0, 1)
        verify_corpus(corpus)
        assert len(contents(after)) == after.size
        assert contents(before)
    assert killed > 5 and open_corpus(corpus).version.number > 10
    documents = [document(i, 99) for i in (3, 7, 11)]
    updated(corpus, documents)
    assert {r["text"].decode() for r in open_corpus(corpus).texts()} >= {
        text for d in documents for text in [d["text"]] if len(text) < 60
    }
