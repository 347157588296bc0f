"""Splits documents into sentences, and packs whole sentences into passages of a budget."""

import hashlib
import math
import re
from collections.abc import Sequence

import numpy as np

# What ends a sentence: a stop and a blank, an East Asian stop, a blank line. The time must grow with
# the length of any text: a match begins only where a run of stops begins, and no run is given back
# (the quantifiers are possessive), since a shorter run could not match either. The look-behind comes
# after the first character because a search is quickest where a match begins with one of a set.
_END = re.compile(
    r"""(?P<stop>[.!?…؟।](?<![.!?…؟।]{2})[.!?…؟।]*+["'”’»)\]]*+)\s++(?=\S)"""
    r"""|[。！？｡]++[」』）】”’)\]]*+|\n[ \t\r]*+\n\s*+"""
)
_ABBREVIATIONS = frozenset(
    "adm al approx apr art asst aug ave brig ca capt cf ch cmdr co col corp cpl dec dept dr ed "
    "eds eq est etc feb fig figs fl ft gen gov hon inc jan jr lt ltd maj mar messrs mr mrs ms mt "
    "no nos nov nr oct op p pp prof pt pvt ref refs rep rev sec sen sep sept sgt sr st ste univ "
    "viz vol vols vs".split()
)
# Initials and clipped forms: "J.", "U.S.", "e.g.", "Ph.D."; without the last stop.
_INITIALS = re.compile(r"(?:\w|\w{1,2}(?:\.\w{1,2})+)\Z")
_OPENERS = "\"'“‘«([{"


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Character offsets (start, stop) of the sentences of a text, in order.

    A full stop does not end one after an abbreviation, an initial or the number of a list item, nor
    before a lower-case letter; decimals and names like "os.path" have no blank after theirs.
    """
    sentences, start = [], 0
    # Where the word before a full stop begins, and up to where blanks have been looked for: each
    # character is searched once, although a sentence may have many stops that do not end it.
    word, searched = 0, 0
    for end in _END.finditer(text):
        stop = end.end("stop") if end["stop"] else end.end()
        if end["stop"] and not text[end.end()].islower():
            dot = end.start()
            blank = max(text.rfind(" ", searched, dot), text.rfind("\n", searched, dot))
            word, searched = max(word, blank + 1, start), dot
            ends = _ends_sentence(text, start, word, dot)
        else:
            ends = not end["stop"]
        if ends:
            _append_stripped(sentences, text, start, stop)
            start = end.end()
    _append_stripped(sentences, text, start, len(text))
    return sentences


def _ends_sentence(text: str, start: int, word_start: int, dot: int) -> bool:
    """Whether the stop at `dot` ends the sentence begun at `start`; its word is at `word_start`."""
    if text[dot] != "." or text[dot : dot + 2] == "..":
        return True
    word = text[word_start:dot].lstrip(_OPENERS)
    if word.isdecimal():
        # Not after the number of a list item.
        return text[start:dot].strip() != word
    return word.lower() not in _ABBREVIATIONS and not _INITIALS.match(word)


def _append_stripped(sentences: list[tuple[int, int]], text: str, start: int, stop: int) -> None:
    while start < stop and text[start].isspace():
        start += 1
    while start < stop and text[stop - 1].isspace():
        stop -= 1
    if start < stop:
        sentences.append((start, stop))


def cut_long(
    bounds: np.ndarray, room: np.ndarray, continuation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts sentences longer than their room into even pieces, where a word begins if one does.

    Args:
      bounds: [m, 2] wordpiece offsets of sentences; room: [m] the most wordpieces a piece may have;
      continuation: [n] bool, whether a wordpiece continues a word.
    Returns:
      ([m', 2] offsets of sentences and pieces of sentences, [m'] the sentence each is of).
    """
    if not (bounds[:, 1] - bounds[:, 0] > room).any():
        return bounds, np.arange(len(bounds))
    pieces, source = [], []
    for i, ((start, stop), most) in enumerate(zip(bounds.tolist(), room.tolist(), strict=True)):
        while (length := stop - start) > most:
            # Even pieces, lest one wordpiece be left for the last of them.
            even = math.ceil(length / math.ceil(length / most))
            at = start + even
            while at > start and continuation[at]:
                at -= 1
            # One word may be as long as a passage.
            at = at if at > start else start + even
            pieces.append((start, at))
            source.append(i)
            start = at
        pieces.append((start, stop))
        source.append(i)
    return np.array(pieces, bounds.dtype), np.array(source)


def pack(lengths: Sequence[int], owners: Sequence[int], room: Sequence[int]) -> np.ndarray:
    """Greedy packing of sentences into passages.

    Args:
      lengths: [m] wordpieces of each sentence; owners: [m] its document, in order;
      room: wordpieces that a passage of each document may have. No sentence is longer.
    Returns:
      [n] int64, the sentences that begin a passage.
    """
    first, current, total = [], -1, 0
    for i, (length, owner) in enumerate(zip(lengths, owners, strict=True)):
        if owner != current or total + length > room[owner]:
            first.append(i)
            current, total = owner, 0
        total += length
    return np.array(first, np.int64)


def content_id(title: str, text: str) -> str:
    """32 hex characters that depend on title and text alone: the passage's name in every corpus."""
    return hashlib.blake2b(f"{title}\0{text}".encode(), digest_size=16).hexdigest()
