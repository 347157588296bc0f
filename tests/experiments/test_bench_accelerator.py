"""The benches of accelerators run on a CPU, where their figures say nothing."""

import json
import sys

import numpy as np
import pytest

from experiments.bench import accelerator, device_search

SMALL = [
    "LAYERS = 1", "RETRIEVER_LAYERS = 1", "HIDDEN = 16", "HEADS = 2", "INTERMEDIATE = 32", "MASKED = 2",
    "QUERY_LENGTH = 8", "PASSAGE_LENGTH = 16", "JOINT_LENGTH = 24", "REALM_BATCH = 8", "ICT_BATCH = 8",
]  # fmt: skip


@pytest.mark.slow
def test_a_stage_is_measured():
    asked = accelerator.Asked("runs/pretrain_h100.gin", SMALL, "realm")
    found = accelerator.measured(asked, steps=2)
    assert len(found["seconds"]) == 2 and found["dtype"] == "bfloat16"
    assert found["operations_a_second"] == pytest.approx(
        found["operations"] / np.median(found["seconds"])
    )
    assert 0 < found["share_of_best_product"] < 1 and found["compiler_bytes"] > 0


@pytest.mark.slow
def test_texts_of_a_corpus_are_read_whole_and_no_wider(tiny):
    asked = accelerator.Asked("runs/pretrain_h100.gin", SMALL, "realm", tiny.corpus.path)
    found = [accelerator.measured(asked._replace(no_wider=n), steps=1) for n in (False, True)]
    # The same texts and the same step, but for the order of sums in bfloat16.
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-2)
    assert all("operations" not in one for one in found)


def test_a_row_replaces_its_former_one(tmp_path):
    row = {"config": "a.gin", "set": [], "stage": "ict"}
    for more in (
        {"x": 1},
        {"x": 2},
        {"x": 3, "stage": "realm"},
        {"x": 4, "set": ["A = 1"]},
        {"x": 5, "no_wider": True},
    ):
        accelerator.write(tmp_path / "out.json", {**row, **more})
    kept = json.loads((tmp_path / "out.json").read_text("utf-8"))["rows"]
    assert [one["x"] for one in kept] == [2, 3, 4, 5]


def test_the_operations_are_those_of_a_step_without_its_search():
    (ict, _, realm) = accelerator.compiled.given("runs/pretrain_h100.gin", SMALL)["stages"]
    model = accelerator.compiled.given("runs/pretrain_h100.gin", SMALL)["model"]
    d, e = 16, model.embedding
    token = 2 * (4 * d * d + 2 * d * 32)

    def text(length):
        return length * (token + 4 * length * d)

    pairs = 8 * (text(8) + text(16) + 2 * 2 * d * e)
    assert accelerator.operations(model, ict) == pytest.approx(3 * pairs)
    k, words = realm.task.candidates, 2.0 * 2 * d * (d + model.reader_config.vocab_size)
    read = text(9) + (k - 1) * text(24) + k * words
    towers = text(8) + 2 * d * e + (k - 1) * (text(16) + 2 * d * e)
    assert accelerator.operations(model, realm) == pytest.approx(3 * 8 * (read + towers))


def test_devices_are_searched(tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    words = ["--passages", "500", "--width", "8", "--k", "3", "--queries", "4", "--repeats", "2"]
    monkeypatch.setattr(sys, "argv", ["device_search", *words, "--out", str(out)])
    monkeypatch.setattr(device_search, "DRAWN", 300)
    monkeypatch.setattr(device_search.sharded, "BLOCK", 1 << 14)
    device_search.main()
    rows = json.loads(out.read_text("utf-8"))["rows"]
    assert [row["kind"] for row in rows] == ["float32", "bfloat16"]
    assert all(row["recall"] > 0.8 and len(row["each"]) == 2 for row in rows)
    given = device_search.vectors(500, 8)
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), 1, atol=1e-5)
    assert len(np.unique(given, axis=0)) == 500
