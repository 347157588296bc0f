"""The training steps: pure, `(state, batch, key) -> (state, metrics)`, run under `partition`.

Each device's loss is a sum; the count is summed over devices, then gradients are summed once, so
that uneven numbers of masked tokens weigh as they would in one batch. Metrics are {name: (sum, count)}.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from ralm_jax import grouping, losses, partition, span_loss
from ralm_jax.models.openqa import QuestionBatch
from ralm_jax.models.ralm import ClozeBatch, ClozePair
from ralm_jax.state import TrainState


def ict_step(state: TrainState, batch: ClozePair, key: jax.Array):
    """Inverse cloze: the candidates are the passages of the global batch (ORQA, section 5)."""
    key = partition.device_key(key, state.step)
    count = partition.psum(jnp.float32(len(batch.query.tokens)))

    def objective(params):
        keys = jax.random.split(key)
        embed = lambda text, tower, key: state.apply_fn(  # noqa: E731
            {"params": params}, text, True, method=tower, rngs={"dropout": key}
        )
        queries = embed(batch.query, "queries", keys[0])  # [B,E]
        passages = partition.all_gather(embed(batch.passage, "passages", keys[1]))  # [global B,E]
        labels = jnp.arange(len(queries)) + partition.first_row(len(queries))
        # [B,global B]
        scores = state.apply_fn({"params": params}, queries, passages, method="similarity")
        rows = partition.all_gather(batch.row)  # [global B]
        (total, n), right = losses.inverse_cloze(scores, labels, batch.row, rows)
        return total / count, {"loss": (total, n), "in_batch_accuracy": (right, n)}

    grads, metrics = jax.grad(objective, has_aux=True)(state.params)
    return apply(state, grads, metrics)


def ralm_step(
    state: TrainState,
    batch: ClozeBatch,
    key: jax.Array,
    *,
    objective: losses.Objective = losses.marginal_per_token,
    judge: bool = False,
    hold_retriever: bool = False,
    hold_encoder: bool = False,
    at_once: int | None = None,
):
    """Marginal likelihood of the masked tokens over the candidates in the batch (REALM eq. 1).

    Or another objective; `judge`: one that is also given what the model's scorer says of the candidates.
    `at_once`: queries that a device reads at a time (all): less memory, and the same step.
    """
    local = len(batch.weights)
    keys = jax.random.split(partition.device_key(key, state.step), local)
    count = partition.psum(batch.weights.sum())
    few = grouping.divisor(local, at_once or local)

    def loss(params, _, part):
        batch, keys = part
        held = {"params": _held(params, hold_retriever, hold_encoder)}
        call = functools.partial(state.apply_fn, held, rngs={"dropout": keys[0]})
        scores, log_likelihood = call(batch, True)  # [B,K], [B,K,M]
        log_prior = losses.log_prior(scores, batch.valid)
        judged = ()
        if judge:
            raw = call(batch.joint, True, method="judge")  # [B,K]
            judged = (losses.log_prior(raw, batch.valid),)
        total, n = objective(log_prior, log_likelihood, batch.weights, *judged)
        telemetry = losses.retrieval_telemetry(log_prior, log_likelihood, batch.weights)
        return total, {"loss": (total, n), **telemetry}

    summed = loss if few == local else grouping.in_groups([loss], lambda _: 0, few)

    def mean(params):
        total, metrics = summed(params, (), (batch, keys))
        return total / jnp.maximum(count, 1), metrics

    grads, metrics = jax.grad(mean, has_aux=True)(state.params)
    return apply(state, grads, metrics)


def _held(params, retriever: bool, encoder: bool):
    """Parameters without a backward pass through the towers, or the reader's encoder and its tied decoder."""
    if retriever:
        params = {**params, "retriever": jax.lax.stop_gradient(params["retriever"])}
    if encoder:
        held = jax.lax.stop_gradient(params["reader"]["encoder"])
        params = {**params, "reader": {**params["reader"], "encoder": held}}
    return params


def openqa_step(
    state: TrainState,
    batch: QuestionBatch,
    key: jax.Array,
    *,
    at_once: int | None = None,
    widths: Sequence[int] = (),
    distil: Callable | None = None,
):
    """Retrieval over the wide beam plus spans of the passages read (ORQA 4.2, eq. 6; REALM 3.3).

    A question adds the first term if a passage of its beam holds an answer, the second if one read does.
    `at_once`: questions that a device reads at a time (all), each time at the least of `widths` that fits
    (S); the result is the same, see `span_loss`. `distil`: of `distillation`, a third term with the scorer.
    """
    key = partition.device_key(key, state.step)
    local, k, longest = batch.joint.tokens.shape
    size = jnp.float32(local)
    count = partition.psum(size)
    few = grouping.divisor(local, at_once or local)
    reading = span_loss.reading(state.apply_fn, few, (*(w for w in widths if w < longest), longest))
    passages = span_loss.passages(batch, key)
    call = functools.partial(state.apply_fn, rngs={"dropout": key})

    def loss(params):
        scores = call({"params": params}, batch, True, method="scores")  # [B,R]
        retrieval, found = losses.answer_likelihood(scores, batch.holds)
        read = scores[:, :k]
        spans, (readable, right) = reading(params["reader"], read, passages)
        listed, more = 0.0, {}
        if distil is not None:
            raw = call({"params": params}, batch.joint, True, method="judge")  # [B,K]
            listed, lists = distil(read, raw, batch.holds[:, :k], batch.found[:, :k])
            more = {"distillation_loss": (listed, lists)}
        return (retrieval + spans + listed) / count, {
            "loss": (retrieval + spans + listed, size),
            **more,
            "retrieval_loss": (retrieval, found),
            "reading_loss": (spans, readable),
            "answer_in_beam": (found, size),
            "answer_in_read": (readable, size),
            "span_accuracy": (right, size),
        }

    grads, metrics = jax.grad(loss, has_aux=True)(state.params)
    return apply(state, grads, metrics)


def apply(state: TrainState, grads, metrics):
    """Sums gradients and metrics over devices, once, and takes the optimiser's step."""
    grads, metrics = partition.psum(grads), partition.psum(metrics)
    one = jnp.float32(1)
    norms = {f"grad_norm_{part}": (optax.tree.norm(g), one) for part, g in grads.items()}
    return state.apply_gradients(grads=grads), {**metrics, **norms}
