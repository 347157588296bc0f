"""JSON that may be a stranger's: whatever is wrong with it is a ValueError."""

import json
from typing import Any


def parse(text: str | bytes) -> Any:
    """The value of a text. Raises ValueError where it is not JSON, or nested too deeply to be read.

    >>> parse('{"a": 1}')
    {'a': 1}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
