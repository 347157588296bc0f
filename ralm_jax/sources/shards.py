"""Sources in several files: a list of them or a pattern, on this machine or in a store (gs://, s3://, https://).

What lies in a store is read by fsspec, which asks for a package for each kind: gcsfs, s3fs.
"""

import contextlib
import glob
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

from ralm_jax.errors import UserError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NUMBERED = re.compile(r"(.*?)(\d+)-of-(\d+)(.*)")


def is_sharded(source: str | Sequence[str]) -> bool:
    """Whether a source is a list, a pattern or an address, rather than one file, folder or name."""
    if not isinstance(source, str):
        return True
    return bool(_ADDRESS.match(source)) or (glob.has_magic(source) and not os.path.lexists(source))


def expand(source: str | Sequence[str]) -> list[str]:
    """The files that a list or a pattern names, in the order of their names by code points.

    Raises UserError where one is not there or is named twice, or nothing fits a pattern.
    """
    given = [source] if isinstance(source, str) else list(source)
    found = sorted(name for each in given for name in _expanded(each))
    for first, second in itertools.pairwise(found):
        if first == second:
            raise UserError(f"the source {first} is given twice; name each file once")
    _check_whole(found)
    return found


def _expanded(name: str) -> list[str]:
    if _ADDRESS.match(name):
        with _said(name):
            return _listed(name)
    if os.path.isdir(name):
        raise UserError(f"{name} is a folder; give it alone, or a pattern of files in it: {name}/*")
    if not is_sharded(name):
        if not os.path.exists(name):
            raise UserError(f"the source {name} does not exist; give files that do")
        return [name]
    if not (found := [file for file in glob.glob(name, recursive=True) if os.path.isfile(file)]):
        raise UserError(f"no file fits {name}; give a pattern that some fit")
    return found


def _listed(address: str) -> list[str]:
    import fsspec

    system, path = fsspec.url_to_fs(address)
    if not glob.has_magic(path):
        if not system.isfile(path):
            raise UserError(f"the source {address} does not exist; give a file, or a pattern")
        return [address]
    found = [system.unstrip_protocol(file) for file in system.glob(path)]
    if not found:
        raise UserError(f"no file fits {address}; give a pattern that some fit")
    return found


def _check_whole(names: Sequence[str]) -> None:
    """Raises UserError where one of NAME-00000-of-00005 is missing."""
    sets: dict[tuple[str, str, str], set[int]] = {}
    for name in names:
        if found := _NUMBERED.fullmatch(name):
            begin, number, total, end = found.groups()
            sets.setdefault((begin, total, end), set()).add(int(number))
    for (begin, total, end), numbers in sets.items():
        # A set may hold a column each: enough are there if there is each number.
        missing = sorted(set(range(int(total))) - numbers)
        if missing:
            name = f"{begin}{missing[0]:0{len(total)}d}-of-{total}{end}"
            raise UserError(f"{name} is missing: {len(numbers)} of {int(total)} files are there")


@contextlib.contextmanager
def local(name: str) -> Generator[Path]:
    """A file as one of this machine; what lies in a store is copied to a temporary folder meanwhile.

    A UserError of the block names the file as it was given.
    """
    if not _ADDRESS.match(name):
        yield Path(name)
        return
    import fsspec

    with tempfile.TemporaryDirectory(prefix="ralm-") as folder:
        path = Path(folder, name.rpartition("/")[2])
        with _said(name), path.open("wb") as here:
            system, file = fsspec.url_to_fs(name)
            with system.open(file, "rb") as there:
                shutil.copyfileobj(there, here, 1 << 20)
        try:
            yield path
        except UserError as error:
            raise UserError(str(error).replace(str(path), name)) from None


@contextlib.contextmanager
def _said(address: str) -> Generator[None]:
    """Whatever goes wrong with a store is one line: its packages raise errors of their own kinds."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{address} cannot be read: {said}") from error
