"""Options that several verbs take, and the configurations that ship."""

import argparse
from pathlib import Path

from ralm_jax.sources.records import Columns


def add_no_bm25(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--no-bm25",
        action="store_true",
        help="leave BM25 out, whose index keeps every word of the corpus in memory",
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


def columns(arguments: argparse.Namespace) -> Columns:
    """What `add_columns` was given."""
    return Columns(arguments.text_column, arguments.title_column, arguments.id_column)


def shipped() -> list[str]:
    """Configurations of whole pretraining runs that come with the package."""
    files = (str(f.relative_to(configs())) for f in configs().glob("runs/*.gin"))
    return sorted(file for file in files if not file.startswith("runs/finetune"))


def configs() -> Path:
    """Inside the package when installed, beside it in a checkout."""
    inside = Path(__file__).parents[1] / "configs"
    return inside if inside.is_dir() else inside.parents[1] / "configs"
