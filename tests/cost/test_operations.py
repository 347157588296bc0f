"""Operations from shapes, against what the compiler counts."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from ralm_jax.batches import Lengths, Text
from ralm_jax.cost import operations
from ralm_jax.examples.question_batches import annotate
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval.refresh import Asynchronous, Rolling, WriteBack
from ralm_jax.training.passage_windows import PassageWindows
from ralm_jax.training.read_clozes import TeachingReader
from ralm_jax.training.tasks import InverseCloze, OpenQuestions, Realm

LENGTHS = Lengths(query=16, passage=32, joint=48, masked=4)
C = EncoderConfig(
    hidden=64, layers=1, heads=2, intermediate=256, positions=64, vocab_size=99, dropout=0.0
)
MODEL = Ralm(C, C, embedding=16)


@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert", "nomic_bert"])
def test_an_embedding_is_what_the_compiler_counts(family):
    config = dataclasses.replace(C, family=family, local_reach=4, global_every=2)
    # For [CLS] alone the last layer is computed there alone.
    model = MODEL.clone(pooling="mean", retriever_config=config, reader_config=config)
    params = initial.drawn_params(model, seed=0)
    text = Text(*(jnp.ones((8, 32), jnp.int32),) * 2)
    compiled = jax.jit(lambda p: model.apply({"params": p}, text, method="passages"))
    cost = compiled.lower(params).compile().cost_analysis()
    counted = (cost[0] if isinstance(cost, list) else cost)["flops"]
    # The compiler counts LayerNorm, GELU and softmax too.
    assert 0.8 * counted < operations.embed(model, 8, 32) < counted


@pytest.mark.parametrize("layers, length", [(1, 16), (4, 64)])
def test_an_encoder_by_hand(layers, length):
    config = dataclasses.replace(C, layers=layers)
    token = 2 * (4 * 64 * 64 + 2 * 64 * 256) + 2 * 2 * length * 64
    assert operations.encoder(config, 3, length) == 3 * length * layers * token


def test_a_stage_costs_what_it_does():
    sizes = {"passages": 1000, "batch": 8, "steps": 10}
    ict = operations.stage(MODEL, InverseCloze(LENGTHS), **sizes)
    both = operations.embed(MODEL, 8, 16) + operations.embed(MODEL, 8, 32)
    assert ict.total == 10 * 3 * both
    windows = PassageWindows(LENGTHS, shortest=4, longest=9, negatives=2)
    asked, texts = operations.embed(MODEL, 8, 11), operations.embed(MODEL, 8 * 3, 32)
    searched = 2 * 8 * 1000 * MODEL.embedding
    step = asked + searched + 3 * (asked + texts)
    assert operations.stage(MODEL, windows, **sizes).step == step
    part = dataclasses.replace(windows, part=20)
    shorter = operations.embed(MODEL, 8 * 3, 20)
    assert operations.stage(MODEL, part, **sizes).step == step - 3 * (texts - shorter)
    joint = Realm(LENGTHS, candidates=4, refresh=Asynchronous(4, 2))
    realm = operations.stage(MODEL, joint, **sizes)
    frozen = operations.stage(MODEL, dataclasses.replace(joint, freeze_retriever=True), **sizes)
    # The null passage costs nothing, and passages of a frozen retriever are known by their vectors.
    queries, others = operations.embed(MODEL, 8, 16), operations.embed(MODEL, 8 * 3, 32)
    assert realm.step - frozen.step == pytest.approx(2 * queries + 3 * others)
    assert realm.refreshes == 2 and realm.index == operations.embed(MODEL, 1000, 32)
    rolling = dataclasses.replace(joint, refresh=Rolling(4, 2, turns=5))
    assert operations.stage(MODEL, rolling, **sizes).index == pytest.approx(realm.index / 5)
    written = dataclasses.replace(joint, refresh=WriteBack(Asynchronous(4, 2)))
    assert operations.stage(MODEL, written, **sizes) == realm
    seldom = operations.stage(MODEL, dataclasses.replace(joint, passages_every=4), **sizes)
    assert realm.step - seldom.step == pytest.approx(3 * others * 3 / 4)
    # What is read once costs the same however long it teaches; what every step reads does not.
    teaching = TeachingReader(LENGTHS, clozes=40, candidates=4, passages=2, part=20)
    read = operations.encoder(C, 40 * 3, 48) + operations.encoder(C, 40, 17)
    read += 2 * 40 * 4 * 4 * 64 * (64 + 99)
    towers = 3 * (operations.embed(MODEL, 8, 16) + operations.embed(MODEL, 8 * 2, 20))
    assert operations.stage(MODEL, teaching, **sizes).total == read + 10 * towers
    again = dataclasses.replace(teaching, cached=False, passages=None)
    towers = 3 * (operations.embed(MODEL, 8, 16) + operations.embed(MODEL, 8 * 3, 20))
    each = operations.stage(MODEL, again, **sizes)
    assert each.total == pytest.approx(10 * (towers + read * 8 / 40)) and not each.once
    assert realm.total == pytest.approx(10 * realm.step + 2 * realm.index)
    twice = operations.stage(MODEL, joint, passages=1000, batch=16, steps=10)
    assert twice.step == pytest.approx(2 * realm.step)


def test_fine_tuning_embeds_passages_only_where_they_learn(tiny):
    model = OpenQA(C, C, embedding=16, share_towers=False)
    task = OpenQuestions(LENGTHS, annotate(tiny.corpus, []), {}, beam=100, candidates=4)
    sizes = {"passages": 1000, "batch": 8, "steps": 10}
    cost = operations.stage(model, task, **sizes)
    more = operations.stage(model, dataclasses.replace(task, train_passages=True), **sizes)
    assert more.step - cost.step == pytest.approx(3 * operations.embed(model, 8 * 4, 32))


def test_the_peak_is_measured():
    assert operations.peak(seconds=0.01) > 1e8
