"""The texts of the released open-QA models: a pickle of byte strings, read as data.

`block_records.npy` is an .npy file whose array of objects is a pickle. Unpickling runs what a file says; here
its opcodes are only listed (`pickletools`), and a file is refused unless it calls nothing but what numpy
calls to make an array of bytes. Arrays of plain strings ("S", "U"), as we write them, need no pickle at all.
"""

import mmap
import pickletools
from collections.abc import Iterator
from pathlib import Path

from ralm_jax import arrays
from ralm_jax.errors import UserError

# What an array of byte strings is pickled with, by numpy 1 and 2, and for bytes by old protocols.
CALLED = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
    "numpy ndarray",
    "numpy dtype",
}
TEXTS = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
STORES = {"BINPUT", "LONG_BINPUT", "PUT"}
FETCHES = {"BINGET", "LONG_BINGET", "GET"}
# Everything else that may stand in such a pickle; it makes tuples, numbers and lists.
HARMLESS = {
    "PROTO", "FRAME", "STOP", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE", "NONE",
    "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "EMPTY_LIST", "APPEND",
    "APPENDS", "LIST", "REDUCE", "BUILD", "BINSTRING", "SHORT_BINSTRING", "EMPTY_BYTES",
}  # fmt: skip


def read(file: Path) -> Iterator[str]:
    """The texts in order, one at a time.

    Raises UserError for a file that is no array of strings, or whose pickle would do anything else.
    """
    try:
        with file.open("rb") as stream:
            shape, _, dtype = arrays.header(stream)
            if len(shape) != 1:
                raise UserError(f"{file} has the shape {shape}; it must be a list of texts")
            if dtype.kind in "SU":
                texts = arrays.mapped(file)
                yield from (_text(bytes(x) if dtype.kind == "S" else str(x)) for x in texts)
            elif dtype.kind == "O":
                # Of a mapped file no more is read than there is, whatever length an opcode claims.
                with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    mapped.seek(stream.tell())
                    yield from _listed(mapped, shape[0], file)
            else:
                raise UserError(f"{file} contains {dtype} instead of texts")
    # numpy has a SystemError for what is no character.
    except (OSError, ValueError, EOFError, IndexError, SystemError) as error:
        raise UserError(f"{file} is damaged: {' '.join(str(error).split())[:200]}") from None


def _listed(stream: mmap.mmap, count: int, file: Path) -> Iterator[str]:
    """Strings that the list of the array is made of: those pushed behind the opcode EMPTY_LIST."""
    memo: dict[int, str | bytes | None] = {}
    # The last two, which STACK_GLOBAL takes for a name.
    strings: list[str] = []
    # Top of the stack, if it is a text.
    last: str | bytes | None = None
    within, given = False, 0
    for opcode, argument, _ in pickletools.genops(stream):  # pyrefly: ignore
        name = opcode.name
        if name in TEXTS:
            assert isinstance(argument, str | bytes)
            last = argument
        elif name in FETCHES:
            last = memo.get(int(str(argument)))
        elif name == "MEMOIZE":
            memo[len(memo)] = last
            continue
        elif name in STORES:
            memo[int(str(argument))] = last
            continue
        elif name == "EMPTY_BYTES":
            last = b""
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            called = argument if name == "GLOBAL" else " ".join(strings[-2:])
            if called not in CALLED:
                raise UserError(f"{file} would call {called}: it is more than a list of texts")
            last = None
        elif name in HARMLESS:
            last, within = None, within or name == "EMPTY_LIST"
        else:
            raise UserError(f"{file} has the opcode {name}: it is more than a list of texts")
        if isinstance(last, str):
            strings = [*strings[-1:], last]
        if within and last is not None and given < count:
            given += 1
            yield _text(last)
    if given != count:
        raise UserError(f"{file} is cut off: {given:,} of {count:,} texts are there")


def _text(record: str | bytes) -> str:
    return record if isinstance(record, str) else record.decode("utf-8")
