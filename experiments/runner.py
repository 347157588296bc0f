"""Runs an experiment: its rows are priced before they start, made one by one, and each saved once it is done.

An experiment is its rows and its table; everything else is the same for all and stands here. A row needs
pretraining runs that it may share with other rows; a run is trained once, by the row that first needs it.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from experiments import options, pricing
from experiments.options import Choices
from experiments.record import commit, hardware
from experiments.rows import Row
from experiments.saved import Saved, result
from experiments.setting import SCALES, Setting
from ralm_jax.errors import UserError


def run(
    name: str,
    rows: Callable[[Sequence[Setting], argparse.Namespace], list[Row]],
    table: Callable[[Saved], str],
    argv: Sequence[str] | None = None,
    *,
    usage: str | None,
    choices: Choices | None = None,
    scales: Sequence[str] = SCALES,
    question_sets: bool = False,
    folder: str | None = None,
) -> int:
    """Runs the experiment `name` as the command line says, and writes DIR/NAME.json and DIR/NAME.md.

    The same command resumes an experiment that was stopped.

    Args:
      rows: all rows of the settings, in the order in which they are made; the options have the choices.
      table: Markdown of the rows that are saved.
      argv: the words of the command line; those of this process by default.
      usage: the help text.
      choices: {option: values}; `--option` takes some of the values, separated by commas, by default all.
      scales: those that the experiment has.
      question_sets: `--questions NAME=TRAIN,DEV`, repeated, stands in for `--train` and `--dev`.
      folder: of the saved rows, in DIR, where it is not named after the experiment.

    Returns:
      The exit code: 0, or 2 after one line about a mistake of the user.
    """
    choices = choices or {}
    given = options.parse(argv, usage, scales, choices, question_sets)

    def start() -> None:
        options.check(given, choices)
        wanted = rows(options.settings_of(given, question_sets), given)
        saved = given.out / (folder or name)
        missing = [row for row in wanted if not (saved / f"{row.name}.json").exists()]
        print(pricing.table(missing, read_rows(saved)), flush=True)
        if given.dry_run:
            return
        command = options.command(name, given, scales, choices)

        def save() -> str:
            found = read_rows(saved)
            seeds = sorted({row["seed"] for row in found})
            text = result(command, seeds=seeds, rows=found)
            write(given.out / f"{name}.json", text)
            write(given.out / f"{name}.md", table(found))
            return table(found)

        run_rows(missing, saved, save)
        print(save())

    return exit_code(name, start)


def exit_code(name: str, start: Callable[[], object]) -> int:
    """Calls `start`; a mistake of the user becomes one line and exit code 2."""
    try:
        start()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0


def run_rows(rows: Sequence[Row], folder: Path, save: Callable[[], object]) -> None:
    """Makes rows, writes each into `folder` once it is done, and then saves the whole result."""
    if commit().endswith("-dirty"):
        print("code or configurations differ from the commit: results will be marked -dirty")
    folder.mkdir(parents=True, exist_ok=True)
    # Rows run the same steps in processes of their own: what one has compiled the next one loads.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder.parent.resolve() / "compiled"))
    for row in tqdm(rows, "rows"):
        tqdm.write(row.label)
        start = time.perf_counter()
        report = row.make()
        report["wall_seconds"] = round(time.perf_counter() - start, 1)
        report |= {"flops": pricing.total(row), "config": config(row, folder.parent)}
        report |= {"commit": commit(), "hardware": hardware()}
        write(folder / f"{row.name}.json", json.dumps(report, indent=1) + "\n")
        save()


def config(row: Row, out: Path) -> dict[str, list[str]]:
    """The configuration of each run of a row and the changes to it, without paths of this machine."""
    parts: dict[str, Sequence[str]] = {t.run.name: [t.config, *t.changes] for t in row.trainings}
    if row.finetuning:
        parts["finetune"] = [row.finetuning.config, *row.finetuning.changes]
    return {name: [word.replace(str(out), "DIR") for word in part] for name, part in parts.items()}


def read_rows(folder: Path) -> Saved:
    """The rows saved in a folder, by name."""
    return [json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))]


def write(file: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, "utf-8")
    partial.replace(file)
