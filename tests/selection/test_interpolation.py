"""Weights between a start and the end of training: what is kept, by what, and never what is worse."""

import json

import jax
import numpy as np
import pytest

from ralm_jax import cli
from ralm_jax.batches import Lengths
from ralm_jax.errors import UserError
from ralm_jax.evaluation.retrieval import evaluate_retrieval, table
from ralm_jax.examples import windows
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.questions.read import read_questions
from ralm_jax.runs import directory, selection
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.selection import interpolation
from ralm_jax.selection.interpolation import Interpolation, between, choose, kept
from ralm_jax.training import optim, pretrain
from ralm_jax.training.passage_windows import PassageWindows
from ralm_jax.training.schedule import Schedule, Stage

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(
    hidden=16, layers=1, heads=2, intermediate=16, positions=64, init_stddev=0.2,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
MODEL = Ralm(SMALL, SMALL, embedding=16, pooling="mean", head="unit", score_scale=20.0)
SELECT = Interpolation(shortest=4, longest=9, size=200)


def test_the_ends_are_the_ends_and_half_way_is_half_way():
    start, end = {"a": np.float32([1.1, -3.3])}, {"a": np.float32([2.1, 0.7])}
    np.testing.assert_array_equal(between(start, end, 0.0)["a"], start["a"])
    np.testing.assert_allclose(between(start, end, 1.0)["a"], end["a"], rtol=1e-6)
    np.testing.assert_allclose(between(start, end, 0.25)["a"], [1.35, -2.3], rtol=1e-6)
    assert between(start, end, 0.5)["a"].dtype == np.float32


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_what_has_not_changed_keeps_its_bits(share):
    """Otherwise a corpus would be embedded again by a tower that has stayed."""
    start = {"tower": np.array([-0.0, 0.0, 0.1, -3e-39, np.float32(1e30)], np.float32)}
    end = {"tower": start["tower"].copy()}
    assert between(start, end, share)["tower"].tobytes() == start["tower"].tobytes()


def test_the_end_is_kept_as_it_was():
    start, end = ({"retriever": np.array([x], np.float32)} for x in (0.1, 1e8))
    assert kept(start, end, 1.0)["retriever"].tobytes() == end["retriever"].tobytes()


def test_the_retriever_alone_lies_between():
    """A reader that was trained is kept as it ended, unless the start is."""
    start, end = ({"retriever": np.float32([x]), "reader": np.float32([x])} for x in (1.0, 3.0))
    found = interpolation.kept(start, end, 0.5)
    assert (found["retriever"][0], found["reader"][0]) == (2.0, 3.0)
    assert interpolation.kept(start, end, 0.0) is start


def ranks(mean, noise=0.0, n=400):
    """Of that mean exactly; the standard error of a difference from one without noise is noise / 20."""
    drawn = np.random.default_rng(7).standard_normal(n)
    return mean + noise * (drawn - drawn.mean()) / drawn.std()


@pytest.mark.parametrize(
    ("measured", "kept"),
    [
        ({0.0: ranks(0.5), 0.25: ranks(0.55), 0.5: ranks(0.6)}, 0.5),
        ({0.0: ranks(0.5), 0.25: ranks(0.6), 0.5: ranks(0.6)}, 0.25),
        ({0.0: ranks(0.5), 0.25: ranks(0.45), 0.5: ranks(0.3)}, 0.0),
        ({0.0: ranks(0.5), 0.25: ranks(0.5), 0.5: ranks(0.5)}, 0.0),
        # Better, but by no more than chance: a standard error is 0.05 here.
        ({0.0: ranks(0.5), 0.25: ranks(0.52, noise=1.0), 0.5: ranks(0.5)}, 0.0),
        ({0.0: ranks(0.3), 0.5: ranks(0.6), 1.0: ranks(0.62, noise=1.0)}, 1.0),
    ],
    ids=["rises", "flat after a rise", "falls", "equal", "noise", "all the way"],
)
def test_the_best_share_is_kept_where_it_is_better_by_more_than_chance(measured, kept):
    chosen = choose(list(measured), measured.__getitem__)
    assert chosen.share == kept
    assert chosen.figures == {share: float(each.mean()) for share, each in measured.items()}


@pytest.mark.parametrize(
    ("measured", "kept"),
    [
        ({0.0: ranks(0.5), 0.5: ranks(0.52), 1.0: ranks(0.48, noise=1.0)}, 1.0),
        ({0.0: ranks(0.5), 0.5: ranks(0.5), 1.0: ranks(0.3)}, 0.0),
        ({0.0: ranks(0.5), 0.5: ranks(0.7), 1.0: ranks(0.6)}, 0.5),
    ],
    ids=["nothing but noise", "worse than the start", "too far"],
)
def test_a_choice_stands_until_another_is_better_by_more_than_chance(measured, kept):
    chosen = choose(list(measured), measured.__getitem__, base=1.0)
    assert (chosen.share, chosen.base) == (kept, 1.0)


@pytest.mark.parametrize(
    ("share", "wanted"),
    [
        (1.0, "25 labelled questions found nothing that is better by more than chance (MRR 0.500"),
        (0.5, "50% of the way was kept instead, by 25 labelled questions: MRR 0.600 to 0.700"),
        (0.0, "the start was kept instead, by 25 labelled questions: MRR 0.600 to 0.500"),
    ],
)
def test_what_two_probes_chose_is_said(tmp_path, share, wanted):
    first = selection.Choice(1.0, {0.0: 0.4, 1.0: 0.45}, (2000, "windows"))
    figures = {0.0: 0.5, 0.5: 0.7, 1.0: 0.6}
    second = selection.Choice(share, figures, (25, "labelled questions"), base=1.0)
    selection.save(tmp_path, [first, second], 7.5)
    lines = selection.said(tmp_path)
    assert (
        lines[0] == "100% of the way from the start was kept, by 2,000 windows: MRR 0.400 to 0.450"
    )
    assert lines[1].startswith(wanted)
    assert lines[2:] == ["BM25 weighs 7.5 beside the dense score"] * bool(share)


def test_reciprocal_ranks_by_hand(tiny, monkeypatch):
    vectors = np.float32([[1, 0], [0, 1], [0.6, 0.8]])
    monkeypatch.setattr(interpolation, "embed_rows", lambda *_: vectors)
    monkeypatch.setattr(interpolation, "embed_texts", lambda *_: np.float32([[1, 0], [0, 1]]))
    probe = interpolation.Probe(None, [{30}, {10, 20}], np.array([10, 20, 30]), "by hand")
    opened = OpenRun(MODEL, {}, LENGTHS, source=tiny.corpus)
    scores = interpolation.similarities(opened, probe)
    found = interpolation.reciprocal_ranks(scores, probe)
    # The first query's passage is second to row 10; of the second query's, row 20 is first.
    np.testing.assert_allclose(found, [1 / 2, 1])


def test_the_probe_is_of_passages_that_training_never_saw(tiny):
    probe = SELECT.probe(tiny.corpus, LENGTHS, held_out=0.3)
    asked = {row for rows in probe.gold for row in rows}
    held = windows.held_out_passages(tiny.corpus, 0.3)
    assert held[list(asked)].all() and asked <= set(probe.pool.tolist())
    assert len(set(probe.pool.tolist())) == len(probe.pool) and not held[probe.pool].all()
    assert len(probe.query.tokens) == len(probe.gold) == SELECT.size
    trained = windows.queries(tiny.corpus, 0.3, 4).rows
    assert not asked & set(trained.tolist())
    with pytest.raises(UserError, match=r"is held out to choose weights by: give more text"):
        SELECT.probe(tiny.corpus, LENGTHS, held_out=0.0)


@pytest.fixture(scope="module")
def start(tiny, tmp_path_factory):
    """A run of random parameters, as an import leaves one."""
    run = tmp_path_factory.mktemp("start") / "run"
    model = directory.sized(MODEL, tiny.corpus.vocabulary.size)
    parts = {"stages": ["import"], "lengths": vars(LENGTHS), "held_out": 0.3, "seed": 0}
    directory.describe(run, model, tiny.corpus, **parts)
    checkpoints = Checkpoints(directory.checkpoint_folder(run, "import"))
    checkpoints.save(0, {"state": {"params": initial.drawn_params(model, seed=0)}}, wait=True)
    checkpoints.close()
    return run


def train(run, tiny, start, rate, steps=40, questions=None):
    task = PassageWindows(LENGTHS, shortest=4, longest=9, neighbours=10)
    optimizer = optim.by_part(optim.adamw(rate, weight_decay=0.0), optim.frozen())
    stage = Stage("windows", task, Schedule(steps, 16, optimizer, log_every=10))
    given = {"init": start, "held_out": 0.3, "select": SELECT, "questions": questions}
    return pretrain.pretrain(run=run, corpus=tiny.corpus, stages=[stage], **given)


@pytest.fixture(scope="module")
def trained(tiny, start, tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    train(run, tiny, start, 3e-3)
    return run


@pytest.mark.slow
def test_training_that_helps_is_kept(trained, tiny, start):
    """What is kept lies between; a run opened has it and searches with BM25 beside it."""
    record = json.loads((trained / selection.SELECTION).read_text())
    kept, ranks = record["share"], record["mean_reciprocal_rank"]
    assert kept > 0 and ranks[str(kept)] > ranks["0.0"] + 0.03
    opened, ended = OpenRun.open(trained), OpenRun.open(trained, stage="windows")
    assert opened.stage == directory.BEST and opened.lexical_weight == 15.0
    assert ended.lexical_weight == 0
    wanted = between(OpenRun.open(start).params, ended.params, kept)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), opened.params, wanted)
    said = selection.said(trained)
    assert said[0].startswith(f"{kept:.0%} of the way from the start was kept")
    assert said[1:] == ["BM25 weighs 15 beside the dense score"]


@pytest.mark.slow
def test_the_start_is_kept_where_training_helps_nothing(tiny, start, tmp_path):
    """Bit for bit, and it is said."""
    _, params = train(tmp_path, tiny, start, 1e-9, steps=2)
    wanted = OpenRun.open(start).params
    for found in (params, OpenRun.open(tmp_path).params):
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert selection.said(tmp_path)[0].startswith("the start was kept, by 200 windows")


@pytest.mark.slow
def test_questions_choose_where_there_are_any(tiny, start, tmp_path):
    train(tmp_path, tiny, start, 1e-9, steps=2, questions=tiny.questions)
    assert selection.said(tmp_path)[0].startswith("the start was kept")
    record = json.loads((tmp_path / selection.SELECTION).read_text())
    assert record["probe"] == "labelled questions"
    assert [each["probe"] for each in record["before"]] == ["windows of held-out passages"]
    assert record["mean_reciprocal_rank"].keys() == {"0.0", "0.25", "0.5", "0.75", "1.0"}
    asked = len(read_questions(tiny.questions).asked)
    assert record["queries"] == asked // 2
    assert directory.read_record(tmp_path)["init"].keys() == {"stage", "step", "questions"}
    # Other questions are another run.
    with pytest.raises(UserError, match="has a run of another configuration: init"):
        train(tmp_path, tiny, start, 1e-9, steps=2)


@pytest.mark.slow
def test_the_same_call_again_changes_nothing(trained, tiny, start):
    before = (trained / selection.SELECTION).stat().st_mtime_ns
    _, params = train(trained, tiny, start, 3e-3)
    jax.tree.map(np.testing.assert_array_equal, params, OpenRun.open(trained).params)
    assert (trained / selection.SELECTION).stat().st_mtime_ns == before


@pytest.mark.slow
def test_it_is_measured_beside_what_one_could_have_for_nothing(trained, tiny, start, tmp_path):
    given = read_questions(tiny.questions)
    opened = OpenRun.open(trained)
    each = tmp_path / "each.jsonl"
    begun = OpenRun.open(start, tiny.corpus.path)
    report = evaluate_retrieval(opened, given, start=begun, clozes=0, each=each)
    rows = ("bm25", "start", "rrf", "fixed_mix", "retriever", "mixed")
    gold = {row: report[row]["gold_passage"] for row in rows}
    assert all(0 < each["ndcg@10"] <= 1 for each in gold.values())
    # The same search, of one and of both halves.
    ours, dense = (opened.search([q.question for q in given.asked], 5, lexical_weight=w).rows
                   for w in (None, 0.0))  # fmt: skip
    assert (ours != dense).any()
    shown = table(report)
    for said in ("this run with BM25", "start and BM25, fused by rank", "nDCG@10", "points at 5"):
        assert said in shown
    assert "of the way from the start was kept" in shown
    lines = [json.loads(line) for line in each.read_text("utf-8").splitlines()]
    assert len(lines) == gold["mixed"]["questions"]
    assert np.mean([x["mixed"]["recall@5"] for x in lines]) == pytest.approx(
        gold["mixed"]["recall"]["5"]
    )
    difference = report["differences"]["mixed - bm25"]["recall@5"]
    assert difference["difference"] == pytest.approx(
        gold["mixed"]["recall"]["5"] - gold["bm25"]["recall"]["5"]
    )
    assert difference["low"] <= difference["difference"] <= difference["high"]


@pytest.mark.slow
def test_evaluate_finds_where_a_run_began(trained, tiny, tmp_path, capsys):
    file = tmp_path / "report.json"
    words = ["evaluate", "--run", trained, "--questions", tiny.questions, "--json", file]
    assert cli.main([*map(str, words)]) == 0
    assert "start, dense" in capsys.readouterr().out
    report = json.loads(file.read_text())
    assert {"bm25", "start", "retriever", "rrf", "fixed_mix", "mixed"} <= report.keys()
    words = ["evaluate", "--run", trained, "--questions", tiny.questions, "--no-bm25"]
    assert cli.main([*map(str, words), "--reference", str(tmp_path / "no")]) == 2
    assert "there is no run at" in capsys.readouterr().err
