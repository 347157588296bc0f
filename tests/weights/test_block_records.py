"""The texts of the released models: arrays of objects that numpy has pickled, and traps."""

import io

import numpy as np
import pytest

from ralm_jax.errors import UserError
from ralm_jax.weights import block_records

TEXTS = ["hello", "", "the same", "é" * 300, "x" * 70_000, "the same", "dtype", "numpy"]


def npy(pickled: bytes, count: int) -> bytes:
    file = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + pickled


@pytest.fixture
def written(tmp_path):
    """An array of byte strings as they stand in the released file."""
    import pickle

    array = np.array([text.encode() for text in TEXTS], object)
    array[5] = array[2]  # one object twice: pickled as a reference

    def write(protocol):
        file = tmp_path / "block_records.npy"
        file.write_bytes(npy(pickle.dumps(array, protocol=protocol), len(TEXTS)))
        return file

    return write


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_texts_are_read_as_data(written, protocol):
    assert list(block_records.read(written(protocol))) == TEXTS


def test_strings_of_one_width_need_no_pickle(tmp_path):
    file = tmp_path / "block_records.npy"
    for array in (np.array([t.encode() for t in TEXTS]), np.array(TEXTS)):
        np.save(file, array, allow_pickle=False)
        assert list(block_records.read(file)) == TEXTS


class Trap:
    def __reduce__(self):
        import os

        return os.system, ("echo caught",)


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    import pickle

    file = tmp_path / "block_records.npy"
    for protocol in (0, 2, 4):
        file.write_bytes(npy(pickle.dumps([Trap()], protocol=protocol), 1))
        with pytest.raises(UserError, match=r"would call (posix|nt) system|has the opcode"):
            list(block_records.read(file))


def test_damage_is_said(written, tmp_path):
    file = written(4)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"block_records\.npy is damaged"):
        list(block_records.read(file))
    file.write_bytes(b"not an array")
    with pytest.raises(UserError, match="is damaged"):
        list(block_records.read(file))
    np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="contains float64 instead of texts"):
        list(block_records.read(file))
