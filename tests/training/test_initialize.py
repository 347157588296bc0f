"""Where a run starts: all of it from one run, or each part from another."""

import dataclasses
import shutil
import types

import jax
import numpy as np
import pytest

from ralm_jax import cli
from ralm_jax.batches import Lengths, Text
from ralm_jax.errors import UserError
from ralm_jax.models import initial
from ralm_jax.models.config import Compute, EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.runs.files import write_json
from ralm_jax.training.initialize import Runs, computing, has_cudnn, starting_point

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)


def sizes(hidden, layers=2):
    return EncoderConfig(hidden=hidden, layers=layers, heads=2, intermediate=12, positions=64)


MODELS = {
    "whole": Ralm(sizes(8), sizes(8), embedding=4),
    "retriever": Ralm(
        sizes(12), sizes(8), embedding=12, pooling="mean", head="unit", score_scale=20.0
    ),
    "reader": Ralm(sizes(8), sizes(16), embedding=4, copies=True),
    "reranker": Ralm(
        sizes(8),
        sizes(8),
        embedding=4,
        with_scorer=True,
        scorer_config=sizes(4, 1),
        scorer_pooler=True,
    ),
}


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """A run of each model, all of random parameters."""
    root = tmp_path_factory.mktemp("runs")
    for seed, (name, model) in enumerate(MODELS.items()):
        run, model = root / name, directory.sized(model, tiny.corpus.vocabulary.size)
        if model.scorer_config is not None:
            model = model.clone(scorer_config=model.reader_config)
        parts = {"stages": ["import"], "lengths": vars(LENGTHS), "held_out": 0.1, "seed": seed}
        directory.describe(run, model, tiny.corpus, **parts)
        checkpoints = Checkpoints(directory.checkpoint_folder(run, "import"))
        params = initial.drawn_params(model, seed)
        checkpoints.save(seed, {"state": {"params": params}}, wait=True)
        checkpoints.close()
    return {name: root / name for name in MODELS}


def params_of(tiny, run):
    return starting_point(None, Runs(run), tiny.corpus, 0)[1]


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_each_part_may_come_from_another_run(tiny, runs):
    given = Runs(runs["whole"], runs["retriever"], runs["reader"], runs["reranker"])
    model, params, note = starting_point(None, given, tiny.corpus, 0)
    for part, run in (("retriever", "retriever"), ("reader", "reader"), ("scorer", "reranker")):
        same(params[part], params_of(tiny, runs[run])[part])
    # The parameters are those that the model has places for.
    wanted = jax.eval_shape(lambda key: initial.initial_params(model, key), jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, params) == jax.tree.map(lambda x: x.shape, wanted)
    assert model.score_scale == 20 and model.head == "unit" and model.copies
    assert note == {
        "stage": "import",
        "step": 0,
        "retriever": {"stage": "import", "step": 1},
        "reader": {"stage": "import", "step": 2},
        "reranker": {"stage": "import", "step": 3},
    }
    assert given.begun == runs["retriever"]


def test_a_retriever_and_a_reader_are_enough(tiny, runs):
    given = Runs(None, runs["retriever"], runs["reader"])
    model, params, _ = starting_point(None, given, tiny.corpus, 0)
    assert model.embedding == 12 and model.reader_config.hidden == 16
    same(params["retriever"], params_of(tiny, runs["retriever"])["retriever"])
    same(params["reader"], params_of(tiny, runs["reader"])["reader"])


@pytest.mark.slow
def test_a_reranker_joins_a_model_of_the_configuration(tiny, runs):
    given = Runs(reranker=runs["reranker"])
    model, params, note = starting_point(MODELS["whole"], given, tiny.corpus, 0, scorer=True)
    same(params["scorer"], params_of(tiny, runs["reranker"])["scorer"])
    assert note == {"reranker": {"stage": "import", "step": 3}}
    text = Text(np.full((2, 3, 9), 7, np.int32), np.zeros((2, 3, 9), np.int32))
    assert model.apply({"params": params}, text, method="rerank").shape == (2, 3)


def test_a_scorer_keeps_its_sizes_beside_another_reader(tiny, runs):
    model, params, _ = starting_point(
        None, Runs(runs["reranker"], reader=runs["reader"]), tiny.corpus, 0
    )
    wanted = jax.eval_shape(lambda key: initial.initial_params(model, key), jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, params) == jax.tree.map(lambda x: x.shape, wanted)


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        (None, {}, "names no model: give --init RUN"),
        (None, {"retriever": "retriever"}, "both --init-retriever and --init-reader"),
        (None, {"reader": "reader"}, "both --init-retriever and --init-reader"),
        (None, {"whole": "whole", "reranker": "whole"}, "that run has no scorer to start from"),
        (MODELS["whole"], {"reader": "reader"}, "has a model of its own"),
    ],
)
def test_too_little_and_too_much(tiny, runs, model, given, said):
    with pytest.raises(UserError, match=said):
        starting_point(
            model, Runs(**{part: runs[run] for part, run in given.items()}), tiny.corpus, 0
        )


@pytest.mark.parametrize("part", ["reader", "reranker"])
def test_a_part_of_another_vocabulary_is_refused_by_its_option(tiny, runs, tmp_path, part):
    other = tmp_path / "other"
    shutil.copytree(runs[part], other)
    pieces = (other / "vocab.txt").read_text("utf-8").splitlines()
    (other / "vocab.txt").write_text("\n".join([*pieces[:-1], "zyzzyva"]) + "\n", "utf-8")
    sums = {directory.TOKENIZER: directory.tokenizer_checksums(other)}
    write_json(other / directory.RUN, directory.read_record(other) | sums)
    with pytest.raises(UserError, match=rf"--init-{part} .*: all parts .* the same wordpieces"):
        starting_point(None, Runs(runs["whole"], **{part: other}), tiny.corpus, 0)
    with pytest.raises(UserError, match="prepare it with --vocab"):
        starting_point(None, Runs(other), tiny.corpus, 0)


def test_the_command_line_passes_them_on(tiny, runs, tmp_path, capsys):
    given = ["--corpus", str(tiny.corpus.path), "--run", str(tmp_path / "run")]
    argv = ["pretrain", "--config", "runs/warm.gin", *given]
    parts = ["--init-retriever", str(runs["retriever"]), "--init-reader", str(tmp_path / "none")]
    assert cli.main([*argv, *parts]) == 2
    assert "there is no run at" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "capability", "ours"),
    [("NVIDIA L4", "8.9", True), ("Tesla T4", "7.5", False), ("TPU v5 lite", None, False)],
)
def test_cudnn_is_known_by_the_device(kind, capability, ours, monkeypatch):
    about = {"device_kind": kind} | ({"compute_capability": capability} if capability else {})
    monkeypatch.setattr(jax, "local_devices", lambda: [types.SimpleNamespace(**about)])
    assert has_cudnn(Compute()) == ours


def test_cudnn_on_a_cpu_is_one_line():
    with pytest.raises(UserError, match="this machine computes on cpu: set it to 'auto'"):
        has_cudnn(Compute(attention="cudnn"))
    assert not has_cudnn(Compute())


def test_a_run_does_not_keep_how_its_device_attended(tiny, tmp_path):
    """One that was trained with cuDNN is read, and goes on, wherever there is none."""
    wide = dataclasses.replace(sizes(16), vocab_size=tiny.corpus.vocabulary.size)
    model = Ralm(wide, wide, embedding=4)
    fused, plain = (computing(model, Compute(), cuda) for cuda in (True, False))
    assert fused.reader_config.attention == fused.retriever_config.attention == "cudnn"
    directory.describe(tmp_path / "run", fused, tiny.corpus)
    assert directory.load_model(tmp_path / "run") == plain
    directory.check_same(tmp_path / "run", plain, tiny.corpus)
    with pytest.raises(UserError, match="another configuration"):
        directory.check_same(tmp_path / "run", model, tiny.corpus)
