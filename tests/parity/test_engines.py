"""Databases take what `ralm embed` writes, by the lines of the documentation, and find the same passages."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.engines import vector_files

pytestmark = pytest.mark.parity
PAGE = Path(__file__).parents[2] / "docs/how_to/vectors.md"
WIDTH = 16


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A folder of random vectors of a small corpus, and these vectors."""
    text = "\n".join(
        f"Mill {n} stands by river {n * n}. It was built in {1500 + n}." for n in range(90)
    )
    (tmp_path / "texts").mkdir()
    for number, line in enumerate(text.split("\n")):
        (tmp_path / "texts" / f"{number}.txt").write_text(line)
    prepare(str(tmp_path / "texts"), tmp_path / "corpus", vocab_size=200, say=len)
    corpus = open_corpus(tmp_path / "corpus")
    vectors = np.random.default_rng(0).normal(size=(corpus.size, WIDTH)).astype("f")
    (tmp_path / "vectors").mkdir()
    vector_files.write(tmp_path / "vectors", corpus, [vectors], WIDTH, {})
    monkeypatch.chdir(tmp_path)
    return corpus, vectors


def run_lines(heading: str, server: str = "", local: str = "") -> dict:
    """Runs the Python of a section, after that which reads the files; the names that it leaves.

    `local` is put in the place of the address `server`.
    """
    text, names = PAGE.read_text("utf-8"), {}
    for section in ("Read them", heading):
        (block,) = re.findall(rf"^## {section}\n.*?^```python\n(.*?)^```", text, re.M | re.S)
        exec(compile(block.replace(server or "\0", local), str(PAGE), "exec"), names)
    return names


def best(corpus, vectors: np.ndarray, query: np.ndarray) -> list[str]:
    return [corpus.ids[row].decode() for row in np.argsort(-(vectors @ query))[:5]]


def test_qdrant_finds_the_greatest_inner_products(written):
    pytest.importorskip("qdrant_client")
    corpus, vectors = written
    query = np.random.default_rng(1).normal(size=WIDTH).astype("f")
    client = run_lines("Qdrant", "http://localhost:6333", ":memory:")["client"]
    assert client.count("passages").count == corpus.size
    found = client.query_points("passages", query.tolist(), limit=5).points
    assert [str(point.id).replace("-", "") for point in found] == best(corpus, vectors, query)
    assert found[0].payload["text"].startswith("Mill")
    client.close()


def test_milvus_finds_the_greatest_inner_products(written, tmp_path):
    pytest.importorskip("milvus_lite")
    corpus, vectors = written
    query = np.random.default_rng(1).normal(size=WIDTH).astype("f")
    client = run_lines("Milvus", "http://localhost:19530", str(tmp_path / "milvus.db"))["client"]
    (found,) = client.search("passages", [query.tolist()], limit=5, output_fields=["text"])
    assert [hit["id"] for hit in found] == best(corpus, vectors, query)
    assert found[0]["entity"]["text"].startswith("Mill")
    client.close()


def test_vespa_is_given_a_line_for_each_passage(written, tmp_path):
    corpus, vectors = written
    run_lines("Vespa")
    text = (tmp_path / "passages.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["put"].rpartition(":")[2] for line in lines] == [i.decode() for i in corpus.ids]
    given = np.array([line["fields"]["vector"]["values"] for line in lines], "f")
    np.testing.assert_array_equal(given, vectors)
