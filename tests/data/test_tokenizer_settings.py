"""The settings of a tokenizer: equal if they do the same, and kept wherever a vocabulary is kept."""

import itertools
import json

import numpy as np
import pytest

from ralm_jax import cli
from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.data.tokenizer import write_vocabulary
from ralm_jax.data.tokenizer_settings import SETTINGS, TokenizerSettings, read_settings
from ralm_jax.errors import UserError
from ralm_jax.runs import directory

ALL = [
    TokenizerSettings(*values)
    for values in itertools.product((True, False), (True, False, None), (True, False))
]
TEXT = "Das schöne Tor in Köln war alt. Es stand seit 1901 in Köln. 東京 war fern. "


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_they_come_back_from_a_manifest_and_from_a_config(tmp_path, settings):
    assert TokenizerSettings.from_record(json.loads(json.dumps(settings.as_record()))) == settings
    write_vocabulary(tmp_path, ["a"], settings)
    assert read_settings(tmp_path / SETTINGS) == settings


def test_settings_are_equal_if_they_do_the_same():
    assert len(set(ALL)) == 8
    assert TokenizerSettings(True, True) == TokenizerSettings() == TokenizerSettings(True, None)
    assert TokenizerSettings(False, False) == TokenizerSettings(lowercase=False)
    assert TokenizerSettings(True, False).lowered() == TokenizerSettings(True, False)
    assert TokenizerSettings(False).lowered() == TokenizerSettings(True, False)
    assert TokenizerSettings(False, True).lowered() == TokenizerSettings()


def test_what_was_written_before_there_were_more_settings_than_one(tmp_path):
    assert TokenizerSettings().as_record() == {"lowercase": True}
    assert TokenizerSettings.from_record({"lowercase": False}) == TokenizerSettings(False)
    (tmp_path / SETTINGS).write_text('{"do_lower_case": false}')
    assert read_settings(tmp_path / SETTINGS) == TokenizerSettings(False)
    write_vocabulary(tmp_path, ["a"])
    names = ["tokenizer_class", "do_lower_case", "model_max_length", "pad_token", "unk_token"]
    written = json.loads((tmp_path / SETTINGS).read_text())
    assert list(written) == [*names, "cls_token", "sep_token", "mask_token"]


def test_a_config_that_cannot_be_read(tmp_path):
    for text, said in (("{", "cannot be read"), ("[]", "must be a JSON object")):
        (tmp_path / SETTINGS).write_text(text)
        with pytest.raises(UserError, match=said):
            read_settings(tmp_path / SETTINGS)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Corpora of one text and one vocabulary: by default settings, and with accents kept."""
    folder = tmp_path_factory.mktemp("corpora")
    (folder / "x.jsonl").write_text(json.dumps({"id": "1", "title": "Köln", "text": 9 * TEXT}))
    words = "das schone schöne tor in koln köln war alt es stand seit 1901 fern 東 京 .".split()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    made = {}
    for name, settings in (
        ("default", TokenizerSettings()),
        ("kept", TokenizerSettings(True, False)),
    ):
        run = folder / f"run {name}"
        run.mkdir()
        write_vocabulary(run, pieces, settings)
        arguments = ["prepare", folder / "x.jsonl", "--out", folder / name, "--vocab", run]
        assert cli.main([str(x) for x in arguments]) == 0
        made[name] = run, open_corpus(folder / name)
    return made


def test_a_corpus_is_tokenized_as_the_run_it_is_prepared_for(corpora):
    (_, default), (_, kept) = corpora["default"], corpora["kept"]
    assert kept.tokenizer_settings == TokenizerSettings(True, False)
    words = kept.tokenizer().decode(np.asarray(kept.tokens[0]).tolist())
    assert "schöne" in words and "schone" not in words and "köln" in words
    assert "schone" in default.tokenizer().decode(np.asarray(default.tokens[0]).tolist())
    manifest = json.loads((default.path / "manifest.json").read_text())
    assert list(manifest) == [
        "format", "fingerprint", "passage_tokens", "lowercase", "kinds", "counts", "files", "sizes",
        "crc32",
    ]  # fmt: skip


def test_a_corpus_with_other_settings_is_refused(corpora):
    (run, default), (other, kept) = corpora["default"], corpora["kept"]
    directory.check_vocabulary(run, default)
    directory.check_vocabulary(other, kept)
    said = (
        r"tokenized with other settings \(do_lower_case true\) .*strip_accents false\): prepare it"
    )
    with pytest.raises(UserError, match=said):
        directory.check_vocabulary(other, default)


def test_capitals_cannot_be_kept_for_a_run_that_has_none(corpora, capsys):
    run, corpus = corpora["default"]
    words = ["prepare", corpus.path.parent / "x.jsonl", "--vocab", run, "--cased"]
    assert cli.main([*map(str, words), "--out", str(corpus.path.parent / "cased")]) == 2
    assert "lower-cases text; leave --cased out" in capsys.readouterr().err


def test_other_processes_tokenize_alike(corpora, tmp_path):
    """Settings reach the processes that cut documents."""
    run, corpus = corpora["kept"]
    vocab, settings = directory.vocabulary(run)
    lines = [{"id": str(i), "title": "", "text": f"{i} Tore. " + 400 * TEXT} for i in range(45)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = {"vocab_file": vocab, "settings": settings, "say": lambda line: None}
    prepare(str(tmp_path / "x.jsonl"), tmp_path / "two", processes=2, **given)
    accented = corpus.tokenizer().token_to_id("schöne")
    assert (np.asarray(open_corpus(tmp_path / "two").tokens) == accented).any()
