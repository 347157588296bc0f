"""A corpus embedded on Apache Beam: each worker opens the run, and makes parts as one machine makes them."""

from pathlib import Path

import apache_beam as beam

from ralm_jax.data.corpus import Corpus
from ralm_jax.engines import runner
from ralm_jax.engines.embed import Missing, embed_part
from ralm_jax.engines.parts import Parts
from ralm_jax.engines.runner import Runner
from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun


def embed(engine: Runner, missing: Missing) -> None:
    """Makes the parts that are missing: `by` of `embed.embed`. Raises UserError as `runner.run` does."""
    if not missing.numbers:
        return
    opened, parts = missing.opened, missing.parts
    corpus = opened.corpus
    folder = parts.folder.absolute()
    make = _Embed(opened.folder.absolute(), opened.stage, opened.step, corpus, folder)
    runner.run(
        engine,
        lambda pipeline: (
            pipeline | beam.Create(missing.numbers) | beam.Reshuffle() | beam.ParDo(make)
        ),
        folder,
    )


class _Embed(beam.DoFn):
    """Makes a part, by its number, with a checkpoint of a run."""

    def __init__(self, run: Path, stage: str, step: int, corpus: Corpus, folder: Path):
        self._run, self._made_by = run, (stage, step)
        self._corpus, self._fingerprint = corpus.path.absolute(), corpus.fingerprint
        self._folder = folder
        self._opened: OpenRun | None = None

    def process(self, element: int) -> None:
        with runner.reported(self._folder, element):
            # Not in `setup`: an error there is reported by nobody.
            opened = self._opened = self._opened or self._open()
            Parts(self._folder).write(element, embed_part(opened, element, int))

    def _open(self) -> OpenRun:
        opened = OpenRun.open(self._run, self._corpus)
        if (opened.stage, opened.step) != self._made_by:
            raise UserError(f"{self._run} has been trained further meanwhile; embed again")
        if opened.corpus.fingerprint != self._fingerprint:
            raise UserError(f"{self._corpus} has been updated meanwhile; embed again")
        return opened
