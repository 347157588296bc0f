"""The tokenizer of a released model: read as it is, or refused in a line."""

import json

import pytest
from state_dicts import PIECES, mlm, trunk
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from ralm_jax.data.tokenizer import load_tokenizer, read_vocabulary
from ralm_jax.data.tokenizing import open_tokenizer
from ralm_jax.errors import UserError
from ralm_jax.runs import directory
from ralm_jax.weights.importing import import_model

BERT = {**trunk("bert.", pooler=False), **mlm()}
IDS = {piece: i for i, piece in enumerate(PIECES)}


@pytest.fixture
def source(folder):
    """(settings of the tokenizer, rows of the embeddings) -> the folder of a model."""

    def make(config=None, rows=40):
        words = {
            "bert.embeddings.word_embeddings.weight": (rows, 8),
            "cls.predictions.bias": (rows,),
        }
        path = folder(BERT | words, vocab_size=rows)
        (path / "tokenizer_config.json").write_text(json.dumps(config or {}))
        return path

    return make


def fast(normalizer, pre_tokenizer=None, **model):
    """A tokenizer.json, as the library writes one."""
    made = Tokenizer(models.WordPiece(IDS, unk_token="[UNK]"))
    made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizer or pre_tokenizers.BertPreTokenizer()
    record = json.loads(made.to_str())
    record["model"] |= model
    return record


def imported(path, tmp_path):
    """The tokenizer of a run, its vocabulary, and the lines that were said."""
    said = []
    import_model(str(path), tmp_path / "run", say=said.append)
    vocab, settings = directory.vocabulary(tmp_path / "run")
    return load_tokenizer(vocab, settings), read_vocabulary(vocab), said


def cut(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).tokens


def refused(path, tmp_path, said):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=said) as error:
        import_model(str(path), tmp_path / "run")
    assert "\n" not in str(error.value) and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("config", "pieces"),
    [
        ({}, ["c", "##a", "the"]),
        ({"do_lower_case": True, "strip_accents": False}, ["[UNK]", "the"]),
        ({"do_lower_case": False}, ["[UNK]", "[UNK]"]),
        ({"do_lower_case": False, "strip_accents": True}, ["c", "##a", "[UNK]"]),
        ({"strip_accents": None, "tokenizer_class": "RealmTokenizerFast"}, ["c", "##a", "the"]),
    ],
    ids=str,
)
def test_case_and_accents_are_two_settings(source, tmp_path, config, pieces):
    tokenizer, _, said = imported(source(config), tmp_path)
    assert cut(tokenizer, "çá The") == pieces
    assert len(said) == 2


def test_chinese_characters_may_be_left_in_their_words(source, tmp_path):
    path = source({"tokenize_chinese_chars": False})
    (path / "vocab.txt").write_text("".join(f"{p}\n" for p in [*PIECES[:-3], "東", "京", "東京"]))
    assert cut(imported(path, tmp_path)[0], "東京") == ["東京"]
    (path / "tokenizer_config.json").unlink()
    assert cut(imported(path, tmp_path / "default")[0], "東京") == ["東", "京"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"tokenizer_class": "BertJapaneseTokenizer"},
            "tokenizer_class BertJapaneseTokenizer cannot",
        ),
        ({"tokenizer_class": "XLMRobertaTokenizer"}, "tokenizer_class XLMRobertaTokenizer cannot"),
        ({"word_tokenizer_type": "mecab"}, 'word_tokenizer_type "mecab" cannot be read'),
        ({"subword_tokenizer_type": "character"}, 'subword_tokenizer_type "character" cannot'),
        ({"do_basic_tokenize": False}, "do_basic_tokenize false cannot be read"),
        ({"never_split": ["a b"]}, "never_split .* cannot be read"),
        ({"do_lower_case": "yes"}, 'do_lower_case must be true or false, not "yes"'),
        ({"cls_token": {"content": "<s>"}}, r"the cls_token is '<s>'; only \[CLS\] can be read"),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, r"needs the file tokenizer\.json"),
    ],
    ids=str,
)
def test_tokenizers_that_are_not_berts_are_refused(source, tmp_path, config, said):
    refused(source(config), tmp_path, said)


def test_the_class_may_stand_in_the_config_of_the_model(folder, tmp_path):
    path = folder(BERT, tokenizer_class="BertJapaneseTokenizer")
    refused(path, tmp_path, r"config\.json: the tokenizer_class BertJapaneseTokenizer cannot")


def test_embeddings_padded_to_a_multiple(source, tmp_path):
    path = source(rows=48)
    known = [*PIECES[:-2], "[unused1]", PIECES[-1]]
    (path / "vocab.txt").write_text("".join(f"{p}\n" for p in known))
    tokenizer, vocabulary, said = imported(path, tmp_path)
    names = ["[unused0]", *(f"[unused{n}]" for n in range(2, 9))]
    assert vocabulary == [*known, *names]
    assert "40 wordpieces for 48 word embeddings: the other 8 are never used" in said[-1]
    assert not set(names) & set(cut(tokenizer, " ".join(names)))


def test_more_wordpieces_than_embeddings_are_refused(source, tmp_path):
    refused(source(rows=39), tmp_path, "40 wordpieces, more than the 39 word embeddings")


def test_a_piece_that_stands_there_twice_and_empty_lines_at_the_end(source, tmp_path):
    path = source()
    lines = [*PIECES]
    lines[20] = "the"
    (path / "vocab.txt").write_bytes("".join(f"{p}\r\n" for p in [*lines, "", ""]).encode())
    _, vocabulary, _ = imported(path, tmp_path)
    assert (
        vocabulary[20] == "[unused0]" and vocabulary[IDS["the"]] == "the" and len(vocabulary) == 40
    )


ADDED = {
    "added_tokens.json": {"[Q]": 40, "covid": 41, "<eos>": 42},
    "tokenizer_config.json": {
        "added_tokens_decoder": {
            "0": {"content": "[PAD]"},
            "40": {"content": "[Q]"},
            "41": {"content": "covid"},
            "42": {"content": "<eos>"},
        }
    },
    "tokenizer.json": fast(normalizers.BertNormalizer())
    | {
        "added_tokens": [
            {"id": 4, "content": "[MASK]"},
            {"id": 40, "content": "[Q]"},
            {"id": 41, "content": "covid"},
            {"id": 42, "content": "<eos>"},
        ]
    },
}


@pytest.mark.parametrize("file", ADDED)
def test_added_tokens_keep_their_rows(source, tmp_path, file):
    path = source(rows=43)
    (path / file).write_text(json.dumps(ADDED[file]))
    tokenizer, vocabulary, said = imported(path, tmp_path)
    assert vocabulary == [*PIECES, "[Q]", "covid", "<eos>"]
    assert cut(tokenizer, "the covid [Q]")[:2] == ["the", "covid"]
    assert said[-1].endswith('no text is cut into them here: "[Q]", "<eos>"')


def test_added_tokens_beyond_the_embeddings_are_refused(source, tmp_path):
    path = source(rows=42)
    (path / "added_tokens.json").write_text('{"[Q]": 42}')
    refused(path, tmp_path, "43 wordpieces, more than the 42 word embeddings")
    (path / "added_tokens.json").write_text('{"[Q]": "x"}')
    refused(path, tmp_path, "the tokenizer's files cannot be read")


def test_a_tokenizer_json_serves_where_there_is_no_vocab_txt(source, tmp_path):
    path = source()
    (path / "vocab.txt").unlink()
    refused(path, tmp_path, r"contains neither vocab\.txt nor tokenizer\.json")
    record = fast(normalizers.BertNormalizer(strip_accents=False, handle_chinese_chars=False))
    (path / "tokenizer.json").write_text(json.dumps(record))
    tokenizer, vocabulary, _ = imported(path, tmp_path)
    assert vocabulary == PIECES and cut(tokenizer, "çá The") == ["[UNK]", "the"]
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    assert cut(imported(path, tmp_path / "generic")[0], "çá The") == ["[UNK]", "the"]


def test_the_config_counts_where_it_and_tokenizer_json_disagree(source, tmp_path):
    """As in transformers, which sets its normalizer by the config."""
    path = source({"do_lower_case": False, "tokenizer_class": "BertTokenizer"})
    (path / "tokenizer.json").write_text(json.dumps(fast(normalizers.BertNormalizer())))
    tokenizer, _, said = imported(path, tmp_path)
    assert cut(tokenizer, "The the") == ["[UNK]", "the"]
    assert "disagree, and tokenizer_config.json is followed: do_lower_case false" in said[-1]


def test_lower_case_before_the_normalizer_leaves_accents(source, tmp_path):
    path = source({"tokenizer_class": "PreTrainedTokenizerFast"})
    both = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.BertNormalizer(lowercase=False)]
    )
    (path / "tokenizer.json").write_text(json.dumps(fast(both)))
    tokenizer, _, _ = imported(path, tmp_path)
    theirs = Tokenizer.from_str(json.dumps(fast(both)))
    for text in ("The çá", "ÇA", "the c"):
        assert cut(tokenizer, text) == theirs.encode(text).tokens


OTHERS = {
    "normalizer": fast(normalizers.NFKC()),
    "clean": fast(normalizers.BertNormalizer(clean_text=False)),
    "pre_tokenizer": fast(normalizers.BertNormalizer(), pre_tokenizers.Whitespace()),
    "long words": fast(normalizers.BertNormalizer(), max_input_chars_per_word=3),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_tokenizer_json_that_is_not_berts_is_taken_as_it_is(source, tmp_path, kind):
    path = source()
    (path / "tokenizer.json").write_text(json.dumps(OTHERS[kind]))
    import_model(str(path), tmp_path / "run", say=lambda line: None)
    kept, _ = directory.vocabulary(tmp_path / "run")
    assert kept.read_bytes() == (path / "tokenizer.json").read_bytes()
    theirs = Tokenizer.from_file(str(path / "tokenizer.json"))
    for text in ("The city", "cae çá", "e\x00e ee."):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert open_tokenizer(kept).tokenizer.encode(text, add_special_tokens=False).ids == ids


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            fast(normalizers.BertNormalizer(), vocab=IDS | {"the": 8, "##a": 33}),
            r"is \d+ in vocab\.txt and \d+ in tokenizer\.json",
        ),
        (fast(normalizers.BertNormalizer(), type="BPE"), r"tokenizer\.json cannot be read"),
        ([], r"tokenizer\.json must be a JSON object"),
        ({"model": []}, "must be a JSON object with a model"),
        (fast(normalizers.NFKC(), vocab=IDS | {"x": 40}), "41 tokens, more than the 40 word emb"),
        (fast(normalizers.NFKC(), vocab={"[UNK]": 0, "[PAD]": 1}), "no cls_token, sep_token, mask"),
    ],
    ids=["ids", "model", "list", "no model", "too many", "no roles"],
)
def test_a_tokenizer_json_that_cannot_be_read_is_refused(source, tmp_path, record, said):
    path = source()
    (path / "tokenizer.json").write_text(json.dumps(record))
    refused(path, tmp_path, said)


def test_a_tokenizer_that_needs_code_is_refused(source, tmp_path):
    path = source({"auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}})
    refused(path, tmp_path, r"needs code of its own \(auto_map\), and none is run here")


@pytest.mark.parametrize("file", ["sentencepiece.bpe.model", "merges.txt"])
def test_how_to_convert_a_tokenizer_in_another_form_is_said(source, tmp_path, file):
    path = source()
    (path / "vocab.txt").unlink()
    (path / file).write_bytes(b"")
    refused(
        path, tmp_path, rf"nor tokenizer\.json but {file}: make a .* with: python -c \".*save_pre"
    )
