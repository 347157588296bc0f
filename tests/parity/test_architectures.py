"""Against transformers 5 and sentence-transformers: encoders of every kind, random weights, both directions.

Each is drawn and saved there with a tokenizer.json of its own, imported here, compared on texts of varied
length, exported, and loaded there again. Needs requirements-sentence-transformers.txt.
"""

import jax
import numpy as np
import pytest
import tokenizer_files
from tokenizer_files import TEXTS

from ralm_jax.batches import Text
from ralm_jax.data.tokenizer_json import roles
from ralm_jax.data.tokenizing import open_tokenizer
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models.encoder.transformer import bucket
from ralm_jax.weights.exporting import export_model
from ralm_jax.weights.importing import import_model

# Warnings of theirs on their own code.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

LONG = " ".join(TEXTS[:2])
ASKED = [*TEXTS, "x", LONG, "Where was Ada Lovelace born, and when?"]
BERT = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 400, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
FAIRSEQ = {**BERT, "max_position_embeddings": 402, "pad_token_id": 1}
# Name of its classes, its tokenizer, its sizes.
KINDS = {
    "multilingual MiniLM": ("Bert", "unigram", BERT),
    "xlm-roberta": ("XLMRoberta", "unigram", {**FAIRSEQ, "type_vocab_size": 1}),
    "roberta": ("Roberta", "unigram", {**FAIRSEQ, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "distilbert": (
        "DistilBert",
        "wordpiece",
        {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 400},
    ),
    "mpnet": ("MPNet", "wordpiece", {**FAIRSEQ, "layer_norm_eps": 1e-5}),
    "modernbert": (
        "ModernBert",
        "byte level",
        {
            **{name: x for name, x in BERT.items() if "dropout" not in name},
            "num_hidden_layers": 5, "local_attention": 8, "global_attn_every_n_layers": 3,
        },
    ),
    "nomic_bert": ("NomicBert", "unigram", BERT),
}  # fmt: skip


@pytest.fixture(scope="module")
def theirs():
    torch = pytest.importorskip("torch", reason="see requirements-sentence-transformers.txt")
    transformers = pytest.importorskip("transformers")
    library = pytest.importorskip("sentence_transformers")
    pytest.importorskip("sentence_transformers.models")
    if not hasattr(transformers, "NomicBertModel"):
        pytest.skip(f"transformers {transformers.__version__} has no NomicBert")
    return torch, transformers, library


@pytest.fixture
def saved(theirs, tmp_path):
    """(kind, class) -> a model of theirs with random weights, and its folder."""
    torch, transformers, _ = theirs

    def make(kind, cls="ForMaskedLM"):
        name, tokenizer, sizes = KINDS[kind]
        made = tokenizer_files.KINDS[tokenizer]()
        path = tmp_path / cls
        tokenizer_files.write(path, tokenizer)
        found = roles(path / "tokenizer.json")
        tokens = {f"{role}_token": token for role, token in found.tokens.items()}
        made.no_padding()
        made.no_truncation()
        given = {**sizes, "vocab_size": made.get_vocab_size() + 6}
        given["pad_token_id"] = found.pad
        if name == "ModernBert":
            given |= {f"{part}_token_id": None for part in ("bos", "eos", "cls", "sep")}
        config = getattr(transformers, f"{name}Config")(**given)
        torch.manual_seed(3)
        model = getattr(transformers, f"{name}{cls}")(config)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                is_scale = "norm" in parameter_name.lower() and parameter_name.endswith("weight")
                parameter.normal_(
                    1.0 if is_scale or "emb_ln.weight" in parameter_name else 0.0, 0.3
                )
        model.tie_weights()
        for parameter in model.parameters():
            assert parameter.abs().max() > 0
        model.save_pretrained(path)
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **tokens)
        fast.save_pretrained(path)
        return model.eval(), path

    return make


def there_and_here(run, batch):
    """Ids of a batch of texts as the file numbers them, and as they are numbered here; both padded."""
    file = run / "tokenizer.json"
    loaded, found = open_tokenizer(file), roles(file)
    v = loaded.vocabulary
    rows = [
        [v.cls, *loaded.tokenizer.encode(text, add_special_tokens=False).ids, v.sep]
        for text in batch
    ]
    here = np.zeros((len(rows), max(map(len, rows)) + 2), np.int32)
    for row, pieces in zip(here, rows, strict=True):
        row[: len(pieces)] = pieces
    return np.where(here == 0, found.pad, np.where(here == found.pad, 0, here)), here


def close(found, wanted):
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_lm(theirs, saved, tmp_path, kind):
    torch, _, _ = theirs
    model, path = saved(kind)
    run = tmp_path / "run"
    report = import_model(str(path), run, say=lambda line: None)
    assert not [part for part in report["drawn"] if "reader" in part]
    opened = OpenRun.open(run)
    ids, tokens = there_and_here(run, ASKED)
    assert 300 > tokens.shape[1] > 35 and (tokens[:, -1] == 0).all()
    with torch.no_grad():
        mask = torch.tensor(tokens != 0, dtype=torch.long)
        wanted = model(torch.tensor(ids, dtype=torch.long), attention_mask=mask).logits.numpy()
    rng = np.random.default_rng(0)
    lengths = (tokens != 0).sum(1)
    asked = np.stack([rng.permutation(n)[[0, -1, n // 2]] for n in lengths]).astype(np.int32)
    reader = opened.model.clone(parent=None)
    text = Text(tokens, np.zeros_like(tokens))

    def read(params):
        from ralm_jax.models.reader import Reader

        return Reader(reader.reader_config).apply({"params": params}, *text, asked)

    found = np.array(jax.jit(read)(opened.params["reader"]))
    # Columns of tokens change places as their rows do.
    pad = roles(run / "tokenizer.json").pad
    found[..., [0, pad]] = found[..., [pad, 0]]
    close(found, np.take_along_axis(wanted, asked[..., None], axis=1))
    export_model(run, "transformers", tmp_path / "out")
    again = type(model).from_pretrained(tmp_path / "out")
    changed = {"bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "classifier_dropout"}
    changed.add("_name_or_path")
    kept = model.config.to_dict()
    assert {k: again.config.to_dict()[k] for k in kept.keys() - changed} == {
        k: x for k, x in kept.items() if k not in changed
    }
    with torch.no_grad():
        same = again(torch.tensor(ids, dtype=torch.long), attention_mask=mask).logits.numpy()
    np.testing.assert_array_equal(same, wanted)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), array.numpy(), err_msg=name)
    import_model(str(tmp_path / "out"), tmp_path / "again", say=lambda line: None)
    jax.tree.map(
        np.testing.assert_array_equal,
        OpenRun.open(tmp_path / "again").params["reader"],
        opened.params["reader"],
    )


POOLED = {
    "multilingual MiniLM": ("mean", True, {}),
    "xlm-roberta": ("mean", True, {"query": "query: ", "document": "passage: "}),
    "roberta": ("cls", True, {}),
    "distilbert": ("mean", False, {}),
    "mpnet": ("mean", True, {}),
    "modernbert": ("cls", True, {}),
    "nomic_bert": ("mean", False, {"query": "search_query: ", "document": "search_document: "}),
}


def embedded(run, batch, which):
    opened = OpenRun.open(run)
    text = Text(there_and_here(run, batch)[1], 0)
    text = text._replace(types=np.zeros_like(text.tokens))
    apply = jax.jit(lambda p: opened.model.apply({"params": p}, text, method=which))
    return np.asarray(apply(opened.params))


@pytest.mark.parametrize("kind", POOLED)
def test_a_sentence_transformer(theirs, saved, tmp_path, kind):
    """By its own text, tokenizer, pooling, norm and prompts; exported, it loads there to the bit."""
    _, _, library = theirs
    pooling, norm, prompts = POOLED[kind]
    _, path = saved(kind, "Model")
    modules = [library.models.Transformer(str(path), max_seq_length=300)]
    modules.append(library.models.Pooling(modules[0].get_embedding_dimension(), pooling))
    modules += [library.models.Normalize()] if norm else []
    model = library.SentenceTransformer(
        modules=modules,
        device="cpu",
        prompts=prompts,
        similarity_fn_name="cosine" if norm else "dot",
    )
    model.save(str(tmp_path / "source"))
    run = tmp_path / "run"
    import_model(str(tmp_path / "source"), run, say=lambda line: None)
    assert OpenRun.open(run).model.pooling == {"mean": "mean", "cls": "first"}[pooling]
    which = {"queries": "query", "passages": "document"}
    name = {key: theirs if prompts else None for key, theirs in which.items()}
    wanted = {key: model.encode(ASKED, prompt_name=name[key]) for key in which}
    assert np.ptp(wanted["queries"], axis=0).max() > 0.02
    for key in which:
        close(embedded(run, ASKED, key), wanted[key])
    export_model(run, "sentence-transformers", tmp_path / "out")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        there = (tmp_path / "source" / file).read_bytes()
        assert (tmp_path / "out" / file).read_bytes() == there == (run / file).read_bytes()
    again = library.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert again.prompts == {**model.prompts} or not prompts
    for key in which:
        np.testing.assert_array_equal(again.encode(ASKED, prompt_name=name[key]), wanted[key])
    states = [{k: v.numpy() for k, v in m.state_dict().items()} for m in (model, again)]
    assert states[0].keys() == states[1].keys()
    for tensor, array in states[0].items():
        np.testing.assert_array_equal(states[1][tensor], array, err_msg=tensor)


def test_kinds_of_distance_are_mpnets(theirs):
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    torch, _, _ = theirs
    place = torch.arange(700)
    wanted = MPNetEncoder.relative_position_bucket(place[None, :] - place[:, None])
    np.testing.assert_array_equal(bucket(700), wanted.numpy())
