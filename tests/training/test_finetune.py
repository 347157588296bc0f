"""Fine-tuning on a small almanac, and asking what came of it."""

import dataclasses
import io
import json
import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from ralm_jax import cli
from ralm_jax.batches import Lengths
from ralm_jax.errors import UserError
from ralm_jax.evaluation.qa import evaluate_answers, table
from ralm_jax.examples import question_batches
from ralm_jax.inference import answering, embedding, vector_cache
from ralm_jax.inference.answering import Answer, Answered
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.loaders import retrieval_loader
from ralm_jax.metrics.intervals import interval
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.questions.question import ASKED_TWICE, Question, Questions
from ralm_jax.questions.read import read_questions
from ralm_jax.retrieval import index
from ralm_jax.retrieval.exact import Exact
from ralm_jax.retrieval.refresh import Asynchronous
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.runs.writers import metrics_file, read_metrics
from ralm_jax.selection.by_answers import spread
from ralm_jax.terminal import bar
from ralm_jax.training import finetune as finetuning
from ralm_jax.training import loop as training
from ralm_jax.training import optim
from ralm_jax.training.schedule import Schedule
from ralm_jax.weights.exporting import export_model

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(
    hidden=16, layers=1, heads=2, intermediate=16, positions=64, init_stddev=0.2,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
QUERY_ONLY = optim.by_part(
    optim.towers(query=optim.adamw(1e-2), passage=optim.frozen()), optim.adamw(1e-2)
)


@pytest.fixture(scope="module")
def pretrained(tiny, tmp_path_factory):
    """A run as pretraining leaves one, of random parameters."""
    run = tmp_path_factory.mktemp("pretrained") / "run"
    model = directory.sized(
        Ralm(SMALL, SMALL, embedding=8, pooling="mean"), tiny.corpus.vocabulary.size
    )
    parts = {"stages": ["ict"], "lengths": vars(LENGTHS), "held_out": 0.1, "seed": 0}
    directory.describe(run, model, tiny.corpus, **parts)
    checkpoints = Checkpoints(directory.checkpoint_folder(run, "ict"))
    checkpoints.save(1, {"state": {"params": initial.drawn_params(model, seed=0)}}, wait=True)
    checkpoints.close()
    return run


def finetune(out, pretrained, tiny, **more):
    options = {
        "run": pretrained, "train": tiny.questions, "lengths": LENGTHS, "beam": 30, "candidates": 3,
        "span_width": 4,
    }  # fmt: skip
    course = {"steps": 4, "optimizer": QUERY_ONLY, "checkpoint_every": 2}
    course |= {name: more.pop(name) for name in list(more) if name in Schedule.__annotations__}
    schedule = Schedule(batch=8, log_every=1, **course)
    return finetuning.finetune(out=out, schedule=schedule, **{**options, **more})


@pytest.fixture(scope="module")
def tuned(pretrained, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "run"
    finetune(out, pretrained, tiny, steps=40, checkpoint_every=40)
    return out


def lines(run):
    return [x for x in read_metrics(metrics_file(run)) if "loss" in x]


def test_the_reader_learns_and_the_passage_tower_stays(pretrained, tuned):
    begun, ended = (
        OpenRun.open(pretrained).params["retriever"],
        OpenRun.open(tuned).params["retriever"],
    )
    jax.tree.map(np.testing.assert_array_equal, ended["passage_tower"], begun["passage_tower"])
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), ended["query_tower"], begun["passage_tower"]
    )
    assert max(jax.tree.leaves(moved)) > 1e-3
    logged = lines(tuned)
    losses = [x["reading_loss"] for x in logged if x["answer_in_read"]]
    assert len(losses) > 10 and np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.5
    assert all(0 <= x["answer_in_read"] <= x["answer_in_beam"] <= 1 for x in logged)


@pytest.mark.slow
def test_a_resumed_run_ends_as_if_nothing_had_happened(pretrained, tiny, tmp_path):
    finetune(tmp_path / "whole", pretrained, tiny)
    with pytest.raises(training.Stopped):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "told_to_stop", lambda loop, done: done == 2)
            finetune(tmp_path / "run", pretrained, tiny)
    finetune(tmp_path / "run", pretrained, tiny)
    jax.tree.map(
        np.testing.assert_array_equal,
        OpenRun.open(tmp_path / "run").params,
        OpenRun.open(tmp_path / "whole").params,
    )
    assert [x["step"] for x in lines(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_the_parameters_that_answer_most_are_kept(pretrained, tiny, tmp_path, monkeypatch):
    """Answered at steps 0, 2, 4, here so that step 2 is the best; stopped there, the run goes on."""
    asked = read_questions(tiny.questions).asked[:10]
    right = iter([1, 6, 3])

    def said(opened, *_):
        share = next(right)
        texts = [q.answers[0] if i < share else "?" for i, q in enumerate(asked)]
        return [[Answered([Answer(t, 1.0, 0, 0, 0)], np.zeros(1), np.ones(1)) for t in texts]]

    monkeypatch.setattr(answering, "read", said)
    with pytest.raises(training.Stopped):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "told_to_stop", lambda loop, done: done == 2)
            finetune(tmp_path / "run", pretrained, tiny, dev=asked, eval_every=2)
    finetune(tmp_path / "run", pretrained, tiny, dev=asked, eval_every=2)
    evals = [
        (x["step"], x["eval/exact_match"])
        for x in read_metrics(metrics_file(tmp_path / "run"))
        if "eval/exact_match" in x
    ]
    assert evals == [(0, 0.1), (2, 0.6), (4, 0.3)]
    kept = OpenRun.open(tmp_path / "run")
    assert (kept.stage, kept.step) == (directory.BEST, 2)
    assert OpenRun.open(tmp_path / "run", stage="finetune").step == 4


def test_development_questions_are_spread_evenly():
    asked = [Question(str(i), "?", ("x",)) for i in range(10)]
    assert [q.id for q in spread(asked, 4)] == ["0", "3", "6", "9"]
    assert len(spread(asked, 10)) == len(spread(asked, 99)) == 10 and spread([], 5) == []
    # One without an answer cannot tell which parameters answer more.
    some = [q._replace(answers=(), gold_ids=("d",)) if int(q.id) % 2 else q for q in asked]
    assert [q.id for q in spread(some, 99)] == ["0", "2", "4", "6", "8"]
    assert [q.id for q in spread(some, 3)] == ["0", "4", "8"]


def test_development_questions_without_answers_are_refused_before_anything_is_made(
    pretrained, tiny, tmp_path
):
    dev = [Question("1", "?", (), ("d1",))]
    with pytest.raises(UserError, match="no development question has an answer"):
        finetune(tmp_path / "run", pretrained, tiny, dev=dev)
    assert not (tmp_path / "run").exists()


def test_questions_that_are_cut_in_training_are_said_so(pretrained, tiny, tmp_path, capsys):
    first, *rest = tiny.questions.read_text("utf-8").splitlines()
    question = json.loads(first)
    longer = json.dumps(
        {**question, "id": "long", "question": "and so " * 20 + question["question"]}
    )
    (tmp_path / "q.jsonl").write_text("\n".join([first, longer, *rest]), "utf-8")
    finetune(tmp_path / "run", pretrained, tiny, train=tmp_path / "q.jsonl", steps=1)
    said = "".join(capsys.readouterr())
    assert f"finetune: 1 question: cut to {LENGTHS.query - 2} wordpieces" in said


@pytest.mark.slow
def test_passages_may_learn_too(pretrained, tiny, tmp_path):
    both = optim.by_part(*[optim.adamw(1e-2)] * 2)
    finetune(tmp_path / "run", pretrained, tiny, train_passages=True, optimizer=both)
    begun, ended = (OpenRun.open(r).params["retriever"] for r in (pretrained, tmp_path / "run"))
    kernel = lambda p: p["passage_tower"]["projection"]["kernel"]  # noqa: E731
    assert np.abs(kernel(ended) - kernel(begun)).max() > 1e-3


@pytest.mark.slow
def test_vectors_that_training_wrote_are_not_read_again_for_their_checksum(
    pretrained, tiny, tmp_path, monkeypatch
):
    """Neither at a publish nor at a check of development questions, of which there are some here."""
    # No vectors that another run has left are read to begin with.
    monkeypatch.setenv("RALM_CACHE", str(tmp_path / "cache"))
    read = []
    original = index._checksum
    monkeypatch.setattr(index, "_checksum", lambda *given: read.append(1) or original(*given))
    both = optim.by_part(*[optim.adamw(1e-2)] * 2)
    options = {"train_passages": True, "optimizer": both, "refresh": Asynchronous(every=2, lag=1)}
    dev = read_questions(tiny.questions).asked[:2]
    finetune(tmp_path / "run", pretrained, tiny, dev=dev, eval_every=2, **options)
    published = [
        x for x in read_metrics(metrics_file(tmp_path / "run")) if "publish/index_step" in x
    ]
    assert len(published) == 2 and not read


@pytest.mark.slow
def test_the_index_is_fitted_to_the_beam(pretrained, tiny, tmp_path, monkeypatch):
    fitted = []

    def choose(passages, kind, **given):
        fitted.append(given["k"])
        return Exact()

    monkeypatch.setattr(retrieval_loader, "choose", choose)
    finetune(tmp_path / "run", pretrained, tiny, beam=17, steps=1)
    assert fitted == [17]
    logged = read_metrics(metrics_file(tmp_path / "run"))
    assert [x["publish/index_recall"] for x in logged if "publish/index_recall" in x] == [1.0]


def test_a_run_of_other_questions_is_not_resumed(pretrained, tuned, tiny, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(tiny.questions.read_text("utf-8").splitlines()[0] + "\n", "utf-8")
    with pytest.raises(UserError, match="another configuration: init is"):
        finetune(tuned, pretrained, tiny, train=other)


def test_questions_that_nothing_answers_are_refused(pretrained, tiny, tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps({"question": "Who?", "answers": ["zzz qqq xxx"]}) + "\n")
    with pytest.raises(
        UserError, match=r"no passage of .* has an answer to any of the 1 questions"
    ):
        finetune(tmp_path / "run", pretrained, tiny, train=file)


@pytest.fixture(scope="module")
def opened(tuned):
    return OpenRun.open(tuned)


def test_answers_stand_in_their_passages(opened, tiny):
    asked = [q["question"] for q in tiny.almanac.questions[:11]]
    found = opened.answer(asked, beam=20, candidates=3)
    assert len(found) == 11
    texts = tiny.corpus.texts()
    for each in found:
        assert len(each.rows) == 20 and each.probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert (np.diff(each.probabilities) <= 1e-9).all()
        said = [a.probability for a in each.answers]
        assert said and sum(said) <= 1 + 1e-5 and said == sorted(said, reverse=True)
        for given in each.answers:
            assert texts[given.row]["text"].decode()[given.start : given.stop] == given.text
            assert given.row in each.rows[:3]
        names = [a.text.lower() for a in each.answers]
        assert len(set(names)) == len(names)


def test_the_answer_to_a_question_does_not_depend_on_the_others(opened, tiny):
    asked = [q["question"] for q in tiny.almanac.questions[:9]]
    together = opened.answer(asked, beam=10)
    alone = opened.answer(asked[4:5], beam=10)[0]
    assert alone.rows.tolist() == together[4].rows.tolist()
    assert alone.answers[0].text == together[4].answers[0].text
    assert alone.answers[0].probability == pytest.approx(
        together[4].answers[0].probability, rel=1e-3
    )


def test_offsets_are_those_of_the_bodies(tiny):
    """What the place of an answer is known by: the text of a passage makes the wordpieces of its body."""
    corpus, tokenizer = tiny.corpus, tiny.corpus.tokenizer()
    for row in range(0, corpus.size, 5):
        title, body = (int(x) for x in corpus.lengths[row])
        ids = tokenizer.encode(corpus.texts()[row]["text"].decode(), add_special_tokens=False).ids
        assert ids == corpus.tokens[row, title : title + body].tolist()


def test_the_embedder_of_an_export_is_that_of_questions(pretrained, tiny, tmp_path):
    given = directory.sized(Ralm(SMALL, SMALL, embedding=8), tiny.corpus.vocabulary.size)
    model, params = finetuning.question_answerer(
        OpenRun(given, initial.drawn_params(given, seed=0), LENGTHS),
        span_width=4,
        seed=0,
    )
    params["retriever"]["query_tower"] = jax.tree.map(
        lambda x: x + 1, params["retriever"]["query_tower"]
    )
    run = tmp_path / "run"
    parts = {"stages": ["finetune"], "lengths": vars(LENGTHS), "held_out": 0.0, "seed": 0}
    directory.describe(run, model, tiny.corpus, **parts)
    checkpoints = Checkpoints(directory.checkpoint_folder(run, "finetune"))
    checkpoints.save(1, {"state": {"params": params}}, wait=True)
    checkpoints.close()
    export_model(run, "realm", tmp_path / "out")
    bias = load_file(tmp_path / "out" / "model.safetensors")["embedder.cls.dense.bias"]
    np.testing.assert_array_equal(bias, np.ones(8, np.float32))  # drawn as 0


def test_what_is_read_for_several_retrievers_is_read_once_and_alike(opened, tiny, monkeypatch):
    asked = opened.encode([q["question"] for q in tiny.almanac.questions[:6]])
    ranked = opened.search(asked, 10)
    turned = embedding.Ranking(ranked.rows[:, ::-1], ranked.scores[:, ::-1])
    pairs = []
    original = answering.read_pairs
    monkeypatch.setattr(answering, "read_pairs", lambda *a: pairs.append(len(a[4])) or original(*a))
    ours, same, backwards = answering.read(opened, asked, [ranked, ranked, turned], 7)
    assert pairs == [6 * 10]  # not 6 * 7 * 3
    for one, two in zip(ours, same, strict=True):
        assert one.answers == two.answers
    (alone,) = answering.read(opened, asked, [turned], 7)
    for one, two in zip(backwards, alone, strict=True):
        assert one.answers[0] == two.answers[0]


def test_reading_is_that_of_the_model(opened, tiny):
    """Against the whole model at full length, with a softmax over all spans of all passages read."""
    asked = opened.encode([q["question"] for q in tiny.almanac.questions[:3]])
    ranked = opened.search(asked, 3)
    (found,) = answering.read(opened, asked, [ranked], 3)
    inputs = question_batches.joint_text(opened.corpus, asked, ranked.rows, LENGTHS.joint)
    spans = opened.model.apply({"params": opened.params}, *inputs, method="read")
    total = spans + opened.model.score_scale * ranked.scores[:, :, None, None]
    whole = np.asarray(jax.nn.softmax(total.reshape(3, -1), axis=1)).reshape(total.shape)
    for b, each in enumerate(found):
        best = each.answers[0]
        k, start, wide = np.unravel_index(whole[b].argmax(), whole[b].shape)
        assert best.row == ranked.rows[b, k]
        ids = inputs[0].tokens[b, k, start : start + wide + 1]
        assert opened.tokenizer.encode(best.text, add_special_tokens=False).ids == ids.tolist()
        assert best.probability == pytest.approx(whole[b].max(), abs=1e-5)


def test_questions_that_nothing_answers_or_nothing_finds(opened, tiny, tmp_path):
    known = read_questions(tiny.questions).asked[0]
    asked = [known, Question("x", "\u2603 \u2603", ("not in any passage",))]
    report = evaluate_answers(opened, Questions(asked, {ASKED_TWICE: 3}), beam=20, candidates=2)
    assert (report["questions"], report["answerable"]) == (2, 1)
    assert report["bm25"]["nothing_found"] == 1 and report["retriever"]["nothing_found"] == 0
    shown = table(report)
    assert "2 questions, 1 of them answered by some passage" in shown
    assert f"3 questions: {ASKED_TWICE}" in shown
    assert "(no passage was found for 1 question)" in shown


def test_figures_of_answers_are_over_the_questions_that_have_answers(opened, tiny, tmp_path):
    given = read_questions(tiny.questions).asked
    answered, gold = given[:2], [q._replace(answers=()) for q in given[2:5]]
    alone = evaluate_answers(opened, Questions(answered, {}), beam=20, candidates=2)
    file = tmp_path / "said.jsonl"
    both = evaluate_answers(
        opened, Questions([*answered, *gold], {}), beam=20, candidates=2, predictions=file
    )
    assert (both["questions"], both["with_answers"], both["answerable"]) == (5, 2, 2)
    for name in ("retriever", "frozen", "bm25"):
        for figure in ("exact_match", "f1", "reader_oracle", "recall", "answerable"):
            assert both[name][figure] == alone[name][figure]
        assert both[name]["gold_passage"]["questions"] == 5
    shown = table(both)
    assert "5 questions; EM, F1, oracle and @k are over the 2 with answers, 2 of them" in shown
    assert "Recall of gold passages, over 5 questions" in shown
    said = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert [x["exact_match"] is None for x in said] == [False] * 2 + [True] * 3
    assert [x["f1"] is None for x in said] == [False] * 2 + [True] * 3


def test_without_any_answer_there_is_no_table_of_answers(opened, tiny):
    given = [q._replace(answers=()) for q in read_questions(tiny.questions).asked[:3]]
    given.append(given[0]._replace(question="Who else?", gold_ids=("nowhere",)))
    report = evaluate_answers(opened, Questions(given, {}), beam=20, candidates=2)
    assert report["with_answers"] == 0 and "exact_match" not in report["retriever"]
    shown = table(report)
    assert "4 questions, none with an answer to compare with" in shown and "EM" not in shown
    assert "1 question: none of their gold ids is in the corpus" in shown
    assert "Recall of gold passages, over 3 questions" in shown


def test_what_was_not_searched_is_a_dash_and_what_was_cut_is_said(opened, tiny):
    given = read_questions(tiny.questions).asked[:2]
    given.append(given[0]._replace(question="and so on " * 9 + given[0].question))
    lost = Question("x", "Who?", ("not in any passage",))
    report = evaluate_answers(opened, Questions([*given, lost], {}), beam=3, candidates=2)
    shown = table(report)
    assert "nan" not in shown and f"1 question: cut to {LENGTHS.query - 2} wordpieces" in shown
    row = next(line for line in shown.splitlines() if line.startswith("fine-tuned retriever"))
    assert row.split()[-3:-1] == ["-", "-"]
    # No question is answered by any passage: exact match over those is not 0%.
    nothing = evaluate_answers(opened, Questions([lost], {}), beam=3, candidates=2)
    assert nothing["retriever"]["answerable"] is None and nothing["answerable"] == 0
    row = next(line for line in table(nothing).splitlines() if line.startswith("fine-tuned"))
    assert row.split()[-1] == "-"


def test_vectors_of_another_model_are_not_searched(tuned, opened, tiny, tmp_path):
    """Of a run whose index was put in from elsewhere: it is embedded again, and that is said."""
    other = tmp_path / "run"
    shutil.copytree(tuned, other, ignore=shutil.ignore_patterns("index", "vectors"))
    wrong = np.zeros((tiny.corpus.size, 8), np.float32)
    writer = index.create(
        other / "index" / "finetune", 0, wrong.shape, tiny.corpus.fingerprint, "x"
    )
    writer.write(0, wrong)
    writer.commit()
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RALM_CACHE", str(tmp_path / "cache"))
        patch.setattr(
            vector_cache, "bar", lambda what, total: said.append(what) or bar(what, total)
        )
        again = OpenRun.open(other)
        assert len(again.vectors) == tiny.corpus.size
    assert "not by these parameters" in said[0]
    asked = [tiny.almanac.questions[0]["question"]]
    one, two = (o.answer(asked)[0] for o in (opened, again))
    assert one.rows.tolist() == two.rows.tolist()


def test_a_run_that_does_not_answer_is_refused(pretrained):
    with pytest.raises(UserError, match=r"was not fine-tuned: ralm finetune --run"):
        OpenRun.open(pretrained).answer(["Who?"])


def test_the_small_model_is_what_the_run_says(tuned):
    loaded = OpenRun.open(tuned)
    assert loaded.model.span_width == 4 and not loaded.model.share_towers
    assert dataclasses.asdict(loaded.model.reader_config)["hidden"] == 16


SETTINGS = {
    "STEPS": 3, "BATCH": 8, "QUERY_LENGTH": 20, "PASSAGE_LENGTH": 56, "JOINT_LENGTH": 64, "BEAM": 20,
    "CANDIDATES": 2, "SPAN_WIDTH": 4,
}  # fmt: skip


@pytest.mark.slow
def test_the_command_line_from_questions_to_an_answer(pretrained, tiny, tmp_path, capsys):
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(tiny.questions.read_text("utf-8").splitlines()[:9]), "utf-8")
    out = tmp_path / "out"
    words = ["finetune", "--run", pretrained, "--train", tiny.questions, "--dev", few, "--out", out]
    words += [w for name, value in SETTINGS.items() for w in ("--set", f"{name} = {value}")]
    assert cli.main([*map(str, words)]) == 0
    shown = capsys.readouterr().out
    assert "9 questions, 9 of them answered by some passage; 5 passages read" in shown
    predictions, figures = tmp_path / "said.jsonl", tmp_path / "figures.json"
    words = ["evaluate", "--run", out, "--questions", few, "--predictions", predictions]
    assert cli.main([*map(str, words), "--json", str(figures)]) == 0
    assert "BM25, same reader" in capsys.readouterr().out
    report = json.loads(figures.read_text())
    said = [json.loads(line) for line in predictions.read_text("utf-8").splitlines()]
    assert len(said) == 9
    right = np.mean([line["exact_match"] for line in said])
    assert report["retriever"]["exact_match"][0] == pytest.approx(right)
    for line in said:
        span = line["evidence"]
        assert span["text"][span["start"] : span["stop"]] == line["answer"]
    question = said[0]["question"]
    assert cli.main(["ask", question, "--run", str(out), "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["answer"] == said[0]["answer"]
    assert list(record["seconds"]) == ["embed", "search", "read"]
    assert cli.main(["ask", question, "--run", str(out)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\(\d+ ms: embed \d+, search \d+, read \d+\)", shown)
    assert shown.startswith(record["answer"]) and f"[{record['answer']}]" in shown.replace(
        "\n  ", " "
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, more",
    [
        ("finetune_small", {"RULE": "@matching.substring"}),
        ("finetune_both", {"REFRESH_EVERY": 1, "REFRESH_LAG": 1}),
        ("finetune_both", {"optim.towers.query": "@optim.frozen()"}),
        (
            "finetune",
            {"DISTIL": "@distillation.supervised", "optim.towers.query": "@optim.frozen()"},
        ),
    ],
)
def test_the_choices_that_ship(pretrained, tiny, tmp_path, config, more):
    """Which towers learn, as configured; the passages' vectors are those of the tower at the end."""
    out = tmp_path / "out"
    words = ["finetune", "--config", f"runs/{config}.gin", "--run", pretrained, "--out", out]
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(tiny.questions.read_text("utf-8").splitlines()[:2]), "utf-8")
    words += ["--train", tiny.questions, "--dev", few]
    given = {**SETTINGS, "RETRIEVER_RATE": 1e-2, **more}
    words += [w for name, value in given.items() for w in ("--set", f"{name} = {value}")]
    assert cli.main([*map(str, words)]) == 0
    begun = OpenRun.open(pretrained).params["retriever"]["passage_tower"]
    ended = OpenRun.open(out, stage=finetuning.STAGE).params["retriever"]
    moved = {
        tower: max(jax.tree.leaves(jax.tree.map(lambda a, b: float(abs(a - b).max()), begun, now)))
        for tower, now in ended.items()
    }
    assert (moved["passage_tower"] > 1e-4) == (config == "finetune_both")
    assert (moved["query_tower"] > 1e-4) == ("optim.towers.query" not in more)
    published = index.versions(directory.index_folder(out, finetuning.STAGE))
    assert (max(published) > 0) == ("REFRESH_EVERY" in more)


def test_questions_are_asked_for_where_none_is_given(tuned, tiny, capsys, monkeypatch):
    questions = [q["question"] for q in tiny.almanac.questions[:2]]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(questions) + "\n"))
    assert cli.main(["ask", "--run", str(tuned), "--json", "-"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["question"] for line in lines] == questions


def test_mistakes_are_one_line(pretrained, tuned, tiny, tmp_path, capsys):
    asked = ["--questions", tiny.questions]
    tune = ["finetune", "--run", pretrained, "--train", tiny.questions, "--out", tmp_path / "o"]
    for words, said in (
        (["ask", "Who?", "--run", pretrained], "was not fine-tuned"),
        (["ask", "Who?", "--run", tmp_path / "no"], "there is no run at"),
        (["ask", " ", "--run", tuned], "the question is empty"),
        (
            ["evaluate", "--run", tuned, *asked, "--json", "no/x.json"],
            "there is no folder no; make",
        ),
        (
            ["evaluate", "--run", tuned, *asked, "--predictions", "no/x"],
            "there is no folder no; make",
        ),
        (["evaluate", "--run", pretrained, *asked, "--predictions", "x"], "does not answer"),
        ([*tune, "--dev", "no.jsonl"], "there is no file of questions"),
    ):
        assert cli.main([str(word) for word in words]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_the_interval_holds_the_mean_and_narrows():
    rng = np.random.default_rng(1)
    few, many = (interval((rng.random(n) < 0.3).astype(float)) for n in (50, 5000))
    for mean, low, high in (few, many):
        assert low < mean < high
    assert many[2] - many[1] < 0.03 < few[2] - few[1]
    assert interval([1.0, 1.0]) == [1.0, 1.0, 1.0]
