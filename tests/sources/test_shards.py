"""A source in several files is the one that they are together, wherever they lie."""

import gzip
import json

import fsspec
import pytest

from ralm_jax import cli
from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.sources.read import read_documents

ROWS = [
    {"id": f"d{i}", "title": "Mills", "text": f"Mill {i} was built in {1500 + i}."}
    for i in range(9)
]


def line(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def parts(tmp_path):
    """Three parts of one corpus, of which the names have another order than numbers, and the whole."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(3):
        data = gzip.compress(line(ROWS[3 * number : 3 * number + 3]))
        (folder / f"part-{number}.jsonl.gz").write_bytes(data)
    (tmp_path / "whole.jsonl").write_bytes(line(ROWS))
    return folder


def ids(source):
    return [document.id for document in read_documents(source)]


def test_a_pattern_and_a_list_are_the_whole_in_order_of_names(parts, tmp_path):
    wanted = ids(str(tmp_path / "whole.jsonl"))
    assert ids(f"{parts}/part-*.jsonl.gz") == wanted
    assert ids([str(file) for file in sorted(parts.iterdir(), reverse=True)]) == wanted
    assert ids(f"file://{parts}/part-*.jsonl.gz") == wanted


def test_a_store_is_read_and_named_in_errors(parts):
    memory = fsspec.filesystem("memory")
    for file in parts.iterdir():
        memory.pipe(f"/shards/{file.name}", file.read_bytes())
    assert ids("memory://shards/part-*.jsonl.gz") == [row["id"] for row in ROWS]
    assert ids("memory://shards/part-1.jsonl.gz") == ["d3", "d4", "d5"]
    memory.pipe("/shards/part-3.jsonl.gz", gzip.compress(b'{"id": "x"'))
    with pytest.raises(UserError, match=r"^memory://\S*/part-3.jsonl.gz, line 1: invalid JSON"):
        ids("memory://shards/part-*.jsonl.gz")
    with pytest.raises(UserError, match=r"memory://none\.jsonl does not exist"):
        ids("memory://none.jsonl")
    with pytest.raises(UserError, match=r"no file fits memory://none/\*"):
        ids("memory://none/*")


def test_parts_make_the_corpus_that_the_whole_makes(parts, tmp_path):
    made = [tmp_path / "a", tmp_path / "b"]
    prepare(str(tmp_path / "whole.jsonl"), made[0], vocab_size=100, say=len)
    command = ["prepare", *map(str, parts.iterdir()), "--out", str(made[1]), "--vocab-size", "100"]
    assert cli.main(command) == 0
    files = sorted(f.relative_to(made[0]) for f in made[0].rglob("*") if f.is_file())
    assert all((made[0] / file).read_bytes() == (made[1] / file).read_bytes() for file in files)


def test_ids_and_numbers_go_on_over_files(parts, tmp_path):
    for number, rows in enumerate(([{"text": "A."}, {"text": "B."}], [{"text": "C."}])):
        (tmp_path / f"n{number}.jsonl").write_bytes(line(rows))
    assert ids(f"{tmp_path}/n?.jsonl") == ["1", "2", "3"]
    (parts / "part-9.jsonl.gz").write_bytes(line(ROWS[:1]))
    with pytest.raises(UserError, match=r"part-9.*the id 'd0' already occurs in line 1"):
        ids(f"{parts}/*")


def test_a_missing_part_is_named(parts, tmp_path, capsys):
    for number in (0, 2):
        (parts / f"c-0000{number}-of-00003.jsonl").write_bytes(line(ROWS[:1]))
    command = ["prepare", f"{parts}/c-*", "--out", str(tmp_path / "out")]
    assert cli.main(command) == 2 and not (tmp_path / "out").exists()
    (said,) = capsys.readouterr().err.splitlines()
    assert "c-00001-of-00003.jsonl is missing: 2 of 3 files are there" in said
    with pytest.raises(UserError, match=r"the source \S*none does not exist"):
        ids([f"{parts}/part-0.jsonl.gz", f"{parts}/none"])
    with pytest.raises(UserError, match="no file fits"):
        ids(f"{parts}/none-*")
    with pytest.raises(UserError, match="given twice"):
        ids([f"{parts}/part-0.jsonl.gz"] * 2)
    with pytest.raises(UserError, match="is a folder; give it alone"):
        ids([f"{parts}/part-0.jsonl.gz", str(parts)])


def test_files_of_several_kinds_are_refused(parts):
    (parts / "part-7.csv").write_text("id,text\na,b\n")
    (parts / "part-1.empty").write_text("")
    with pytest.raises(
        UserError, match=r"part-7.csv is a table of id, text, and \S+ is JSON lines"
    ):
        ids(f"{parts}/*")


def test_a_store_without_its_package_is_one_line():
    with pytest.raises(UserError, match=r"^abfs://x/y\.jsonl cannot be read: .*[iI]nstall"):
        ids("abfs://x/y.jsonl")
