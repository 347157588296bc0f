"""An encoder with a tokenizer.json of its own kind, such as paraphrase-multilingual-MiniLM: in, used, out."""

import json

import jax
import numpy as np
import pytest
import tokenizer_files
from safetensors.numpy import load_file
from state_dicts import mlm, trunk, write_model

from ralm_jax import cli
from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.tokenizing import open_tokenizer
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.encoder.transformer import Encoder
from ralm_jax.weights.exporting import export_model
from ralm_jax.weights.importing import import_model

FILES = ("tokenizer.json", "special_tokens_map.json", "tokenizer_config.json")


@pytest.fixture(params=tokenizer_files.KINDS)
def source(request, tmp_path):
    """BertForMaskedLM with a tokenizer of another kind, and more rows than that has tokens."""
    path = tmp_path / "source"
    size = tokenizer_files.write(tmp_path / "tokenizer", request.param) + 3
    words = {
        "bert.embeddings.word_embeddings.weight": (size, 8),
        "cls.predictions.bias": (size,),
    }
    write_model(path, {**trunk("bert.", pooler=False), **mlm()} | words, vocab_size=size)
    (path / "vocab.txt").unlink()
    (path / "tokenizer_config.json").write_text('{"model_max_length": 20}')
    for file in (tmp_path / "tokenizer").iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


@pytest.fixture
def run(source, tmp_path):
    import_model(str(source), tmp_path / "run", say=lambda line: None)
    return tmp_path / "run"


def test_it_comes_back_to_the_bit_and_to_the_byte(source, run, tmp_path):
    export_model(run, "transformers", tmp_path / "out")
    there, here = (load_file(p / "model.safetensors") for p in (tmp_path / "out", source))
    assert there.keys() == here.keys()
    for name, array in here.items():
        np.testing.assert_array_equal(there[name], array, err_msg=name)
    for name in FILES:
        assert (
            (run / name).exists() == (tmp_path / "out" / name).exists() == (source / name).exists()
        )
        if (source / name).exists():
            assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    assert not (tmp_path / "out" / "vocab.txt").exists()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    tokenizer = open_tokenizer(run / "tokenizer.json").tokenizer
    record = json.loads((source / "tokenizer.json").read_text("utf-8"))
    ids = {token["content"]: token["id"] for token in record["added_tokens"]}
    assert config["pad_token_id"] == ids[tokenizer.id_to_token(0)]
    with pytest.raises(UserError, match="REALM's layout has BERT with its tokenizer"):
        export_model(run, "realm", tmp_path / "realm")


def test_each_token_keeps_its_row(source, run):
    """Of the embeddings and of the bias of the head: a token finds what it found there."""
    opened, words = OpenRun.open(run), load_file(source / "model.safetensors")
    record = json.loads((source / "tokenizer.json").read_text("utf-8"))
    pieces = open_tokenizer(run / "tokenizer.json").tokenizer.get_vocab()
    theirs = {token["content"]: token["id"] for token in record["added_tokens"]}
    reader = opened.params["reader"]
    rows = reader["encoder"]["word_embeddings"]["embedding"]
    for token, i in theirs.items():
        there = words["bert.embeddings.word_embeddings.weight"][i]
        np.testing.assert_array_equal(rows[pieces[token]], there)
        bias = words["cls.predictions.bias"][i]
        assert reader["head_bias"][pieces[token]] == bias
    tower = opened.params["retriever"]["passage_tower"]["encoder"]["word_embeddings"]["embedding"]
    np.testing.assert_array_equal(tower, rows)


def test_what_pads_a_text_changes_nothing(run):
    opened = OpenRun.open(run)
    encoder = Encoder(opened.model.reader_config)
    params = opened.params["reader"]["encoder"]
    tokens = np.array([[1, 9, 12, 2, 0, 0, 0]], np.int32)
    call = jax.jit(lambda tokens: encoder.apply({"params": params}, tokens, tokens * 0))
    np.testing.assert_allclose(call(tokens)[:, :4], call(tokens[:, :4]), atol=1e-5)


def test_a_corpus_is_prepared_for_it_and_searched(run, tmp_path, tiny):
    text = "\n\n".join(tokenizer_files.TEXTS)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(text, "utf-8")
    given = ["prepare", tmp_path / "text", "--vocab", run, "--out", tmp_path / "c"]
    assert cli.main([str(x) for x in [*given, "--passage-tokens", 20]]) == 0
    corpus = open_corpus(tmp_path / "c")
    assert (corpus.path / "tokenizer.json").read_bytes() == (run / "tokenizer.json").read_bytes()
    found = OpenRun.open(run, corpus.path).search(["Which river?"], 3)
    assert found.rows.shape == (1, 3) and np.isfinite(found.scores).all()
    with pytest.raises(UserError, match="was tokenized with a different vocabulary"):
        _ = OpenRun.open(run, tiny.corpus.path).corpus


@pytest.mark.parametrize("kind", ["unigram", "byte level"])
def test_prompts_are_cut_by_it_and_given_back(tmp_path, kind):
    """Bytes are cut in another way behind a blank: that the first word is not is said."""
    path = tmp_path / "source"
    path.mkdir()
    size = tokenizer_files.write(path, kind)
    words = {"embeddings.word_embeddings.weight": (size, 8)}
    write_model(path / "0", trunk(pooler=False) | words, vocab_size=size)
    for file in ("config.json", "model.safetensors"):
        (path / "0" / file).rename(path / file)
    modules = [{"type": "x.models.Transformer", "path": ""}]
    modules.append({"type": "x.models.Pooling", "path": "1_Pooling"})
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    prompts = {"query": "A search_query: ", "document": ""}
    said = {"prompts": prompts, "similarity_fn_name": "cosine"}
    (path / "config_sentence_transformers.json").write_text(json.dumps(said))
    lines = []
    import_model(str(path), tmp_path / "run", say=lines.append)
    opened, tokenizer = (
        OpenRun.open(tmp_path / "run"),
        open_tokenizer(path / "tokenizer.json").tokenizer,
    )
    whole = tokenizer.encode("A search_query: The river", add_special_tokens=False).ids
    text = tokenizer.encode("The river", add_special_tokens=False).ids
    prompt = list(opened.model.query_prompt)
    assert whole[: len(prompt)] == prompt and not opened.model.passage_prompt
    is_exact = kind == "unigram"
    assert ([*prompt, *text] == whole) == is_exact
    note = "behind a prompt the first word of a text is cut as it is without one"
    assert (note in lines) == (not is_exact)
    export_model(tmp_path / "run", "sentence-transformers", tmp_path / "out")
    given = json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text())
    assert given["prompts"] == prompts
    (path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    with pytest.raises(
        UserError, match=r"do_lower_case is set, and tokenizer\.json, .*, keeps capitals"
    ):
        import_model(str(path), tmp_path / "other")
