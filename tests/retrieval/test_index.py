import json
import os

import numpy as np
import pytest

from ralm_jax.errors import UserError
from ralm_jax.retrieval import index

N, E = 20, 6


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(N, E)).astype(np.float32)


def publish(root, step, vectors, fingerprint="corpus"):
    writer = index.create(root, step, vectors.shape, fingerprint)
    for start in range(0, len(vectors), 7):
        writer.write(start, vectors[start : start + 7])
    return writer.commit()


def test_what_was_written_is_read(tmp_path, vectors):
    made = publish(tmp_path, 500, vectors)
    opened = index.open_version(tmp_path, 500, "corpus")
    for version in made, opened:
        np.testing.assert_array_equal(version.vectors, vectors)
        assert version.step == 500 and version.path == tmp_path / "step_00000500"
        assert isinstance(version.vectors, np.memmap)


def test_nothing_is_visible_before_commit(tmp_path, vectors):
    writer = index.create(tmp_path, 1, vectors.shape, "corpus")
    writer.write(0, vectors)
    assert index.versions(tmp_path) == []
    writer.commit()
    assert index.versions(tmp_path) == [1]


def test_what_a_killed_writer_left_is_swept(tmp_path, vectors):
    index.create(tmp_path, 1, vectors.shape, "corpus").write(0, vectors[:3])
    publish(tmp_path, 2, vectors)
    assert os.listdir(tmp_path) == ["step_00000002"]


def test_a_step_made_again_replaces_its_version(tmp_path, vectors):
    publish(tmp_path, 1, vectors)
    publish(tmp_path, 1, -vectors)
    np.testing.assert_array_equal(index.open_version(tmp_path, 1, "corpus").vectors, -vectors)


def test_prune_keeps_what_it_is_told(tmp_path, vectors):
    for step in 0, 5, 10, 15:
        publish(tmp_path, step, vectors)
    index.prune(tmp_path, {5, 15, 20})
    assert index.versions(tmp_path) == [5, 15]
    assert sorted(os.listdir(tmp_path)) == ["step_00000005", "step_00000015"]


def test_rows_come_in_order_and_all_of_them(tmp_path, vectors):
    writer = index.create(tmp_path, 1, vectors.shape, "corpus")
    with pytest.raises(ValueError, match="expected row 0"):
        writer.write(1, vectors[1:])
    writer.write(0, vectors[:4])
    with pytest.raises(ValueError, match="4 of 20 rows"):
        writer.commit()
    writer.abandon()
    assert os.listdir(tmp_path) == []


def test_vectors_that_are_not_finite_are_refused(tmp_path, vectors):
    vectors[3, 2] = np.nan
    with pytest.raises(UserError, match=r"step 7 are not finite.*diverged"):
        publish(tmp_path, 7, vectors)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("rows", [N, 200_000])  # noticed when the buffer is flushed; or at once
def test_a_full_disk_leaves_the_earlier_versions_alone(tmp_path, vectors, rows):
    publish(tmp_path, 1, vectors)
    many = np.resize(vectors, (rows, E))
    writer = index.create(tmp_path, 2, many.shape, "corpus")
    (file,) = tmp_path.glob(f"{index.WRITING}*/{index.VECTORS}")
    file.unlink()
    file.symlink_to("/dev/full")  # from here on the kernel itself says ENOSPC
    message = f"disk full while publishing the index at step 2: free {4 * rows * E:,} bytes"
    with pytest.raises(UserError, match=message):
        writer.write(0, many)
        writer.commit()
    assert os.listdir(tmp_path) == ["step_00000001"]
    np.testing.assert_array_equal(index.open_version(tmp_path, 1, "corpus").vectors, vectors)
    np.testing.assert_array_equal(publish(tmp_path, 2, vectors).vectors, vectors)


def flip_a_bit(path):
    with open(path / index.VECTORS, "r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def cut_short(path):
    os.truncate(path / index.VECTORS, os.path.getsize(path / index.VECTORS) - 4)


def empty(path):
    os.truncate(path / index.VECTORS, 0)


def lengthen(path):
    with open(path / index.VECTORS, "ab") as file:
        file.write(b"\0\0\0\0")


def spoil_manifest(path):
    (path / index.MANIFEST).write_text("{")


def another_step(path):
    manifest = json.loads((path / index.MANIFEST).read_text())
    (path / index.MANIFEST).write_text(json.dumps(manifest | {"step": 4}))


CHEAP = [cut_short, lengthen, empty, spoil_manifest, another_step]


@pytest.mark.parametrize("spoil", [flip_a_bit, *CHEAP])
def test_damage_is_noticed(tmp_path, vectors, spoil):
    spoil(publish(tmp_path, 3, vectors).path)
    with pytest.raises(UserError, match=r"step_00000003: damaged"):
        index.open_version(tmp_path, 3, "corpus")


@pytest.mark.parametrize("spoil", CHEAP)
def test_without_the_checksum_form_and_size_are_checked_still(tmp_path, vectors, spoil):
    spoil(publish(tmp_path, 3, vectors).path)
    with pytest.raises(UserError, match=r"step_00000003: damaged"):
        index.open_version(tmp_path, 3, "corpus", verify=False)


def test_without_the_checksum_no_vector_is_read(tmp_path, vectors, monkeypatch):
    publish(tmp_path, 3, vectors)

    def read(*_):
        raise AssertionError("all vectors were read")

    monkeypatch.setattr(index, "_checksum", read)
    version = index.open_version(tmp_path, 3, "corpus", verify=False)
    np.testing.assert_array_equal(version.vectors, vectors)
    with pytest.raises(UserError, match="a different corpus"):
        index.open_version(tmp_path, 3, "another", verify=False)
    with pytest.raises(UserError, match=r"step_00000004.*missing"):
        index.open_version(tmp_path, 4, "corpus", verify=False)


def test_a_missing_version_another_corpus_and_another_format_are_named(tmp_path, vectors):
    path = publish(tmp_path, 3, vectors).path
    with pytest.raises(UserError, match=r"step_00000004.*missing"):
        index.open_version(tmp_path, 4, "corpus")
    with pytest.raises(UserError, match="a different corpus"):
        index.open_version(tmp_path, 3, "another")
    manifest = json.loads((path / index.MANIFEST).read_text())
    (path / index.MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match="format is 99, and this release reads 1"):
        index.open_version(tmp_path, 3, "corpus")
