"""`ralm adapt`: everything is made once, in one folder, and measured in the end."""

import json

import compiling
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from state_dicts import SIZES, draw, trunk

from ralm_jax import adapt, cli
from ralm_jax.data.tokenizer import pieces_of, write_vocabulary
from ralm_jax.runs import directory

SMALL = {
    "QUERY_LENGTH": 20, "JOINT_LENGTH": 64, "HELD_OUT": 0.3, "WINDOW_STEPS": 1, "WINDOW_BATCH": 8,
    "WINDOW_WARMUP": 0, "WINDOW_SHORTEST": 4, "WINDOW_LONGEST": 9, "WINDOW_PART": 32,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def steps_are_traced():
    with compiling.traced(), pytest.MonkeyPatch.context() as patch:
        # It would choose how many devices there are, too late.
        patch.setenv("JAX_NUM_CPU_DEVICES", str(jax.device_count()))
        yield


@pytest.fixture
def released(tiny, tmp_path):
    """A folder as sentence-transformers leaves one, with the wordpieces of the small almanac."""
    path = tmp_path / "released"
    (path / "1_Pooling").mkdir(parents=True)
    size = tiny.corpus.vocabulary.size
    names = trunk() | {
        "embeddings.word_embeddings.weight": (size, 8),
        "embeddings.position_embeddings.weight": (64, 8),
    }

    save_file(draw(np.random.default_rng(0), names), path / "model.safetensors")
    config = SIZES | {"vocab_size": size, "max_position_embeddings": 64, "model_type": "bert"}
    (path / "config.json").write_text(json.dumps(config))
    write_vocabulary(path, pieces_of(tiny.corpus.tokenizer()))
    stack = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"x.models.{name}", "path": at} for name, at in stack.items()]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    return path


@pytest.fixture
def words(tiny, tmp_path, released):
    source = tmp_path / "almanac.jsonl"
    source.write_text("".join(json.dumps(d) + "\n" for d in tiny.almanac.documents), "utf-8")
    changes = [word for name, x in SMALL.items() for word in ("--set", f"{name} = {x}")]
    given = ["adapt", source, "--out", tmp_path / "out", "--init", released]
    return [*map(str, given), "--passage-tokens", "56", *changes]


@pytest.mark.slow
def test_from_text_to_a_model(words, tiny, tmp_path, capsys):
    report = tmp_path / "report.json"
    asked = ["--measure", str(tiny.questions), "--json", str(report)]
    assert cli.main([*words, *asked]) == 0
    said, out = capsys.readouterr().out, tmp_path / "out"
    assert {each.name for each in out.iterdir()} == {
        adapt.START, adapt.CORPUS, adapt.RUN, adapt.MODEL, adapt.PICTURE,
    }  # fmt: skip
    measured = json.loads(report.read_text())
    assert measured.keys() >= {"bm25", "start", "retriever", "mixed", "intervals", "differences"}
    low, value, high = (measured["intervals"]["bm25"]["recall@5"][i] for i in (1, 0, 2))
    assert low <= value <= high
    assert value == pytest.approx(measured["bm25"]["gold_passage"]["recall"]["5"])
    # What the start and BM25 taught is trusted all the way.
    chosen = json.loads((out / adapt.RUN / "selection.json").read_text())
    assert list(chosen["mean_reciprocal_rank"]) == ["0.0", "0.5", "1.0"]
    assert "the start was kept" in said and f'SentenceTransformer("{out / adapt.MODEL}")' in said
    # Again: nothing is made anew.
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    assert cli.main([*words, "--json", str(report)]) == 0
    unmeasured = json.loads(report.read_text())
    assert unmeasured == {"run": str(out / adapt.RUN), "selection": measured["selection"]}
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")} == before
    assert "the start was kept" in capsys.readouterr().out
    # Questions whose passages are not known are measured by their answers.
    (out / adapt.PICTURE).unlink()
    few = [json.loads(line) for line in tiny.questions.read_text("utf-8").splitlines()[:8]]
    file = tmp_path / "answers.jsonl"
    lines = [{key: q[key] for key in ("question", "answers")} for q in few]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert cli.main([*words, "--measure", str(file)]) == 0
    assert (out / adapt.PICTURE).exists()
    assert "points at 5" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_is_started_from_as_it_is(words, tmp_path, released):
    assert cli.main(["import", str(released), "--out", str(tmp_path / "own")]) == 0
    at = words.index("--init")
    assert cli.main([*words[: at + 1], str(tmp_path / "own"), *words[at + 2 :]]) == 0
    assert not (tmp_path / "out" / adapt.START).exists()
    record = directory.read_record(tmp_path / "out" / adapt.RUN)
    assert record["began_from"] == str(tmp_path / "own")


@pytest.mark.parametrize("option", ["--questions", "--measure"])
def test_questions_are_read_before_anything_is_made(words, tmp_path, option, capsys):
    assert cli.main([*words, option, str(tmp_path / "none.jsonl")]) == 2
    assert "there is no file of questions" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_released_model_is_one_line(words, tmp_path, capsys):
    at = words.index("--init")
    assert cli.main([*words[: at + 1], "package:no_such_package", *words[at + 2 :]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ralm: ") and error.count("\n") == 1 and "no_such_package" in error
    assert not (tmp_path / "out" / adapt.RUN).exists()


ALONE = "Barstead was a cartographer. Barstead was born in Norford in 1702."


@pytest.mark.parametrize(
    ("text", "labelled", "said"),
    [
        (
            ALONE,
            None,
            "is held out to choose weights by: give more text",
        ),
        ("ቤት ውሃ ሰው ልጅ " * 40, None, "in words that the vocabulary does not know"),
        (None, ["nowhere", "neither"], "0 of 2 questions have a gold passage"),
    ],
)
def test_what_cannot_be_learnt_from_is_one_line(words, tmp_path, capsys, text, labelled, said):
    """One document; text that the encoder does not know; questions about another corpus."""
    given = list(words)
    if text is not None:
        record = {"id": "1", "title": "Annals", "text": text}
        (tmp_path / "almanac.jsonl").write_text(json.dumps(record) + "\n", "utf-8")
    if labelled is not None:
        file = tmp_path / "labelled.jsonl"
        lines = [{"question": f"who is {name}?", "gold_ids": [name]} for name in labelled]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        given += ["--questions", str(file)]
    assert cli.main(given) == 2
    error = capsys.readouterr().err.splitlines()
    assert [line for line in error if said in line] == error[-1:]
    assert error[-1].startswith("ralm: ") and "Traceback" not in "\n".join(error)
    assert not (tmp_path / "out" / adapt.RUN / "checkpoints").exists()
