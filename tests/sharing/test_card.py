"""The card of an exported retriever: a header that the hub reads, and figures that are of this model."""

import json

import jax
import numpy as np
import pytest
import yaml

from ralm_jax import cli
from ralm_jax.batches import Lengths
from ralm_jax.errors import UserError
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory, selection
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.runs.config_record import CONFIG
from ralm_jax.sharing import card
from ralm_jax.sharing.card import About
from ralm_jax.weights.exporting import export_model

ROW = {"recall": {"1": 0.25, "5": 0.5, "20": 0.75, "100": 1.0}, "mrr": 0.4, "questions": 1234}
PAIR = {"difference": 0.1, "low": 0.05, "high": 0.15, "p": 0.001}


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run as training leaves one."""
    path = tmp_path_factory.mktemp("card") / "run"
    sizes = EncoderConfig(40, hidden=8, layers=1, heads=2, intermediate=8, positions=24)
    model = directory.sized(Ralm(sizes, sizes, embedding=4), tiny.corpus.vocabulary.size)
    shapes = jax.eval_shape(lambda key: initial.initial_params(model, key), jax.random.key(0))
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    lengths = {"query": 20, "passage": 24, "joint": 24, "masked": 4}
    parts = {"stages": ["ict"], "lengths": lengths, "held_out": 0.1, "seed": 0}
    directory.describe(path, model, tiny.corpus, **parts)
    (path / CONFIG).write_text("ICT_STEPS = 1\n")
    checkpoints = Checkpoints(directory.checkpoint_folder(path, "ict"))
    checkpoints.save(1, {"state": {"params": params}}, wait=True)
    checkpoints.close()
    return path


@pytest.fixture
def report():
    """As `ralm evaluate` writes one of that run."""
    rows = {"bm25": {**ROW, "ndcg@10": 0.3}, "retriever": {**ROW, "ndcg@10": 0.45}}
    spread = {name: {"recall@5": [0.5, 0.48, 0.52], "ndcg@10": [0.3, 0.29, 0.31]} for name in rows}
    found = {name: {"gold_passage": row} for name, row in rows.items()}
    found |= {"run": "/home/somebody/run", "stage": "ict", "step": 1, "intervals": spread}
    return found | {"differences": {"mixed - bm25": {"recall@5": PAIR, "ndcg@10": PAIR}}}


def test_a_card_says_what_is_known(run, report, tiny, tmp_path):
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report))
    words = ["--run", run, "--to", "sentence-transformers", "--out", tmp_path / "out"]
    words += ["--report", file, "--license", "apache-2.0"]
    assert cli.main(["export", *map(str, words)]) == 0
    text = (tmp_path / "out" / card.CARD).read_text("utf-8")
    _, header, body = text.split("---\n", 2)
    head = yaml.safe_load(header)
    assert (head["library_name"], head["pipeline_tag"], head["license"]) == (
        *("sentence-transformers", "sentence-similarity", "apache-2.0"),
    )
    assert "language" not in head and "base_model" not in head
    (result,) = head["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == {"recall_at_1": 0.25, "recall_at_5": 0.5, "recall_at_20": 0.75, "mrr": 0.4}
    assert "| this run, dense | 25.0 | 50.0 (48.0 to 52.0) | 75.0 | 0.400 | 0.450 (0.290" in body
    assert "+10.0 points at 5 (+5.0 to +15.0" in body and "of 1,234 questions" in body
    assert f"{tiny.corpus.size:,} passages" in body and tiny.corpus.fingerprint in body
    assert "ICT_STEPS = 1" in body and "inner product (dot), not cosine" in body
    for heading in ("Data", "Recipe", "Results", "Intended use", "Licence"):
        assert f"\n## {heading}\n" in body
    # No path of this machine is told.
    assert str(tiny.corpus.path.parent) not in text and "/home/somebody" not in text


def test_what_is_not_known_is_left_out_or_said(run, tmp_path):
    export_model(run, "sentence-transformers", tmp_path / "out")
    text = (tmp_path / "out" / card.CARD).read_text("utf-8")
    assert "license" not in text.split("---\n")[1] and "model-index" not in text
    assert "has not said under which licence" in text and "Not measured on questions" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"step": 2},
            "the report is of stage ict, step 2, and what is exported is of stage ict",
        ),
        ({"retriever": {}}, "the report has no retrieval figures; write one with: ralm evaluate"),
        (None, "the report has no retrieval figures"),
    ],
)
def test_a_report_of_something_else_is_refused(run, report, tmp_path, change, said):
    given = [] if change is None else report | change
    with pytest.raises(UserError, match=said):
        export_model(run, "sentence-transformers", tmp_path / "out", about=About(given))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="are for the card"):
        export_model(run, "transformers", tmp_path / "out", about=About(report))


def test_where_a_run_began_is_followed_to_the_release(tmp_path):
    def record(name, **more):
        (tmp_path / name).mkdir()
        lengths = vars(Lengths(query=20, passage=24, joint=24, masked=4))
        whole = {"corpus": None, "stages": ["ict"], "lengths": lengths, "held_out": 0.1, **more}
        (tmp_path / name / directory.RUN).write_text(json.dumps(whole))
        return tmp_path / name

    released = record("released", source="acme/tiny")
    middle = record("middle", began_from=str(released))
    assert card.began_from(record("last", began_from=str(middle))) == "acme/tiny"
    assert card.began_from(record("packed", source="package:tiny")) == "package:tiny"
    assert card.began_from(record("local", source=f"{tmp_path}/models/tiny")) == "tiny"
    assert card.began_from(record("first")) is None
    lost = record("lost", began_from=str(tmp_path / "gone"))
    assert card.began_from(lost) is None
    loop = record("loop", began_from=str(tmp_path / "loop"))
    assert card.began_from(loop) is None and selection.said(loop) == []


def test_results_of_ones_own_stand_where_a_report_would(run, tmp_path):
    export_model(
        run, "sentence-transformers", tmp_path / "out", about=card.About(results="| own |\n")
    )
    text = (tmp_path / "out" / card.CARD).read_text("utf-8")
    assert "\n## Results\n\n| own |\n\n## Intended use\n" in text and "Not measured" not in text
