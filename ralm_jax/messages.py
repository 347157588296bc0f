"""Messages between the trainer and the ScaNN process: a header in JSON, and arrays as raw bytes.

Both cross with their checksums, and an array has the size that its header says before there is room for it:
what comes otherwise, or not in time, is an error of the connection, as its end is. Nothing is pickled.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import zlib
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ralm_jax import json_text

Message = tuple[dict[str, Any], list[np.ndarray]]

# Bytes of a header: it names a folder at most.
HEADER = 1 << 16
KINDS = {"<f4": np.dtype("<f4"), "<i4": np.dtype("<i4")}
_CHECKSUM = struct.Struct("<I")


class DamagedMessageError(OSError):
    """A message that is not as it was sent."""


def limit(descriptor: int, seconds: float) -> None:
    """Lets no write to a socket, and no read once a message has begun, wait for longer than so."""
    whole = int(seconds)
    times = struct.pack("ll", whole, int(1e6 * (seconds - whole)))
    with socket.socket(fileno=socket.dup(descriptor)) as of:
        of.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, times)
        of.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, times)


def send(connection: Connection, header: dict[str, Any], *arrays: np.ndarray) -> None:
    """Sends a header, to which it adds the arrays' forms, and the arrays."""
    whole = [np.ascontiguousarray(array) for array in arrays]
    forms = [(array.dtype.str, array.shape, zlib.crc32(array.data)) for array in whole]
    text = json.dumps(header | {"arrays": forms}).encode()
    connection.send_bytes(_CHECKSUM.pack(zlib.crc32(text)) + text)
    for array in whole:
        connection.send_bytes(array.tobytes())


def receive(connection: Connection) -> Message:
    """Receives what `send` sent.

    Raises EOFError or OSError when the other side is gone, has stopped in the middle, or sent anything else.
    """
    data = connection.recv_bytes(_CHECKSUM.size + HEADER)
    text = data[_CHECKSUM.size :]
    if len(data) < _CHECKSUM.size or zlib.crc32(text) != _CHECKSUM.unpack_from(data)[0]:
        raise DamagedMessageError("a header is not as it was sent")
    try:
        header = json_text.parse(text)
        forms = [_form(*form) for form in header.pop("arrays")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedMessageError(f"a header says {type(error).__name__}") from None
    return header, [_array(connection, *form) for form in forms]


def _form(kind: str, shape: list[int], checksum: int) -> tuple[np.dtype, list[int], int]:
    if not all(isinstance(length, int) and length >= 0 for length in shape):
        raise ValueError(f"the shape {shape} is none")
    return KINDS[kind], list(shape), checksum


def _array(connection: Connection, kind: np.dtype, shape: list[int], checksum: int) -> np.ndarray:
    size = kind.itemsize * math.prod(shape)
    # Of an empty message Connection makes none that is too long.
    data = connection.recv_bytes(size) if size else connection.recv_bytes(1)
    if len(data) != size or zlib.crc32(data) != checksum:
        raise DamagedMessageError("an array is not as it was sent")
    return np.frombuffer(data, kind).reshape(shape)
