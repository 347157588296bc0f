"""A released tokenizer.json: cut as it cuts, padding first, words told apart, corpora that keep it."""

import json

import numpy as np
import pytest
import tokenizer_files
from tokenizer_files import KINDS, TEXTS
from tokenizers import Tokenizer

from ralm_jax import cli
from ralm_jax.data.corpus import open_corpus, verify_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.data.tokenizer_json import TextEncoder, roles, trimmed
from ralm_jax.data.tokenizing import open_tokenizer, same
from ralm_jax.errors import UserError
from ralm_jax.examples import matching
from ralm_jax.examples.recurring import Recurring
from ralm_jax.questions.question import Question

ODD = [*TEXTS, "", " \n ", "a\u200b\u0301 b\t\tc", "x" * 300, "🙂 (Berlin) <b>no</b> U.S."]


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer_files.write(path, request.param)
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return open_tokenizer(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def theirs(folder):
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.no_padding()
    made.no_truncation()
    return made


@pytest.fixture(scope="module")
def corpus(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus")
    text = " \n\n".join(TEXTS * 3)
    records = [{"id": "1", "title": "Elbe (river)", "text": text}, {"id": "2", "text": text[40:]}]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (path / "source.jsonl").write_text(lines, "utf-8")
    given = {"vocab_file": folder / "tokenizer.json", "passage_tokens": 48}
    prepare(str(path / "source.jsonl"), path / "c", **given, processes=1, say=lambda line: None)
    return open_corpus(path / "c")


def test_texts_are_cut_as_the_file_cuts_them_but_for_which_id_is_padding(folder, loaded, theirs):
    pad = roles(folder / "tokenizer.json").pad
    for text in ODD:
        ids = np.array(theirs.encode(text, add_special_tokens=False).ids, int)
        other = np.where(ids == 0, pad, np.where(ids == pad, 0, ids))
        assert loaded.tokenizer.encode(text, add_special_tokens=False).ids == other.tolist()
    whole = theirs.get_vocab(with_added_tokens=True)
    assert loaded.tokenizer.get_vocab().keys() == whole.keys()
    assert loaded.vocabulary.pad == 0 and loaded.vocabulary.size == len(whole)
    assert loaded.tokenizer.token_to_id(theirs.id_to_token(pad)) == 0
    names = {"mask": "mask", "cls": "cls", "sep": "sep", "unk": "unk"}
    for role, token in roles(folder / "tokenizer.json").tokens.items():
        if role in names:
            assert loaded.tokenizer.id_to_token(getattr(loaded.vocabulary, role)) == token


def test_special_tokens_never_come_out_of_text(folder, loaded):
    named = roles(folder / "tokenizer.json").tokens
    text = " ".join(named.values()) + "".join(f"a{t}b＜s＞{t}" for t in named.values())
    (pieces,) = [TextEncoder(loaded.tokenizer).encode([text]).ids]
    v = loaded.vocabulary
    assert len(pieces) > 20 and not {0, v.cls, v.sep, v.mask} & set(pieces.tolist())


def test_pieces_lie_where_their_text_is(loaded):
    pieces = loaded.encoder().encode(ODD)
    assert (np.diff(pieces.starts) >= 0).all() and (pieces.starts <= pieces.stops).all()
    counts = [len(loaded.tokenizer.encode(text, add_special_tokens=False)) for text in ODD]
    owner = np.searchsorted(pieces.begins, pieces.starts, "right") - 1
    assert np.bincount(owner, minlength=len(ODD)).tolist() == counts
    for a, b in zip(pieces.starts, pieces.stops, strict=True):
        assert pieces.joined[a:b] == pieces.joined[a:b].strip()


def test_blanks_are_trimmed_of_offsets():
    text, offsets = "a  bc ", np.array([[0, 1], [1, 3], [1, 4], [3, 6], [5, 6], [6, 6]])
    assert trimmed(text, offsets).tolist() == [[0, 1], [1, 1], [3, 4], [3, 5], [5, 5], [6, 6]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The river (Elbe) runs", ["The", "river", "Elbe", "runs"]),
        ("Fluss: Brücke", ["Fluss", "Brücke"]),
    ],
)
def test_words_begin_where_letters_do(loaded, text, words):
    pieces = loaded.encoder().encode([text])
    begins = pieces.starts[loaded.vocabulary.begins(pieces.ids)].tolist()
    for word in words:
        place = text.index(word)
        assert place in begins
        inside = set(range(place + 1, place + len(word)))
        assert not inside & set(begins)


def test_pieces_of_a_script_without_blanks_begin_words(tmp_path):
    tokenizer_files.write(tmp_path, "unigram")
    loaded = open_tokenizer(tmp_path / "tokenizer.json")
    pieces = loaded.encoder().encode(["東京は日本"])
    begins = pieces.starts[loaded.vocabulary.begins(pieces.ids)]
    assert set(begins.tolist()) == set(pieces.starts.tolist()) and len(set(begins)) >= 3


def test_a_passage_has_the_pieces_that_its_text_has(corpus):
    """So that whoever tokenizes the text finds the passage; spans and sentences lie in it."""
    tokenizer, texts = corpus.tokenizer(), corpus.texts()
    # Vocabularies that are learnt here differ from time to time.
    assert corpus.size > 4
    for row in range(corpus.size):
        title, body = (
            tokenizer.encode(texts[row][key].decode(), add_special_tokens=False).ids
            for key in ("title", "text")
        )
        a, b = corpus.lengths[row].tolist()
        assert corpus.tokens[row, : a + b].tolist() == [*title, *body]
        assert a + b <= 45 and not corpus.tokens[row, a + b :].any()
    lengths = np.asarray(corpus.lengths)[corpus.sentences[:, 0], 1]
    assert (corpus.sentences[:, 1] < corpus.sentences[:, 2]).all()
    assert (corpus.sentences[:, 2] <= lengths).all()
    verify_corpus(corpus.path)


def test_spans_are_whole_words(corpus):
    tokenizer = corpus.tokenizer()
    found = set()
    for sentence, start, stop, _ in corpus.spans.tolist():
        row = corpus.sentences[sentence, 0]
        title = corpus.lengths[row, 0]
        ids = corpus.tokens[row, title + start : title + stop].tolist()
        found.add(tokenizer.decode(ids).strip().lower())
    assert {"1863", "1815", "1894"} <= found


def test_answers_are_found_within_texts_and_words_recur(corpus):
    asked = [Question("q", "Where?", ("Dessau",)), Question("r", "Who?", ("Turin",))]
    answers, everywhere = matching.wordpieces(corpus, asked), np.arange(corpus.size)
    rows = [np.flatnonzero(answers.among(number, everywhere)) for number in range(len(asked))]
    bodies = [corpus.texts()[row]["text"].decode() for row in range(corpus.size)]
    for question, found in zip(asked, rows, strict=True):
        assert found.tolist() == [i for i, body in enumerate(bodies) if question.answers[0] in body]
    assert len(Recurring()(corpus).corpus.spans)


def test_a_corpus_keeps_the_files_byte_for_byte(corpus, folder):
    for name in ("tokenizer.json", "special_tokens_map.json"):
        assert (corpus.path / name).exists() == (folder / name).exists()
        if (folder / name).exists():
            assert (corpus.path / name).read_bytes() == (folder / name).read_bytes()
    assert not (corpus.path / "vocab.txt").exists()
    assert same(corpus.path / "tokenizer.json", folder / "tokenizer.json")
    assert not same(corpus.path / "tokenizer.json", folder / "vocab.txt")


def broken(folder, tmp_path, change, names=None):
    record = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    change(record)
    (tmp_path / "tokenizer.json").write_text(json.dumps(record))
    if names is not None:
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    with pytest.raises(UserError) as error:
        open_tokenizer(tmp_path / "tokenizer.json")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_files_are_one_line(tmp_path):
    folder = tmp_path / "good"
    tokenizer_files.write(folder, "byte level")
    lacking = {"[MASK]", "[CLS]"}

    def without(record):
        record["added_tokens"] = [t for t in record["added_tokens"] if t["content"] not in lacking]

    keep = lambda record: None  # noqa: E731
    assert "has no cls_token, mask_token" in broken(folder, tmp_path, without)
    assert "has no token '<x>'" in broken(folder, tmp_path, keep, {"mask_token": "<x>"})
    assert "tokens of their own" in broken(folder, tmp_path, keep, {"mask_token": "[PAD]"})
    (tmp_path / "special_tokens_map.json").unlink()
    assert "cannot be read" in broken(
        folder, tmp_path, lambda r: r.update(pre_tokenizer={"type": "X"})
    )
    assert "cannot be read" in broken(folder, tmp_path, lambda r: r["model"].update(vocab=3))
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(UserError, match="must be a JSON object with a model"):
        open_tokenizer(tmp_path / "tokenizer.json")


def test_a_piece_that_the_library_cannot_free_is_refused(tmp_path):
    """It takes tries of Unigram apart recursively: the process would end at some 100,000 characters."""
    tokenizer_files.write(tmp_path / "good", "unigram")

    def longer(count):
        return lambda record: record["model"]["vocab"].append(["9" * count, -20.0])

    assert "has a piece of 4,097 characters; there may be 4,096" in broken(
        tmp_path / "good", tmp_path, longer(4097)
    )
    record = json.loads((tmp_path / "good" / "tokenizer.json").read_text("utf-8"))
    longer(4096)(record)
    (tmp_path / "tokenizer.json").write_text(json.dumps(record))
    assert open_tokenizer(tmp_path / "tokenizer.json").vocabulary.size == len(
        record["model"]["vocab"]
    )


def test_the_command_line_takes_a_tokenizer(folder, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS), "utf-8")
    given = [
        "prepare",
        tmp_path / "a.txt",
        "--vocab",
        folder / "tokenizer.json",
        "--out",
        tmp_path / "c",
    ]
    assert cli.main([str(x) for x in given]) == 0
    assert open_corpus(tmp_path / "c").vocabulary.breaks is not None
