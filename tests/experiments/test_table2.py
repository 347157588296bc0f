"""Table 2: the runs that its rows need, what it says, and that every configuration is sound."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import datasets, pipeline, table2
from experiments.setting import IMPORTED, SCALES, Setting
from ralm_jax import gin_config
from ralm_jax.arguments import shared
from ralm_jax.data.corpus import open_corpus
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.questions.read import read_questions
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.sources.almanac import World

CONFIGS = Path(shared.configs()) / "experiments"
DATA = datasets.Data(*map(Path, ("z", "train", "select", "dev", "x")))


def setting_at(scale):
    return Setting(scale, Path("out"), 1, DATA, Path("init") if scale in IMPORTED else None)


@pytest.mark.parametrize(
    "file", sorted(CONFIGS.glob("*/*.gin")), ids=lambda f: f"{f.parent.name}-{f.stem}"
)
def test_configurations_are_short_and_sound(file):
    lines = file.read_text("utf-8").splitlines()
    assert (
        len(lines) <= 15
        and lines[0].startswith(("# Table 2", "# The objectives"))
        and lines[1].startswith(("#", "inc"))
    )
    target = "finetune.finetune" if file.stem == "finetune" else "pretrain.pretrain"
    given = gin_config.bindings(target, str(file))
    stages = given.get("stages", [None])
    assert stages and (given.get("model") is None or file.stem in ("ict", "finetune"))
    names = {"uniform": "random_uniform", "span": "random_span"}
    for stage in stages if target == "pretrain.pretrain" else ():
        if hasattr(stage.task, "mask") and stage.name != "ict":
            assert stage.task.mask.__name__ == names.get(file.stem, "salient_span")
        if stage.name == "realm" and file.stem == "stale":
            fresh = gin_config.bindings(target, str(file.with_name("realm.gin")))["stages"][-1]
            assert stage.task.refresh.every == 30 * fresh.task.refresh.every


def test_the_stale_row_is_refreshed_at_the_scale_of_the_paper_alone():
    """What NOTE says of the rows that were run."""
    for scale in SCALES:
        given = gin_config.bindings("pretrain.pretrain", f"experiments/{scale}/stale.gin")
        stage = given["stages"][-1]
        refreshed = stage.task.refresh.published(stage.schedule.steps) > 0
        assert refreshed == (scale == "paper")


def test_every_row_has_its_runs_in_order():
    for scale in SCALES:
        at = setting_at(scale)
        for row in table2.ROWS.values():
            for half in (row.retriever, row.reader):
                made = [at.init]
                for training in at.chain(half):
                    assert (CONFIGS.parent / training.config).is_file()
                    assert training.start in (None, *made)
                    made.append(training.run)
                assert at.run(half) in made
        assert [t.run.name for t in at.chain("stale")][-2:] == ["warmup", "stale"]
    assert setting_at("wiki9k").chain("warmup")[0].start == Path("init")
    assert setting_at("paper").chain("ict")[0].start is None
    assert setting_at("almanac").changes("elsewhere") == ["SEED = 1", "ASKED = 'x'"]


def made(row, seed, exact_match, recall):
    return {"row": row, "seed": seed, "exact_match": [exact_match] * 3, "recall@5": recall}


def test_orderings_are_compared_seed_by_seed():
    rows = [made("realm", 0, 0.8, 0.5), made("realm", 1, 0.7, 0.5)]
    rows += [
        made("baseline", 0, 0.5, 0.5),
        made("baseline", 1, 0.75, 0.6),
        made("stale", 1, 0.1, 0.1),
    ]
    compared = lambda a, b, column: table2.agreement(rows, a, b, column)  # noqa: E731
    assert compared("realm", "baseline", "exact match") == "in some seeds (+30.0, -5.0)"
    assert compared("realm", "stale", "exact match") == "in every seed (+60.0)"
    assert compared("realm", "baseline", "recall@5") == "in no seed (+0.0, -10.0)"
    assert compared("realm", "span", "recall@5") == "not run"
    shown = table2.table(rows)
    assert "| REALM | 2 | 75.0 (70.0 to 80.0) | 50.0 (50.0 to 50.0) | 38.2 | 38.5 |" in shown
    assert "| random span masks | 0 | not run | not run | 35.3 | 26.1 |" in shown


def test_the_unasked_facts_of_a_world_are_reported(tmp_path):
    data = datasets.almanac_data(tmp_path, 2, World(people=30, names=10))
    parts = {
        n: {q.question for q in read_questions(getattr(data, n)).asked}
        for n in ("train", "select", "dev")
    }
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 180
    assert 10 < len(parts["dev"]) < 70
    z, x = open_corpus(data.corpus), open_corpus(data.asked)
    assert (data.corpus / "vocab.txt").read_text() == (data.asked / "vocab.txt").read_text()
    texts = lambda c: {c.texts()[row]["text"] for row in range(c.size)}  # noqa: E731
    assert not texts(z) & texts(x) and set(z.span_groups) == set(x.span_groups)


def test_halves_of_two_runs_are_put_together(tiny, tmp_path):
    config = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=8, positions=64)
    model = directory.sized(Ralm(config, config, embedding=8), tiny.corpus.vocabulary.size)
    drawn = []
    for seed in (0, 1):
        run = tmp_path / str(seed)
        parts = {"lengths": {}, "held_out": 0.1, "seed": seed}
        directory.describe(run, model, tiny.corpus, stages=["realm"], **parts)
        checkpoints = Checkpoints(directory.checkpoint_folder(run, "realm"))
        drawn.append(initial.drawn_params(model, seed))
        checkpoints.save(1, {"state": {"params": drawn[-1]}}, wait=True)
        checkpoints.close()
    out = pipeline.combined(tmp_path / "both", tmp_path / "0", tmp_path / "1")
    # It is made once.
    assert pipeline.combined(out, tmp_path / "1", tmp_path / "0") == out
    params = OpenRun.open(out).params
    jax.tree.map(np.testing.assert_array_equal, params["retriever"], drawn[0]["retriever"])
    jax.tree.map(np.testing.assert_array_equal, params["reader"], drawn[1]["reader"])


def test_a_run_that_was_stopped_is_not_taken_for_a_finished_one(tmp_path, monkeypatch):
    """The command line ends well when it is asked to stop: what counts is the step that was reached."""
    ends = iter([4, 10])

    def pretends(*words):
        folder = directory.checkpoint_folder(tmp_path, "realm")
        checkpoints = Checkpoints(folder)
        checkpoints.save(step := next(ends), {"state": {"params": {"w": np.ones(1)}}}, wait=True)
        checkpoints.close()
        line = {"stage": "realm", "step": step, "loss": 1.0, "step_seconds": 0.5}
        with (tmp_path / "metrics.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    monkeypatch.setattr(pipeline, "ralm", pretends)
    with pytest.raises(UserError, match="stopped at step 4 of 10; the same command resumes it"):
        pipeline.trained(tmp_path, "realm", 10)
    # The seconds are those of all its steps, in both parts; then it is not trained again.
    assert pipeline.trained(tmp_path, "realm", 10) == 5.0
    assert pipeline.trained(tmp_path, "realm", 10) == 5.0


def test_an_unfinished_save_of_a_run_being_trained_is_left_alone(tmp_path, monkeypatch):
    """Looking at how far a run is must not remove what its trainer is writing."""
    folder = directory.checkpoint_folder(tmp_path, "realm")
    checkpoints = Checkpoints(folder)
    checkpoints.save(10, {"state": {"params": {"w": np.ones(1)}}}, wait=True)
    checkpoints.close()
    (tmp_path / "metrics.jsonl").write_text("")
    unfinished = folder / "20.orbax-checkpoint-tmp"
    unfinished.mkdir()
    (unfinished / "part").write_text("x")
    pipeline.trained(tmp_path, "realm", 10)
    assert (unfinished / "part").exists()


def test_mistakes_are_one_line(tmp_path, capsys):
    for words, said in (
        (["--scale", "wiki9k"], "--scale wiki9k needs --corpus, --train, --dev, --init"),
        (
            ["--scale", "paper", "--rows", "realm,best"],
            "--rows: there is no best; there are realm,",
        ),
    ):
        assert table2.main(["--out", str(tmp_path), *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"table2: {said}") and error.count("\n") == 1


@pytest.mark.slow
def test_rows_are_made_once_and_end_in_a_table(tmp_path, traced_runs, capfd):
    """On a world of 30 people: shared runs are trained once, halves are exchanged, X is asked."""
    words = ["--scale", "almanac", "--out", str(tmp_path), "--seeds", "0"]
    words += ["--rows", "realm,realm_retriever,elsewhere"]
    assert table2.main(words) == 0
    made = {p.stem: json.loads(p.read_text("utf-8")) for p in (tmp_path / "rows").glob("*.json")}
    assert set(made) == {"realm-0", "realm_retriever-0", "elsewhere-0"}
    first, mixed = made["realm-0"], made["realm_retriever-0"]
    assert set(first["seconds"]) == set(first["config"]) == {"ict", "warmup", "realm", "finetune"}
    # A run is trained once, and before fine-tuning both rows have the same retriever.
    assert mixed["seconds"]["ict"] == first["seconds"]["ict"]
    assert first["recall@5"] == mixed["recall@5"]
    assert first["flops"] > 1e6 and first["zero_shot"]["gold_passage"]["questions"] > 0
    shown = (tmp_path / "table2.md").read_text("utf-8")
    assert "| X != Z | 1 |" in shown and "| random span masks | 0 | not run |" in shown
    ran = len(list(tmp_path.glob("seed0/*/metrics.jsonl")))
    assert table2.main([*words, "--dry-run"]) == 0
    assert "all remaining rows" in capfd.readouterr().out
    assert len(list(tmp_path.glob("seed0/*/metrics.jsonl"))) == ran
