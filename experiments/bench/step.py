"""REALM's training step beside the same step in torch, with the modules of transformers.

    pip install -r tests/parity/requirements-transformers.txt
    python -m experiments.bench.step CORPUS [--sizes bert_small,minilm] [--rounds 5] [--queries 8]

CORPUS is a prepared corpus, whose sentences are asked with salient spans masked; candidates are drawn at
random, as the search is no part of what is timed. Both sides have the same sizes, lengths, texts, threads and
optimiser and drop nothing out; torch computes logits at masked places alone, as we do. On a CPU both compute
in float32; on an NVIDIA GPU in bfloat16 with parameters in float32, torch by autocast, with fused attention
where its transformers has it (from 4.48 on).

Equal work: all texts but the null passage are filled to their lengths, and torch reads the null passage at
its own length, as we do. Real lengths: texts as they are, which torch reads padded, as REALM's released code.

The sides are timed in turns, each in a process of its own that has warmed up. Rates are medians over all
rounds, with 95% bootstrap intervals. Writes experiments/results/bench/step.json.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.record import RESULTS, commit, hardware
from ralm_jax.batches import ClozeBatch, Lengths, Text

# Layers, hidden width, heads.
SIZES = {"bert_small": (4, 512, 8), "minilm": (6, 384, 12), "bert_base": (12, 768, 12)}
LENGTHS = Lengths(query=64, passage=256, joint=320, masked=10)
E, RATE = 128, 1e-4
KINDS = ("equal_work", "real_lengths")
WARM_UP = 2
RESAMPLES = 10_000


class Timed(NamedTuple):
    """Which step is timed: a size of SIZES, a kind of KINDS, the corpus of its texts, and B and K."""

    size: str
    kind: str
    corpus: Path
    queries: int
    candidates: int


def texts(given: Timed, seed: int) -> ClozeBatch:
    """Queries with candidates: of the corpus as they are, or filled."""
    from ralm_jax.data.corpus import open_corpus
    from ralm_jax.examples import cloze_batches, features
    from ralm_jax.examples.masking import salient_span

    corpus, rng = open_corpus(given.corpus), np.random.default_rng(seed)
    b = given.queries
    rows = rng.choice(np.flatnonzero(cloze_batches.with_span(corpus, LENGTHS.query)), b)
    asked = cloze_batches.clozes(corpus, rows, np.arange(b), salient_span, LENGTHS, seed)
    found = rng.integers(corpus.size, size=(b, given.candidates))
    found[:, 0] = features.NULL
    batch = cloze_batches.with_candidates(corpus, asked, found, LENGTHS)
    return batch if given.kind == "real_lengths" else filled(batch, corpus.vocabulary.size, rng)


def filled(batch: ClozeBatch, vocabulary: int, rng: np.random.Generator) -> ClozeBatch:
    """With no padding left, but for what is behind a null passage."""

    def fill(text: Text, null: int | None) -> Text:
        drawn = rng.integers(1000, vocabulary, text.tokens.shape)
        tokens = np.where(text.tokens == 0, drawn, text.tokens)
        if null is not None:
            tokens[:, 0, null:] = 0
        return Text(tokens.astype(np.int32), text.types)

    # The null passage: [CLS] [SEP] [SEP]; and a query that fills its length, with [SEP].
    return batch._replace(
        query=fill(batch.query, None),
        candidates=fill(batch.candidates, 3),
        joint=fill(batch.joint, LENGTHS.query + 1),
    )


def ours(given: Timed, steps: int) -> list[float]:
    """Seconds of each step; the first ones compile."""
    import jax

    from ralm_jax import memory, partition
    from ralm_jax.data.corpus import open_corpus
    from ralm_jax.models import initial
    from ralm_jax.models.config import Compute, EncoderConfig
    from ralm_jax.models.ralm import Ralm
    from ralm_jax.training import initialize, optim
    from ralm_jax.training import steps as training_steps
    from ralm_jax.training.tasks import Realm

    memory.keep_freed()
    layers, hidden, heads = SIZES[given.size]
    corpus = open_corpus(given.corpus)
    config = EncoderConfig(
        corpus.vocabulary.size, hidden, layers, heads, 4 * hidden,
        dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    model = Ralm(config, config, embedding=E)
    if jax.default_backend() != "cpu":
        compute = Compute(dtype="bfloat16", attention_dropout=0.0)
        model = initialize.computing(model, compute, initialize.has_cudnn(compute))
    each = optim.by_part(optim.adamw(RATE), optim.adamw(RATE))
    state = training_steps.create_state(initial.drawn_params(model, 0), each)
    state = partition.replicate(state)
    task = Realm(LENGTHS, candidates=given.candidates)
    loss = task.loss(model, corpus if given.kind == "real_lengths" else None)

    def one(state, batch, key):
        return training_steps.train_step(state, batch, key, loss=loss)

    step, seconds = partition.parallelize(one), []
    for number in range(WARM_UP + steps):
        batch = partition.shard(texts(given, number))
        start = time.perf_counter()
        state, metrics = step(state, batch, jax.random.key(0))
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def modules(given: Timed) -> tuple[Any, Any]:
    """Retriever, with its projection, and reader, of random weights."""
    import torch  # pyrefly: ignore[missing-import]
    import transformers  # pyrefly: ignore[missing-import]

    from ralm_jax.data.corpus import open_corpus

    layers, hidden, heads = SIZES[given.size]
    config = transformers.BertConfig(
        vocab_size=open_corpus(given.corpus).vocabulary.size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    tower = transformers.BertModel(config, add_pooling_layer=False)
    project = torch.nn.Sequential(torch.nn.Linear(hidden, E), torch.nn.LayerNorm(E))
    retriever = torch.nn.ModuleDict({"tower": tower, "project": project})
    return retriever.train(), transformers.BertForMaskedLM(config).train()


def torch_loss(both: tuple[Any, Any], batch: ClozeBatch, kind: str, device: str) -> Any:
    """REALM's: -log sum_z p(z|x) p(y_m|z,x), a token."""
    import torch  # pyrefly: ignore[missing-import]

    retriever, reader = both
    b = len(batch.weights)

    def there(x):
        return torch.as_tensor(x).to(device, non_blocking=True)

    def at(tokens, types):
        tokens, types = (there(x).reshape(-1, x.shape[-1]) for x in (tokens, types))
        given = {"input_ids": tokens.long(), "token_type_ids": types.long()}
        return {**given, "attention_mask": (tokens != 0).long()}

    def embed(text: Text):
        return retriever["project"](retriever["tower"](**at(*text))[0][:, 0]).float()

    def repeated(x, k: int):
        return there(x).long().repeat_interleave(k, 0)[..., None]

    def read(joint: Text):
        k = joint.tokens.shape[1]
        states = reader.bert(**at(*joint))[0]
        where = repeated(batch.positions, k).expand(-1, -1, states.shape[-1])
        words = torch.log_softmax(reader.cls(states.gather(1, where)).float(), -1)
        return words.gather(-1, repeated(batch.targets, k))[..., 0].reshape(b, k, -1)

    candidates, joint = [batch.candidates], [batch.joint]
    if kind == "equal_work":
        null, rest = slice(0, 1), slice(1, None)
        candidates = [batch.candidates.at(null, 3), batch.candidates.at(rest)]
        joint = [batch.joint.at(null, LENGTHS.query + 1), batch.joint.at(rest)]
    with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
        passages = torch.cat([embed(text).reshape(b, -1, E) for text in candidates], 1)
        queries = embed(batch.query)
        likelihood = torch.cat([read(text) for text in joint], 1)  # [B,K,M]
    scores = torch.einsum("be,bke->bk", queries, passages)
    marginal = torch.logsumexp(torch.log_softmax(scores, -1)[..., None] + likelihood, 1)
    weights = there(batch.weights)
    return -(weights * marginal).sum() / weights.sum()


def theirs(given: Timed, steps: int) -> list[float]:
    """Seconds of each step: forward, backward, clipping, optimiser."""
    import torch  # pyrefly: ignore[missing-import]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    both = tuple(module.to(device) for module in modules(given))
    parts = [list(module.parameters()) for module in both]
    optimizer = torch.optim.AdamW(
        [p for part in parts for p in part], lr=RATE, fused=device != "cpu"
    )
    seconds = []
    for number in range(WARM_UP + steps):
        batch = texts(given, number)
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = torch_loss(both, batch, given.kind, device)
        loss.backward()
        for part in parts:
            torch.nn.utils.clip_grad_norm_(part, 1.0)
        optimizer.step()
        # Waits for the device.
        loss.item()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def interval(queries: int, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Queries per second of both and their ratio: medians, and 95% bootstrap intervals (seed 0)."""
    rng, sides = np.random.default_rng(0), [np.array(ours), np.array(theirs)]
    drawn = [np.median(s[rng.integers(len(s), size=(RESAMPLES, len(s)))], axis=1) for s in sides]
    low, high = np.percentile(drawn[1] / drawn[0], (2.5, 97.5))
    return {
        "ours": queries / float(np.median(ours)),
        "torch": queries / float(np.median(theirs)),
        "ratio": float(np.median(theirs) / np.median(ours)),
        "interval": [float(low), float(high)],
        "our_seconds": [round(s, 4) for s in ours],
        "torch_seconds": [round(s, 4) for s in theirs],
    }


def measured(given: Timed, rounds: int, steps: int) -> dict[str, Any]:
    """Both sides in turns, so that a machine that slows down slows both."""
    sides: dict[str, list[float]] = {"ours": [], "theirs": []}
    context = multiprocessing.get_context("spawn")
    for _ in range(rounds):
        for name, side in (("ours", ours), ("theirs", theirs)):
            with context.Pool(1) as alone:
                sides[name] += alone.apply(side, (given, steps))
    return interval(given.queries, **sides)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--sizes", default="bert_small,minilm")
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--out", type=Path, default=RESULTS / "bench" / "step.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of each side in a round")
    given = parser.parse_args()
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(len(os.sched_getaffinity(0))))
    # What one process has compiled the next one loads; no step that is timed compiles.
    compiled = tempfile.TemporaryDirectory()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled.name)
    result: dict[str, Any] = {
        "command": f"python -m experiments.bench.step CORPUS {shlex.join(sys.argv[2:])}".strip(),
        "commit": commit(),
        "hardware": hardware(),
        "lengths": dataclasses.asdict(LENGTHS),
        "queries, candidates": [given.queries, given.candidates],
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "sizes": {},
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    kinds = given.kinds.split(",")
    for size in given.sizes.split(","):
        result["sizes"][size] = {}
        for kind in kinds:
            timed = Timed(size, kind, given.corpus, given.queries, given.candidates)
            found = measured(timed, given.rounds, given.steps)
            result["sizes"][size][kind] = found
            print(size, kind, f"{found['ratio']:.2f}", found["interval"], flush=True)
    for kind in kinds:
        # The least favourable size speaks for all.
        result[kind] = min((s[kind] for s in result["sizes"].values()), key=lambda f: f["ratio"])
    given.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
