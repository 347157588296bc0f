"""What a loader says of the search that it was given."""

import contextlib

import pytest

from ralm_jax.batches import Lengths
from ralm_jax.loaders import retrieval_loader
from ralm_jax.loaders.loader import Source
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import scann_process
from ralm_jax.retrieval.exact import Exact
from ralm_jax.runs import directory
from ralm_jax.training.tasks import Realm

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(hidden=8, layers=1, heads=2, intermediate=16, positions=64)


@pytest.mark.parametrize(
    ("index", "below", "said"), [("auto", 1, 1), ("auto", 20_000, 0), ("exact", 1, 0)]
)
def test_a_search_that_is_exact_for_want_of_scann_says_so(
    tiny, tmp_path, monkeypatch, index, below, said
):
    monkeypatch.setattr(scann_process.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(retrieval_loader, "EXACT_BELOW", below)
    task = Realm(LENGTHS, candidates=3, index=index)
    model = directory.sized(Ralm(SMALL, SMALL, embedding=8), tiny.corpus.vocabulary.size)
    lines = []
    rows = task.queries(tiny.corpus, 0.0).rows
    source = Source(
        tiny.corpus, tiny.corpus, model, rows, 0, 8, tmp_path / "index", say=lines.append
    )
    with contextlib.closing(retrieval_loader.RetrievalLoader(source, task)) as loader:
        assert isinstance(loader._searcher, Exact)
    assert [line.startswith("ScaNN is not installed") for line in lines] == [True] * said
