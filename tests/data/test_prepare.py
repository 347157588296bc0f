import gzip
import json
import os

import numpy as np
import pytest

from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.passages import content_id
from ralm_jax.data.prepare import prepare
from ralm_jax.data.salient import Span
from ralm_jax.data.tokenizer import load_tokenizer
from ralm_jax.data.tokenizer_settings import TokenizerSettings
from ralm_jax.errors import UserError

CASED = TokenizerSettings(lowercase=False)
TOWNS = ("Łódź", "Chicago", "Notre Dame", "Ålesund", "São Paulo", "東京")
WORDS = "the mill by river was old and people liked it for its bread in winter café".split()


def documents(number=60, seed=0):
    """Documents of several sentences, some long, with odd characters in them."""
    rng = np.random.default_rng(seed)
    for i in range(number):
        sentences = []
        for _ in range(rng.integers(1, 12)):
            words = rng.choice(WORDS, rng.integers(3, 30)).tolist()
            words.insert(2, TOWNS[rng.integers(len(TOWNS))])
            words.append(str(rng.integers(1500, 2000)))
            sentence = " ".join(words) + str(rng.choice([".", "!", "?\u200b"]))
            sentences.append(sentence[0].upper() + sentence[1:])
        yield {"id": f"d{i}", "title": f"Title {i % 7}", "text": " ".join(sentences)}


def write(path, records):
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode()))
    return str(path)


def quiet(line):
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(directory, documents, counts) of a corpus of small passages."""
    path = tmp_path_factory.mktemp("made")
    records = list(documents())
    # Two documents that hold one and the same passage, and one document given twice.
    records += [records[0] | {"id": "again"}, records[1] | {"id": "more", "title": "Another"}]
    source = write(path / "x.jsonl.gz", records)
    counts = prepare(source, path / "corpus", passage_tokens=40, vocab_size=300, say=quiet)
    return path / "corpus", records, counts


def body_text(corpus, row, start, stop):
    title = int(corpus.lengths[row, 0])
    return corpus.tokens[row, title + start : title + stop].tolist()


def test_tokens_are_those_of_the_texts(made):
    corpus = open_corpus(made[0])
    tokenizer, texts = corpus.tokenizer(), corpus.texts()
    assert len(texts) == corpus.size == len(corpus.ids) == len(corpus.lengths) > 60
    for row in range(corpus.size):
        record = texts[row]
        title, text = (tokenizer.encode(record[k].decode()).ids for k in ("title", "text"))
        a, b = corpus.lengths[row].tolist()
        assert (a, b) == (len(title), len(text)) and 3 + a + b <= 40
        assert corpus.tokens[row].tolist() == title + text + [0] * (37 - a - b)
        assert corpus.ids[row] == record["id"]
        assert (
            content_id(record["title"].decode(), record["text"].decode()).encode() == record["id"]
        )


def test_passages_are_whole_documents_in_order(made):
    path, records, _ = made
    texts = open_corpus(path).texts()
    by_document = {}
    for i in range(len(texts)):
        for document in texts[i]["documents"]:
            by_document.setdefault(document.decode(), []).append(texts[i]["text"].decode())
    assert by_document.keys() == {record["id"] for record in records}
    letters = str.maketrans(
        "", "", " \u200b"
    )  # nothing is lost but blanks and what has no wordpiece
    for record in records:
        whole = "".join(by_document[record["id"]])
        assert whole.translate(letters) == record["text"].translate(letters)
    assert by_document["again"] == by_document["d0"]


def test_equal_passages_are_kept_once(made):
    path, _, counts = made
    corpus = open_corpus(path)
    assert len(np.unique(corpus.ids)) == corpus.size == counts["passages"]
    texts = corpus.texts()
    documents = [texts[row]["documents"] for row in range(corpus.size)]
    assert [b"d0", b"again"] in documents and all(documents)
    assert counts["rejected: passage given twice"] == sum(len(d) - 1 for d in documents)


def test_sentences_tile_the_bodies(made):
    corpus = open_corpus(made[0])
    rows, starts, stops = corpus.sentences.T
    assert (np.diff(rows) >= 0).all() and set(rows) == set(range(corpus.size))
    first = np.append(True, np.diff(rows) > 0)
    assert (starts[first] == 0).all()
    assert np.array_equal(starts[1:][~first[1:]], stops[:-1][~first[1:]])
    assert np.array_equal(stops[np.append(first[1:], True)], corpus.lengths[:, 1])


def test_spans_are_whole_words_within_a_sentence(made):
    corpus = open_corpus(made[0])
    tokenizer = corpus.tokenizer()
    towns = [tokenizer.encode(town).ids for town in TOWNS]
    years = 0
    assert (np.diff(corpus.spans[:, 0]) >= 0).all()
    for sentence, start, stop, kind in corpus.spans.tolist():
        row, low, high = corpus.sentences[sentence].tolist()
        assert low <= start < stop <= high and (start, stop) != (low, high)
        piece = body_text(corpus, row, start, stop)
        if corpus.kinds[kind] == "date":
            assert tokenizer.decode(piece).isdigit()
            years += 1
        else:
            assert corpus.kinds[kind] == "name" and piece in towns
    assert years > 100 and len(corpus.spans) > 1.5 * years
    assert not corpus.vocabulary.continuation[corpus.tokens[0, 0]]


def test_groups_of_spans_without_facts_are_their_passages(made):
    corpus = open_corpus(made[0])
    rows = corpus.sentences[corpus.spans[:, 0], 0]
    expected = [int(corpus.ids[row][:16], 16) for row in rows]
    assert corpus.span_groups.tolist() == expected


def test_the_same_again_in_worker_processes(made, tmp_path, monkeypatch):
    path, records, counts = made
    monkeypatch.setattr("ralm_jax.data.prepare._BATCH_CHARACTERS", 3000)
    source = write(tmp_path / "x.jsonl.gz", records)
    again = prepare(
        source, tmp_path / "c", passage_tokens=40, vocab_size=300, processes=2, say=quiet
    )
    assert again == counts
    for file in path.rglob("*.npy"):
        assert file.read_bytes() == (tmp_path / "c" / file.name).read_bytes()
    assert open_corpus(tmp_path / "c").fingerprint == open_corpus(path).fingerprint


def test_fingerprints_differ_with_anything_a_model_sees(made, tmp_path):
    path, records, _ = made
    source = write(tmp_path / "x.jsonl.gz", records)
    (tmp_path / "vocab.txt").write_bytes((path / "vocab.txt").read_bytes() + b"##unused\n")
    changes = (
        {"passage_tokens": 41},
        {"vocab_file": tmp_path / "vocab.txt"},
        {"tagger": lambda text: []},
    )
    seen = {open_corpus(path).fingerprint}
    for i, change in enumerate(changes):
        options = {"passage_tokens": 40, "vocab_file": path / "vocab.txt", "say": quiet} | change
        prepare(source, tmp_path / f"{i}", **options)
        seen.add(open_corpus(tmp_path / f"{i}").fingerprint)
    assert len(seen) == 4


def span_of(text, part, kind="own", fact=None):
    return {
        "start": text.index(part),
        "stop": text.index(part) + len(part),
        "kind": kind,
        "fact": fact,
    }


@pytest.mark.parametrize("batch", [1, 10**6])
def test_given_spans_are_kept_or_counted(tmp_path, monkeypatch, batch):
    monkeypatch.setattr("ralm_jax.data.prepare._BATCH_CHARACTERS", batch)
    text = "Anna met Éva\u0301 here. Bob left."
    spans = [
        span_of(text, "Anna", "person", "f1"),
        span_of(text, "Éva\u0301", "person", "f2"),  # the last mark belongs to the last wordpiece
        span_of(text, " met "),  # blanks around do no harm
        span_of(text, "Anna", "person", "f1"),
        span_of(text, "nna"),
        span_of(text, "Ann"),
        span_of(text, "here. Bob"),
        span_of(text, "Bob left."),
        span_of(text, " "),
    ]
    other = "So Anna it was."
    records = [
        {"id": "a", "title": "", "text": text, "spans": spans},
        {"id": "b", "title": "", "text": other, "spans": [span_of(other, "Anna", "who", "f1")]},
        {"id": "c", "title": "", "text": "Anna is not tagged: 1990.", "spans": []},
        {"id": "d", "title": "", "text": "\u0301", "spans": []},
    ]
    vocabulary = tmp_path / "vocab.txt"
    pieces = (
        "[PAD] [UNK] [CLS] [SEP] [MASK] anna met eva here bob left so it was is not tagged 1990"
    )
    vocabulary.write_text("\n".join([*pieces.split(), ".", ":"]))
    source = write(tmp_path / "x.jsonl.gz", records)
    counts = prepare(source, tmp_path / "c", vocab_file=vocabulary, processes=1, say=quiet)
    corpus = open_corpus(tmp_path / "c")
    tokenizer = corpus.tokenizer()
    rows = corpus.sentences[corpus.spans[:, 0], 0]
    found = [
        (tokenizer.decode(body_text(corpus, row, span[1], span[2])), corpus.kinds[span[3]])
        for row, span in zip(rows, corpus.spans, strict=True)
    ]
    assert found == [("anna", "person"), ("met", "own"), ("eva", "person"), ("anna", "who")]
    groups = corpus.span_groups
    assert groups[0] == groups[3] != groups[2] and len(set(groups.tolist())) == 3
    assert {k: n for k, n in counts.items() if k.startswith("rejected")} == {
        "rejected: span given twice": 1,
        "rejected: span cuts a wordpiece": 2,
        "rejected: span crosses sentences": 1,
        "rejected: span is the whole sentence": 1,
        "rejected: span without wordpieces": 1,
        "rejected: document without wordpieces": 1,
    }
    assert counts["documents"] == 4 and counts["passages"] == 3


def test_a_tagger_of_ones_own_sees_only_untagged_documents(tmp_path):
    records = [
        {"id": "a", "title": "t", "text": "one two three"},
        {"id": "b", "title": "t", "text": "four five six", "spans": []},
    ]
    tagger = lambda text: [Span(0, text.index(" "), "first")]  # noqa: E731 - not to be pickled
    source = write(tmp_path / "x.jsonl.gz", records)
    prepare(source, tmp_path / "c", tagger=tagger, say=quiet)
    corpus = open_corpus(tmp_path / "c")
    assert corpus.kinds == ("first",) and len(corpus.spans) == 1


def test_a_given_vocabulary_is_used_and_stored(made, tmp_path):
    path, records, _ = made
    source = write(tmp_path / "x.jsonl.gz", records)
    prepare(source, tmp_path / "c", passage_tokens=40, vocab_file=path / "vocab.txt", say=quiet)
    assert (tmp_path / "c/vocab.txt").read_bytes() == (path / "vocab.txt").read_bytes()
    assert open_corpus(tmp_path / "c").fingerprint == open_corpus(path).fingerprint


def test_marks_after_the_last_wordpiece_stay_in_the_text(tmp_path):
    text = "They had a cafe\u0301"
    source = write(tmp_path / "x.jsonl.gz", [{"id": "a", "title": "", "text": text}])
    prepare(source, tmp_path / "c", say=quiet)
    assert open_corpus(tmp_path / "c").texts()[0]["text"].decode() == text


def test_long_titles_and_sentences_are_cut(tmp_path):
    words = np.random.default_rng(0).permutation(WORDS * 15)[:200]
    record = {"id": "a", "title": "long " * 50, "text": " ".join(words)}
    source = write(tmp_path / "x.jsonl.gz", [record])
    counts = prepare(source, tmp_path / "c", passage_tokens=23, say=quiet)
    corpus = open_corpus(tmp_path / "c")
    assert counts["titles cut"] == counts["sentences cut"] == 1
    assert (corpus.lengths == [10, 10]).all() and corpus.lengths[:, 1].sum() == 200


def test_large_vocabularies_need_wider_tokens(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(70_000))]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    source = write(tmp_path / "x.jsonl.gz", [{"id": "a", "title": "", "text": "w69999 w0"}])
    prepare(source, tmp_path / "c", vocab_file=tmp_path / "vocab.txt", say=quiet)
    corpus = open_corpus(tmp_path / "c")
    assert corpus.tokens.dtype == np.uint32 and corpus.tokens[0, 0] == 70_004


@pytest.mark.parametrize("line", ['{"id": "a"', '{"id": "a", "title": "t"}', ""])
def test_a_bad_source_leaves_nothing_behind(tmp_path, line):
    (tmp_path / "x.jsonl").write_text(line)
    with pytest.raises(UserError):
        prepare(str(tmp_path / "x.jsonl"), tmp_path / "c", say=quiet)
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_a_corpus_without_a_passage(tmp_path):
    source = write(tmp_path / "x.jsonl.gz", [{"id": "a", "title": "t", "text": "\u0301"}])
    with pytest.raises(UserError, match="at least one passage"):
        prepare(source, tmp_path / "c", say=quiet)
    assert os.listdir(tmp_path) == ["x.jsonl.gz"]


def test_what_is_there_is_not_overwritten(tmp_path):
    source = write(tmp_path / "x.jsonl.gz", documents(3))
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="exists"):
        prepare(source, tmp_path / "c", say=quiet)
    with pytest.raises(UserError, match="too short"):
        prepare(source, tmp_path / "d", passage_tokens=5, say=quiet)


def test_the_tokenizer_of_a_corpus_is_cased_or_not(tmp_path):
    source = write(tmp_path / "x.jsonl.gz", documents(9))
    prepare(source, tmp_path / "c", settings=CASED, vocab_size=200, say=quiet)
    corpus = open_corpus(tmp_path / "c")
    assert not corpus.lowercase
    expected = load_tokenizer(tmp_path / "c/vocab.txt", CASED).encode("Łódź The").ids
    assert corpus.tokenizer().encode("Łódź The").ids == expected
