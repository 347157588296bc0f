"""A setting is checked against the annotation of what takes it."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import pytest

from ralm_jax import settings
from ralm_jax.errors import UserError
from ralm_jax.settings import Count, CountOrZero, Positive, Rate, Share, ShareBelowOne

KINDS = [
    (Count, [1, 10**9], [0, -1, 1.0, "1", True, None], "a whole number from 1"),
    (CountOrZero, [0, 1], [-1, 0.0], "a whole number from 0"),
    (Rate, [0, 1e-5, 3], [-1e-9, float("nan"), float("inf"), "1e-3", False], "a number from 0"),
    (Positive, [1e-12, 20], [0, -1], "a number above 0"),
    (Share, [0, 0.5, 1], [1.01, -0.01], "a number from 0 to 1"),
    (ShareBelowOne, [0, 0.99], [1, 2], "a number from 0 to less than 1"),
    (bool, [True, False], [0, 1, "True"], "True or False"),
    (str, ["cls"], [1, None], "a text in quotes"),
    (Literal["auto", "exact"], ["auto"], ["fast", 1], "one of 'auto', 'exact'"),
    (Count | None, [None, 3], [0, "3"], "a whole number from 1, or None"),
    (Callable, [print], ["print", 3, 0.5, True], "a reference such as @module.name"),
    (dict | None, [None, {}], [], "or None"),
]


@pytest.mark.parametrize(("annotation", "good", "bad", "said"), KINDS, ids=[k[3] for k in KINDS])
def test_a_value_fits_or_is_named(annotation, good, bad, said):
    for value in good:
        settings.check("NAME", value, annotation)
    for value in bad:
        with pytest.raises(UserError, match="NAME must be ") as error:
            settings.check("NAME", value, annotation)
        assert said in str(error.value) and repr(value) in str(error.value)


def test_a_dataclass_checks_itself():
    @dataclasses.dataclass(frozen=True)
    class Course:
        steps: Count
        share: Share = 0.5

        def __post_init__(self):
            settings.check_fields(self)

    assert Course(1).share == 0.5
    with pytest.raises(UserError, match=r"Course.steps must be a whole number from 1, not 2.0"):
        Course(2.0)
    with pytest.raises(UserError, match=r"Course.share must be a number from 0 to 1, not 2"):
        Course(1, share=2)
