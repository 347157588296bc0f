"""What teaches on real text: rows that differ in the teacher alone, and their table."""

import gzip
import json

import pytest

from experiments import teachers
from ralm_jax import cli, gin_config
from ralm_jax.evaluation.rankings import ROWS
from ralm_jax.inference import likelihoods


def stages(config, changes):
    return gin_config.bindings("pretrain.pretrain", config, changes)["stages"]


@pytest.mark.parametrize(("side", "size"), [("both", (120, 24)), ("queries", (375, 32))])
def test_rows_have_equal_steps_and_queries_and_differ_in_the_teacher(side, size):
    seen = set()
    for name, (_, configs, changes) in teachers.TEACHERS.items():
        if name == "inverse_cloze" and side == "queries":
            continue
        more = teachers.TEACHES if configs is teachers.READER else []
        (stage,) = stages(configs[side], [*more, *changes])
        task, schedule = stage.task, stage.schedule
        assert (schedule.steps, schedule.batch) == size, name
        assert getattr(task, "train_passages", True) == (side == "both")
        what = ("teaches", "over_batch", "objective", "judge")
        seen.add((type(task).__name__, *(str(getattr(task, each, None)) for each in what)))
    assert len(seen) == len(teachers.TEACHERS) - (side == "queries")
    (reads,) = stages(teachers.READER["both"], teachers.READS)
    assert reads.name == "reader" and reads.task.freeze_retriever


def made(domain, seed, teacher, recalls, side="both", end=0.3):
    measured = {n: {"recall": {"5": r}} for n, r in zip(ROWS, recalls, strict=True)}
    seconds = {f"{teacher}{seed}": 600.0}
    more = {"selection": [], "differences": {}, "passages": 10}
    about = {"domain": domain, "seed": seed, "teacher": teacher, "side": side}
    at_the_end = {"recall": {"5": end}}
    return {**about, "seconds": seconds, "measured": measured, "at_the_end": at_the_end, **more}


def test_the_table_by_hand():
    assert list(ROWS) == ["bm25", "start", "rrf", "fixed_mix", "retriever", "mixed"]
    rows = [
        made("law", 0, "windows", [0.5, 0.4, 0.5, 0.6, 0.45, 0.65]),
        made("law", 1, "windows", [0.5, 0.4, 0.5, 0.6, 0.35, 0.7], end=0.5),
        made("law", 0, "pdist", [0.5, 0.4, 0.5, 0.6, 0.41, 0.59]),
        made("law", 0, "pdist", [0.5, 0.4, 0.5, 0.6, 0.42, 0.58], "queries"),
    ]
    shown = teachers.table(rows)
    assert "| law | none: the start | 40.0 |  | 40.0 |  | 60.0 |  |  |" in shown
    row = "| 40.0 (30.0 to 50.0) | -10.0, +10.0 | 40.0 (35.0 to 45.0) | +5.0, -5.0 |"
    row += " 67.5 (65.0 to 70.0) | +5.0, +10.0 | 10 |"
    assert f"| law | windows find their own passage {row}" in shown
    assert (
        "| law | reader: PDist, over the list | 30.0 | -10.0 | 41.0 | +1.0 | 59.0 | -1.0 | 10 |"
        in shown
    )
    assert "| law, queries alone | none: the start | 40.0 |" in shown
    alone = "| law, queries alone | reader: PDist, over the list | 30.0 | -10.0 | 42.0 | +2.0 |"
    assert f"{alone} 58.0 | -2.0 | 10 |" in shown


def test_a_teacher_that_is_none_is_refused(tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text("")
    words = ["--init", str(tmp_path), "--out", str(tmp_path), "--teachers", "windows,owl"]
    assert teachers.main([*words, "--domain", f"a=b,{tmp_path / 'q.jsonl'}"]) == 2
    assert "--teachers owl: there are inverse_cloze, windows, mix" in capsys.readouterr().err
    given = [*words[:-1], "reranker", "--domain", f"a=b,{tmp_path / 'q.jsonl'}"]
    assert teachers.main(given) == 2
    assert "give the run it comes from, --reranker RUN" in capsys.readouterr().err
    assert teachers.main([*given, "--side", "queries", "--teachers", "inverse_cloze"]) == 2
    assert "leave out --side queries" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_share_a_reader_and_what_it_has_read(
    tiny, tiny_settings, traced_runs, tmp_path, monkeypatch
):
    begun = ["pretrain", "--config", "runs/pretrain.gin", "--corpus", str(tiny.corpus.path)]
    assert cli.main([*begun, "--run", str(tmp_path / "start"), *tiny_settings]) == 0
    source = tmp_path / "almanac.jsonl.gz"
    with gzip.open(source, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(record) + "\n" for record in tiny.almanac.documents)
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(tiny.questions.read_text("utf-8").splitlines()[:8]), "utf-8")
    kept = ("QUERY_LENGTH", "PASSAGE_LENGTH", "JOINT_LENGTH", "MASKED", "HELD_OUT")
    sizes = [size for size in tiny_settings[1::2] if size.split()[0] in kept]
    teach = ["READER_BATCH = 8", "READER_STEPS = 1", "TEACH_BATCH = 8", "TEACH_CLOZES = 16"]
    words = ["--init", str(tmp_path / "start"), "--out", str(tmp_path / "out"), "--seeds", "0"]
    words += ["--domain", f"almanac={source},{few}", "--teachers", "marginal,pdist"]
    for change in [*sizes, *teach, "TEACH_STEPS = 1"]:
        words += ["--set", change]
    read = []
    usual = likelihoods._read
    monkeypatch.setattr(likelihoods, "_read", lambda *given: read.append(1) or usual(*given))
    assert teachers.main(words) == 0
    found = json.loads((tmp_path / "out" / "teachers.json").read_text("utf-8"))
    assert [row["teacher"] for row in found["rows"]] == ["marginal", "pdist"]
    assert all(set(row["measured"]) == set(ROWS) for row in found["rows"])
    assert all(set(row["at_the_end"]) >= {"recall", "mrr"} for row in found["rows"])
    assert len(read) == 1
    table = (tmp_path / "out" / "teachers.md").read_text("utf-8")
    assert "REALM's marginal over the list" in table
