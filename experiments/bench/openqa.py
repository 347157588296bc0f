"""Fine-tuning throughput beside RealmForOpenQA of transformers 4.40, the last library that had REALM.

    pip install -r tests/parity/requirements-transformers.txt
    python -m experiments.bench.openqa CORPUS QUESTIONS.jsonl [--sizes tiny,mini,minilm] [--rounds 3]

CORPUS is a prepared corpus. Both sides have the same sizes, passages, beam, passages read, lengths, questions
and optimiser, and begin with the same weights: those of a random RealmForOpenQA, which ralm_jax imports. Only
questions whose answer is in a passage that is read are used: any other costs ralm_jax next to nothing
(`losses.spans`), and transformers as much as ever.

The sides are timed in turns: each round times 4 steps of ralm_jax, then 4 questions of transformers with each
of two tokenizers, the slow one that its documentation uses and the fast one. The interface of transformers
takes one question at a time, and its retriever tokenises the whole beam again for each. Rates are medians
over all rounds, with 95% bootstrap intervals. Writes experiments/results/bench_openqa/result.json.
"""

import argparse
import json
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch  # pyrefly: ignore[missing-import]
import transformers  # pyrefly: ignore[missing-import]

from experiments.record import RESULTS, commit, hardware
from ralm_jax import memory
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus, open_corpus
from ralm_jax.data.tokenizer import pieces_of, write_vocabulary
from ralm_jax.examples import matching
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.questions.question import Question
from ralm_jax.questions.read import read_questions
from ralm_jax.retrieval import index
from ralm_jax.runs import directory
from ralm_jax.runs.writers import metrics_file, read_metrics
from ralm_jax.training import finetune, optim
from ralm_jax.training.schedule import Schedule
from ralm_jax.weights.importing import import_model

# Layers, hidden width and heads.
SIZES = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "minilm": (6, 384, 12)}
LENGTHS = Lengths(query=64, passage=288, joint=320)
BEAM, READ, WIDTH, RATE, BATCH = 5000, 5, 10, 1e-5, 16
# Of each side in a round.
TIMINGS = 4
# The first steps of ralm_jax are not counted: they compile, and load what the later ones use.
WARM_UP = 3
RESAMPLES = 10_000


def random_model(size: str, corpus: Corpus, folder: Path) -> transformers.RealmForOpenQA:
    """A random RealmForOpenQA; saved in `folder` with the wordpieces of the corpus."""
    layers, hidden, heads = SIZES[size]
    torch.manual_seed(0)
    config = transformers.RealmConfig(
        vocab_size=corpus.vocabulary.size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        num_block_records=corpus.size,
        searcher_beam_size=min(BEAM, corpus.size),
        reader_beam_size=READ,
        reader_seq_len=LENGTHS.joint,
        max_span_width=WIDTH,
    )
    model = transformers.RealmForOpenQA(config)
    model.block_emb.zero_()
    # Its tensors are shared, which safetensors refuses.
    model.save_pretrained(folder, safe_serialization=False)
    write_vocabulary(folder, pieces_of(corpus.tokenizer()), corpus.tokenizer_settings)
    return model


def ours(run: Path, corpus: Path, train: Path, out: Path) -> list[float]:
    """Seconds of each step of `BATCH` questions, from the log of a run.

    To be called in a process of its own, set up as the command line does: its allocator would slow
    transformers down.
    """
    memory.keep_freed()
    tower = optim.towers(query=optim.adamw(RATE), passage=optim.frozen())
    finetune.finetune(
        out=out,
        run=run,
        corpus=corpus,
        train=train,
        schedule=Schedule(
            steps=TIMINGS + WARM_UP,
            batch=BATCH,
            optimizer=optim.by_part(tower, optim.adamw(RATE)),
            log_every=1,
        ),
        lengths=LENGTHS,
        beam=BEAM,
        candidates=READ,
        span_width=WIDTH,
        index="exact",
    )
    lines = [line for line in read_metrics(metrics_file(out)) if "loss" in line]
    return [line["step_seconds"] for line in lines[WARM_UP:]]


def theirs(model, tokenizer, records, questions: list[Question]) -> list[float]:
    """Seconds of each question: forward, backward, optimiser."""
    model.retriever = transformers.RealmRetriever(records, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    model.train()
    seconds = []
    for question in questions:
        start = time.perf_counter()
        asked = tokenizer([question.question], return_tensors="pt")
        given = {"add_special_tokens": False, "return_attention_mask": False}
        wanted = tokenizer(list(question.answers), return_token_type_ids=False, **given).input_ids
        loss = model(**asked, answer_ids=wanted, return_dict=True).reader_output.loss
        optimizer.zero_grad()
        if loss is not None and loss.requires_grad:
            loss.mean().backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds


def readable(run: Path, corpus: Path, questions: Sequence[Question]) -> list[Question]:
    """Those with an answer in a passage that the untrained model reads."""
    opened = OpenRun.open(run, corpus)
    rows = opened.search([q.question for q in questions], READ).rows
    answers = matching.wordpieces(opened.corpus, questions)
    return [q for i, q in enumerate(questions) if answers.among(i, rows[i]).any()]


def timed(size: str, corpus: Path, questions: Path, rounds: int) -> dict[str, Any]:
    """Seconds of each step and of each question, both sides in turns."""
    opened = open_corpus(corpus)
    records = np.array([opened.texts()[row]["text"] for row in range(opened.size)], dtype=object)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["RALM_CACHE"] = str(folder / "vectors")
        model = random_model(size, opened, folder / "theirs")
        import_model(str(folder / "theirs"), folder / "run", say=lambda line: None)
        answered = readable(folder / "run", corpus, read_questions(questions).asked)
        train = folder / "train.jsonl"
        train.write_text("".join(json.dumps(q._asdict()) + "\n" for q in answered), "utf-8")
        tokenizers = {
            "slow": transformers.RealmTokenizer(str(folder / "theirs" / "vocab.txt")),
            "fast": transformers.RealmTokenizerFast(str(folder / "theirs" / "vocab.txt")),
        }
        steps: list[float] = []
        each: dict[str, list[float]] = {kind: [] for kind in tokenizers}
        for number in range(rounds):
            out = folder / f"out{number}"
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                steps += alone.apply(ours, (folder / "run", corpus, train, out))
            served = index.open_version(
                directory.index_folder(out, finetune.STAGE), 0, opened.fingerprint
            )
            model.block_emb.copy_(torch.tensor(np.array(served.vectors)))
            asked = [answered[(TIMINGS * number + n) % len(answered)] for n in range(TIMINGS)]
            for kind, tokenizer in tokenizers.items():
                each[kind] += theirs(model, tokenizer, records, asked)
    return {"questions": len(answered), "ours": steps, "theirs": each}


def interval(compute, *samples: Sequence[float]) -> list[float]:
    """`compute` of the samples' medians, and its 2.5 and 97.5 percentiles over bootstrap samples (seed 0)."""
    rng, arrays = np.random.default_rng(0), [np.array(sample) for sample in samples]
    drawn = [np.median(a[rng.integers(len(a), size=(RESAMPLES, len(a)))], axis=1) for a in arrays]
    low, high = np.percentile(compute(*drawn), (2.5, 97.5))
    return [float(compute(*map(np.median, arrays))), float(low), float(high)]


def summary(size: str, seconds: dict[str, Any]) -> dict[str, Any]:
    """Of what `timed` returns: each rate, and how many times as many questions ralm_jax trains on."""
    report: dict[str, Any] = {
        "questions": seconds["questions"],
        "layers, hidden, heads": SIZES[size],
        "our_step_seconds": [round(s, 3) for s in seconds["ours"]],
        "our_questions_per_second": interval(lambda s: BATCH / s, seconds["ours"]),
    }
    for kind, each in seconds["theirs"].items():
        report[f"their_question_seconds, {kind} tokenizer"] = [round(s, 3) for s in each]
        report[f"their_questions_per_second, {kind} tokenizer"] = interval(lambda s: 1 / s, each)
        report[f"times as many, {kind} tokenizer"] = interval(
            lambda step, question: BATCH * question / step, seconds["ours"], each
        )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    result = {
        "command": "python -m experiments.bench.openqa CORPUS QUESTIONS "
        + shlex.join(sys.argv[3:]),
        "commit": commit(),
        "hardware": hardware(),
        "versions": {m.__name__: m.__version__ for m in (jax, torch, transformers)},
        "passages": open_corpus(arguments.corpus).size,
        "beam, read, batch of ours": [BEAM, READ, BATCH],
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "sizes": {},
    }
    out = RESULTS / "bench_openqa"
    out.mkdir(parents=True, exist_ok=True)
    for size in arguments.sizes.split(","):
        seconds = timed(size, arguments.corpus, arguments.questions, arguments.rounds)
        result["sizes"][size] = summary(size, seconds)
        (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
