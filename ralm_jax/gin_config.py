"""Configurations: gin files and changes to them become a function with its arguments bound.

With `cli`, the only module that knows gin. Files use dynamic registration, so nothing in the
package is decorated: a file names what it imports, and a misspelt name is an error.

A file may be a stranger's, and to import a module is to run it. So a file imports what the package offers
to configurations, and names what is defined there, unless the user allows more.
"""

import contextlib
import functools
import inspect
import logging
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import gin

from ralm_jax import settings
from ralm_jax.arguments.shared import configs, described
from ralm_jax.errors import UserError, nearest, one_line

# Characters of a line: gin takes a time that grows with the square of it, minutes for 100,000.
LONGEST = 4096


def _opened(path: str) -> IO[str]:
    """A file of a configuration. Raises UserError where a line of it is too long."""
    with open(path) as file:
        for number, line in enumerate(file, 1):
            if len(line) > LONGEST:
                raise UserError(
                    f"{path}, line {number}: longer than {LONGEST:,} characters; break it"
                )
    return open(path)


# Gin also looks for an include inside a Python package of that name, and any folder beside the user's files
# may pass for one.
gin.config._FILE_READERS = [(_opened, os.path.isfile)]  # pyrefly: ignore

# Modules and rooms, of which a configuration chooses and binds.
OFFERED = (
    *("ralm_jax.batches", "ralm_jax.examples", "ralm_jax.losses", "ralm_jax.models"),
    *(
        "ralm_jax.quickstart",
        "ralm_jax.retrieval.refresh",
        "ralm_jax.selection",
        "ralm_jax.training",
    ),
)


class _NotOfferedError(ValueError):
    """Gin adds to it where in which file that was."""


class _Offered(gin.config.ParseContext):
    """What a file says, of which nothing is imported or found but what is offered."""

    def process_import(self, statement: Any) -> None:
        if statement.module.partition(".")[0] != "__gin__" and not _is_offered(statement.module):
            raise _NotOfferedError(
                f"{statement.format()!r}: a configuration imports from ralm_jax only: "
                f"{', '.join(name.removeprefix('ralm_jax.') for name in OFFERED)}; with --any-import it may "
                "run any module"
            )
        super().process_import(statement)

    def _resolve_selector(self, selector: str) -> Any:
        names, values = super()._resolve_selector(selector)
        # A module of ours has others in it, by the names that it imports them under.
        home = getattr(values[-1], "__module__", None) or ""
        if not _is_offered(home) and home != gin.config.__name__:
            raise _NotOfferedError(
                f"{selector} is not of ralm_jax, but of {home or 'nowhere'}; with --any-import a "
                "configuration may call it"
            )
        return names, values


def _is_offered(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in OFFERED)


class Configuration(NamedTuple):
    """A function bound as a configuration says, and the configuration resolved, as a run keeps it."""

    call: Callable[..., Any]
    text: str


def configure(
    target: str, config: str, changes: Sequence[str] = (), *, any_import: bool = False
) -> Configuration:
    """The function `target`, such as "pretrain.pretrain", bound as a configuration says.

    Args:
      config: a file, or the name of one that ships with the package.
      changes: "NAME = VALUE", applied after the file.
      any_import: the file may import, and so run, modules other than those offered.

    Raises:
      UserError: no such file, an unknown name (of a macro too), a value that cannot be read, or one that is
        of the wrong kind or out of range wherever it is used. Nothing has been made by then.
    """
    text = _parse(config, changes, any_import)
    bound = gin.get_configurable(target)
    with _explained(config):
        if not gin.get_bindings(target):
            verb = target.rpartition(".")[2]
            raise UserError(
                f"configuration {config} does not say how to {verb}; give one that does"
            )
    return Configuration(functools.partial(_called, bound, config), text)


def bindings(
    target: str, config: str, changes: Sequence[str] = (), *, any_import: bool = False
) -> dict[str, Any]:
    """What a configuration gives to the function `target`, built. Raises UserError as `configure`."""
    _parse(config, changes, any_import)
    with _explained(config):
        return gin.get_bindings(target)


def pretraining(
    config: str, changes: Sequence[str] = (), *, any_import: bool = False
) -> dict[str, Any]:
    """What a configuration gives to pretraining, whichever verb calls it. Raises UserError as `configure`."""
    for target in ("pretrain.pretrain", "quickstart.quickstart"):
        try:
            given = bindings(target, config, changes, any_import=any_import)
        except UserError as error:
            # Of a configuration for another verb.
            if f"Could not find {target}" not in str(error):
                raise
            continue
        if "stages" in given:
            return given
    raise UserError(f"configuration {config} has no stages of pretraining")


def _called(bound: Callable[..., Any], name: str, /, **given: Any) -> Any:
    with _explained(name, about=functools.partial(_is_of_bindings, inspect.unwrap(bound))):
        return bound(**given)


def _is_of_bindings(function: Callable[..., Any], error: Exception) -> bool:
    """Whether an error came of what a function is bound to, and not of what it did once it had begun."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    begun = any(frame.f_code is function.__code__ for frame in frames)
    by_gin = frames[-1].f_globals.get("__name__", "").startswith("gin.")
    return "In call to configurable" in str(error) and (by_gin or not begun)


@contextlib.contextmanager
def _explained(
    config: str, about: Callable[[Exception], bool] = lambda error: True
) -> Generator[None]:
    """Turns gin's complaint about a binding into one line; it adds the configurable to the message.

    about: whether an error is such a complaint.
    """
    try:
        yield
    except UserError as error:
        raise UserError(one_line(error)) from error
    except (TypeError, ValueError) as error:
        if not about(error):
            raise
        raise UserError(f"configuration {config}: {' '.join(str(error).split())}") from error


def _parse(config: str, changes: Sequence[str], any_import: bool) -> str:
    """Reads a configuration into gin, checks every value in it, and returns it resolved."""
    gin.clear_config()
    gin.add_config_file_search_path(str(configs()))
    file = Path(config)
    if not file.is_file() and not (configs() / config).is_file():
        # By the stem, for the rest of a name is much like that of any other.
        alike = [name for name in described() if nearest(file.stem, [Path(name).stem])]
        meant = nearest(config, alike)
        raise UserError(f"there is no configuration {config}{meant or '; ralm configs lists them'}")
    # Gin logs every folder in which it does not find an include.
    logging.disable(logging.ERROR)
    whole = gin.config.ParseContext
    gin.config.ParseContext = whole if any_import else _Offered
    try:
        gin.parse_config_file(str(file if file.is_file() else configs() / config))
        # A change may name whatever the modules hold that the configuration imports.
        imports = [line for line in gin.config_str().splitlines() if line.startswith("from ")]
        for change in changes:
            _apply(change, imports)
        _check_macros(config)
        _check_values()
        gin.finalize()
        return gin.config_str(max_line_length=100)
    except UserError:
        raise
    except RecursionError:
        raise UserError(
            f"configuration {config}: it includes itself, or what is in it refers to itself"
        ) from None
    # Gin raises whatever a file's own imports and parsing raise.
    except Exception as error:
        said = " ".join(str(error).split())
        if missing := re.fullmatch(r"\('(\w+)', 'gin.macro'\)", said.strip('"')):
            macros = {scope for scope, selector in gin.config._CONFIG if selector == "gin.macro"}
            said = f"nothing sets {missing[1]}{nearest(missing[1], macros)}"
        raise UserError(f"configuration {config}: {said}") from error
    finally:
        gin.config.ParseContext = whole
        logging.disable(logging.NOTSET)


def _apply(change: str, imports: Sequence[str]) -> None:
    name, equals, value = (part.strip() for part in change.partition("="))
    if not equals or not name or not value:
        raise UserError(f"--set {change!r}: write it as 'NAME = VALUE'")
    if len(change) > LONGEST:
        raise UserError(f"--set {change!r:.100}: longer than {LONGEST:,} characters; use a file")
    try:
        gin.parse_config("\n".join([*imports, change]))
    except Exception as error:
        raise UserError(f"--set {change!r:.100}: {_said_of(name, error)}") from error


def _said_of(name: str, error: Exception) -> str:
    """What gin says of a setting, without where in its text that is, and the nearest name that there is."""
    said = str(error).splitlines()[0].rstrip(".")
    if found := re.search(r"<module '([\w.]+)' from .*> has no attribute (\w+)", said):
        offered = [each for each in vars(sys.modules[found[1]]) if not each.startswith("_")]
        return f"there is no {found[2]} in {found[1]}{nearest(found[2], offered)}"
    # Of those with such an argument, for most of a name is that of its module.
    alike = {s for s in _settings() if nearest(name.split(".")[-1], [s.split(".")[-1]])}
    return said + nearest(name, alike or _settings())


def _settings() -> set[str]:
    """Names that `--set` takes where it takes no macro: of each function in use, the arguments, as in
    realm/schedule.Stage.steps."""
    found = set()
    for scope, selector in gin.config._CONFIG:
        if selector != "gin.macro":
            short = ".".join(selector.split(".")[-2:])
            arguments = inspect.signature(gin.config._REGISTRY[selector].wrapped).parameters
            found |= {"/".join(filter(None, [scope, f"{short}.{each}"])) for each in arguments}
    return found


def _check_macros(config: str) -> None:
    """Raises UserError for a macro that nothing reads: gin accepts a misspelt one in silence."""
    bound = gin.config._CONFIG
    read = {
        to.scoped_selector.partition("/gin.macro")[0] for to in gin.config.iterate_references(bound)
    }
    for name in (scope for scope, selector in bound if selector == "gin.macro"):
        if name not in read:
            hint = nearest(name, read) or "; remove it"
            raise UserError(f"configuration {config}: nothing reads {name}{hint}")


def _check_values() -> None:
    """Raises UserError for a value that does not fit the annotation of the argument it is given to."""
    for (scope, selector), bound in gin.config._CONFIG.items():
        if selector == "gin.macro":
            continue
        annotations = _annotations(gin.config._REGISTRY[selector].wrapped)
        for argument, value in bound.items():
            name = ".".join([*selector.split(".")[-1:], argument])
            name, value = _resolved("/".join(filter(None, [scope, name])), value)
            if argument in annotations and not isinstance(value, gin.config.ConfigurableReference):
                settings.check(name, value, annotations[argument])


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Of the arguments of a function, or of the fields of a class."""
    annotated = function if inspect.isclass(function) else inspect.unwrap(function)
    return typing.get_type_hints(annotated, include_extras=True)


def _resolved(name: str, value: Any) -> tuple[str, Any]:
    """Follows macros: the name by which the user set a value, and the value."""
    seen: set[str] = set()
    while isinstance(value, gin.config.ConfigurableReference):
        macro, found, _ = value.scoped_selector.partition("/gin.macro")
        if not found:
            break
        if macro in seen:
            raise UserError(f"{macro} refers to itself, through {', '.join(sorted(seen))}")
        seen.add(macro)
        name, value = macro, gin.config._CONFIG[macro, "gin.macro"]["value"]
    return name, value
