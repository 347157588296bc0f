"""Folders that are one set of files: BEIR, MTEB, `datasets`, a document store, parts of one table."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from ralm_jax.errors import UserError
from ralm_jax.formats import arrow

_COMPRESSED = (".gz", ".bz2")
RECORDS = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".csv", ".tsv")
# What stands beside the data and is none of it.
_ABOUT = re.compile(r"(?:readme|licen[cs]e|dataset_infos?|croissant|stats?)\b.*", re.IGNORECASE)
_PART = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.(?:parquet|arrow)")


class FileSet(NamedTuple):
    """Files with the records of one corpus, in order, and what kind of folder they are of."""

    kind: str
    files: list[Path]


def corpus_files(folder: Path) -> FileSet | None:
    """The files that hold the corpus of such a folder; None for any other folder.

    Raises UserError where the set lacks its corpus, or a file of it is a link that leads out of the folder.
    """
    try:
        found = _corpus_files(folder)
    except OSError:
        # What reads files one by one says which cannot be read.
        return None
    if found is not None:
        check_inside(folder, found.files)
    return found


def check_inside(folder: Path, files: list[Path]) -> None:
    """Raises UserError where one of the files of a folder is a link that leads out of it.

    A data set that came with links out of it could make a corpus of any file of the machine. The cache of the
    Hugging Face hub keeps what its snapshots link to beside them.
    """
    root = folder.resolve()
    root = root.parents[1] if root.parent.name == "snapshots" else root
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise UserError(f"{file} is a link that leads out of {folder}; copy the file there")


def _corpus_files(folder: Path) -> FileSet | None:
    if arrow.is_saved(folder):
        return FileSet("a data set saved by `datasets`", arrow.saved_files(folder, "corpus"))
    if os.path.isfile(folder / "docstore.json"):
        return FileSet("a LlamaIndex store", [folder / "docstore.json"])
    if found := part(folder, "corpus"):
        return FileSet("a BEIR or MTEB set", found)
    if part(folder, "queries") and (part(folder, "qrels") or part(folder, "default")):
        raise UserError(
            f"{folder}: there are queries and qrels, but no corpus.jsonl beside them; copy the set whole"
        )
    files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
    files += sorted((folder / "data").glob("*.parquet")) if _only_data(files) else []
    data = [file for file in files if os.path.isfile(file) and not _ABOUT.match(file.name)]
    if data and all(_is_records(file) for file in data):
        return FileSet("a folder of records", one_split(data, "train"))
    return None


def part(folder: Path, name: str, split: str = "train") -> list[Path]:
    """The files of one part of a set, such as corpus, queries or qrels: `NAME.*`, or those in `NAME/`.

    MTEB puts the language before the name. Of several splits, that named is taken.
    """
    singles = [folder / f"{name}{s}{c}" for s in RECORDS for c in ("", *_COMPRESSED)]
    if found := [file for file in singles if os.path.isfile(file)]:
        return found[:1]
    if not folder.is_dir():
        return []
    folders = [f for f in sorted(folder.iterdir()) if f.is_dir() and _named(f.name, name)]
    if len(folders) != 1:
        return []
    inside = folders[0]
    if arrow.is_saved(inside):
        return arrow.saved_files(inside, split)
    return one_split(sorted(file for file in inside.iterdir() if _is_records(file)), split)


def one_split(files: list[Path], wanted: str) -> list[Path]:
    """The parts of the split wanted, where names of files say which split they are of; else all of them."""
    splits = [match["split"] for file in files if (match := _PART.fullmatch(file.name))]
    if len(splits) != len(files) or len(set(splits)) < 2 or wanted not in splits:
        return files
    return [file for file, split in zip(files, splits, strict=True) if split == wanted]


def _named(folder: str, name: str) -> bool:
    return folder == name or folder.endswith(f"-{name}")


def _only_data(files: list[Path]) -> bool:
    return [file.name for file in files if file.is_dir()] == ["data"]


def _is_records(file: Path) -> bool:
    name = file.name.lower()
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    return os.path.isfile(file) and name.endswith(RECORDS)
