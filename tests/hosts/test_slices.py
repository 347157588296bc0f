"""Who holds which passages, and versions that are cut anew for other numbers of hosts."""

import numpy as np
import pytest

from ralm_jax.errors import UserError
from ralm_jax.hosts import slices
from ralm_jax.retrieval import index

VECTORS = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)


def test_slices_of_whole_chunks_are_as_equal_as_they_can_be():
    """By hand: of 23 passages in chunks of 4 there are six chunks, the last of them short."""
    assert slices.slices(23, 4, 1) == [range(23)]
    assert slices.slices(23, 4, 2) == [range(12), range(12, 23)]
    assert slices.slices(23, 4, 4) == [range(4), range(4, 12), range(12, 16), range(16, 23)]
    # Chunks as large as this would leave a host without any: 5 passages each, and what is left over.
    assert slices.slices(23, 16, 4) == [range(5), range(5, 10), range(10, 15), range(15, 23)]


@pytest.mark.parametrize("hosts", [1, 2, 3, 7, 23])
@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
def test_every_passage_has_one_host_and_no_host_is_without(hosts, chunk):
    found = slices.slices(23, chunk, hosts)
    assert [row for rows in found for row in rows] == list(range(23))
    assert all(rows for rows in found)


def test_fewer_passages_than_hosts_are_refused():
    with pytest.raises(UserError, match="3 passages cannot be shared by 4 processes"):
        slices.slices(3, 1, 4)


def write(root, hosts, step, vectors=VECTORS, corpus="c"):
    """A version as so many processes make it."""
    for host, rows in enumerate(slices.slices(len(vectors), 4, hosts)):
        at, about = slices.folder(root, host, hosts), slices.stamp(corpus, rows, len(vectors))
        writer = index.create(at, step, (len(rows), vectors.shape[1]), about)
        writer.write(0, vectors[rows.start : rows.stop])
        writer.commit()


def cut(root, before, now, step, corpus="c"):
    """What each of `now` processes has of a version that `before` made."""
    found = []
    for host, rows in enumerate(slices.slices(len(VECTORS), 4, now)):
        slices.recut(root, before, (host, now), step, (corpus, rows, *VECTORS.shape))
        about = slices.stamp(corpus, rows, len(VECTORS))
        found.append(index.open_version(slices.folder(root, host, now), step, about).vectors)
    return np.concatenate(found)


def test_a_version_outlives_every_change_of_hosts(tmp_path):
    root = tmp_path / "index" / "realm"
    write(root, 4, 8)
    for before, now in (4, 2), (2, 1), (1, 4), (4, 3):
        np.testing.assert_array_equal(cut(root, before, now, 8), VECTORS)


def test_what_other_hosts_made_later_is_not_taken(tmp_path):
    """Four hosts came to step 12 and were lost; two went on from step 8, and now there are four again."""
    root = tmp_path / "realm"
    write(root, 2, 8)
    write(root, 4, 8, vectors=VECTORS + 1)
    write(root, 4, 12, vectors=VECTORS + 1)
    np.testing.assert_array_equal(cut(root, 2, 4, 8), VECTORS)
    assert all(index.versions(slices.folder(root, host, 4)) == [8] for host in range(4))


def test_a_slice_is_not_taken_for_the_whole_nor_for_another(tmp_path):
    root = tmp_path / "realm"
    write(root, 2, 0)
    first = slices.folder(root, 0, 2)
    for about in "c", "c[0:11]", "d[0:12]":
        with pytest.raises(UserError, match="built from a different corpus"):
            index.open_version(first, 0, about)
    assert index.made_by([first], "", "c") is None


def test_a_slice_that_is_missing_is_named(tmp_path):
    root = tmp_path / "realm"
    write(root, 3, 8)
    index.prune(slices.folder(root, 1, 3), set())
    with pytest.raises(UserError, match=r"realm-1-of-3/step_00000008: manifest\.json is missing"):
        cut(root, 3, 2, 8)
    assert not list(tmp_path.glob("*/.writing_*"))


def test_what_other_numbers_of_hosts_left_goes_when_no_checkpoint_needs_it(tmp_path):
    root = tmp_path / "realm"
    for hosts in 1, 2, 4:
        write(root, hosts, 8)
        write(root, hosts, 12)
    slices.prune_others(root, 4, {12})
    left = {path.name: index.versions(path) for path in tmp_path.iterdir()}
    both = {f"realm-{host}-of-4": [8, 12] for host in range(4)}
    assert left == {"realm": [12], "realm-0-of-2": [12], "realm-1-of-2": [12], **both}
    # Of a stage whose name begins as this one's does.
    write(tmp_path / "realm-2", 2, 8)
    slices.prune_others(root, 1, set())
    others = ["realm", "realm-2-0-of-2", "realm-2-1-of-2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == others
