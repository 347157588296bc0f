"""A run that starts from an imported model: the shipped configuration, and what does not go together."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from state_dicts import SIZES, draw, trunk

from ralm_jax import cli
from ralm_jax.data.prepare import prepare
from ralm_jax.data.tokenizer import pieces_of, write_vocabulary
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.runs import directory
from ralm_jax.training import initialize

SMALL = {
    "QUERY_LENGTH": 20, "PASSAGE_LENGTH": 56, "JOINT_LENGTH": 64, "HEAD_JOINT_LENGTH": 21,
    "HEAD_STEPS": 2, "HEAD_BATCH": 8, "WARMUP_STEPS": 2, "WARMUP_BATCH": 8, "REALM_STEPS": 2,
    "REALM_BATCH": 8, "CANDIDATES": 3, "HELD_OUT": 0.2,
}  # fmt: skip
SETTINGS = [word for name, size in SMALL.items() for word in ("--set", f"{name} = {size}")]


@pytest.fixture(scope="module")
def imported(tiny, tmp_path_factory):
    """A sentence-transformers model with the wordpieces of the small almanac, as a run."""
    path = tmp_path_factory.mktemp("source")
    names = trunk() | {
        "embeddings.word_embeddings.weight": (tiny.corpus.vocabulary.size, 8),
        "embeddings.position_embeddings.weight": (64, 8),
    }
    save_file(draw(np.random.default_rng(0), names), path / "model.safetensors")
    config = SIZES | {"vocab_size": tiny.corpus.vocabulary.size, "max_position_embeddings": 64}
    (path / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    write_vocabulary(path, pieces_of(tiny.corpus.tokenizer()))
    stack = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"x.models.{name}", "path": at} for name, at in stack.items()]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    run = path.with_name("imported")
    assert cli.main(["import", str(path), "--out", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def pretrain(tiny, tmp_path_factory):
    def arguments(run, *more, config="runs/warm.gin", corpus=None):
        corpus = str(corpus or tiny.corpus.path)
        return ["pretrain", "--config", config, "--corpus", corpus, "--run", str(run), *more]

    return arguments


@pytest.fixture(scope="module")
def warm(imported, pretrain, tmp_path_factory):
    run = tmp_path_factory.mktemp("warm") / "run"
    assert cli.main(pretrain(run, "--init", str(imported), *SETTINGS)) == 0
    return run


def differs(one, other):
    return not np.array_equal(one, other)


@pytest.mark.slow
def test_it_starts_from_what_was_imported(imported, warm):
    begun, head = OpenRun.open(imported), OpenRun.open(warm, stage="head")
    assert head.model == begun.model and head.model.score_scale == 20
    assert directory.read_record(warm)["init"] == {"stage": "import", "step": 0}
    words = lambda loaded, part: loaded.params["reader"]["encoder"]["word_embeddings"]["embedding"]  # noqa: E731
    np.testing.assert_array_equal(words(head, "reader"), words(begun, "reader"))
    assert differs(
        head.params["reader"]["head"]["kernel"], begun.params["reader"]["head"]["kernel"]
    )
    tower = lambda x: x.params["retriever"]["passage_tower"]["encoder"]["embedding_norm"]["bias"]  # noqa: E731
    np.testing.assert_array_equal(tower(OpenRun.open(warm, stage="warmup")), tower(begun))
    assert differs(tower(OpenRun.open(warm)), tower(begun))


@pytest.mark.slow
def test_the_same_command_again_changes_nothing(imported, pretrain, warm):
    before = OpenRun.open(warm).params
    assert cli.main(pretrain(warm, "--init", str(imported), *SETTINGS)) == 0
    after = OpenRun.open(warm).params
    np.testing.assert_array_equal(after["reader"]["head_bias"], before["reader"]["head_bias"])


@pytest.mark.slow
def test_a_run_may_start_from_a_run(warm, tiny):
    model, params, started = initialize.starting_point(
        None, initialize.Runs(warm), tiny.corpus, seed=0
    )
    ended = OpenRun.open(warm)
    assert model == ended.model and started == {"stage": "realm", "step": 2}
    np.testing.assert_array_equal(
        params["reader"]["head_bias"], ended.params["reader"]["head_bias"]
    )


def fails(capsys, argv):
    capsys.readouterr()
    assert cli.main([str(word) for word in argv]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ralm: ") and said.count("\n") == 1, said
    return said


def test_what_does_not_go_together(imported, pretrain, tiny, tmp_path, capsys):
    run = tmp_path / "run"
    assert "names no model: give --init RUN" in fails(capsys, pretrain(run, *SETTINGS))
    both = pretrain(tmp_path / "both", "--init", imported, config="runs/pretrain.gin")
    assert "has a model of its own and --init" in fails(capsys, both)
    nowhere = pretrain(tmp_path / "none", "--init", tmp_path / "nowhere", *SETTINGS)
    assert "there is no run at" in fails(capsys, nowhere)
    (tmp_path / "other.jsonl").write_text('{"id": "1", "title": "T", "text": "One. Two of 1999."}')
    prepare(str(tmp_path / "other.jsonl"), tmp_path / "other", vocab_size=90, say=lambda line: None)
    other = pretrain(tmp_path / "o", "--init", imported, *SETTINGS, corpus=tmp_path / "other")
    said = fails(capsys, other)
    assert (
        f"was tokenized with a different vocabulary than the run {imported}: prepare it with --vocab "
        f"{imported}" in said
    )


def test_a_corpus_is_prepared_with_the_wordpieces_of_a_run(imported, tmp_path):
    (tmp_path / "some.jsonl").write_text('{"id": "1", "title": "T", "text": "One. Two of 1999."}')
    out = tmp_path / "corpus"
    words = ["prepare", str(tmp_path / "some.jsonl"), "--out", str(out), "--vocab", str(imported)]
    assert cli.main(words) == 0
    assert (out / "vocab.txt").read_text("utf-8") == (imported / "vocab.txt").read_text("utf-8")


@pytest.mark.slow
def test_an_imported_run_is_measured(imported, tiny, capsys):
    words = ["evaluate", "--run", str(imported), "--questions", str(tiny.questions)]
    assert "has no corpus of its own: give --corpus" in fails(capsys, words)
    assert cli.main([*words, "--corpus", str(tiny.corpus.path)]) == 0
    assert "stage import, step 0" in capsys.readouterr().out
