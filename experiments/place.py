"""Where the rows of the tables are made: a scale, a seed, its data, and the pretraining runs there are."""

import argparse
from pathlib import Path
from typing import NamedTuple

from experiments import ablation
from experiments.ablation import Data, Training
from ralm_jax import gin_config
from ralm_jax.data.corpus import open_corpus
from ralm_jax.errors import UserError
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory

SCALES = ("almanac", "wiki9k_cpu", "wiki9k", "paper")
IMPORTED = ("wiki9k_cpu", "wiki9k")  # start from a released encoder: no inverse cloze
# Each pretraining run, its configuration, and the run it starts from.
ICT = {"ict": ("ict", None)}
LATER = {
    "warmup": ("warmup", "ict"),
    "realm": ("realm", "warmup"),
    "stale": ("stale", "warmup"),
    "uniform": ("uniform", "ict"),
    "span": ("span", "ict"),
    "elsewhere": ("realm", "warmup"),
}


class Place(NamedTuple):
    """One seed at one scale."""

    scale: str
    out: Path
    seed: int
    data: Data
    init: Path | None
    asks: str = ""  # which of several sets of questions

    def run(self, name: str) -> Path:
        return self.out / f"seed{self.seed}" / name

    def named(self, row: str) -> str:
        """What a row is called here."""
        return "-".join(filter(None, (row, self.asks, str(self.seed))))

    def changes(self, name: str) -> list[str]:
        elsewhere = [f"ASKED = {str(self.data.asked)!r}"] if name == "elsewhere" else []
        return [f"SEED = {self.seed}", *elsewhere]

    def chain(self, name: str) -> list[Training]:
        """What is to be trained, in order, up to the run `name`."""
        known = LATER if self.scale in IMPORTED else {**ICT, **LATER}
        if name not in known:
            return []
        config, before = known[name]
        earlier = self.chain(before) if before else []
        start = earlier[-1].run if earlier else self.init
        file = f"experiments/{self.scale}/{config}.gin"
        return [
            *earlier,
            Training(self.run(name), file, self.data.corpus, start, self.changes(name)),
        ]


def model_of(place: Place) -> Ralm:
    """Sizes that every run of a place shares."""
    if place.init is not None:
        model = directory.load_model(place.init)
        assert isinstance(model, Ralm)
        return model
    config = f"experiments/{place.scale}/ict.gin"
    model = gin_config.bindings("pretrain.pretrain", config)["model"]
    return directory.sized(model, open_corpus(place.data.corpus).vocabulary.size)


def arguments_of(description: str | None) -> argparse.ArgumentParser:
    """What the tables are told."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scale", required=True, choices=SCALES)
    for name in ("corpus", "init", "asked"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--dry-run", action="store_true")
    return parser


def asking(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """One set of questions, for scales that make none of their own."""
    for name in ("train", "dev"):
        parser.add_argument(f"--{name}", type=Path)
    return parser


def place_of(
    arguments: argparse.Namespace, seed: int, train: Path | None, dev: Path | None, asks: str = ""
) -> Place:
    """Makes the world of an almanac, or takes the files given. Raises UserError where some are missing."""
    scale, out = arguments.scale, arguments.out
    if scale == "almanac":
        return Place(scale, out, seed, ablation.almanac_data(out, seed), None)
    if arguments.corpus is None or train is None or dev is None:
        raise UserError(
            f"--scale {scale} needs --corpus, and questions to train and to measure with"
        )
    if scale in IMPORTED and arguments.init is None:
        raise UserError(f"--scale {scale} needs --init: a run that ralm import made")
    data = ablation.given_data(out / asks, arguments.corpus, train, dev, arguments.asked)
    return Place(scale, out, seed, data, arguments.init, asks)


def places_of(arguments: argparse.Namespace) -> list[Place]:
    """One for each seed; see `place_of`."""
    seeds = map(int, arguments.seeds.split(","))
    return [place_of(arguments, seed, arguments.train, arguments.dev) for seed in seeds]
