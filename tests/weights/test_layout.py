"""The table of names, against BERT written out under PyTorch's names, and there and back."""

import math

import jax
import numpy as np
import pytest
from state_dicts import REALM, draw, embedder, mlm, reader, trunk

from ralm_jax.batches import Text
from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.weights import families, layout

TOKENS = np.array([[2, 7, 9, 5, 3, 0, 0], [2, 11, 3, 6, 6, 19, 3]], np.int32)
TYPES = np.array([[0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1]], np.int32)
TEXT = Text(TOKENS, TYPES)


def linear(t, name, x):
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def norm(t, name, x, eps=1e-12):
    gap = x - x.mean(-1, keepdims=True)
    gap = gap / np.sqrt((gap**2).mean(-1, keepdims=True) + eps)
    return gap * t[f"{name}.weight"] + t[f"{name}.bias"]


def gelu(x, exact):
    if exact:
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def bert(t, prefix, tokens, types, exact=True, heads=2):
    """One unpadded sequence through BertModel's tensors `t`: states [S,D]."""
    e = f"{prefix}embeddings."
    x = t[f"{e}word_embeddings.weight"][tokens] + t[f"{e}token_type_embeddings.weight"][types]
    x = norm(t, f"{e}LayerNorm", x + t[f"{e}position_embeddings.weight"][: len(tokens)])
    for n in range(3):
        at = f"{prefix}encoder.layer.{n}."
        q, k, v = (
            np.split(linear(t, f"{at}attention.self.{name}", x), heads, axis=-1)
            for name in ("query", "key", "value")
        )
        mixed = []
        for i in range(heads):
            weights = np.exp(q[i] @ k[i].T / math.sqrt(q[i].shape[1]))
            mixed.append(weights / weights.sum(1, keepdims=True) @ v[i])
        out = linear(t, f"{at}attention.output.dense", np.concatenate(mixed, -1))
        x = norm(t, f"{at}attention.output.LayerNorm", x + out)
        wide = gelu(linear(t, f"{at}intermediate.dense", x), exact)
        x = norm(t, f"{at}output.LayerNorm", x + linear(t, f"{at}output.dense", wide))
    return x


def states(t, prefix, exact=True):
    real = [row != 0 for row in TOKENS]
    return [bert(t, prefix, TOKENS[i][r], TYPES[i][r], exact) for i, r in enumerate(real)]


def test_bert_for_masked_lm(folder):
    names = {**trunk("bert.", pooler=False), **mlm()}
    t = draw(np.random.default_rng(0), names)
    read = families.read(folder(names))
    positions = np.array([[1, 3], [2, 5]], np.int32)
    found = jax.jit(
        lambda p: read.model.apply({"params": p}, TOKENS, TYPES, positions, method=_read)
    )(read.params)
    for row, whole in enumerate(states(t, "bert.")):
        x = gelu(linear(t, "cls.predictions.transform.dense", whole[positions[row]]), True)
        x = norm(t, "cls.predictions.transform.LayerNorm", x)
        wanted = x @ t["bert.embeddings.word_embeddings.weight"].T + t["cls.predictions.bias"]
        np.testing.assert_allclose(found[row], wanted, atol=2e-4)
    assert read.drawn == ["retriever: pooler and projection"]


def _read(model, *inputs):
    return model.reader(*inputs)


def test_a_realm_embedder(folder):
    t = draw(np.random.default_rng(0), embedder())
    read = families.read(folder(embedder(), architectures=["RealmEmbedder"], **REALM))
    found = embed(read, "passages")
    for row, whole in enumerate(states(t, "realm.", exact=False)):
        pooled = np.tanh(linear(t, "realm.pooler.dense", whole[0]))
        wanted = norm(t, "cls.LayerNorm", linear(t, "cls.dense", pooled))
        np.testing.assert_allclose(found[row], wanted, atol=2e-4)
    assert read.model.share_towers and read.drawn == ["reader: masked-LM head"]


def embed(read, method):
    return jax.jit(lambda p: read.model.apply({"params": p}, TEXT, method=method))(read.params)


@pytest.mark.slow
@pytest.mark.parametrize("same", [True, False])
def test_a_realm_scorer_has_one_tower_or_two(folder, same):
    one = draw(np.random.default_rng(0), embedder())
    two = one if same else draw(np.random.default_rng(1), embedder())
    tensors = {f"embedder.{k}": x for k, x in one.items()}
    tensors |= {f"query_embedder.{k}": x.copy() for k, x in two.items()}
    read = families.read(folder(tensors, architectures=["RealmScorer"], **REALM))
    assert read.model.share_towers == same
    for method, t in (("passages", one), ("queries", two)):
        alone = families.read(folder(t, architectures=["RealmEmbedder"], **REALM))
        np.testing.assert_array_equal(embed(read, method), embed(alone, "passages"))


def test_a_realm_reader_scores_spans(folder):
    t = draw(np.random.default_rng(0), reader())
    read = families.read(folder(reader(), architectures=["RealmReader"], **REALM))
    within = (TYPES == 1) & (TOKENS != 3)
    found = np.asarray(
        jax.jit(
            lambda p: read.model.apply(
                {"params": p}, Text(TOKENS[None], TYPES[None]), within[None], method="read"
            )
        )(read.params)
    )[0]
    assert found.shape == (2, 7, 3)
    for row, whole in enumerate(states(t, "realm.", exact=False)):
        start, end = np.split(linear(t, "qa_outputs.dense_intermediate", whole), 2, axis=-1)
        for s in range(7):
            for w in range(3):
                if s + w < 7 and within[row, s] and within[row, s + w]:
                    hidden = np.maximum(start[s] + end[s + w], 0)
                    hidden = norm(t, "qa_outputs.layer_normalization", hidden, eps=1e-3)
                    wanted = linear(t, "qa_outputs.dense_output", hidden)[0]
                    np.testing.assert_allclose(found[row, s, w], wanted, atol=2e-4)
                else:
                    assert found[row, s, w] < -1e37


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "slots"),
    [
        (trunk("bert."), lambda c: [*families.tower(c, families.TOWER, "bert.", pooler=True)]),
        (
            {**trunk("realm.", pooler=False), **mlm()},
            lambda c: [*families.encoder(c)],
        ),
        (
            {k: s for k, s in embedder().items() if "predictions" not in k},
            lambda c: [*families.embedder(c, families.TOWER, "", 4)],
        ),
    ],
    ids=["bert", "encoder", "embedder"],
)
def test_every_tensor_comes_back_bit_for_bit(names, slots, tensors):
    c = EncoderConfig(40, hidden=8, layers=3, heads=2, intermediate=12, positions=24)
    model = families.Ralm(c, c, embedding=4)
    params = jax.tree.map(np.array, families.initial.initial_params(model, jax.random.key(0)))
    given = tensors(names)
    assert layout.take(slots(c), given, params, "there") == given.keys()
    back = layout.give(slots(c), params)
    assert back.keys() == given.keys()
    for name, array in given.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name, strict=True)


def test_a_missing_and_a_wrong_tensor_are_named(tensors):
    c = EncoderConfig(40, hidden=8, layers=3, heads=2, intermediate=12, positions=24)
    slots = [*layout.norm("a.LayerNorm", ("norm",), 8)]
    params = {"norm": {"scale": np.zeros(8), "bias": np.zeros(8)}}
    given = {"a.LayerNorm.weights": np.zeros(8), "a.LayerNorm.bias": np.zeros(8)}
    with pytest.raises(
        UserError, match=r"there: the tensor a.LayerNorm.weight \(8,\) is missing; there is a "
    ):
        layout.take(slots, given, params, "there")
    given = {"a.LayerNorm.weight": np.zeros(8), "a.LayerNorm.bias": np.zeros(7)}
    with pytest.raises(
        UserError,
        match=r"a.LayerNorm.bias has the shape \(7,\); by its config it should have \(8,\)",
    ):
        layout.take(slots, given, params, "there")
    assert c.layers == 3
