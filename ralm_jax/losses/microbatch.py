"""A sum over a batch taken group by group: the memory of one group, whatever the batch.

What couples queries (in-batch negatives) cannot be taken apart so; marginal likelihoods and spans can.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ralm_jax.settings import Count

CACHED = 2048  # wordpieces
# That an accelerator takes a group's texts in; groups drawn to see how long they are; and how many queries a
# group of all of a device is taken to have.
PARTS, DRAWN, ALL = 4, 2000, 64

# Queries read at a time; "auto": on an accelerator as many as its memory holds, see `cost.fitting`.
Microbatch = Count | Literal["auto"] | None

# (params, learnt rows, fixed rows) -> (sum of losses over the rows, (metrics as sums, kept of each row))
Loss = Callable[[Any, Any, Any], tuple[jax.Array, tuple[Any, Any]]]


def in_groups(losses: Sequence[Loss], choose: Callable[[Any], jax.Array | int], size: int) -> Loss:
    """A loss of all rows, `size` of them at a time; its gradients are made along with its value.

    Args:
      losses: ways to compute one and the same, of which a group takes the one that `choose` names, given its
        fixed rows: a shorter input, say, where the rest is padding. The others cost that group nothing.
      size: divides the rows.

    Returns:
      A function of (params, learnt, fixed), differentiable in the first two; trees of arrays with rows
      in front, but for `params`. The loss must be a sum over rows, its metrics sums too; what it keeps has
      rows in front.
    """
    ways = [jax.value_and_grad(loss, argnums=(0, 1), has_aux=True) for loss in losses]

    def summed(params, learnt, fixed):
        groups = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), (learnt, fixed))
        one = jax.tree.map(lambda x: x[0], groups)
        # Gradients are as large as what they are of, and would be traced for long.
        value, (metrics, _) = jax.eval_shape(losses[0], params, *one)

        def add(sums, group):
            found = jax.lax.switch(choose(group[1]), ways, params, *group)
            (value, (metrics, kept)), (grads, rows) = found
            return jax.tree.map(jnp.add, sums, (value, metrics, grads)), (kept, rows)

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (value, metrics, params))
        (value, metrics, grads), each = jax.lax.scan(add, zeros, groups)
        kept, rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), each)
        return (value, (metrics, kept)), (grads, rows)

    @jax.custom_vjp
    def loss(params, learnt, fixed):
        return summed(params, learnt, fixed)[0]

    def backward(grads, given):
        return *jax.tree.map(lambda g: given[0] * g, grads), None  # metrics have no gradient

    loss.defvjp(summed, backward)
    return loss


def each_example(
    call: Callable[[Any, jax.Array], Any], inputs: Any, keys: jax.Array, *, alone: bool
) -> Any:
    """`call(inputs, key)` on examples, a tree of [B,...], with keys [B]; what comes out has B in front too.

    alone: each example is called by itself, as [1,...], so that its dropout is drawn from its own
      key whatever stands beside it. Where nothing is dropped that would be the same, and slower.
    """
    if not alone:
        return call(inputs, keys[0])

    def one(example, key):
        out = call(jax.tree.map(lambda x: x[None], example), key)
        return jax.tree.map(lambda y: y[0], out)

    return jax.vmap(one)(inputs, keys)


def few(wordpieces: int, given: Microbatch = None) -> int | None:
    """How many queries of so many wordpieces to take at a time, where no number is given.

    What a layer makes of them should stay in the cache of a CPU; None, for all, on an accelerator.
    """
    if isinstance(given, int):
        return given
    return max(1, CACHED // wordpieces) if jax.default_backend() == "cpu" else None


def divisor(rows: int, most: int) -> int:
    """The greatest number up to `most` (at least 1) that divides `rows`."""
    return next(n for n in range(max(1, min(most, rows)), 0, -1) if rows % n == 0)


def no_wider(
    needed: np.ndarray, queries: int | None, each: int, longest: int
) -> dict[str, tuple[int, ...]]:
    """How `steps.realm_loss` reads groups of queries, each with so many passages, no wider than they are.

    On a CPU a group is small, and one of three widths fits all of it. On a GPU some text of a group is as
    long as any, and so its texts are sorted and taken in parts. On a TPU groups are read whole, since
    by its compiler parts take more memory there (bench/compiled.json).

    Args:
      needed: wordpieces of each joint input there may be.
      queries: of a group; None for all of a device.
    """
    platform = jax.default_backend()
    if platform == "tpu":
        return {}
    if queries is not None and platform == "cpu":
        return {"widths": widths(needed, queries * each, longest)}
    return {"part_widths": part_widths(needed, (queries or ALL) * each, longest)}


def widths(needed: np.ndarray, passages: int, longest: int) -> tuple[int, ...]:
    """Widths that groups of `passages` are read at, ascending, the last one `longest`: one program each.

    A group is as wide as its longest passage. Of up to three widths, in eights, those that leave the least to
    read on average; one that would save less than a twentieth is none.

    Args:
      needed: wordpieces of each joint input there may be.
    """
    every = np.append(np.arange(8, longest, 8), longest)
    within = np.searchsorted(np.sort(needed), every, side="right") / max(1, len(needed))
    groups = dict(zip(every.tolist(), (within**passages).tolist(), strict=True)) | {longest: 1.0}

    def read(chosen: tuple[int, ...]) -> float:
        shares = np.diff([0.0, *(groups[width] for width in chosen)])
        return float(np.dot(shares, chosen))

    kept: tuple[int, ...] = (longest,)
    for count in (1, 2):
        ways = itertools.combinations(every[:-1].tolist(), count)
        best = min(((*way, longest) for way in ways), key=read, default=kept)
        if read(best) <= 0.95 * read(kept):
            kept = best
    return kept


def part_widths(needed: np.ndarray, texts: int, longest: int) -> tuple[int, ...]:
    """Widths of the parts, ascending, that groups of so many texts are read in when sorted by length.

    Of the quantiles of what groups need, in eights, those that leave the least to read on average, where a
    group that does not fit is read at its longest. None where that would save less than a twentieth.

    Args:
      needed: wordpieces of each text there may be.
    """
    last = np.array([texts * (part + 1) // PARTS - 1 for part in range(PARTS)])
    if texts < PARTS:
        return ()
    drawn = np.random.default_rng(0).integers(len(needed), size=(DRAWN, texts))
    each = np.minimum(-(-np.sort(needed[drawn], axis=1)[:, last] // 8) * 8, longest)
    ways = [np.quantile(each, q, axis=0, method="higher") for q in np.linspace(0.5, 1, 11)]
    # With a last part as wide as any text, the others alone decide.
    ways += [np.append(way[:-1], longest) for way in ways]

    def read(way: np.ndarray) -> float:
        share = (each <= way).all(1).mean()
        return share * way.mean() + (1 - share) * longest

    best = min(ways, key=read)
    return tuple(best.astype(int).tolist()) if read(best) <= 0.95 * longest else ()
