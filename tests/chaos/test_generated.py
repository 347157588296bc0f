"""A little of what `python -m experiments.fuzz` generates by the hour, and the inputs that once failed there.

Success or the declared error, in one line, is all that may come of any file, message or request.
"""

import json

import hypothesis
import hypothesis.configuration
import pytest
from generated import KEPT

from experiments.fuzzing import engines
from experiments.fuzzing.outcome import Failure, Target, inputs, outcome, written
from ralm_jax.errors import UserError

TARGETS = engines.known()
# Of the slowest readers fewer: the whole takes seconds.
EXAMPLES = {"pages": 12, "texts": 6, "models": 12, "configurations": 8, "corpus": 8}


@pytest.fixture(scope="module", autouse=True)
def no_folder_of_examples(tmp_path_factory):
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


@pytest.mark.parametrize("name", TARGETS)
def test_generated_input_is_read_or_refused(name, tmp_path):
    target = TARGETS[name]
    files = {each: (tmp_path / each).read_bytes() for each in written(target, tmp_path)}

    @hypothesis.settings(
        max_examples=EXAMPLES.get(name, 30),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(inputs(files))
    def examples(one):
        outcome(target, tmp_path, *one)

    examples()


def one_file(read, content=b'{"a": [1, "x"], "b": {"c": null}}'):
    return Target(lambda: {"given.json": content}, read)


def test_what_fails_is_found(tmp_path):
    """A harness that takes everything for success would show nothing."""

    def reads(error):
        def read(folder, name):
            raise error

        return one_file(read)

    for error, found in (
        (UserError("no"), "declared"),
        (KeyError("a"), "KeyError"),
        (MemoryError(), "MemoryError"),
        (RecursionError(), "RecursionError"),
    ):
        target = reads(error)
        (name,) = written(target, tmp_path)
        if found == "declared":
            assert outcome(target, tmp_path, name, b"") == "declared"
        else:
            with pytest.raises(Failure, match=found):
                outcome(target, tmp_path, name, b"")
        assert (tmp_path / name).read_bytes() == target.make()[name]


def test_a_reader_that_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.fuzzing.outcome.MOST_SECONDS", 0.05)

    def read(folder, name):
        while True:
            pass

    target = one_file(read)
    (name,) = written(target, tmp_path)
    with pytest.raises(Failure, match="slow"):
        outcome(target, tmp_path, name, b"")


def test_changes_keep_to_the_structure(tmp_path):
    """A node deep in valid JSON becomes another value: a reader that looks only at the outside is caught."""

    def read(folder, name):
        try:
            found = json.loads((folder / name).read_bytes())["b"]["c"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise UserError("no such JSON") from None
        assert found is None

    target = one_file(read)
    files = {each: (tmp_path / each).read_bytes() for each in written(target, tmp_path)}

    @hypothesis.settings(
        max_examples=300,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(inputs(files))
    def examples(one):
        outcome(target, tmp_path, *one)

    with pytest.raises(Failure, match="AssertionError"):
        examples()


@pytest.mark.parametrize(
    ("name", "file", "made", "failed"), KEPT, ids=[f"{n}-{f}-{w}" for n, f, _, w in KEPT]
)
def test_what_once_failed_is_read_or_refused(name, file, made, failed, tmp_path):
    target = TARGETS[name]
    written(target, tmp_path)
    data = made if isinstance(made, bytes) else made((tmp_path / file).read_bytes())
    assert outcome(target, tmp_path, file, data) in ("success", "declared")
