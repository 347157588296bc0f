"""Which searcher serves a corpus: exact search on the devices while it is small, ScaNN beyond that."""

import os
from typing import Literal

import jax
import jax.numpy as jnp

from ralm_jax.retrieval.exact import Exact, Rounded
from ralm_jax.retrieval.scann_index import ScannConfig
from ralm_jax.retrieval.scann_process import ScannProcess, has_scann
from ralm_jax.retrieval.searcher import Searcher
from ralm_jax.retrieval.sharded import check_room

# Passages. Below this, a full search on the device costs less than the trip to the host.
EXACT_BELOW = 20_000

Kind = Literal["auto", "exact", "scann"]


def form(passages: int, kind: Kind, platform: str) -> Literal["exact", "rounded", "scann"]:
    """What a setting gives for N passages, on devices of that platform ("cpu", "gpu", "tpu")."""
    if kind == "scann" or (kind == "auto" and passages >= EXACT_BELOW):
        return "scann"
    return "exact" if platform == "cpu" or passages < EXACT_BELOW else "rounded"


def given(kind: Kind) -> Kind:
    """ "auto" is exact search where ScaNN is not installed."""
    return "exact" if kind == "auto" and not has_scann() else kind


def spare_cores(platform: str) -> int:
    """Cores for the search while devices of that platform wait for it: one where they are the CPU itself,
    which embeds and learns meanwhile, and else all but one."""
    if platform == "cpu":
        return 1
    allowed = getattr(os, "sched_getaffinity", None)
    return max(1, (len(allowed(0)) if allowed else os.cpu_count() or 1) - 1)


def choose(
    passages: int,
    kind: Kind = "auto",
    *,
    width: int,
    k: int = 8,
    threads: int | None = None,
    tables: int = 2,
    held: int | None = None,
) -> Searcher:
    """The searcher for a corpus of `passages` passages: exact below 20,000, from there on ScaNN if installed.

    Args:
      passages: N.
      kind: "auto", or the searcher to use whatever N is; see `given`. Exact search of 20,000 passages and
        more on accelerators is in bfloat16 and in float32 among the best; see `exact.Rounded`.
      width: E.
      k: how many passages each search asks for. Recall@k is reported at every publish; ScaNN reaches 0.98.
      threads: cores that the ScaNN process may use; None: see `spare_cores`.
      tables: versions that devices hold at a time: the one served, and the next where there is one.
      held: passages that this process holds of them; None for all.

    Raises:
      UserError: ScaNN is needed and is not installed, or the devices have no room for exact search.
    """
    platform = jax.local_devices()[0].platform
    found = form(passages, given(kind), platform)
    if found == "scann":
        return ScannProcess(ScannConfig(k=k, threads=threads or spare_cores(platform)))
    held = passages if held is None else held
    check_room(held, width, jnp.float32 if found == "exact" else jnp.bfloat16, tables)
    return Exact(passages) if found == "exact" else Rounded(k)
