"""The one training step, and the losses it takes; all pure, run under `partition`.

A loss is `(params, batch, key, train) -> (sum, count, metrics)` over the rows of one device,
metrics being {name: (sum, count)}. Counts are summed over devices before the division and gradients
are summed once, so that uneven numbers of masked tokens weigh as they would in one batch. Dropout
is drawn for each example from a key of its own: a batch taken in microbatches is the same step, unless it is
read in parts, of which each is drawn for as a whole.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

from ralm_jax import partition
from ralm_jax.batches import ClozeBatch, QueryPassages, QuestionBatch, ReadClozes
from ralm_jax.losses import clozes, marginal, microbatch
from ralm_jax.losses import spans as span_losses
from ralm_jax.losses.clozes import WRITTEN
from ralm_jax.losses.prior import DENSE, Prior, over_batch
from ralm_jax.models.base import RetrievalModel

Metrics = dict[str, tuple[Any, Any]]
Loss = Callable[[Any, Any, jax.Array, bool], tuple[jax.Array, jax.Array, Metrics]]


def create_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """Step 0 with given parameters.

    Its `apply_fn` is that of the class, since the loss of a step knows its model: with a method of one model,
    a step would be compiled again for every other that is equal to it.
    """
    state = TrainState.create(apply_fn=RetrievalModel.apply, params=params, tx=optimizer)
    return state.replace(step=jnp.zeros((), jnp.int32))


def train_step(state: TrainState, batch: Any, key: jax.Array, *, loss: Loss, skip: bool = False):
    """One update by the mean of a loss over all devices -> (state, metrics).

    skip: where the loss or a gradient is not finite, nothing but the number of the step changes.
    """
    key = partition.device_key(key, state.step)

    def mean(params):
        total, count, metrics = loss(params, batch, key, True)
        everywhere = jnp.maximum(partition.psum(count), 1)
        return total / everywhere, {"loss": (total, count), **metrics}

    grads, metrics = jax.grad(mean, has_aux=True)(state.params)
    written = jax.tree.map(partition.all_gather, metrics.pop(WRITTEN, ()))
    grads, metrics = partition.psum(grads), partition.psum(metrics)
    one = jnp.float32(1)
    norms = {f"grad_norm_{part}": (optax.tree.norm(g), one) for part, g in grads.items()}
    metrics = {**metrics, **norms, **({WRITTEN: written} if written else {})}
    after = state.apply_gradients(grads=grads)
    if skip:
        values = [metrics["loss"][0], *(norm for norm, _ in norms.values())]
        finite = jnp.isfinite(jnp.stack(values)).all()
        before = state.replace(step=after.step)
        after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
    return after, metrics


def contrast_loss(
    params,
    batch: QueryPassages,
    key: jax.Array,
    train: bool,
    *,
    model: RetrievalModel,
    dropout: bool = True,
):
    """Tell a query's own passage from all others of the global batch (ORQA, section 5).

    Or, where the batch brings a teacher's scores, rank them as the teacher does.
    """
    keys, train = jax.random.split(key), train and dropout
    b, c = batch.rows.shape

    def embed(text, tower, key) -> Any:
        return model.apply({"params": params}, text, train, method=tower, rngs={"dropout": key})

    queries = embed(batch.query, "queries", keys[0])  # [B,E]
    if batch.vectors is not None:
        own = batch.vectors.reshape(b * c, -1)
    else:
        texts = jax.tree.map(lambda x: x.reshape(b * c, -1), batch.passages)
        own = embed(texts, "passages", keys[1])
    passages = partition.all_gather(own)  # [global B*C,E]
    labels = (jnp.arange(b) + partition.first_row(b)) * c
    scores: Any = model.apply({"params": params}, queries, passages, method="similarity")
    if batch.teacher is not None:
        (total, count), right = marginal.listwise(scores, batch.teacher)
        return total, count, {"in_batch_accuracy": (right, count)}
    rows = partition.all_gather(batch.rows).reshape(-1)  # [global B*C]
    (total, count), right = marginal.in_batch(scores, labels, batch.rows[:, 0], rows)
    return total, count, {"in_batch_accuracy": (right, count)}


def realm_loss(
    params,
    batch: ClozeBatch,
    key: jax.Array,
    train: bool,
    *,
    model: RetrievalModel,
    prior: Prior = DENSE,
    objective: Callable = marginal.marginal_per_token,
    scorer: bool = False,
    freeze_retriever: bool = False,
    freeze_encoder: bool = False,
    microbatch_size: int | None = None,
    widths: Sequence[int] = (),
    part_widths: Sequence[int] = (),
):
    """Marginal likelihood of the masked tokens over the candidates (REALM eq. 1), or another objective.

    scorer: the objective also sees what the model's scorer makes of the candidates.
    microbatch_size: queries that a device reads at a time; None for all: less memory, and the same step.
    widths: they are read at the least of these that fits, which changes nothing where nothing is dropped.
    part_widths: or their candidates in parts of these widths, sorted by length, where they fit; see `parts`.
    """

    def loss(params, _, rows, in_parts=()):
        examples, keys = rows
        frozen = _frozen(params, freeze_retriever, freeze_encoder)
        (scores, log_likelihood), kept = clozes.scored(
            model, frozen, examples, keys, train, in_parts
        )
        log_prior = prior(scores, examples.valid, examples.lexical)
        seen: list[jax.Array] = [log_prior, log_likelihood, examples.weights]
        if scorer:
            raw = clozes.each(
                model, frozen, (examples.joint,), keys, train, method="rerank"
            )  # [B,K]
            seen.append(marginal.log_prior(raw, examples.valid))
        total, count = objective(*seen)
        telemetry = marginal.retrieval_telemetry(log_prior, log_likelihood, examples.weights)
        return total, ((count, telemetry), kept)

    return clozes.in_microbatches(loss, params, batch, key, (microbatch_size, widths, part_widths))


def read_loss(
    params,
    batch: ReadClozes,
    key: jax.Array,
    train: bool,
    *,
    model: RetrievalModel,
    priors: Sequence[tuple[float, Prior]] = ((1.0, DENSE),),
    objective: marginal.Objective = marginal.marginal_per_span,
):
    """What a frozen reader has read teaches the retriever, over a query's candidates and those of the batch.

    Nothing is dropped out. priors: (share of the loss, prior).
    """
    clozes, variables = batch.clozes, {"params": _frozen(params, reader=True)}
    call: Any = functools.partial(model.apply, variables)
    queries, (null, own) = call(clozes.query, method="queries"), _candidates(call, batch)
    beside = call(queries[:, None], own, method="similarity")[:, 0]  # [B,K-1]
    scores = jnp.concatenate([call(queries, null, method="similarity"), beside], axis=1)  # [B,K]
    all_passages = partition.all_gather(own.reshape(-1, own.shape[-1]))  # [n,E]
    others = call(queries, all_passages, method="similarity")  # [B,n]
    read = batch.likelihood if batch.likelihood is not None else call(clozes, method="likelihood")
    valid = jnp.concatenate([clozes.valid, batch.others], axis=1)
    total, count = jnp.float32(0), jnp.float32(0)
    for share, prior in priors:
        both = prior.scores(scores, clozes.lexical), prior.scores(others, batch.lexical)
        listed, likelihood = over_batch(*both, read)
        log_prior = marginal.log_prior(listed, valid)
        lost, count = objective(log_prior, likelihood, clozes.weights)
        total += share * lost
    log_prior = priors[0][1](scores, clozes.valid, clozes.lexical)
    return total, count, marginal.retrieval_telemetry(log_prior, read, clozes.weights)


def _candidates(call, batch: ReadClozes) -> tuple[jax.Array, jax.Array]:
    """Vectors of the null passage [1,E], which is the same for all, and of the others [B,K-1,E]."""
    if batch.vectors is not None:
        return batch.vectors[:1, 0], batch.vectors[:, 1:]
    b, k, p = batch.clozes.candidates.tokens.shape
    texts = jax.tree.map(
        lambda x: jnp.concatenate([x[:1, 0], x[:, 1:].reshape(b * (k - 1), p)]),
        batch.clozes.candidates,
    )
    embedded = call(texts, method="passages")
    return embedded[:1], embedded[1:].reshape(b, k - 1, -1)


def qa_loss(
    params,
    batch: QuestionBatch,
    key: jax.Array,
    train: bool,
    *,
    model: RetrievalModel,
    microbatch_size: int | None = None,
    widths: Sequence[int] = (),
    distil: Callable | None = None,
):
    """Retrieval over the wide beam plus spans of the passages read (ORQA 4.2, eq. 6; REALM 3.3).

    A question adds the first term if a passage of its beam has an answer, the second if one read does.
    microbatch_size: questions that a device reads at a time; None for all. They are read at the least
      of `widths` that fits, which changes nothing where nothing is dropped; see `losses.spans`.
    distil: of `distillation`, a third term with the scorer.
    """
    local, k, longest = batch.joint.tokens.shape
    size = jnp.float32(local)
    few = microbatch.divisor(local, microbatch_size or local)
    narrower = [width for width in widths if width < longest]
    reading = span_losses.reading(model, few, (*narrower, longest))
    call: Any = functools.partial(model.apply, {"params": params}, rngs={"dropout": key})
    scores = call(batch, train, method="scores")  # [B,R]
    retrieval, found = marginal.answer_likelihood(scores, batch.has_answer)
    read = scores[:, :k]
    passages = span_losses.passages(batch, key)
    spans, ((readable, right), _) = reading(params["reader"], read, passages)
    listed, more = 0.0, {}
    if distil is not None:
        raw = call(batch.joint, train, method="rerank")  # [B,K]
        listed, lists = distil(read, raw, batch.has_answer[:, :k], batch.found[:, :k])
        more = {"distillation_loss": (listed, lists)}
    return (
        retrieval + spans + listed,
        size,
        {
            **more,
            "retrieval_loss": (retrieval, found),
            "reading_loss": (spans, readable),
            "answer_in_beam": (found, size),
            "answer_in_read": (readable, size),
            "span_accuracy": (right, size),
        },
    )


def _frozen(params, retriever: bool = False, encoder: bool = False, reader: bool = False):
    """Parameters without a backward pass through the towers, the reader, or its encoder and tied decoder."""
    if retriever:
        params = {**params, "retriever": jax.lax.stop_gradient(params["retriever"])}
    if reader:
        params = {**params, "reader": jax.lax.stop_gradient(params["reader"])}
    if encoder:
        frozen = jax.lax.stop_gradient(params["reader"]["encoder"])
        params = {**params, "reader": {**params["reader"], "encoder": frozen}}
    return params
