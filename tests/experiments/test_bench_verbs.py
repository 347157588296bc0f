"""Every verb over a Wikipedia's number of passages: what is made up for it, and the whole at a small size."""

import json

import pytest

from experiments.bench import verbs


def test_names_are_all_different_and_questions_are_answered_by_their_documents():
    assert len({verbs.name(number) for number in range(100_000)}) == 100_000
    # Multiplication by an odd number is one to one modulo a power of two.
    assert verbs.TURN % 2 and len(verbs.SYLLABLES) == len(set(verbs.SYLLABLES)) == 64
    for number in (0, 7, 13_353_717):
        asked, told = verbs.question(number), verbs.document(number)
        assert asked["gold_ids"] == [told["id"]]
        assert asked["answers"][0] in told["text"]
        assert told["title"] in asked["question"] and told["title"] in told["text"]


def test_a_process_that_has_ended_has_nomemory():
    assert verbs.memory(2**22 + 1) == (0, 0)


@pytest.mark.parametrize("passages", ["999", "16777217"])
def test_a_number_of_passages_that_is_not_to_be_had_is_refused(passages, tmp_path, capsys):
    assert verbs.main(["--out", str(tmp_path / "out"), "--passages", passages]) == 2
    assert "give 1,000 to 16,777,216" in capsys.readouterr().err


@pytest.mark.slow
def test_verbs_run_and_an_interrupted_command_goes_on(tmp_path, monkeypatch, capsys):
    every = verbs.verbs
    # Those that are quick.
    monkeypatch.setattr(verbs, "verbs", lambda *given: [every(*given)[i] for i in (0, 1, 6, 7)])
    monkeypatch.setattr(verbs, "EVERY", 0.05)
    words = ["--out", str(tmp_path), "--passages", "2000"]
    assert verbs.main(words) == 0
    assert "| pretrain |" in capsys.readouterr().out
    made = json.loads((tmp_path / "verbs.json").read_text("utf-8"))
    wanted = "prepare,pretrain,check corpus,check run"
    assert [row["verb"] for row in made["rows"]] == wanted.split(",")
    assert all(
        0 <= own <= whole < 12
        for row in made["rows"]
        for own, whole in row["gib of its own, with files"].values()
    )
    held = {row["verb"]: row["gib of its own, with files"] for row in made["rows"]}
    assert held["pretrain"]["pretrain"][0] > 0.1 and held["check run"]["check"][1] > 0.05
    assert "ScaNN" in held["pretrain"]
    assert 0 <= made["joint"]["idle/retrieval"] <= made["joint"]["step"]
    # Two rows are made anew, nothing else.
    made["rows"] = made["rows"][:-2]
    (tmp_path / "verbs.json").write_text(json.dumps(made), "utf-8")
    ran = []
    usual = verbs.run
    monkeypatch.setattr(verbs, "run", lambda words, out: ran.append(words[0]) or usual(words, out))
    assert verbs.main(words) == 0
    assert ran == ["check", "check"]
