"""What a run will take: memory by tracing, figures by hand, and what is said where it cannot be."""

import dataclasses
import json

import compiling
import jax
import jax.numpy as jnp
import pytest

from ralm_jax import cli, gin_config
from ralm_jax.batches import Lengths
from ralm_jax.cost import ahead, chips, estimate, operations, residuals, shapes, sizes
from ralm_jax.errors import UserError
from ralm_jax.loaders.loader import Source
from ralm_jax.losses.prior import Prior
from ralm_jax.models import initial
from ralm_jax.models.config import Compute, EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.training import initialize, optim
from ralm_jax.training.passage_windows import PassageWindows
from ralm_jax.training.read_clozes import TeachingReader
from ralm_jax.training.schedule import Schedule, Stage
from ralm_jax.training.tasks import InverseCloze, Realm

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(
    hidden=8, layers=1, heads=2, intermediate=16, positions=64, dropout=0.0, attention_dropout=0.0
)
MODEL = Ralm(
    dataclasses.replace(SMALL, vocab_size=50), dataclasses.replace(SMALL, vocab_size=50), 8
)
OPTIMIZER = optim.by_part(optim.adamw(1e-3), optim.adamw(1e-3))
WINDOWS = PassageWindows(LENGTHS, shortest=4, longest=9, negatives=2, index="exact")
CLOZES = TeachingReader(LENGTHS, clozes=24, candidates=4, passages=2, part=30)
TASKS = {
    "inverse cloze": InverseCloze(LENGTHS),
    "windows": dataclasses.replace(WINDOWS, part=40),
    "taught": dataclasses.replace(WINDOWS, teaches=True),
    "queries alone": dataclasses.replace(WINDOWS, train_passages=False),
    "read": CLOZES,
    "read, queries alone": dataclasses.replace(CLOZES, train_passages=False, passages=None),
    "realm": Realm(LENGTHS, candidates=3, index="exact"),
    "mixed": Realm(LENGTHS, candidates=3, index="exact", prior=Prior(1.0, 5.0)),
    "frozen": Realm(LENGTHS, candidates=3, index="exact", freeze_retriever=True),
}


def stage(task, batch=16):
    return Stage("one", task, Schedule(steps=10, batch=batch, optimizer=OPTIMIZER))


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_shapes_are_those_of_a_batch(name, tiny, tmp_path):
    """Of a loader, one device having all rows. A passage is as wide as the longest that was drawn."""
    task = TASKS[name]
    model = directory.sized(MODEL, tiny.corpus.vocabulary.size)
    rows = task.queries(tiny.corpus, 0.2).rows
    source = Source(tiny.corpus, tiny.corpus, model, rows, 3, 8, tmp_path / "index")
    loader = task.loader(source)
    try:
        loader.start(jax.device_put(initial.drawn_params(model, 0)))
        given = loader.batch(0)
    finally:
        loader.close()
    shaped = shapes.batch(model, stage(task), 8)
    assert jax.tree.structure(given) == jax.tree.structure(shaped)
    for found, wanted in zip(jax.tree.leaves(given), jax.tree.leaves(shaped), strict=True):
        assert found.shape[:-1] == wanted.shape[:-1] and found.shape[-1] <= wanted.shape[-1]
        assert found.dtype == wanted.dtype


@pytest.mark.slow
def test_what_is_kept_grows_evenly_with_the_queries():
    realm = stage(TASKS["realm"])
    need = residuals.need(MODEL, realm)
    traced = residuals.activations(MODEL, residuals.read_at_a_time(realm, 8), 8)
    assert need.memory(16, 8).activations == pytest.approx(traced, rel=1e-3)
    weights = sum(x.size for x in jax.tree.leaves(shapes.state(MODEL, realm).params))
    whole, halves = need.memory(16, 16), need.memory(16, 8)
    assert whole.weights == 4 * weights == halves.gradients - whole.gradients
    # Adam keeps two numbers of each, and some counts.
    assert 8 * weights <= whole.optimizer < 8 * weights + 100
    assert whole.activations > halves.activations > need.memory(16, 1).activations
    # Inverse cloze is not read a few at a time.
    ict = residuals.need(MODEL, stage(TASKS["inverse cloze"]))
    assert ict.memory(16, 1) == ict.memory(16, 16)


def test_a_layer_holds_its_products_and_unless_cudnn_attends_its_scores():
    """By hand: of the largest text, four times the wide states, or in attention the scores of all pairs."""
    wide = dataclasses.replace(SMALL, hidden=16, intermediate=64, dtype=jnp.bfloat16)
    tokens = 2 * 64  # of two passages, the null one aside

    def largest(config, task):
        model = Ralm(config, config, 8)
        learning = residuals._learning(model, task, shapes.batch(model, stage(task), 1))
        return max((residuals._layer(*one, 1) for one in learning), default=0.0)

    fused = dataclasses.replace(wide, attention="cudnn")
    assert largest(fused, TASKS["realm"]) == tokens * 2 * (4 * 64 + 8 * 16)
    assert largest(wide, TASKS["realm"]) == tokens * (2 * 12 * 16 + 14 * 2 * 64)
    assert largest(fused, dataclasses.replace(TASKS["frozen"], freeze_encoder=True)) == 0
    for name in TASKS:
        assert largest(fused, TASKS[name]) > 0


def test_an_embedding_keeps_what_its_layers_need():
    """By hand, in float32 and without dropout: at least the inputs of all products of a layer."""
    kept = residuals.activations(MODEL, stage(TASKS["inverse cloze"]), 2)
    tokens, d, wide = 2 * (20 + 56), 8, 16
    least = tokens * 4 * (3 * d + wide)
    assert least < kept < 40 * least


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", True])
def test_what_is_computed_again_is_not_kept(remat):
    many = dataclasses.replace(MODEL.reader_config, layers=6)
    plain = Ralm(many, many, 8)
    again = initialize.computing(plain, Compute("float32", remat), cuda=False)
    realm = stage(TASKS["realm"])
    kept = [residuals.need(model, realm).each for model in (plain, again)]
    assert kept[1] < 0.7 * kept[0]
    half = initialize.computing(plain, Compute("bfloat16", remat), cuda=False)
    assert residuals.need(half, realm).each < 0.8 * kept[1]
    assert half.reader_config.dtype == jnp.bfloat16 and half.reader_config.layers == 6


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        ([0.00012, 0.0021], "0.43 to 7.6 s"),
        ([0.01, 0.024], "36 to 86 s"),
        ([0.1, 1.4], "6 to 84 min"),
        ([453.7, 2302.6], "454 to 2,303 h"),
    ],
)
def test_a_time_is_in_the_unit_of_a_person(hours, said):
    assert estimate._duration(hours) == said


def test_less_than_a_cent_is_said_to_be():
    assert estimate._range([1e-5, 2e-4]) == "under 0.01"


def test_hours_and_money_by_hand():
    stages = [stage(TASKS["realm"])]
    report = estimate.estimate(MODEL, stages, 1000)
    total = sum(report["stages"][0]["operations"].values())
    cost = operations.stage(MODEL, TASKS["realm"], passages=1000, batch=16, steps=10)
    assert total == cost.total
    l4 = report["devices"]["l4"]
    assert l4["hours"] == pytest.approx(
        [total / (121e12 * 0.45) / 3600, total / (121e12 * 0.25) / 3600]
    )
    assert l4["dollars"] == pytest.approx([0.6 * h for h in l4["hours"]])
    eight, one = (report["devices"][name]["hours"][0] for name in ("v5e-8", "v5e-1"))
    assert eight == pytest.approx(one / 8)
    shown = estimate.table(report)
    assert "realm" not in shown and "one" in shown and "passages" in shown
    for name in chips.CHIPS:
        assert f"\n{name} " in shown
    assert report["devices"]["l4"]["stages"][0]["microbatch"] == 16


@pytest.mark.slow
def test_a_stage_that_is_too_large_is_read_a_few_at_a_time_or_said_so(monkeypatch):
    realm = stage(TASKS["realm"])
    need = residuals.need(MODEL, realm)
    # What is searched lies there too.
    table = 1000 * 8 * 4
    room = (need.memory(16, 4).total + table) / estimate.FILLED + 1
    small = chips.CHIPS["l4"]._replace(memory=room)
    monkeypatch.setitem(chips.CHIPS, "l4", small)
    fitted = estimate.estimate(MODEL, [realm], 1000)["devices"]["l4"]["stages"][0]
    assert (fitted["microbatch"], fitted["fits"]) == (4, True)
    monkeypatch.setitem(chips.CHIPS, "l4", small._replace(memory=1.25 * table))
    report = estimate.estimate(MODEL, [realm], 1000)
    assert not report["devices"]["l4"]["stages"][0]["fits"]
    assert "one does not fit" in estimate.table(report)
    monkeypatch.setattr(ahead, "compiled", lambda *given: ahead.Compiled(0, 0, 0, 0, 20000.0, 1.0))
    with pytest.raises(UserError, match="l4 has 0 GiB, and stage one does not fit"):
        estimate.estimate(MODEL, [realm], 1000, on="l4")


@pytest.mark.slow
def test_the_compiler_has_the_last_word(monkeypatch):
    """What the formula lets through and the compiler does not is read half as many at a time."""
    tried = []

    def compiled(model, given, chip, rows):
        tried.append((given.task.microbatch_size, rows))
        return ahead.Compiled(
            1, 2, 0, 0, chip.memory if given.task.microbatch_size > 4 else 7.0, 1.0
        )

    monkeypatch.setattr(ahead, "compiled", compiled)
    report = estimate.estimate(MODEL, [stage(TASKS["realm"])], 1000, on="h100", dollars=2.0)
    assert tried == [(16, 16), (8, 16), (4, 16)]
    (found,) = report["devices"]["h100"]["stages"]
    assert (found["microbatch"], found["compiled_bytes"], found["fits"]) == (4, 7.0, True)
    assert list(report["devices"]) == ["h100"]
    assert report["devices"]["h100"]["dollars"][0] == 2 * report["devices"]["h100"]["hours"][0]
    assert "compiled (4)" in estimate.table(report)


def test_the_target_of_a_gpu_is_of_its_memory():
    text = ahead._target(chips.chip("a100"))
    assert f"device_memory_size: {int(79.1 * (1 << 30))}" in text
    assert "major: 8 minor: 0" in text and "core_count: 108" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--on", "h900"], "--on h900: that device is not known; there are h100"),
        (["--passages", "0"], "--passages 0: a corpus has at least one"),
        (["--config", "runs/warm.gin"], "names no model: give --init RUN"),
        (["--config", "runs/finetune.gin"], "has no stages of pretraining"),
        (["--run", "RUN"], "give --config FILE, or --run RUN"),
    ],
)
def test_mistakes_are_one_line(words, said, capsys):
    usual = {"--config": "runs/small.gin", "--passages": "1000"}
    given = [x for option in usual.items() if option[0] not in words for x in option]
    assert cli.main(["estimate", *given, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ralm: ") and said in line


def test_the_size_of_the_corpus_must_be_said(capsys):
    assert cli.main(["estimate", "--config", "runs/small.gin"]) == 2
    assert "--passages N, or --corpus CORPUS" in capsys.readouterr().err


def test_a_compiler_that_is_not_here_is_said(monkeypatch):
    def none(**given):
        raise RuntimeError("no such platform\nat all")

    monkeypatch.setattr(ahead.topologies, "get_topology_desc", none)
    for name, extra in (("v5e-8", "tpu"), ("h100", "gpu")):
        with pytest.raises(UserError, match=rf"ralm_jax\[{extra}\]' \(no such platform at all\)"):
            ahead.compiled(MODEL, stage(TASKS["realm"]), chips.chip(name), 16)


@pytest.mark.slow
def test_what_a_run_took_stands_beside_what_was_estimated(tiny, tiny_settings, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--config", "runs/pretrain.gin", "--corpus", str(tiny.corpus.path), "--run", str(run)]
    stages = "pretrain.pretrain.stages = [@ict/schedule.Stage(), @realm/schedule.Stage()]"
    # What is here is timed by itself.
    with compiling.traced():
        assert cli.main(["pretrain", *words, *tiny_settings, "--set", stages]) == 0
    file = tmp_path / "report.json"
    assert cli.main(["estimate", "--run", str(run), "--probe", "--json", str(file)]) == 0
    report = json.loads(file.read_text("utf-8"))
    assert report["passages"] == tiny.corpus.size
    assert [each["name"] for each in report["stages"]] == ["ict", "realm"]
    for each in report["stages"]:
        assert each["seconds_a_step_here"] > 0 and each["seconds_a_step_measured"] > 0
    given = gin_config.pretraining(str(run / "config.gin"))
    assert sizes.model(given, run).reader_config.hidden == 8
    shown = capsys.readouterr().out
    for each in report["stages"]:
        here, measured = (each[f"seconds_a_step_{name}"] for name in ("here", "measured"))
        assert f"{here:>15.2f}{measured:>10.2f}" in shown


@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert"])
def test_what_is_taken_to_be_as_berts_is_said(family):
    config = dataclasses.replace(EncoderConfig(), family=family)
    lines = estimate.assumptions(Ralm(config, config), chips.CHIPS)
    assert any("that of a BERT of the same size" in x for x in lines) == (family == "modernbert")
