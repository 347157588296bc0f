"""Fine-tuning throughput beside RealmForOpenQA of transformers 4.40, the last library that had REALM.

    pip install -r tests/parity/requirements-transformers.txt
    python -m experiments.bench.openqa CORPUS QUESTIONS.jsonl [--sizes tiny,mini,minilm]

CORPUS is prepared; sizes, passages, beam, passages read, lengths, questions and the optimiser are the same,
and so are the first weights: a random RealmForOpenQA that is imported. Only questions are asked of which a
passage that is read holds an answer: any other costs us next to nothing (`span_loss`) and them the same.
Both sides are timed in turns within one run: ours, theirs, ours, theirs. Theirs takes one question at a
time, as its interface has it, with its own retriever (which tokenises the whole beam anew for each
question), once with the tokenizer that its documentation uses and once with the fast one. Writes
experiments/results/bench_openqa/result.json.
"""

import argparse
import json
import multiprocessing
import os
import shlex
import statistics
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
from ralm_jax import embedding, finetuning, memory, optim, runs
from ralm_jax.data.answering_batches import ask, know
from ralm_jax.data.corpus import Corpus, open_corpus
from ralm_jax.data.pipeline import Lengths
from ralm_jax.data.question_sources import read_questions
from ralm_jax.data.questions import Question
from ralm_jax.data.tokenizer import pieces_of, write_vocabulary
from ralm_jax.kept_vectors import corpus_vectors
from ralm_jax.retrieval import index
from ralm_jax.weights.importing import import_model
from ralm_jax.writers import metrics_file, read_metrics

SIZES = {  # layers, hidden, heads
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "minilm": (6, 384, 12),
}
LENGTHS = Lengths(query=64, passage=288, joint=320)
BEAM, READ, WIDTH, RATE, BATCH = 5000, 5, 10, 1e-5, 16
FIRST = 3  # steps of ours that are not counted: compilation, and what is loaded


def random_model(size: str, corpus: Corpus, folder: Path) -> transformers.RealmForOpenQA:
    """Theirs, of random weights; saved in `folder` with the wordpieces of the corpus."""
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
    model.save_pretrained(folder, safe_serialization=False)  # its tensors are shared
    write_vocabulary(folder, pieces_of(corpus.tokenizer()), corpus.tokenizer_settings)
    return model


def ours(run: Path, corpus: Path, train: Path, out: Path, steps: int) -> list[float]:
    """Seconds of each step of `BATCH` questions, from the log of a run; in a process of its own, as the
    command line sets it up: its allocator would slow theirs down."""
    memory.keep_freed()
    tower = optim.towers(query=optim.adamw(RATE), passage=optim.held())
    finetuning.finetune(
        out=out,
        run=run,
        corpus=corpus,
        train=train,
        steps=steps + FIRST,
        batch=BATCH,
        optimizer=optim.by_part(tower, optim.adamw(RATE)),
        lengths=LENGTHS,
        beam=BEAM,
        candidates=READ,
        span_width=WIDTH,
        index="exact",
        log_every=1,
    )
    lines = [line for line in read_metrics(metrics_file(out)) if "loss" in line]
    return [line["step_seconds"] for line in lines[FIRST:]]


def theirs(model, tokenizer, records, questions: list[Question]) -> list[float]:
    """Seconds a question: forward, backward, optimiser."""
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


def readable(run: Path, corpus: Corpus, questions: Sequence[Question]) -> list[Question]:
    """Those of which a passage that is read first holds an answer."""
    loaded, known = runs.load(run), know(corpus, questions)
    vectors = corpus_vectors(run, loaded, corpus, LENGTHS)
    asked = ask(corpus, known, np.arange(len(questions)), LENGTHS).query
    queries = embedding.embed_texts(loaded.model, loaded.params, asked)
    rows = embedding.search(queries, vectors, READ).rows
    held = [np.isin(row, holds).any() for row, holds in zip(rows, known.holds, strict=True)]
    return [q for q, yes in zip(questions, held, strict=True) if yes]


def measure(size: str, corpus: Path, train: Path, rounds: int) -> dict[str, Any]:
    """Both sides in turns; questions a second are medians."""
    opened = open_corpus(corpus)
    records = np.array([opened.texts()[row]["text"] for row in range(opened.size)], dtype=object)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_model(size, opened, folder / "theirs")
        import_model(str(folder / "theirs"), folder / "run", say=lambda line: None)
        answered = readable(folder / "run", opened, read_questions(train).asked)
        asked = folder / "asked.jsonl"
        asked.write_text("".join(json.dumps(q._asdict()) + "\n" for q in answered), "utf-8")
        tokenizers = {
            "slow": transformers.RealmTokenizer(str(folder / "theirs" / "vocab.txt")),
            "fast": transformers.RealmTokenizerFast(str(folder / "theirs" / "vocab.txt")),
        }
        steps: list[float] = []
        each: dict[str, list[float]] = {kind: [] for kind in tokenizers}
        for number in range(rounds):
            out = folder / f"out{number}"
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                steps += alone.apply(ours, (folder / "run", corpus, asked, out, 4))
            made = index.open_version(
                runs.index_folder(out, finetuning.STAGE), 0, opened.fingerprint
            )
            model.block_emb.copy_(torch.tensor(np.array(made.vectors)))
            few = answered[3 * number : 3 * number + 3]
            for kind, tokenizer in tokenizers.items():
                each[kind] += theirs(model, tokenizer, records, few)
    ours_rate = BATCH / statistics.median(steps)
    report: dict[str, Any] = {
        "questions": len(answered),
        "layers, hidden, heads": SIZES[size],
        "our_step_seconds": [round(s, 3) for s in steps],
        "our_questions_per_second": round(ours_rate, 3),
    }
    for kind, seconds in each.items():
        rate = 1 / statistics.median(seconds)
        report[f"their_question_seconds, {kind} tokenizer"] = [round(s, 3) for s in seconds]
        report[f"their_questions_per_second, {kind} tokenizer"] = round(rate, 4)
        report[f"times as many, {kind} tokenizer"] = round(ours_rate / rate, 1)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    sizes = arguments.sizes.split(",")
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
    for size in sizes:
        result["sizes"][size] = measure(
            size, arguments.corpus, arguments.questions, arguments.rounds
        )
        (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
