"""Documents of a folder of texts and pages: which files are read, and where their titles come from."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ralm_jax.errors import UserError
from ralm_jax.formats import pages
from ralm_jax.formats.lines import check_fetched
from ralm_jax.sources.documents import Document

_MARKDOWN = (".md", ".markdown")
SUFFIXES = (".txt", ".text", *_MARKDOWN, ".rst", *pages.LIBRARIES)

# A folder of code or of downloads can have hundreds of suffixes; the count names the most frequent.
_SUFFIXES_NAMED = 8


def read_folder(folder: Path, counts: Counter[str]) -> Iterator[Document]:
    """One document a file, in the order of their paths, below `folder` and nowhere else.

    Hidden files and folders are passed over. Links are followed to files inside the folder only.

    Args:
      counts: gets the number of files that are left out, by reason, when all files have been read.
    Raises:
      UserError: a file or a folder cannot be read, or a file is not encoded in UTF-8.
    """
    other_kinds: Counter[str] = Counter()
    root = os.path.realpath(folder)
    for path in _walk(folder):
        try:
            reason = _reason_to_reject(path, root)
        except OSError as error:
            raise _unreadable(path, error) from None
        if reason:
            counts[f"rejected: {reason}"] += 1
        elif path.suffix.lower() in SUFFIXES:
            try:
                yield _document(path, folder)
            except pages.UnreadPage as error:
                counts[f"rejected: {error}"] += 1
        else:
            other_kinds[_without_surrogates(path.suffix.lower()) or "no suffix"] += 1
    if other_kinds:
        kinds = _most_frequent(other_kinds)
        counts[f"rejected: file of another kind ({kinds})"] = other_kinds.total()


def _walk(folder: Path) -> list[Path]:
    """The files and the links below a folder that are not hidden, sorted."""

    def refuse(error: OSError) -> None:
        raise _unreadable(error.filename, error)

    found = []
    for at, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(at, name))]
        found += [Path(at, name) for name in [*files, *links] if not name.startswith(".")]
    return sorted(found)


def _reason_to_reject(path: Path, root: str) -> str | None:
    """Why a path is left out whatever its suffix; None for a file inside the folder `root`."""
    if path.is_symlink():
        try:
            target = Path(os.path.realpath(path, strict=True))
        except OSError:
            return "broken link"
        if not target.is_relative_to(root):
            return "link that leads out of the folder"
        # The files of that folder are read where they are, and a link to a parent would never end.
        if target.is_dir():
            return "link to a folder"
    # Opening a named pipe would wait for somebody to write to it.
    return None if path.is_file() else "not a regular file"


def _unreadable(path: str | Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be read ({error.strerror}); change its permissions or move it elsewhere"
    )


def read_file(path: Path, folder: Path) -> Document:
    """The one document of a file; its id is the path below `folder`. Raises UserError as `read_folder`."""
    try:
        return _document(path, folder)
    except pages.UnreadPage as error:
        raise UserError(f"{path}: {error}") from None


def _document(path: Path, folder: Path) -> Document:
    # A name that is not UTF-8 has its stray bytes escaped, so that two such names stay different.
    name = os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")
    try:
        if path.suffix.lower() in pages.LIBRARIES:
            title, body = pages.read_page(path)
        else:
            title, body = _text(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    return Document(name, title or _title_of_name(path, folder), body)


def _text(path: Path) -> tuple[str, str]:
    """Title, "" where the text has none of its own, and body."""
    data = path.read_bytes()
    check_fetched(path, data)
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not encoded in UTF-8; save it as UTF-8") from None
    is_markdown = path.suffix.lower() in _MARKDOWN
    front, body = split_front_matter(text) if is_markdown else ("", text)
    heading, rest = _split_heading(body, path.suffix.lower())
    title = front or heading or ""
    # A heading that differs from the title in the front matter is text that would otherwise be lost.
    body = rest if title == heading else body
    return title, body


# The lines of YAML as front matter has them: a key of one or two words or in quotes; after it a list
# item, anything indented or a closing bracket; comments and blank lines.
_KEY_LINE = re.compile(r"""(?:\w[\w.-]*(?: [\w.-]+)?|"[^"]+"|'[^']+')[ \t]*:(?:[ \t].*)?""")
_VALUE_LINE = re.compile(r"-(?:[ \t].*)?|[ \t].*|[\]}],?[ \t]*")
_TITLE_KEY = re.compile(
    r"""^(["']?)title\1[ \t]*:(?P<value>.*(?:\n[ \t]+\S.*)*)""", re.MULTILINE | re.IGNORECASE
)
_QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')(?: #.*)?""")


def split_front_matter(text: str) -> tuple[str, str]:
    """The title in the YAML at the beginning of a Markdown file, or "", and what follows the YAML.

    What stands between two rules and does not read as YAML is text; then nothing is cut.

    >>> split_front_matter("---\\ntitle: Salt Roads\\n...\\nText.")
    ('Salt Roads', 'Text.')
    >>> split_front_matter("---\\n\\nText.\\n\\n---\\n")
    ('', '---\\n\\nText.\\n\\n---\\n')
    """
    block, end = _front_matter(text)
    title = _TITLE_KEY.search(block)
    return _scalar(title["value"]).strip() if title else "", text[end:]


def _front_matter(text: str) -> tuple[str, int]:
    """The YAML that a text begins with, and where the text goes on behind it; ("", 0) for none."""
    opening = re.match(r"---[ \t]*\n", text)
    if not opening:
        return "", 0
    start = at = opening.end()
    has_key = False
    while at < len(text):
        stop = text.find("\n", at) + 1 or len(text)
        line = text[at:stop].rstrip()
        if line in ("---", "..."):
            # Comments alone would be headings between two rules.
            return (text[start:at], stop) if has_key or at == start else ("", 0)
        if _KEY_LINE.fullmatch(line):
            has_key = True
        elif not (
            line.startswith("#")
            or (not line and at > start)
            or (has_key and _VALUE_LINE.fullmatch(line))
        ):
            break
        at = stop
    return "", 0


def _scalar(value: str) -> str:
    """The text of a YAML scalar on one line or several; "" for null."""
    # A block scalar begins with a mark such as ">-".
    value = re.sub(r"^[>|][+-]?\d?(?: |$)", "", " ".join(value.split()))
    if quoted := _QUOTED.fullmatch(value):
        if value.startswith("'"):
            return quoted[1][1:-1].replace("''", "'")
        try:
            # Half of a surrogate pair can be written as an escape, but is not Unicode text.
            return json.loads(quoted[1]).encode("utf-8", "replace").decode()
        except json.JSONDecodeError:
            return quoted[1][1:-1]
    value = re.sub(r"(?:^| )#.*", "", value)
    return "" if value in ("~", "null") else value


# No run of blanks is given back (the quantifiers are possessive): it would be tried at every length of it.
_MARKDOWN_HEADING = re.compile(
    r"\s*+(?:#\s++(?P<hash>\S.*+)(?:\n(?:\s*(?:\n|\Z))?|\Z)"
    r"|(?P<line>\S.*+)\n={3,}+[ \t]*+(?:\n|\Z))"
)
_RST_HEADING = re.compile(
    r"\s*+(?:([^\w\s])\1{2,}+[ \t]*+\n)?[ \t]*+(?P<line>\S.*+)\n([^\w\s])\3{2,}+[ \t]*+(?:\n|\Z)"
)


def _split_heading(text: str, suffix: str) -> tuple[str | None, str]:
    """The heading that a text begins with and what follows it, or None and all of the text."""
    if suffix in _MARKDOWN:
        found = _MARKDOWN_HEADING.match(text)
        title = found and (_without_closing(found["hash"]) or found["line"])
    elif suffix == ".rst":
        found = _RST_HEADING.match(text)
        title = found and found["line"]
    else:
        found = title = None
    return (title.strip(), text[found.end() :]) if found and title else (None, text)


def _without_closing(heading: str | None) -> str | None:
    """A Markdown heading without the marks that may close it; one of nothing else is the first of them."""
    return heading and (heading.rstrip("#").rstrip() or heading[0])


def _title_of_name(path: Path, folder: Path) -> str:
    """The name of a file as a title; an index file is named by the folder that it is the index of."""
    title = _words(path.stem)
    if title.lower() != "index":
        return title
    parent = Path(os.path.realpath(folder)) if path.parent == folder else path.parent
    return _words(parent.name) or title


def _words(name: str) -> str:
    return re.sub(r"[_\s-]+", " ", _without_surrogates(name)).strip()


def _without_surrogates(name: str) -> str:
    """A name with U+FFFD for the bytes that are not UTF-8, which Python reads as surrogates."""
    return os.fsencode(name).decode("utf-8", "replace")


def _most_frequent(kinds: Counter[str]) -> str:
    """'.html 2, .pdf 1': suffixes and their numbers, the most frequent first."""
    ranked = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    named = [f"{suffix} {number}" for suffix, number in ranked[:_SUFFIXES_NAMED]]
    if rest := sum(number for _, number in ranked[_SUFFIXES_NAMED:]):
        named.append(f"others {rest}")
    return ", ".join(named)
