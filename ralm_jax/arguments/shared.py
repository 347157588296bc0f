"""Options that several verbs take, and the configurations that ship."""

import argparse
import itertools
import re
from pathlib import Path

from ralm_jax.sources.records import Columns


def add_no_bm25(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--no-bm25",
        action="store_true",
        help="leave BM25 out, whose index keeps every word of the corpus in memory",
    )


def add_json(verb: argparse.ArgumentParser, what: str = "the figures") -> None:
    verb.add_argument(
        "--json",
        metavar="FILE",
        help=f"also write {what} there; with - they alone go to standard output",
    )


def add_set(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="'NAME = VALUE'",
        help="change one setting of the configuration; may be given again",
    )


def add_any_import(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--any-import",
        action="store_true",
        help="let the configuration import, and so run, modules other than those of ralm_jax",
    )


def add_columns(verb: argparse.ArgumentParser) -> None:
    for name in ("text", "title", "id"):
        verb.add_argument(
            f"--{name}-column",
            metavar="NAME",
            help=f"the field or column with the {name}, where its name is an unusual one",
        )


def add_runner(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--runner",
        metavar="beam[:RUNNER]",
        help="on Apache Beam rather than here: by its direct runner, or FlinkRunner, SparkRunner, "
        "DataflowRunner, ...; its workers must see the same folders",
    )
    verb.add_argument(
        "--runner-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of Apache Beam, as direct_num_workers=4 or flink_master=HOST:PORT; may be given again",
    )


def columns(arguments: argparse.Namespace) -> Columns:
    """What `add_columns` was given."""
    return Columns(arguments.text_column, arguments.title_column, arguments.id_column)


def shipped() -> list[str]:
    """Configurations of whole pretraining runs that come with the package."""
    files = (str(f.relative_to(configs())) for f in configs().glob("runs/*.gin"))
    return sorted(file for file in files if not file.startswith("runs/finetune"))


def described() -> dict[str, str]:
    """Every configuration that ships, whole runs first, and what its first comment says it is."""
    files = [str(f.relative_to(configs())) for f in configs().rglob("*.gin")]
    files.sort(key=lambda file: (not file.startswith("runs/"), file))
    return {file: _first_sentence((configs() / file).read_text("utf-8")) for file in files}


def _first_sentence(text: str) -> str:
    """Of the comment that a file begins with; its commands stand further in."""
    lines = itertools.takewhile(lambda line: re.match(r"# \S", line), text.splitlines())
    comment = " ".join(line.removeprefix("# ").strip() for line in lines)
    return re.split(r"(?<=[.!?])\s(?=[A-Z`])", comment, maxsplit=1)[0]


def configs() -> Path:
    """Inside the package when installed, beside it in a checkout."""
    inside = Path(__file__).parents[1] / "configs"
    return inside if inside.is_dir() else inside.parents[1] / "configs"
