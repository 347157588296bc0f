"""Running an experiment: rows are made once, saved as they are done, and mistakes are one line."""

import json

import pytest

from experiments import datasets, options, pricing, record, runner
from experiments.rows import Finetuning, Row, Training
from experiments.saved import saved_rows
from experiments.setting import ALMANAC, SCALES
from ralm_jax.errors import UserError


@pytest.fixture
def experiment(monkeypatch, small_data):
    """run(*words) -> the exit code; rows are numbers, and `made` says which were made, in order."""
    made = []
    monkeypatch.setattr(datasets, "almanac_data", lambda out, seed: small_data)
    monkeypatch.setattr(pricing, "total", lambda row: 1e9)
    monkeypatch.setattr(pricing, "table", lambda rows, finished: f"{len(rows)} to make")

    def row(setting, kind):
        def make():
            if kind == "bad":
                raise UserError("the disk is full")
            made.append((kind, setting.seed))
            return {"kind": kind, "seed": setting.seed, "seconds": {"run": 2.0}}

        asked = Training(
            setting.run("r"), "c.gin", setting.data.corpus, None, [f"A = '{setting.out}'"]
        )
        name, finetuning = f"{kind}-{setting.seed}", Finetuning("f.gin", ["SEED = 1"])
        return Row(name, kind, None, [asked], finetuning, make)

    def rows(settings, given):
        return [row(setting, kind) for kind in given.kinds for setting in settings]

    def run(*words, **more):
        more = {"scales": (ALMANAC,)} | more
        table = lambda saved: f"{len(saved)} rows\n"  # noqa: E731
        choices = {"kinds": ("good", "better", "bad")}
        argv = list(map(str, words))
        return runner.run("trial", rows, table, argv, usage="help", choices=choices, **more)

    run.made = made
    return run


def test_rows_are_made_once_in_order_and_saved_one_by_one(experiment, tmp_path, capsys):
    words = ("--out", tmp_path, "--seeds", "0,1")
    assert experiment(*words, "--kinds", "good") == 0
    assert experiment.made == [("good", 0), ("good", 1)]
    assert (tmp_path / "trial.md").read_text() == "2 rows\n"
    assert "2 to make" in capsys.readouterr().out
    assert experiment(*words, "--kinds", "good,better") == 0
    assert experiment.made[2:] == [("better", 0), ("better", 1)]
    result = json.loads((tmp_path / "trial.json").read_text())
    assert result["seeds"] == [0, 1] and len(result["rows"]) == 4
    assert saved_rows(tmp_path / "trial.json") == result["rows"]


def test_a_row_says_how_it_was_made_without_paths_of_this_machine(experiment, tmp_path):
    assert experiment("--runs", tmp_path, "--seeds", "3", "--kinds", "good") == 0
    text = (tmp_path / "trial.json").read_text()
    result = json.loads(text)
    assert result["command"] == "python -m experiments.trial --kinds good --seeds 3 --out DIR"
    (row,) = result["rows"]
    assert row["config"] == {"r": ["c.gin", "A = 'DIR'"], "finetune": ["f.gin", "SEED = 1"]}
    assert row["flops"] == 1e9 and row["wall_seconds"] >= 0
    assert {"commit", "hardware"} <= row.keys() & result.keys()
    assert str(tmp_path) not in text


def test_a_row_that_fails_leaves_the_rows_before_it(experiment, tmp_path, capsys):
    assert experiment("--out", tmp_path, "--seeds", "0", "--kinds", "good,bad,better") == 2
    assert capsys.readouterr().err.endswith("trial: the disk is full\n")
    assert [p.name for p in (tmp_path / "trial").iterdir()] == ["good-0.json"]
    assert (tmp_path / "trial.md").read_text() == "1 rows\n"


def test_a_dry_run_prints_the_cost_and_makes_nothing(experiment, tmp_path, capsys):
    assert experiment("--out", tmp_path, "--dry-run") == 0
    assert experiment.made == [] and list(tmp_path.iterdir()) == []
    assert "9 to make" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "more", "said"),
    [
        (["--kinds", "good,best"], {}, "--kinds: there is no best; there are good, better, bad"),
        (["--seeds", "0,one"], {}, "--seeds 0,one: give whole numbers, separated by commas"),
        (["--scale", "wiki9k"], {"scales": SCALES}, "--scale wiki9k needs --corpus, --train"),
        (
            ["--scale", "almanac", "--init", "x"],
            {"scales": SCALES},
            "--init: the scale almanac generates its own data",
        ),
        (
            ["--scale", "paper"],
            {"scales": SCALES, "question_sets": True},
            "--scale paper needs --corpus, --questions",
        ),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_made(experiment, tmp_path, capsys, words, more, said):
    assert experiment("--out", tmp_path, *words, **more) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"trial: {said}") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_question_sets():
    given = ["nq=a.jsonl,b.jsonl", "wq=c,d"]
    sets = options.parse_question_sets(given)
    assert {name: tuple(map(str, files)) for name, files in sets.items()} == {
        "nq": ("a.jsonl", "b.jsonl"),
        "wq": ("c", "d"),
    }
    for wrong in ("nq", "nq=a", "=a,b", "nq=,b"):
        with pytest.raises(UserError, match="not of the form NAME=TRAIN,DEV"):
            options.parse_question_sets([wrong])


def test_a_setting_for_each_question_set_and_seed(tmp_path):
    record_of = lambda n: json.dumps({"question": f"who is {n}?", "answers": ["x"]}) + "\n"  # noqa: E731
    (tmp_path / "q.jsonl").write_text("".join(map(record_of, range(20))))
    q = str(tmp_path / "q.jsonl")
    words = ["--out", str(tmp_path), "--scale", "paper", "--corpus", "C", "--seeds", "0,1"]
    words += ["--questions", f"nq={q},{q}", "--questions", f"wq={q},{q}"]
    given = options.parse(words, None, SCALES, {}, question_sets=True)
    options.check(given, {})
    settings = options.settings_of(given, question_sets=True)
    assert [s.row_name("realm") for s in settings] == [
        "realm-nq-0", "realm-nq-1", "realm-wq-0", "realm-wq-1",
    ]  # fmt: skip
    assert settings[0].data.select == tmp_path / "nq" / "select.jsonl"
    assert len(settings[0].data.select.read_text().splitlines()) == 2
    command = options.command("trial", given, SCALES, {})
    wanted = "--questions nq=TRAIN,DEV --questions wq=TRAIN,DEV --seeds 0,1 --out DIR"
    assert command == f"python -m experiments.trial --scale paper --corpus CORPUS {wanted}"


def test_only_code_and_configurations_make_a_commit_dirty(tmp_path, monkeypatch):
    """A result or a document that differs does not shape what is measured."""
    git = ["git", "-C", str(tmp_path)]
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    results = tmp_path / "experiments" / "results"
    results.mkdir(parents=True)
    (tmp_path / "README.md").write_text("a")
    (tmp_path / "experiments" / "table2.py").write_text("a")
    (results / "r.json").write_text("a")
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "c"]):
        record.subprocess.run([*git[:3], *words], check=True)
    monkeypatch.setattr(record, "RESULTS", results)
    clean = record.commit()
    assert len(clean) == 12
    (tmp_path / "README.md").write_text("b")
    (results / "r.json").write_text("b")
    assert record.commit() == clean
    (tmp_path / "experiments" / "new.py").write_text("b")
    assert record.commit() == f"{clean}-dirty"
