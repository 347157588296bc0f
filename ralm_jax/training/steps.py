"""The one training step, and the losses it takes; all pure, run under `partition`.

A loss is `(params, batch, key, train) -> (sum, count, metrics)` over the rows of one device,
metrics being {name: (sum, count)}. Counts are summed over devices before the division and gradients
are summed once, so that uneven numbers of masked tokens weigh as they would in one batch. Dropout
is drawn for each example from a key of its own: a batch taken in microbatches is the same step.
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
from ralm_jax.losses import marginal, microbatch
from ralm_jax.losses import spans as span_losses
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


def train_step(state: TrainState, batch: Any, key: jax.Array, *, loss: Loss):
    """One update by the mean of a loss over all devices -> (state, metrics)."""
    key = partition.device_key(key, state.step)

    def mean(params):
        total, count, metrics = loss(params, batch, key, True)
        everywhere = jnp.maximum(partition.psum(count), 1)
        return total / everywhere, {"loss": (total, count), **metrics}

    grads, metrics = jax.grad(mean, has_aux=True)(state.params)
    grads, metrics = partition.psum(grads), partition.psum(metrics)
    one = jnp.float32(1)
    norms = {f"grad_norm_{part}": (optax.tree.norm(g), one) for part, g in grads.items()}
    return state.apply_gradients(grads=grads), {**metrics, **norms}


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
    b, c, p = batch.passages.tokens.shape
    texts = jax.tree.map(lambda x: x.reshape(b * c, p), batch.passages)

    def embed(text, tower, key) -> Any:
        return model.apply({"params": params}, text, train, method=tower, rngs={"dropout": key})

    queries = embed(batch.query, "queries", keys[0])  # [B,E]
    passages = partition.all_gather(embed(texts, "passages", keys[1]))  # [global B*C,E]
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
    objective: marginal.Objective = marginal.marginal_per_token,
    freeze_retriever: bool = False,
    freeze_encoder: bool = False,
    microbatch_size: int | None = None,
):
    """Marginal likelihood of the masked tokens over the candidates (REALM eq. 1), or another objective.

    microbatch_size: queries that a device reads at a time; None for all: less memory, and the same step.
    """

    def loss(params, _, rows):
        examples, keys = rows
        frozen = _frozen(params, freeze_retriever, freeze_encoder)
        scores, log_likelihood = _each(model, frozen, (examples,), keys, train)  # [B,K], [B,K,M]
        log_prior = prior(scores, examples.valid, examples.lexical)
        total, count = objective(log_prior, log_likelihood, examples.weights)
        telemetry = marginal.retrieval_telemetry(log_prior, log_likelihood, examples.weights)
        return total, (count, telemetry)

    return _in_microbatches(loss, params, batch, key, microbatch_size)


def scorer_loss(
    params,
    batch: ClozeBatch,
    key: jax.Array,
    train: bool,
    *,
    model: RetrievalModel,
    prior: Prior = DENSE,
    objective: Callable,
    freeze_retriever: bool = False,
    freeze_encoder: bool = False,
    microbatch_size: int | None = None,
):
    """As `realm_loss`, with an objective that also sees what the model's scorer makes of the candidates."""

    def loss(params, _, rows):
        examples, keys = rows
        frozen = _frozen(params, freeze_retriever, freeze_encoder)
        scores, log_likelihood = _each(model, frozen, (examples,), keys, train)  # [B,K], [B,K,M]
        raw = _each(model, frozen, (examples.joint,), keys, train, method="rerank")  # [B,K]
        log_prior = prior(scores, examples.valid, examples.lexical)
        log_scorer = marginal.log_prior(raw, examples.valid)
        total, count = objective(log_prior, log_likelihood, examples.weights, log_scorer)
        telemetry = marginal.retrieval_telemetry(log_prior, log_likelihood, examples.weights)
        return total, (count, telemetry)

    return _in_microbatches(loss, params, batch, key, microbatch_size)


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
    b, k, p = clozes.candidates.tokens.shape
    call: Any = functools.partial(model.apply, variables)
    # The null passage is the same for all.
    passages = jax.tree.map(
        lambda x: jnp.concatenate([x[:1, 0], x[:, 1:].reshape(b * (k - 1), p)]), clozes.candidates
    )
    queries, embedded = call(clozes.query, method="queries"), call(passages, method="passages")
    null, own = embedded[:1], embedded[1:].reshape(b, k - 1, -1)
    beside = call(queries[:, None], own, method="similarity")[:, 0]  # [B,K-1]
    scores = jnp.concatenate([call(queries, null, method="similarity"), beside], axis=1)  # [B,K]
    all_passages = partition.all_gather(embedded[1:])  # [n,E]
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
    spans, (readable, right) = reading(params["reader"], read, passages)
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


def _each(model: RetrievalModel, params, inputs: tuple, keys: jax.Array, train: bool, **named):
    """The model on examples [B,...], the dropout of each drawn from its own key."""

    def call(inputs, key):
        return model.apply({"params": params}, *inputs, train, rngs={"dropout": key}, **named)

    return microbatch.each_example(call, inputs, keys, alone=train and model.drops)


def _in_microbatches(loss: microbatch.Loss, params, batch: ClozeBatch, key, size: int | None):
    """The loss over all rows, `size` of them at a time -> (sum, count, metrics)."""
    local = len(batch.weights)
    few = microbatch.divisor(local, size or local)
    summed = loss if few == local else microbatch.in_groups([loss], lambda _: 0, few)
    total, (count, metrics) = summed(params, (), (batch, jax.random.split(key, local)))
    return total, count, metrics


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
