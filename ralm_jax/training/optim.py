"""Optimisers: BERT's AdamW recipe, and a rate for each half of the model."""

from collections.abc import Hashable

import jax
import optax

from ralm_jax.settings import Count, CountOrZero, Positive, Rate, ShareBelowOne


def warmup_linear(peak: Rate, steps: Count, warmup: CountOrZero | None = None) -> optax.Schedule:
    """Linear warm-up, then linear decay to 0 at `steps`.

    Default warm-up: min(10000, max(100, steps / 10)), but never over half of the steps (REALM as released).
    """
    if warmup is None:
        warmup = min(10_000, max(100, steps // 10), max(1, steps // 2))
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, warmup),
            optax.linear_schedule(peak, 0.0, steps - warmup),
        ],
        [warmup],
    )


def decayed(params):
    """Which parameters weight decay applies to: matrices, not biases and LayerNorm gains.

    Layers are stacked under `nn.scan`, so a bias is known by its name, not by its rank.
    """

    def one(path, _):
        return path[-1].key in ("kernel", "embedding")

    return jax.tree_util.tree_map_with_path(one, params)


def adamw(
    learning_rate: Rate | optax.Schedule,
    weight_decay: Rate = 0.01,
    clip: Positive = 1.0,
    beta2: ShareBelowOne = 0.999,
) -> optax.GradientTransformation:
    """AdamW with BERT's constants and a global-norm clip; with bias correction, unlike BERT's own.

    A run of hundreds of steps wants a shorter memory of squared gradients: beta2 = 0.98.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(
            learning_rate, b1=0.9, b2=beta2, eps=1e-6, weight_decay=weight_decay, mask=decayed
        ),
    )


def by_part(
    retriever: optax.GradientTransformation,
    reader: optax.GradientTransformation,
    scorer: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """One optimiser for each half: joint training wants the retriever slower than the reader.

    The scorer, where the model has one, learns as the reader does if it is given none of its own.
    """
    each: dict[Hashable, optax.GradientTransformation] = {"retriever": retriever, "reader": reader}
    if scorer:
        each["scorer"] = scorer

    def labels(params):
        return {
            part: jax.tree.map(lambda _, part=part: part if part in each else "reader", tree)
            for part, tree in params.items()
        }

    return optax.partition(each, labels)


def towers(
    query: optax.GradientTransformation, passage: optax.GradientTransformation
) -> optax.GradientTransformation:
    """For a retriever of two towers: one optimiser each. Fine-tuning freezes that of the passages (ORQA)."""
    return optax.partition(
        {True: query, False: passage}, lambda params: _under("query_tower", params)
    )


def head_only(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """For a reader: its masked-LM head learns, its encoder stays (and with it the tied decoder)."""
    return optax.partition(
        {False: optimizer, True: frozen()}, lambda params: _under("encoder", params)
    )


def _under(name: str, params):
    """Whether each leaf is somewhere under `name`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(getattr(part, "key", None) == name for part in path), params
    )


def frozen() -> optax.GradientTransformation:
    """No change at all, weight decay included."""
    return optax.set_to_zero()
