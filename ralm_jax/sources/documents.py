"""What every source gives: documents, with their salient spans where the data has them."""

import hashlib
from typing import NamedTuple


class GivenSpan(NamedTuple):
    """A salient span that came with the data: text[start:stop], in characters.

    `fact` is the id of the fact it states; two passages that state one fact share it.
    """

    start: int
    stop: int
    kind: str
    fact: str | None = None


class Document(NamedTuple):
    """One document; `spans` is None where the data says nothing about salient spans."""

    id: str
    title: str
    text: str
    spans: tuple[GivenSpan, ...] | None = None

    def digest(self) -> str:
        """32 hex characters that depend on all but the id: documents that differ are told apart by it."""
        whole = repr((self.title, self.text, self.spans and [tuple(span) for span in self.spans]))
        return hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
