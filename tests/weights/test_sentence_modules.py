"""sentence-transformers: stacks of modules, old layouts, prompts, lengths and lower case."""

import doctest
import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from state_dicts import PIECES, draw, mlm, trunk

from ralm_jax import cli
from ralm_jax.batches import Text
from ralm_jax.data.tokenizer import load_tokenizer
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.encoder.transformer import Encoder
from ralm_jax.runs import directory
from ralm_jax.weights import families, sentence_settings
from ralm_jax.weights.exporting import export_model
from ralm_jax.weights.importing import import_model

TEXT = Text(
    np.array([[2, 7, 9, 5, 3, 0, 0], [2, 11, 3, 6, 6, 19, 3]], np.int32),
    np.array([[0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1]], np.int32),
)
MEAN, CLS = {"pooling_mode": "mean"}, {"pooling_mode_cls_token": True}
TANH, IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"


@pytest.fixture
def model(folder):
    """(kinds, pooling, encoder, settings) -> the folder of a model with these modules."""

    def make(kinds, pooling=MEAN, encoder="", settings=None, names=None):
        path = folder(names or trunk())
        if encoder:
            (path / encoder).mkdir()
            for file in list(path.iterdir()):
                if file.is_file():
                    file.rename(path / encoder / file.name)
            # Earlier releases kept their version there.
            (path / "config.json").write_text('{"__version__": "0.3.0"}')
        places = [encoder, *(f"{n}_{kind}" for n, kind in enumerate(kinds) if n)]
        listed = [{"type": f"x.models.{k}", "path": p} for k, p in zip(kinds, places, strict=True)]
        (path / "modules.json").write_text(json.dumps(listed))
        for place in places:
            (path / place).mkdir(exist_ok=True)
        if len(kinds) > 1:
            (path / places[1] / "config.json").write_text(json.dumps(pooling))
        if settings:
            (path / "config_sentence_transformers.json").write_text(json.dumps(settings))
        return path

    return make


def dense(folder, out, activation=IDENTITY, bias=True, into=8):
    """A Dense module; its kernel as it is there, and its bias."""
    rng = np.random.default_rng(out)
    tensors = {"linear.weight": rng.normal(0, 0.5, (out, into)).astype("f")}
    tensors |= {"linear.bias": rng.normal(0, 0.5, out).astype("f")} if bias else {}
    config = {"in_features": into, "out_features": out, "bias": bias}
    (folder / "config.json").write_text(json.dumps(config | {"activation_function": activation}))
    save_file(tensors, folder / "model.safetensors")
    return tensors["linear.weight"], tensors.get("linear.bias", np.zeros(out, "f"))


def embed(read):
    apply = jax.jit(lambda p: read.model.apply({"params": p}, TEXT, method="passages"))
    return np.asarray(apply(read.params))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def imported(path, run):
    said = []
    report = import_model(str(path), run, say=said.append)
    return OpenRun.open(run), said, report


@pytest.mark.parametrize("encoder", ["0_Transformer", "0_BERT"])
@pytest.mark.parametrize("root_config", [True, False])
def test_the_encoder_is_where_modules_json_says(model, tmp_path, encoder, root_config):
    kinds = (encoder[2:], "Pooling", "Normalize")
    path = model(kinds, CLS, encoder)
    if not root_config:
        (path / "config.json").unlink()
    loaded, _, _ = imported(path, tmp_path / "run")
    assert (loaded.model.pooling, loaded.model.head) == ("first", "unit")
    flat = families.read(model(("Transformer", "Pooling", "Normalize"), CLS))
    jax.tree.map(
        np.testing.assert_array_equal, loaded.params["retriever"], flat.params["retriever"]
    )


def test_names_as_a_model_with_a_head_has_them(model):
    prefixed = draw(np.random.default_rng(0), trunk())
    prefixed = {f"bert.{name}": array for name, array in prefixed.items()}
    kinds = ("Transformer", "Pooling")
    np.testing.assert_array_equal(
        embed(families.read(model(kinds, names=prefixed))), embed(families.read(model(kinds)))
    )


SPOKEN = {"query": "a city ", "passage": "the ", "clustering": "the year "}


@pytest.mark.slow
def test_prompts_are_put_behind_cls(model, tmp_path):
    path = model(("Transformer", "Pooling", "Normalize"), settings={"prompts": SPOKEN})
    opened, said, report = imported(path, tmp_path / "run")
    notes = ["query is put before questions", "passage is put before passages"]
    assert report["notes"] == said[-3:]
    assert said[-3:] == [*(f"prompt {note}" for note in notes), "prompts clustering are not used"]
    tokenizer = load_tokenizer(*directory.vocabulary(tmp_path / "run"))
    asked = tuple(tokenizer.encode("a city", add_special_tokens=False).ids)
    assert opened.model.query_prompt == asked and len(asked) == 2
    plain = OpenRun.open(tmp_path / "run").model.clone(query_prompt=(), passage_prompt=())
    for method, prompt in (("queries", asked), ("passages", opened.model.passage_prompt)):
        by_hand = Text(
            np.insert(TEXT.tokens, [1] * len(prompt), prompt, axis=1),
            np.insert(TEXT.types, [1] * len(prompt), 0, axis=1),
        )
        params = {"params": opened.params}
        np.testing.assert_array_equal(
            opened.model.apply(params, TEXT, method=method),
            plain.apply(params, by_hand, method=method),
        )
    # Texts are shorter by as much, so that both together are as long as they were there.
    assert opened.lengths.passage == families.read(path).lengths.passage - 1


def test_an_export_gives_the_prompts_back(model, tmp_path):
    path = model(("Transformer", "Pooling", "Normalize"), settings={"prompts": SPOKEN})
    opened, _, _ = imported(path, tmp_path / "run")
    export_model(tmp_path / "run", "sentence-transformers", tmp_path / "out")
    again, _, _ = imported(tmp_path / "out", tmp_path / "again")
    assert again.model == opened.model and again.lengths.passage == opened.lengths.passage


@pytest.mark.parametrize(
    ("settings", "query", "passage"),
    [
        ({"prompts": {"query": "a "}}, 1, 0),
        ({"prompts": {"document": "a ", "passage": "a city "}}, 0, 1),
        ({"prompts": {"corpus": "the city "}, "default_prompt_name": "corpus"}, 2, 2),
        ({"prompts": {"query": "", "x": "a "}, "default_prompt_name": "x"}, 0, 1),
    ],
)
def test_which_prompt_is_for_what(model, tmp_path, settings, query, passage):
    """As `encode_query` and `encode_document` choose."""
    path = model(("Transformer", "Pooling"), settings=settings)
    opened, _, _ = imported(path, tmp_path / "run")
    assert len(opened.model.query_prompt) == query
    assert len(opened.model.passage_prompt) == passage


@pytest.mark.parametrize(
    ("name", "said", "query", "passage"),
    [
        ("e5-small-v2", "'query: ' and 'passage: '", "query:", "passage:"),
        ("nomic-embed-text-v1.5", "'search_query: ' and", "search_query:", "search_document:"),
        ("BGE-small-en-v1.5", "'Represent this", sentence_settings._QUESTION.strip(), ""),
        ("e5-mistral-7b-instruct", None, "", ""),
    ],
)
def test_prompts_of_known_models_are_those_of_their_cards(
    model, tmp_path, name, said, query, passage
):
    """Their files do not name them."""
    path = model(("Transformer", "Pooling"), settings={"prompts": {"query": "", "document": ""}})
    path = path.rename(tmp_path / name)
    opened, told, _ = imported(path, tmp_path / "run")
    tokenizer = load_tokenizer(*directory.vocabulary(tmp_path / "run"))
    wanted = [tokenizer.encode(text, add_special_tokens=False).ids for text in (query, passage)]
    assert [opened.model.query_prompt, opened.model.passage_prompt] == [tuple(i) for i in wanted]
    assert any(said in line for line in told) if said else len(told) == 2


def test_examples_in_docstrings():
    ran = doctest.testmod(sentence_settings)
    assert ran.attempted and not ran.failed


def test_prompts_that_are_given_take_the_place_of_others(model, tmp_path):
    path = model(("Transformer", "Pooling"), settings={"prompts": SPOKEN})
    words = ["import", str(path), "--passage-prompt", "a city ", "--query-prompt", ""]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 0
    opened = OpenRun.open(tmp_path / "run")
    assert (opened.model.query_prompt, len(opened.model.passage_prompt)) == ((), 2)
    words = ["import", str(path), "--passage-prompt", "", "--out", str(tmp_path / "other")]
    assert cli.main(words) == 0
    opened = OpenRun.open(tmp_path / "other")
    assert (len(opened.model.query_prompt), opened.model.passage_prompt) == (2, ())


def test_a_plain_encoder_may_have_prompts(folder, tmp_path):
    path = folder({**trunk("bert.", pooler=False), **mlm()}).rename(tmp_path / "e5-base")
    opened, _, _ = imported(path, tmp_path / "run")
    assert opened.model.query_prompt and opened.model.passage_prompt
    positions = opened.model.retriever_config.positions
    assert opened.lengths.passage + len(opened.model.passage_prompt) <= positions


def test_a_prompt_outside_of_the_mean_is_left_out(model, tmp_path):
    pooling = {**MEAN, "include_prompt": False}
    path = model(("Transformer", "Pooling"), pooling, settings={"prompts": {"query": "a "}})
    opened, said, _ = imported(path, tmp_path / "run")
    assert said[-1] == "prompts query are not used, since the model leaves them out of its mean"
    assert opened.model.query_prompt == ()


@pytest.mark.parametrize("prompts", [["a"], {"query": 3}])
def test_prompts_that_are_no_texts(model, tmp_path, prompts):
    path = model(("Transformer", "Pooling"), settings={"prompts": prompts})
    with pytest.raises(UserError, match="the prompts must be an object of names and texts"):
        imported(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_empty_prompts_are_none(model, tmp_path):
    """Every newer model has two of them."""
    path = model(("Transformer", "Pooling"), settings={"prompts": {"query": "", "document": ""}})
    opened, said, report = imported(path, tmp_path / "run")
    assert len(said) == 2 and report["notes"] == []
    assert opened.model.query_prompt == opened.model.passage_prompt == ()


@pytest.mark.parametrize("normalized", [True, False])
def test_a_dense_with_tanh_behind_cls_is_berts_pooler(model, normalized):
    """As in LaBSE."""
    kinds = ("Transformer", "Pooling", "Dense", *(["Normalize"] if normalized else []))
    path = model(kinds, CLS, settings={} if normalized else {"similarity_fn_name": "dot"})
    weight, bias = dense(path / "2_Dense", 8, TANH)
    plain = model(("Transformer", "Pooling"), CLS, settings={"similarity_fn_name": "dot"})
    wanted = np.tanh(embed(families.read(plain)) @ weight.T + bias)
    read = families.read(path)
    assert (read.model.pooling, read.model.head) == ("cls", "unit" if normalized else "plain")
    np.testing.assert_allclose(embed(read), unit(wanted) if normalized else wanted, atol=1e-5)


def test_a_dense_without_a_bias_and_dropout(model):
    kinds = ("Transformer", "Pooling", "Dropout", "Dense", "LayerNorm")
    path = model(kinds, settings={"similarity_fn_name": "dot"})
    weight, bias = dense(path / "3_Dense", 4, bias=False)
    norm = {"norm.weight": np.full(4, 2, "f"), "norm.bias": np.arange(4, dtype="f")}
    (path / "4_LayerNorm" / "config.json").write_text('{"dimension": 4}')
    save_file(norm, path / "4_LayerNorm" / "model.safetensors")
    plain = model(("Transformer", "Pooling"), settings={"similarity_fn_name": "dot"})
    x = embed(families.read(plain)) @ weight.T + bias
    centred = x - x.mean(1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(embed(families.read(path)), 2 * x + np.arange(4), atol=1e-4)


def refused(path, said):
    with pytest.raises(UserError, match=said) as error:
        families.read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kinds", "pooling", "said"),
    [
        (
            ("Transformer", "Pooling"),
            {"pooling_mode_max_tokens": True},
            "pooling .*max.* cannot be",
        ),
        (("Transformer", "Pooling"), {"pooling_mode": "lasttoken"}, "pooling lasttoken cannot be"),
        (("Transformer", "Pooling", "Dense"), MEAN, "Dense behind mean pooling cannot be read"),
        (("Transformer", "Pooling", "LSTM"), MEAN, "LSTM behind the pooling cannot be read"),
        (("CLIPModel",), {}, "begins with CLIPModel cannot be read"),
        (("Transformer", "WordWeights", "Pooling"), {}, "begins with Transformer and WordWeights"),
    ],
)
def test_modules_that_are_refused(model, kinds, pooling, said):
    refused(model(kinds, pooling), said)


@pytest.mark.parametrize(
    ("pooling", "out", "activation", "said"),
    [
        (CLS, 8, "torch.nn.modules.activation.ReLU", "activation of this Dense must be Tanh"),
        (CLS, 4, TANH, "from 8 to 8 features"),
    ],
)
def test_a_dense_that_no_tower_has(model, pooling, out, activation, said):
    path = model(("Transformer", "Pooling", "Dense"), pooling)
    dense(path / "2_Dense", out, activation)
    refused(path, said)


@pytest.mark.parametrize(
    ("kinds", "similarity", "head"),
    [
        (("Transformer", "Pooling", "Normalize"), None, "unit"),
        (("Transformer", "Pooling", "Normalize"), "euclidean", "unit"),
        (("Transformer", "Pooling"), None, "unit"),
        (("Transformer", "Pooling"), "dot", "plain"),
    ],
)
def test_vectors_compared_by_cosine_are_normalised(model, kinds, similarity, head):
    read = families.read(model(kinds, CLS, settings={"similarity_fn_name": similarity}))
    assert (read.model.head, read.model.pooling, read.model.score_scale) == (head, "first", 20.0)


def test_other_similarities_are_refused(model):
    path = model(("Transformer", "Pooling"), settings={"similarity_fn_name": "euclidean"})
    refused(path, "similarity euclidean cannot be read; cosine and dot can")
    path = model(
        ("Transformer", "Pooling", "Normalize"), settings={"similarity_fn_name": "manhattan"}
    )
    refused(path, "similarity manhattan cannot be read")


@pytest.mark.parametrize(
    ("kind", "sentence", "tokenizer", "lengths"),
    [
        ("Transformer", {"max_seq_length": 12}, {}, (12, 12, 24)),
        ("Transformer", {"max_seq_length": None}, {"model_max_length": 10}, (10, 10, 24)),
        ("Transformer", {}, {"model_max_length": 10**30}, (24, 24, 24)),
        ("Transformer", {"query_length": 5, "document_length": 40}, {}, (5, 24, 24)),
        # [CLS] and [SEP] were not counted then.
        ("BERT", {"max_seq_length": 12}, {}, (14, 14, 24)),
    ],
    ids=str,
)
def test_texts_are_as_long_as_the_model_says(model, kind, sentence, tokenizer, lengths):
    path = model((kind, "Pooling"), encoder=f"0_{kind}")
    (path / f"0_{kind}" / "sentence_bert_config.json").write_text(json.dumps(sentence))
    (path / f"0_{kind}" / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    read = families.read(path).lengths
    assert (read.query, read.passage, read.joint) == lengths


def test_a_length_that_is_none(model):
    path = model(("Transformer", "Pooling"))
    (path / "sentence_bert_config.json").write_text('{"max_seq_length": "long"}')
    refused(path, "max_seq_length must be a positive whole number, not 'long'")


def test_a_bert_is_as_long_as_its_tokenizer_says(folder):
    path = folder(trunk("bert."))
    (path / "tokenizer_config.json").write_text('{"model_max_length": 10}')
    read = families.read(path).lengths
    assert (read.query, read.passage, read.joint) == (10, 10, 24)


@pytest.mark.parametrize(
    ("kind", "lower", "tokenizer", "pieces"),
    [
        # The text is lower-cased, and accents are the tokenizer's affair.
        ("Transformer", True, {"do_lower_case": False}, ["the", "ç"]),
        ("Transformer", True, {"do_lower_case": False, "strip_accents": True}, ["the", "c"]),
        ("Transformer", False, {"do_lower_case": True}, ["the", "c"]),
        # The tokenizer is set, whatever it was.
        ("BERT", True, {"do_lower_case": False}, ["the", "c"]),
        ("BERT", False, {"do_lower_case": True}, ["[UNK]", "[UNK]"]),
        ("BERT", None, {"do_lower_case": True}, ["the", "c"]),
    ],
    ids=str,
)
def test_lower_case_of_the_first_module(model, tmp_path, kind, lower, tokenizer, pieces):
    path = model((kind, "Pooling"), encoder=f"0_{kind}")
    files = {
        "sentence_bert_config.json": {"do_lower_case": lower},
        "tokenizer_config.json": tokenizer,
    }
    for name, record in files.items():
        (path / f"0_{kind}" / name).write_text(json.dumps(record))
    words = "".join(f"{p}\n" for p in [*PIECES[:-1], "ç"])
    (path / f"0_{kind}" / "vocab.txt").write_text(words)
    imported(path, tmp_path / "run")
    vocab, settings = directory.vocabulary(tmp_path / "run")
    assert load_tokenizer(vocab, settings).encode("The Ç").tokens == pieces


def cross_encoder(prefix="bert.", labels=1):
    """BertForSequenceClassification, as CrossEncoder saves it."""
    head = {"classifier.weight": (labels, 8), "classifier.bias": (labels,)}
    return trunk(prefix) | head


@pytest.mark.slow
def test_a_cross_encoder_becomes_a_scorer(folder, tmp_path):
    path = folder(cross_encoder(), architectures=["BertForSequenceClassification"])
    opened, said, report = imported(path, tmp_path / "run")
    assert "a reranker: start from it with --init-reranker" in said
    assert report["parameters"]["scorer"] > 0
    model, params = opened.model, opened.params
    text = Text(*(x[None] for x in TEXT))
    rerank = jax.jit(functools.partial(model.apply, method="rerank"))
    scores = rerank({"params": params}, text)[0]
    # By hand: the pooler's tanh over [CLS], then one number.
    tensors = draw(np.random.default_rng(0), cross_encoder())
    plain = families.read(folder(trunk("bert.")))
    encoder = {"params": plain.params["reader"]["encoder"]}
    state = np.asarray(jax.jit(Encoder(plain.model.reader_config).apply)(encoder, *TEXT))[:, 0]
    kernel, bias = tensors["bert.pooler.dense.weight"], tensors["bert.pooler.dense.bias"]
    pooled = np.tanh(state @ kernel.T + bias)
    wanted = pooled @ tensors["classifier.weight"][0] + tensors["classifier.bias"][0]
    np.testing.assert_allclose(scores, wanted, atol=1e-5)


def test_a_classifier_is_no_reranker(folder, tmp_path):
    path = folder(cross_encoder(labels=3), architectures=["BertForSequenceClassification"])
    with pytest.raises(UserError, match="gives 3 numbers cannot rerank; one that gives 1 can"):
        imported(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
