"""TFDS datasets made for a test."""

import itertools

import pytest
import tensorflow_datasets as tfds


class _Tiny(tfds.core.GeneratorBasedBuilder):
    """A dataset of the rows given to it, prepared as TFDS prepares any other."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(self.FEATURES)
        )

    def _split_generators(self, download_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        yield from enumerate(self.ROWS)


_numbers = itertools.count()


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """make(features, rows) -> the name of a dataset that has been prepared in TFDS_DATA_DIR."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))

    def make(features, rows, file_format="array_record"):
        # A name of its own each time, since TFDS keeps a register; abstract to stay out of it.
        name = f"Tiny{next(_numbers)}"
        cls = type(name, (_Tiny,), {"FEATURES": features, "ROWS": rows, "__module__": __name__})
        builder = cls(data_dir=str(tmp_path), file_format=file_format)
        builder.download_and_prepare()
        return builder.name

    return make
