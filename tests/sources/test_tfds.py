import sys
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ralm_jax.errors import UserError
from ralm_jax.sources.documents import GivenSpan
from ralm_jax.sources.read import read_documents

TEXT = tfds.features.Text()


def test_title_and_text(dataset):
    rows = [{"title": f"T{i}", "plain_text": f"Text é {i}."} for i in range(3)]
    name = dataset({"title": TEXT, "plain_text": TEXT}, rows)
    documents = list(read_documents(f"tfds:{name}"))
    assert sorted((d.title, d.text, d.spans) for d in documents) == [
        (f"T{i}", f"Text é {i}.", None) for i in range(3)
    ]
    assert [d.id for d in documents] == ["train-0", "train-1", "train-2"]
    assert next(read_documents(f"tfds:{name}:test")).id == "test-0"


def test_texts_that_are_empty_are_counted(dataset):
    name = dataset({"text": TEXT}, [{"text": text} for text in ("", "Some.", "\u200b")])
    counts = Counter()
    assert [d.text for d in read_documents(f"tfds:{name}", counts)] == ["Some."]
    assert counts == {"rejected: document without text": 2}


def test_markup_of_wiki40b(dataset):
    text = (
        "\n_START_ARTICLE_\nThe Hague\n_START_PARAGRAPH_\nA city._NEWLINE_By the sea."
        "\n_START_SECTION_\nHistory\n_START_PARAGRAPH_\nIt is old."
    )
    name = dataset({"text": TEXT, "wikidata_id": TEXT}, [{"text": text, "wikidata_id": "Q1"}])
    (document,) = read_documents(f"tfds:{name}")
    assert document.title == "The Hague"
    assert document.text == "A city.\n\nBy the sea.\n\nIt is old."


def test_byte_offsets_of_salient_span_wikipedia(dataset):
    text = "Łódź lies in 🇵🇱 Poland. It has 3 rivers."
    at = lambda part: len(text[: text.index(part)].encode())  # noqa: E731
    spans = {
        "start": [0, at("Poland"), at("3")],
        "limit": [at(" lies"), at(". It"), at(" rivers")],
        "type": ["ENTITY", "ENTITY", "DATE"],
    }
    sentences = {"start": [0, at("It")], "limit": [at(" It"), len(text.encode())]}
    features = {
        "title": TEXT,
        "text": TEXT,
        "spans": tfds.features.Sequence({"start": np.int32, "limit": np.int32, "type": np.str_}),
        "sentences": tfds.features.Sequence({"start": np.int32, "limit": np.int32}),
    }
    row = {"title": "Łódź", "text": text, "spans": spans, "sentences": sentences}
    (document,) = read_documents(f"tfds:{dataset(features, [row])}")
    assert all(isinstance(span, GivenSpan) for span in document.spans)
    assert [(text[s.start : s.stop], s.kind, s.fact) for s in document.spans] == [
        ("Łódź", "entity", None),
        ("Poland", "entity", None),
        ("3", "date", None),
    ]


def test_what_cannot_be_read_says_how_to_get_round_it(dataset, monkeypatch):
    name = dataset({"label": np.int32}, [{"label": 1}])
    with pytest.raises(UserError, match=r"none of the fields text, .*, only label"):
        list(read_documents(f"tfds:{name}"))
    with pytest.raises(UserError, match="no split 'dev'; it has train, test"):
        list(read_documents(f"tfds:{name}:dev"))
    with pytest.raises(UserError, match="tfds build no_such_dataset --file_format=array_record"):
        list(read_documents("tfds:no_such_dataset"))
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # if it is installed, without it
    with pytest.raises(UserError, match=r"preparing it needs apache_beam.*TFDS_DATA_DIR"):
        list(read_documents("tfds:salient_span_wikipedia/documents"))


def test_a_dataset_prepared_as_tfrecord(dataset, tmp_path):
    name = dataset({"text": TEXT}, [{"text": "a"}])
    info = tmp_path / name / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"was prepared as TFRecord.*array_record"):
        list(read_documents(f"tfds:{name}"))
