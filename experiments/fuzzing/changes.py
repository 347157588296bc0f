"""What a stranger's file may be: a sound one of which something is otherwise, by the structure that it has.

A node of JSON becomes another value, a header says another size, words of the format stand where they should
not, a part is long: a reader whose time grows with the square of its input shows by that.
"""

import bz2
import gzip
import io
import json
import struct
import zipfile
import zlib
from random import Random
from typing import Any

# Characters of a part that was made long.
LONG = 1 << 16
# Stand in JSON for what `json.dumps` does not write.
_DEEP, _DIGITS = "\ue000deep\ue000", "\ue000digits\ue000"
_RAW = {
    json.dumps(_DEEP): "[" * 20_000 + "]" * 20_000,
    json.dumps(_DIGITS): "1" * 5000,
}
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 1.5, 1e308, float("inf"), float("nan"), 1 << 31, 1 << 63),
    *(
        1 << 70,
        _DIGITS,
        _DEEP,
        "",
        " ",
        "a",
        "1",
        "train",
        "\0",
        "\ud800",
        "a\nb",
        "../x",
        "/x",
        "é",
    ),
    *([], {}, [None], [[]], [1, 2], ["a"], [["a"]], {"a": 1}, {"": []}, [{}], "(", "[", "[1", "~"),
)
WORDS = (
    *(b"", b"\n", b"\r", b"\n\n", b"\t", b" ", b"\0", b'"', b"'", b",", b";", b"\\", b"#", b"---\n", b"%"),
    *(b"{", b"}", b"[", b"]", b"<", b">", b"&", b"</p>", b"<![CDATA[", b"\xff", b"\xed\xa0\x80"),
    *(b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\x1e", b"\x1a", b"0", b"-1", b"9" * 20, b"1e999", b"null", b"NaN"),
    *(b"\x1f\x8b", b"BZh9", b"PK\x03\x04", b"PAR1", b"ARROW1", b"title: >\n"),
    *(b"\xe3\x80\x82", b". ", b"(", b"@", b"=", b"$"),
)  # fmt: skip


def changed(data: bytes, random: Random) -> bytes:
    """Something else by one change, which keeps to the structure of the data nine times in ten."""
    how = random.randrange(10)
    if how < 5 and (found := _by_structure(data, random)) is not None:
        return found
    return _long(data, random) if how == 9 else _bytes(data, random)


def _by_structure(data: bytes, random: Random) -> bytes | None:
    for read in (_packed, _zip, _safetensors, _npy, _json, _json_line):
        try:
            found = read(data, random)
        except (ValueError, OSError, EOFError, RecursionError, zlib.error, zipfile.BadZipFile):
            continue
        except (KeyError, IndexError, struct.error, NotImplementedError, RuntimeError):
            continue
        if found is not None:
            return found
    return None


def _bytes(data: bytes, random: Random) -> bytes:
    """A slice that is gone, doubled, moved or replaced by a word; or a byte that is another."""
    start = random.randint(0, len(data))
    stop = min(len(data), start + random.choice((0, 1, 1, 2, 4, 16, len(data))))
    part = data[start:stop]
    if random.randrange(4) == 0 and part:
        part = bytes([part[0] ^ 1 << random.randrange(8)]) + part[1:]
    else:
        part = random.choice((b"", part * 2, part[::-1], *(random.choice(WORDS) for _ in range(4))))
    return data[:start] + part + data[stop:]


def _long(data: bytes, random: Random) -> bytes:
    """A slice or a word, over and over."""
    start = random.randint(0, len(data))
    stop = min(len(data), start + random.choice((1, 2, 3, 8)))
    part = random.choice((data[start:stop], random.choice(WORDS))) or b" "
    return data[:start] + part * (LONG // len(part)) + data[stop:]


def other(value: Any, random: Random) -> Any:
    """A value of JSON in which one node is another."""
    if isinstance(value, dict) and value and random.randrange(5):
        key = random.choice(sorted(value))
        if random.randrange(6) == 0:
            return {k: v for k, v in value.items() if k != key}
        if random.randrange(12) == 0:
            return {**value, random.choice(("a", "", "text", "\ud800")): random.choice(VALUES)}
        return {**value, key: other(value[key], random)}
    if isinstance(value, list) and value and random.randrange(5):
        place = random.randrange(len(value))
        if random.randrange(6) == 0:
            return value[:place] + value[place + 1 :]
        return [*value[:place], other(value[place], random), *value[place + 1 :]]
    if isinstance(value, str) and value and random.randrange(2):
        return _bytes(value.encode(errors="replace"), random).decode(errors="replace")
    if isinstance(value, int) and not isinstance(value, bool) and random.randrange(2):
        return value + random.choice((-1, 1, -value, value, 1 << 32))
    return random.choice(VALUES)


def _written(value: Any) -> bytes:
    text = json.dumps(value)
    for mark, raw in _RAW.items():
        text = text.replace(mark, raw)
    return text.encode()


def _json(data: bytes, random: Random) -> bytes:
    return _written(other(json.loads(data), random))


def _json_line(data: bytes, random: Random) -> bytes | None:
    lines = data.splitlines(keepends=True)
    if not lines or data[:1] not in b"{[":
        return None
    place = random.randrange(len(lines))
    return b"".join([*lines[:place], _json(lines[place], random) + b"\n", *lines[place + 1 :]])


def _safetensors(data: bytes, random: Random) -> bytes | None:
    size = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or size > len(data):
        return None
    header = changed(data[8 : 8 + size], random)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def _npy(data: bytes, random: Random) -> bytes | None:
    if not data.startswith(b"\x93NUMPY\x01"):
        return None
    size = int.from_bytes(data[8:10], "little")
    header = _bytes(data[10 : 10 + size].rstrip(), random)[: size - 1].ljust(size - 1) + b"\n"
    return data[:10] + header + data[10 + size :]


def _packed(data: bytes, random: Random) -> bytes | None:
    for magic, form in ((b"\x1f\x8b", gzip), (b"BZh", bz2)):
        if data.startswith(magic):
            return form.compress(changed(form.decompress(data), random), 1)
    return None


def _zip(data: bytes, random: Random) -> bytes | None:
    if not data.startswith(b"PK"):
        return None
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(sorted(members))
    members[name] = changed(members[name], random)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for each, content in members.items():
            archive.writestr(each, content)
    return made.getvalue()
