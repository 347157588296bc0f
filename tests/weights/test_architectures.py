"""Each kind of encoder, its names written out as transformers has them: in, out, or refused in a line."""

import json

import jax
import numpy as np
import pytest
import tokenizer_files
from safetensors.numpy import load_file, save_file
from state_dicts import draw

from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.weights.exporting import export_model
from ralm_jax.weights.importing import import_model

D, WIDE, V, PLACES, LAYERS, HEADS = 8, 12, 300, 24, 3, 2
BERT = {
    "vocab_size": V, "hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "intermediate_size": WIDE, "max_position_embeddings": PLACES,
}  # fmt: skip
FAIRSEQ = {**BERT, "pad_token_id": 1}


def dense(name, out=D, into=D):
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name):
    return {f"{name}.weight": (D,), f"{name}.bias": (D,)}


def embeddings(prefix, types=0):
    rows = {"word": V, "position": PLACES, "token_type": types}
    names = {f"{prefix}.embeddings.{k}_embeddings.weight": (n, D) for k, n in rows.items() if n}
    return names | norm(f"{prefix}.embeddings.LayerNorm")


def fairseq_head():
    return dense("lm_head.dense") | norm("lm_head.layer_norm") | {"lm_head.bias": (V,)}


def roberta():
    names = embeddings("roberta", types=1) | fairseq_head()
    for n in range(LAYERS):
        layer = f"roberta.encoder.layer.{n}"
        for part in ("query", "key", "value"):
            names |= dense(f"{layer}.attention.self.{part}")
        names |= dense(f"{layer}.attention.output.dense")
        names |= norm(f"{layer}.attention.output.LayerNorm")
        names |= dense(f"{layer}.intermediate.dense", WIDE)
        names |= dense(f"{layer}.output.dense", D, WIDE) | norm(f"{layer}.output.LayerNorm")
    return names


def distilbert():
    names = embeddings("distilbert") | dense("vocab_transform") | norm("vocab_layer_norm")
    names |= {"vocab_projector.bias": (V,)}
    for n in range(LAYERS):
        layer = f"distilbert.transformer.layer.{n}"
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            names |= dense(f"{layer}.attention.{part}")
        names |= norm(f"{layer}.sa_layer_norm") | norm(f"{layer}.output_layer_norm")
        names |= dense(f"{layer}.ffn.lin1", WIDE) | dense(f"{layer}.ffn.lin2", D, WIDE)
    return names


def mpnet():
    names = embeddings("mpnet") | fairseq_head()
    names |= {"mpnet.encoder.relative_attention_bias.weight": (32, HEADS)}
    for n in range(LAYERS):
        layer = f"mpnet.encoder.layer.{n}"
        for part in "qkvo":
            names |= dense(f"{layer}.attention.attn.{part}")
        names |= norm(f"{layer}.attention.LayerNorm") | norm(f"{layer}.output.LayerNorm")
        names |= dense(f"{layer}.intermediate.dense", WIDE) | dense(
            f"{layer}.output.dense", D, WIDE
        )
    return names


def modernbert():
    names = {"model.embeddings.tok_embeddings.weight": (V, D), "decoder.bias": (V,)}
    names |= {"head.dense.weight": (D, D)}
    names |= {
        f"{n}.weight": (D,) for n in ("model.embeddings.norm", "model.final_norm", "head.norm")
    }
    for n in range(LAYERS):
        layer = f"model.layers.{n}"
        names |= {f"{layer}.attn_norm.weight": (D,)} if n else {}
        names |= {f"{layer}.mlp_norm.weight": (D,), f"{layer}.mlp.Wo.weight": (D, WIDE)}
        names |= {f"{layer}.attn.Wqkv.weight": (3 * D, D), f"{layer}.attn.Wo.weight": (D, D)}
        names |= {f"{layer}.mlp.Wi.weight": (2 * WIDE, D)}
    return names


def nomic_bert():
    name = "nomic_bert."
    names = {f"{name}embeddings.word_embeddings.weight": (V, D)}
    names |= {f"{name}embeddings.token_type_embeddings.weight": (2, D)} | norm(f"{name}emb_ln")
    names |= dense("cls.predictions.transform.dense") | {"cls.predictions.bias": (V,)}
    names |= norm("cls.predictions.transform.layer_norm")
    for n in range(LAYERS):
        layer = f"{name}encoder.layers.{n}"
        names |= {f"{layer}.attn.Wqkv.weight": (3 * D, D), f"{layer}.attn.out_proj.weight": (D, D)}
        names |= {f"{layer}.mlp.fc{k}.weight": (WIDE, D) for k in (11, 12)}
        names |= {f"{layer}.mlp.fc2.weight": (D, WIDE)}
        names |= norm(f"{layer}.norm1") | norm(f"{layer}.norm2")
    return names


# Names and shapes, the tokenizer, and the config.
KINDS = {
    "roberta": (roberta(), "unigram", {**FAIRSEQ, "type_vocab_size": 1}),
    "xlm-roberta": (roberta(), "unigram", {**FAIRSEQ, "type_vocab_size": 1}),
    "distilbert": (
        distilbert(),
        "wordpiece",
        {
            "vocab_size": V, "dim": D, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": WIDE,
            "max_position_embeddings": PLACES,
        },
    ),
    "mpnet": (mpnet(), "wordpiece", FAIRSEQ),
    "modernbert": (modernbert(), "unigram", {**BERT, "local_attention": 8}),
    "nomic_bert": (nomic_bert(), "unigram", BERT),
}  # fmt: skip


@pytest.fixture
def source(tmp_path):
    """(kind, further config) -> the folder of a masked LM of a kind."""

    def make(kind, change=None, tokenizer=None):
        names, its_tokenizer, config = KINDS[kind]
        path = tmp_path / "source"
        tokenizer_files.write(path, tokenizer or its_tokenizer)
        save_file(draw(np.random.default_rng(0), names), path / "model.safetensors")
        record = {"model_type": kind, **config, **(change or {})}
        (path / "config.json").write_text(json.dumps(record))
        return path

    return make


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_to_the_bit(source, tmp_path, kind):
    path = source(kind)
    report = import_model(str(path), tmp_path / "run", say=lambda line: None)
    assert report["drawn"] == ["retriever: pooler and projection"]
    export_model(tmp_path / "run", "transformers", tmp_path / "out")
    same(load_file(tmp_path / "out" / "model.safetensors"), load_file(path / "model.safetensors"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == kind and config["vocab_size"] == V
    import_model(str(tmp_path / "out"), tmp_path / "again", say=lambda line: None)
    opened = [OpenRun.open(tmp_path / name) for name in ("run", "again")]
    assert opened[0].model == opened[1].model
    jax.tree.map(np.testing.assert_array_equal, *(each.params["reader"] for each in opened))
    with pytest.raises(UserError, match="REALM's layout has BERT with its tokenizer"):
        export_model(tmp_path / "run", "realm", tmp_path / "realm")


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_alone_has_its_head_drawn(source, tmp_path, kind):
    path = source(kind)
    tensors = load_file(path / "model.safetensors")
    trunk = {"xlm-roberta": "roberta", "modernbert": "model"}.get(kind, kind)
    kept = {n.removeprefix(f"{trunk}."): x for n, x in tensors.items() if n.startswith(f"{trunk}.")}
    save_file(kept, path / "model.safetensors")
    report = import_model(str(path), tmp_path / "run", say=lambda line: None)
    assert report["drawn"] == ["retriever: pooler and projection", "reader: masked-LM head"]


def test_nomic_bert_under_the_names_of_transformers_5(source, tmp_path):
    path = source("nomic_bert")
    import_model(str(path), tmp_path / "former", say=lambda line: None)
    renamed, tensors = {}, load_file(path / "model.safetensors")
    for name, array in tensors.items():
        for old, new in (
            ("encoder.layers", "layers"), ("emb_ln", "embeddings.LayerNorm"), ("fc11", "up_proj"),
            ("fc12", "gate_proj"), ("fc2", "down_proj"), ("norm1", "post_attention_layernorm"),
            ("norm2", "post_mlp_layernorm"), ("attn.out_proj", "self_attn.o_proj"),
        ):  # fmt: skip
            name = name.replace(old, new)
        if "Wqkv" in name:
            for part, x in zip("qkv", np.split(array, 3), strict=True):
                renamed[name.replace("attn.Wqkv", f"self_attn.{part}_proj")] = x
        else:
            renamed[name] = array
    save_file(
        {name: np.ascontiguousarray(x) for name, x in renamed.items()}, path / "model.safetensors"
    )
    import_model(str(path), tmp_path / "now", say=lambda line: None)
    both = [OpenRun.open(tmp_path / name).params["reader"] for name in ("former", "now")]
    jax.tree.map(np.testing.assert_array_equal, *both)


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("roberta", {"pad_token_id": 0}, "pad_token_id must be 1, not 0"),
        ("roberta", {"type_vocab_size": 2}, "type_vocab_size must be 1, not 2"),
        ("mpnet", {"relative_attention_num_buckets": 16}, "num_buckets must be 32, not 16"),
        ("mpnet", {"num_attention_heads": 3}, "hidden_size 8 is no multiple of num_attention"),
        ("distilbert", {"dim": None}, "dim must be a positive whole number, not None"),
        ("distilbert", {"activation": "relu"}, "activation 'relu' cannot be read; gelu"),
        ("modernbert", {"norm_bias": True}, "norm_bias must be False, not True"),
        ("modernbert", {"hidden_activation": "gelu_new"}, "hidden_activation must be gelu"),
        (
            "modernbert",
            {"layer_types": ["sliding_attention", *["full_attention"] * 2]},
            "layer_types must be full_attention first",
        ),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "the rope_type yarn cannot be read; default can",
        ),
        ("nomic_bert", {"prenorm": True}, "prenorm must be False, not True"),
        ("nomic_bert", {"activation_function": "gelu"}, "activation_function must be swiglu"),
        ("nomic_bert", {"rotary_emb_fraction": 0.5}, "rotary_emb_fraction must be 1.0, not 0.5"),
        (
            "roberta",
            {"model_type": "new"},
            "model_type 'new' cannot be read; bert, distilbert, rob",
        ),
        ("roberta", {"num_hidden_layers": 4}, r"encoder\.layer\.3\.attention\.self\.query\.weight"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_configs_that_are_not_read(source, tmp_path, kind, change, said):
    path = source(kind, change)
    with pytest.raises(UserError, match=said) as error:
        import_model(str(path), tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_padding_that_positions_do_not_begin_behind(source, tmp_path):
    path = source("roberta", tokenizer="byte level")
    (path / "config.json").write_text(
        json.dumps({"model_type": "roberta", **KINDS["roberta"][2], "vocab_size": 500})
    )
    tensors = load_file(path / "model.safetensors")
    for name in ("roberta.embeddings.word_embeddings.weight", "lm_head.bias"):
        tensors[name] = np.zeros((500, *tensors[name].shape[1:]), "f")
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(UserError, match=r"for padding, and positions of roberta begin behind 1"):
        import_model(str(path), tmp_path / "run")


def test_a_decoder_of_its_own_and_a_classifier_are_refused(source, tmp_path):
    path = source("distilbert")
    tensors = load_file(path / "model.safetensors")
    words = tensors["distilbert.embeddings.word_embeddings.weight"]
    save_file(tensors | {"vocab_projector.weight": words + 1}, path / "model.safetensors")
    with pytest.raises(
        UserError, match=r"vocab_projector\.weight differs from the word embeddings"
    ):
        import_model(str(path), tmp_path / "run")
    save_file(tensors | {"classifier.weight": np.zeros((1, D), "f")}, path / "model.safetensors")
    with pytest.raises(
        UserError, match="a classifier of distilbert cannot be read; one of bert can"
    ):
        import_model(str(path), tmp_path / "run")
