"""What it takes to bring a corpus up to date, beside preparing and embedding it anew.

    python -m experiments.bench.update --out DIR [--documents 70000] [--share 0.01] [--init RUN]

Documents are synthetic. A third of the share is added, a third changed, a third deleted. The encoder that
embeds everything is small and of random weights; that of --init embeds a thousand passages, from which the
time for all of them is computed. Recall is of windows of passages as questions. Writes DIR/update.json.
"""

import argparse
import dataclasses
import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runner import exit_code, write
from experiments.saved import result
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus, open_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.inference.embedding import embed_corpus, embed_rows
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.living.update import update
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints

SMALL = EncoderConfig(hidden=128, layers=2, heads=2, intermediate=512, positions=160, dropout=0.0)
LENGTHS = Lengths(query=24, passage=128, joint=160, masked=4)
WORDS, SENTENCE, SENTENCES = 20_000, 12, 8
QUESTIONS, TIMED = 1_000, 1_024
# Beside inner products of random weights, which say nothing.
MOSTLY_BM25 = 1e4


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=70_000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--init", type=Path)
    given = parser.parse_args(argv)
    return exit_code("bench.update", functools.partial(_run, given, argv))


def _run(given: argparse.Namespace, argv: Sequence[str] | None) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ["RALM_CACHE"] = str(given.out / "cache")
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    command = f"python -m experiments.bench.update {words}".replace(str(given.out), "DIR")
    if given.init:
        command = command.replace(str(given.init), "MODEL")
    write(given.out / "update.json", result(command, **measure(given)))
    print((given.out / "update.json").read_text())


def document(number: int, edition: int) -> dict[str, str]:
    """Sentences of invented words, frequent ones and rare ones as in text."""
    rng = np.random.default_rng((number, edition))
    ranks = (WORDS * rng.random((SENTENCES, SENTENCE)) ** 3).astype(int)
    text = " ".join(" ".join(map(word, row)).capitalize() + "." for row in ranks.tolist())
    return {"id": f"d{number}", "title": word(number % WORDS), "text": text}


def word(rank: int) -> str:
    """
    >>> word(0), word(21), word(12345)
    ('ba', 'ge', 'nagobe')
    """
    out = ""
    while rank or not out:
        rank, last = divmod(rank, 100)
        out += "bcdfghklmnprstvwxyzj"[last // 5] + "aeiou"[last % 5]
    return out


def _written(file: Path, documents: Sequence[tuple[int, int]]) -> str:
    with file.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(document(*which)) + "\n" for which in documents)
    return str(file)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each part, their ratios, and recall of the updated and of the rebuilt corpus."""
    third = max(1, int(given.documents * given.share / 3))
    before = [(i, 0) for i in range(given.documents)]
    changed = [(i, 1) for i in range(third)]
    added = [(given.documents + i, 0) for i in range(third)]
    after = changed + before[2 * third :] + added
    sources = [_written(given.out / f"{n}.jsonl", d) for n, d in (("one", before), ("two", after))]
    quiet = functools.partial(prepare, passage_tokens=LENGTHS.passage, vocab_size=8_000, say=str)
    seconds: dict[str, float] = {}
    corpus = given.out / "corpus"
    timed(seconds, "prepare before", lambda: quiet(sources[0], corpus))
    run = drawn(given.out / "run", open_corpus(corpus))
    opened = OpenRun.open(run, corpus)
    timed(seconds, "embed before", lambda: opened.vectors)
    updating = functools.partial(update, corpus, sources[1], prune=True, say=str)
    counts = timed(seconds, "update", updating)
    now = opened.current()
    timed(seconds, "embed what is new", lambda: now.vectors)
    vocabulary = {"vocab_file": corpus / "vocab.txt"}
    timed(seconds, "prepare anew", lambda: quiet(sources[1], given.out / "anew", **vocabulary))
    anew = open_corpus(given.out / "anew")
    embedding = functools.partial(embed_corpus, now.model, now.params, anew, LENGTHS)
    vectors = timed(seconds, "embed anew", embedding)
    rebuilt = OpenRun(now.model, now.params, LENGTHS, source=anew, embedded=vectors)
    part = seconds["update"] + seconds["embed what is new"]
    whole = seconds["prepare anew"] + seconds["embed anew"]
    report = {
        "counts": counts,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "share of preparing and embedding anew": round(part / whole, 4),
        "recall@5": {
            name: {"updated": recall(now, weight), "rebuilt": recall(rebuilt, weight)}
            for name, weight in (("dense", 0.0), ("with BM25", MOSTLY_BM25))
        },
    }
    if given.init:
        new = int((next(now.corpus.ancestors())[1] < 0).sum())
        report["init"] = computed(given.init, anew, new, seconds)
    return report


def timed(seconds: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    begun = time.perf_counter()
    made = call()
    seconds[name] = time.perf_counter() - begun
    return made


def drawn(path: Path, corpus: Corpus) -> Path:
    """A run of random weights."""
    model = directory.sized(
        Ralm(SMALL, SMALL, embedding=64, pooling="mean"), corpus.vocabulary.size
    )
    parts = {"stages": ["ict"], "lengths": vars(LENGTHS), "held_out": 0.0, "seed": 0}
    directory.describe(path, model, corpus, **parts)
    checkpoints = Checkpoints(directory.checkpoint_folder(path, "ict"))
    checkpoints.save(1, {"state": {"params": initial.drawn_params(model, seed=0)}}, wait=True)
    checkpoints.close()
    return path


def recall(opened: OpenRun, weight: float) -> float:
    """Of windows of ten words as questions: how often their passage is among the first five."""
    texts, rng = opened.texts, np.random.default_rng(0)
    ids = np.sort(opened.corpus.ids)
    rows = {content: row for row, content in enumerate(opened.corpus.ids.tolist())}
    asked = [rows[content] for content in rng.choice(ids, QUESTIONS).tolist()]
    windows = []
    for row in asked:
        words = texts[row]["text"].decode().split()
        start = int(rng.integers(0, max(1, len(words) - 10)))
        windows.append(" ".join(words[start : start + 10]))
    found = opened.search(windows, 5, lexical_weight=weight).rows
    return float((found == np.array(asked)[:, None]).any(1).mean())


def computed(init: Path, corpus: Corpus, new: int, seconds: dict[str, float]) -> dict[str, float]:
    """The same share with another encoder, by its time for some passages (the second time, when compiled)."""
    opened = OpenRun.open(init)
    # Its own vocabulary numbers other pieces, as many for a passage: the time is that of its own.
    rows = np.arange(min(TIMED, corpus.size))
    kept = corpus.tokens[rows] % opened.model.retriever_config.vocab_size
    some = functools.partial(
        embed_rows, opened.model, opened.params, _with(corpus, kept), LENGTHS, rows
    )
    each: dict[str, float] = {}
    timed(each, "compile", some)
    timed(each, "embed", some)
    rate = len(rows) / each["embed"]
    part = seconds["update"] + new / rate
    whole = seconds["prepare anew"] + corpus.size / rate
    return {
        "passages a second": round(rate, 1),
        "share of preparing and embedding anew, computed": round(part / whole, 4),
    }


def _with(corpus: Corpus, tokens: np.ndarray) -> Corpus:
    return dataclasses.replace(
        corpus, tokens=tokens.astype(corpus.tokens.dtype), lengths=corpus.lengths[: len(tokens)]
    )


if __name__ == "__main__":
    sys.exit(main())
