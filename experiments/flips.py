"""What becomes of a file in which one bit has turned, or which ends too soon: is it ever used as it is?

    python -m experiments.flips --out DIR [--places 200] [--seed 0] [--kind NAME ...]

Of each kind of file that ralm_jax writes, 200 copies are damaged at random places, three in four by a bit and
the others by an end, and used as a command uses them. What comes of it is

    refused    an error of one line, which names the file or its folder
    harmless   the same as of what is sound: the place says nothing, or what was damaged is made again
    served     anything else than that, in silence
    failed     another error

One kind tells what cannot be known: weights of other libraries, whose formats have no checksums. Of
metrics.jsonl a last line without its end is left out, as a run that is killed leaves one: that is harmless.
"""

import argparse
import contextlib
import hashlib
import io
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.saved import Saved, markdown, result
from ralm_jax import cache
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import open_corpus
from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.inference import vector_cache
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.lexical.index import LexicalIndex
from ralm_jax.living import merging
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import index, scann_index
from ralm_jax.runs import checkpoint, directory, writers
from ralm_jax.sources import almanac
from ralm_jax.weights import families, seal, tokenizer_files
from ralm_jax.weights.exporting import export_model

SMALL = EncoderConfig(hidden=16, layers=2, heads=2, intermediate=16, positions=64, dropout=0.0)
LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
NOT_KNOWN = ("weights of others",)
_STEP = 3


class Kind(NamedTuple):
    """A kind of file: which files of what was made, what using them gives, and when that is harmless."""

    files: Callable[[Path], list[Path]]
    use: Callable[[Path], Any]
    alike: Callable[[Any, Any], bool] = lambda found, sound: found == sound


def make(home: Path) -> None:
    """Everything of every kind, sound, in a folder."""
    made = almanac.generate(almanac.World(people=30, names=10), seed=0)
    lines = "".join(json.dumps(record) + "\n" for record in made.documents)
    (home / "almanac.jsonl").write_text(lines, "utf-8")
    prepare(str(home / "almanac.jsonl"), home / "corpus", vocab_size=800, say=str)
    corpus, run = open_corpus(home / "corpus"), home / "run"
    model = directory.sized(Ralm(SMALL, SMALL, embedding=16), corpus.vocabulary.size)
    stages = {"stages": ["ict"], "lengths": vars(LENGTHS), "held_out": 0.1, "seed": 0}
    directory.describe(run, model, corpus, **stages)
    saved = checkpoint.Checkpoints(directory.checkpoint_folder(run, "ict"))
    saved.save(_STEP, {"state": {"params": initial.drawn_params(model, seed=0)}}, wait=True)
    saved.close()
    with contextlib.closing(writers.MetricWriter(run)) as metrics:
        for step in range(50):
            metrics.write(step, {"loss": 1 / (step + 1), "recall": 0.5}, "ict")
    # Enough for ScaNN to have something to store.
    vectors = np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32)
    writer = index.create(home / "index", _STEP, vectors.shape, corpus.fingerprint, "an encoder")
    writer.write(0, vectors)
    version = writer.commit()
    shutil.copytree(home / "index", home / "searched")
    scann_index.open_or_build(_searched(home), vectors[:64], scann_index.ScannConfig())
    assert version.step == _STEP
    export_model(run, "transformers", home / "exported")
    shutil.copytree(home / "exported", home / "foreign")
    (home / "foreign" / seal.FILE).unlink()
    with _cached_in(home):
        _lexical(home), _vectors(home)


def _searched(home: Path) -> Path:
    return index.folder(home / "searched", _STEP)


@contextlib.contextmanager
def _cached_in(home: Path) -> Generator[None]:
    """The cache of what lies in a folder."""
    usual, cache.folder = cache.folder, lambda: home / "cache"
    try:
        yield
    finally:
        cache.folder = usual


def _digest(*trees: Any) -> str:
    whole = hashlib.sha256()
    for leaf in jax.tree.leaves(trees):
        array = np.asarray(leaf)
        whole.update(
            repr((array.dtype, array.shape)).encode() + np.ascontiguousarray(array).tobytes()
        )
    return whole.hexdigest()


def _corpus(home: Path) -> Any:
    found = open_corpus(home / "corpus")
    texts = [{name: list(np.atleast_1d(x)) for name, x in text.items()} for text in found.texts()]
    arrays = [
        found.tokens,
        found.lengths,
        found.ids,
        found.sentences,
        found.spans,
        found.span_groups,
    ]
    pieces = sorted(found.tokenizer().get_vocab().items())
    found.check(("tagger.json",))
    about = (found.fingerprint, found.passage_tokens, found.kinds, found.counts, found.lowercase)
    return about, _digest(arrays), repr((texts, pieces, list(merging.documents(found))))


def _index(home: Path) -> Any:
    fingerprint = open_corpus(home / "corpus").fingerprint
    found = index.open_version(home / "index", _STEP, fingerprint)
    return found.step, _digest(found.vectors)


def _scann(home: Path) -> Any:
    queries = np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32)
    found = scann_index.open_or_build(_searched(home), queries, scann_index.ScannConfig())
    return _digest(found.search(queries, 8)[0])


def _run(home: Path) -> Any:
    opened = OpenRun.open(home / "run")
    _, settings = directory.vocabulary(home / "run")
    directory.check_vocabulary(home / "run", open_corpus(home / "corpus"))
    return repr(opened.model), opened.lengths, opened.held_out, settings, opened.stage, opened.step


def _checkpoint(home: Path) -> Any:
    found = checkpoint.newest(home / "run" / "checkpoints" / "ict")
    return None if found is None else (found[0], _digest(found[1]))


def _vectors(home: Path) -> Any:
    opened = OpenRun.open(home / "run", home / "corpus")
    return _digest(
        vector_cache.corpus_vectors([], opened.model, opened.params, opened.corpus, LENGTHS)
    )


def _lexical(home: Path) -> Any:
    corpus = open_corpus(home / "corpus")
    return _digest(LexicalIndex.open(corpus).scores(np.asarray(corpus.tokens[3])))


def _released(folder: Path) -> Any:
    seal.check(folder)
    read = families.read(folder)
    pieces = tokenizer_files.read(folder, read.model.reader_config.vocab_size)
    return repr(read.model), repr(pieces), _digest(read.params)


def _below(*names: str) -> Callable[[Path], list[Path]]:
    def files(home: Path) -> list[Path]:
        found = [file for name in names for file in sorted(home.glob(name)) if file.is_file()]
        return [file for file in found if file.stat().st_size and not file.name.startswith(".")]

    return files


KINDS = {
    "corpus": Kind(_below("corpus/*", "corpus/texts/*"), _corpus),
    "index": Kind(_below("index/*/*"), _index),
    "scann": Kind(_below("searched/*/scann/*"), _scann),
    "run": Kind(_below("run/run.json", "run/model.json", "run/vocab.txt", "run/tok*.json"), _run),
    "checkpoint": Kind(_below("run/checkpoints/**/*"), _checkpoint),
    "vector cache": Kind(_below("cache/*/step_*/*"), _vectors),
    "BM25 cache": Kind(_below("cache/bm25-*/*"), _lexical),
    "exported weights": Kind(_below("exported/*"), lambda home: _released(home / "exported")),
    "weights of others": Kind(_below("foreign/*"), lambda home: _released(home / "foreign")),
    "metrics": Kind(
        _below("run/metrics.jsonl"),
        lambda home: writers.read_metrics(home / "run/metrics.jsonl"),
        lambda found, sound: found == sound[: len(found)],
    ),
}


def harmed(data: bytes, place: int, end: bool) -> bytes:
    """The bytes of a file that ends at a bit, or of which that bit is another."""
    if end:
        return data[: place // 8]
    flipped = bytearray(data)
    flipped[place // 8] ^= 1 << place % 8
    return bytes(flipped)


def outcome(kind: Kind, home: Path, file: Path, sound: Any) -> str:
    """What comes of using what is damaged, in one word; after a colon, of another error, the error."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            found = kind.use(home)
    except UserError as error:
        named = [file.name, *(str(folder) for folder in file.parents if folder != home)]
        return "refused" if any(name in str(error) for name in named[:4]) else f"failed: {error}"
    except Exception as error:
        return f"failed: {type(error).__name__}: {error}"
    return "harmless" if kind.alike(found, sound) else "served"


def measure(name: str, whole: Path, home: Path, places: int, seed: int) -> dict[str, Any]:
    """Damages the files of one kind, one place at a time, and counts what comes of it."""
    kind, rng = KINDS[name], np.random.default_rng([seed, list(KINDS).index(name)])
    shutil.copytree(whole, home)
    files, counts, notes = kind.files(home), Counter(), []
    with _cached_in(home):
        sound, began = kind.use(home), time.perf_counter()
        for _ in range(places):
            file = files[int(rng.integers(len(files)))]
            data = file.read_bytes()
            place, end = int(rng.integers(8 * len(data))), bool(rng.random() < 0.25)
            file.write_bytes(harmed(data, place, end))
            word, _, why = outcome(kind, home, file, sound).partition(": ")
            counts[word] += 1
            if word in ("served", "failed"):
                where = str(file.relative_to(home))
                notes.append({"file": where, "bit": place, "end": end, "outcome": word, "why": why})
            # What was noticed may have been made again, or removed.
            shutil.rmtree(home)
            shutil.copytree(whole, home)
    seconds = round(time.perf_counter() - began, 1)
    shutil.rmtree(home)
    return {"kind": name, "files": len(files), "seconds": seconds, **counts, "notes": notes}


def table(saved: Saved) -> str:
    """What came of the places of each kind."""
    words = ("refused", "harmless", "served", "failed")
    lines = [
        [row["kind"], str(row["files"]), *(str(row.get(w, 0)) for w in words)] for row in saved
    ]
    return markdown(["", "files", *words], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--places", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=KINDS)
    given = parser.parse_args()
    whole = given.out / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(parents=True)
    make(whole)
    rows = []
    for name in given.kind or KINDS:
        rows.append(measure(name, whole, given.out / "damaged", given.places, given.seed))
        print({k: v for k, v in rows[-1].items() if k != "notes"}, flush=True)
    command = f"python -m experiments.flips --out DIR --places {given.places} --seed {given.seed}"
    (given.out / "flips.json").write_text(result(command, places=given.places, rows=rows))


if __name__ == "__main__":
    main()
