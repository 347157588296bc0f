"""Texts of passages, one by one and many at a time."""

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from ralm_jax.data import texts


def test_many_are_read_as_each_is(tiny, monkeypatch):
    monkeypatch.setattr(texts, "_READ_TOGETHER", 7)
    source = tiny.corpus.texts()
    each = [source[row] for row in range(len(source))]
    for found in (list(source), source.read(range(len(source)))):
        assert len(found) == len(each) > 3 * 7
        for one, other in zip(found, each, strict=True):
            assert one == {**other, "documents": list(other["documents"])}
    assert source.read([]) == []
    assert [record["id"] for record in source.read([5, 2])] == [each[5]["id"], each[2]["id"]]
    # As after an update, whose records are in another order.
    source.rows = np.arange(len(each))[::-1].copy()
    assert [record["id"] for record in source] == [record["id"] for record in each[::-1]]


def test_a_record_that_is_none_of_ours_is_refused():
    example = tf_example_pb2.Example()
    example.features.feature["id"].bytes_list.value.append(b"x")
    with pytest.raises(ValueError, match="not enough values"):
        texts._record(example.features.feature)
