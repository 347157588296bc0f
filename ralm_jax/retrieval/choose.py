"""Which searcher serves a corpus: exact search on the device while it is small, ScaNN beyond that."""

from typing import Literal

from ralm_jax.retrieval.exact import Exact
from ralm_jax.retrieval.scann_index import ScannConfig
from ralm_jax.retrieval.scann_process import ScannProcess
from ralm_jax.retrieval.searcher import Searcher

# Passages. Below this, a full search on the device costs less than the trip to the host.
EXACT_BELOW = 20_000


def choose(
    passages: int,
    kind: Literal["auto", "exact", "scann"] = "auto",
    *,
    k: int = 8,
    threads: int = 1,
) -> Searcher:
    """The searcher for a corpus of `passages` passages: exact below 20,000, ScaNN from there on.

    Args:
      passages: N.
      kind: "auto", or the searcher to use whatever N is.
      k: how many passages each search asks for. ScaNN reaches and reports recall@k at every publish.
      threads: cores that the ScaNN process may use.

    Raises:
      UserError: ScaNN is needed and is not installed.
    """
    if kind == "scann" or (kind == "auto" and passages >= EXACT_BELOW):
        return ScannProcess(ScannConfig(k=k, threads=threads))
    return Exact()
