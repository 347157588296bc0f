"""The command line that all experiments share, the settings it asks for, and its record in results."""

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from experiments import datasets
from experiments.setting import ALMANAC, IMPORTED, Setting
from ralm_jax.errors import UserError

# Files of the user, for scales that do not generate their own.
FILES = ("corpus", "init", "asked", "train", "dev")
# What `--questions` stands for.
SETS = ("train", "dev")

Choices = Mapping[str, Collection[str]]


def parse(
    argv: Sequence[str] | None,
    usage: str | None,
    scales: Sequence[str],
    choices: Choices,
    question_sets: bool,
) -> argparse.Namespace:
    """The options as given; see `runner.run` for what shapes them."""
    parser = argparse.ArgumentParser(
        description=usage, formatter_class=argparse.RawTextHelpFormatter
    )
    # Some results were made by commands that call it --runs.
    parser.add_argument("--out", "--runs", type=Path, required=True, help="folder of runs and rows")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--dry-run", action="store_true", help="print the cost and start nothing")
    for option, values in choices.items():
        parser.add_argument(f"--{option}", default=",".join(values))
    parser.set_defaults(scale=scales[0], questions=[], **dict.fromkeys(FILES))
    if len(scales) > 1:
        parser.add_argument("--scale", required=True, choices=scales)
        for file in FILES:
            if not (question_sets and file in SETS):
                parser.add_argument(f"--{file}", type=Path)
    if question_sets:
        parser.add_argument("--questions", action="append", metavar="NAME=TRAIN,DEV")
    return parser.parse_args(argv)


def check(options: argparse.Namespace, choices: Choices) -> None:
    """Splits seeds and choices at their commas. Raises UserError for one that is not known."""
    for option, values in choices.items():
        given = getattr(options, option).split(",")
        if unknown := [value for value in given if value not in values]:
            raise UserError(f"--{option}: there is no {unknown[0]}; there are {', '.join(values)}")
        setattr(options, option, given)
    try:
        options.seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        raise UserError(
            f"--seeds {options.seeds}: give whole numbers, separated by commas"
        ) from None


def settings_of(options: argparse.Namespace, question_sets: bool) -> list[Setting]:
    """One for each seed, and for each question set. Raises UserError where the files do not fit the scale."""
    scale, out = options.scale, options.out
    if scale == ALMANAC:
        if given := [f"--{name}" for name in (*FILES, "questions") if getattr(options, name)]:
            raise UserError(f"{given[0]}: the scale {ALMANAC} generates its own data")
        return [
            Setting(scale, out, seed, datasets.almanac_data(out, seed)) for seed in options.seeds
        ]
    needed = ["corpus", *(["questions"] if question_sets else SETS)]
    needed += ["init"] if scale in IMPORTED else []
    if missing := [f"--{name}" for name in needed if not getattr(options, name)]:
        raise UserError(f"--scale {scale} needs {', '.join(missing)}")
    sets = {"": (options.train, options.dev)}
    if question_sets:
        sets = parse_question_sets(options.questions)
    settings = []
    for name, (train, dev) in sets.items():
        data = datasets.given_data(out / name, options.corpus, train, dev, options.asked)
        settings += [Setting(scale, out, seed, data, options.init, name) for seed in options.seeds]
    return settings


def parse_question_sets(given: Sequence[str]) -> dict[str, tuple[Path, Path]]:
    """{name: (train, dev)} of NAME=TRAIN,DEV. Raises UserError where one is not of that form."""
    found = {}
    for text in given:
        name, _, files = text.partition("=")
        train, _, dev = files.partition(",")
        if not (name and train and dev):
            raise UserError(f"--questions {text!r}: not of the form NAME=TRAIN,DEV")
        found[name] = (Path(train), Path(dev))
    return found


def command(name: str, options: argparse.Namespace, scales: Sequence[str], choices: Choices) -> str:
    """The command as results record it: without paths of this machine."""
    words = [f"python -m experiments.{name}"]
    words += [f"--scale {options.scale}"] if len(scales) > 1 else []
    for option, values in choices.items():
        given = getattr(options, option)
        words += [f"--{option} {','.join(given)}"] if given != list(values) else []
    words += [f"--{file} {file.upper()}" for file in FILES if getattr(options, file)]
    sets = parse_question_sets(options.questions)
    words += [f"--questions {question_set}=TRAIN,DEV" for question_set in sets]
    return " ".join([*words, f"--seeds {','.join(map(str, options.seeds))} --out DIR"])
