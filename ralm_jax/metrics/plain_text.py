"""Text as it is compared: without characters that nobody sees, and with accents written one way.

The normaliser of a BERT tokenizer drops the same characters. So the rules that find answers for
training and the measures of evaluation see the same words, wherever a zero-width space, a soft
hyphen or a byte order mark stands in a passage or in an answer.
"""

import re
import unicodedata

# Control characters other than tab and line ends, format characters, private use, and U+FFFD, which
# stands for bytes that could not be decoded.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b-\u200f"
    "\u202a-\u202e\u2060-\u2064\u2066-\u206f\ue000-\uf8ff\ufeff\ufff9-\ufffb\ufffd\U000110bd"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"
    "\U000f0000-\U000ffffd\U00100000-\U0010fffd]"
)


def plain(text: str) -> str:
    """The text in NFC, without characters that nobody sees.

    >>> plain("Nor\\xadford was Ada\\u200b Quill's, la Lande\\u0301")
    "Norford was Ada Quill's, la Landé"
    """
    return unicodedata.normalize("NFC", _UNSEEN.sub("", text))


def blank(text: str) -> bool:
    """Whether nothing of the text is seen.

    >>> blank(" \\u200b\\n"), blank(".")
    (True, False)
    """
    return not plain(text).strip()


def origins(text: str) -> list[tuple[int, int]]:
    """For each character of `plain(text)`, the characters [start, stop) of the text it was made from.

    >>> origins("a\\xade\\u0301")
    [(0, 1), (2, 4)]
    """
    blocks: list[tuple[str, int, int]] = []
    for place, character in enumerate(text):
        if _UNSEEN.match(character):
            continue
        if blocks and _compose(blocks[-1][0], character):
            block, start, _ = blocks[-1]
            blocks[-1] = block + character, start, place + 1
        else:
            blocks.append((character, place, place + 1))
    return [
        (start, stop) for block, start, stop in blocks for _ in unicodedata.normalize("NFC", block)
    ]


def with_accents(text: str, stop: int) -> int:
    """Where the character that ends at `stop` ends with the accents written behind it.

    Wordpieces without accents end before them.

    >>> with_accents("Rene\u0301 read", 4)
    5
    """
    while stop < len(text) and unicodedata.combining(text[stop]):
        stop += 1
    return stop


def _compose(block: str, character: str) -> bool:
    """Whether the character is written together with what stands before it, as an accent or a jamo is."""
    if unicodedata.combining(character):
        return True
    apart = (unicodedata.normalize("NFC", part) for part in (block, character))
    return unicodedata.normalize("NFC", block + character) != "".join(apart)
