"""The setting of a row: a scale, a seed, its data, and the pretraining runs there are at that scale."""

from pathlib import Path
from typing import NamedTuple

from experiments.datasets import Data
from experiments.rows import Training
from ralm_jax import gin_config
from ralm_jax.data.corpus import open_corpus
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory

ALMANAC = "almanac"
# These start from a released encoder, and so without inverse cloze.
IMPORTED = ("wiki9k_cpu", "wiki9k")
SCALES = (ALMANAC, *IMPORTED, "paper")
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


class Setting(NamedTuple):
    """One seed at one scale.

    Attributes:
      out: folder of all runs.
      init: the released encoder, imported, where the scale starts from one.
      questions: name of the question set, where there are several.
    """

    scale: str
    out: Path
    seed: int
    data: Data
    init: Path | None = None
    questions: str = ""

    def run(self, name: str) -> Path:
        return self.out / f"seed{self.seed}" / name

    def row_name(self, row: str) -> str:
        """The name of a row in this setting."""
        return "-".join(filter(None, (row, self.questions, str(self.seed))))

    def config(self, name: str) -> str:
        return f"experiments/{self.scale}/{name}.gin"

    def changes(self, run: str) -> list[str]:
        """To the configuration of a pretraining run, or with "" of a fine-tuning."""
        elsewhere = [f"ASKED = {str(self.data.asked)!r}"] if run == "elsewhere" else []
        return [f"SEED = {self.seed}", *elsewhere]

    def chain(self, name: str) -> list[Training]:
        """What is to be trained, in order, up to the run `name`."""
        runs = LATER if self.scale in IMPORTED else {**ICT, **LATER}
        if name not in runs:
            return []
        config, before = runs[name]
        earlier = self.chain(before) if before else []
        start = earlier[-1].run if earlier else self.init
        changes = self.changes(name)
        corpus = self.data.corpus
        return [*earlier, Training(self.run(name), self.config(config), corpus, start, changes)]

    def model(self) -> Ralm:
        """The sizes that all runs of a setting share."""
        if self.init is not None:
            model = directory.load_model(self.init)
            assert isinstance(model, Ralm)
            return model
        model = gin_config.bindings("pretrain.pretrain", self.config("ict"))["model"]
        return directory.sized(model, open_corpus(self.data.corpus).vocabulary.size)
