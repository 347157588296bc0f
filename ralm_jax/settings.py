"""What a setting may be, said once: in the annotation of the argument or field that takes it.

A configuration is checked against these annotations before anything is made of it (`gin_config`),
and a dataclass checks itself, for whoever builds it in Python (`check_fields`).
"""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from ralm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class From:
    """A least value, and perhaps a greatest; `above` and `below` leave out the least and the greatest."""

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        low = value > self.least if self.above else value >= self.least
        return low and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        low = f"above {self.least}" if self.above else f"from {self.least}"
        if self.most == math.inf:
            return low
        return f"{low} to less than {self.most}" if self.below else f"{low} to {self.most}"


Count = Annotated[int, From(1)]
CountOrZero = Annotated[int, From(0)]
# As keys of JAX are made, where 64 bits are not enabled.
Seed = Annotated[int, From(0, (1 << 32) - 1)]
Share = Annotated[float, From(0, 1)]
ShareBelowOne = Annotated[float, From(0, 1, below=True)]
Rate = Annotated[float, From(0)]
Positive = Annotated[float, From(0, above=True)]

KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text in quotes"}


def check(name: str, value: Any, annotation: Any) -> None:
    """Raises UserError where `value` is not what `annotation` allows; `name` is what the user calls it."""
    if not _fits(value, annotation):
        raise UserError(f"{name} must be {describe(annotation)}, not {_shown(value)}")


def check_fields(instance: Any) -> None:
    """Checks every field of a dataclass; for its `__post_init__`. Raises UserError as `check`."""
    kind = type(instance)
    for name, annotation in typing.get_type_hints(kind, include_extras=True).items():
        if name in kind.__dataclass_fields__:
            check(f"{kind.__name__}.{name}", getattr(instance, name), annotation)


def describe(annotation: Any) -> str:
    """Such as "a whole number from 1, or None"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return " ".join([describe(arguments[0]), *map(str, arguments[1:])])
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        several = [describe(a) for a in arguments if a is not type(None)]
        return ", or ".join([*several, *(["None"] if type(None) in arguments else [])])
    return KINDS.get(annotation, "a reference such as @module.name")


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _fits(value, arguments[0]) and all(value in limit for limit in arguments[1:])
    if origin is Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if annotation in (None, type(None)):
        return value is None
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if annotation in (bool, str):
        return isinstance(value, annotation)
    return not _wants_an_object(annotation) or not isinstance(value, bool | int | float | str)


def _wants_an_object(annotation: Any) -> bool:
    """Whether only a function or an instance will do: no number and no text."""
    origin = typing.get_origin(annotation) or annotation
    return origin is Callable or (
        inspect.isclass(origin) and origin not in (object, Sequence, *KINDS) and not _plain(origin)
    )


def _plain(kind: type) -> bool:
    """Kinds that are near enough to text or numbers, such as a path, to be given as one."""
    return kind.__module__ in ("pathlib", "builtins", "collections.abc", "typing")


def _shown(value: Any) -> str:
    return f"{value!r:.60}"
