"""The text of pages: HTML and EPUB by selectolax, PDF by pypdf, DOCX by its XML.

The two libraries come with `pip install ralm_jax[documents]`.
"""

import importlib.util
import logging
import lzma
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree

# What the standard library says of a damaged archive, of encryption and of what it cannot unpack.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, ElementTree.ParseError, LookupError, ValueError),
    *(NotImplementedError, RuntimeError, EOFError, lzma.LZMAError),
)
# What reads files of a suffix.
LIBRARIES = {
    ".html": "selectolax",
    ".htm": "selectolax",
    ".xhtml": "selectolax",
    ".epub": "selectolax",
    ".pdf": "pypdf",
    ".docx": None,
}
# Of one member of an archive, unpacked.
_LARGEST = 1 << 30
_UNSEEN = "script, style, noscript, template, svg, nav, head"
_BLOCKS = (
    "address article aside blockquote dd div dl dt figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr "
    "li main ol p pre section table tr ul"
)
# No text has it: marks where a block begins or ends until white space has been joined.
_BREAK = "\x1e"
# XHTML may write an element without content so, which HTML takes for one that never ends.
_EMPTY = re.compile(rb"<(title|script|style|textarea|iframe)\b([^<>]*)/>", re.IGNORECASE)
# Titles that are the names of what a program made the file from.
_NO_TITLE = re.compile(
    r"(?:microsoft word|powerpoint|untitled|.*\.\w{2,5}$).*", re.IGNORECASE | re.DOTALL
)
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_CORE = "{http://purl.org/dc/elements/1.1/}"


class Page(NamedTuple):
    """Title, "" where there is none, and text."""

    title: str
    text: str


class UnreadPage(Exception):
    """A page that cannot be read, and why."""


def read_page(path: Path) -> Page:
    """The page in a file of one of the suffixes of LIBRARIES.

    Raises UnreadPage where its library is not installed, and where it is damaged, encrypted, without text or
    too large; and OSError.
    """
    suffix = path.suffix.lower()
    library = LIBRARIES[suffix]
    if library is not None and importlib.util.find_spec(library) is None:
        raise UnreadPage(f"{suffix} file, which pip install 'ralm_jax[documents]' lets it read")
    try:
        if suffix == ".pdf":
            page = _pdf(path)
        elif suffix == ".docx":
            page = _docx(path)
        elif suffix == ".epub":
            page = _epub(path)
        else:
            page = _html(path.read_bytes())
    except _DAMAGE:
        raise UnreadPage(f"damaged {suffix} file") from None
    title, text = _clean(page.title), _clean(page.text)
    if suffix == ".pdf" and not text:
        raise UnreadPage(".pdf file without text, as a scan is")
    return Page(title, text)


def _clean(text: str) -> str:
    # Half of a surrogate pair is not Unicode text.
    return text.encode("utf-8", "replace").decode().replace("\0", "").strip()


def _html(data: bytes) -> Page:
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(_EMPTY.sub(rb"<\1\2></\1>", data), encoding=True)
    found = tree.css_first("title") or tree.css_first("h1")
    title = " ".join(found.text().split()) if found else ""
    heading = tree.css_first("h1")
    if heading and " ".join(heading.text().split()) == title:
        heading.decompose()
    for node in tree.css(_UNSEEN):
        node.decompose()
    for node in tree.css("br"):
        node.replace_with("\n")
    for node in tree.css(", ".join(_BLOCKS.split())):
        node.insert_before(_BREAK)
        node.insert_after(_BREAK)
    for node in tree.css("td, th"):
        node.insert_after(" ")
    body = tree.body or tree.root
    blocks = (" ".join(block.split()) for block in (body.text() if body else "").split(_BREAK))
    return Page(title, "\n\n".join(block for block in blocks if block))


def _pdf(path: Path) -> Page:
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = pypdf.PdfReader(path)
        pages = [page.extract_text() for page in reader.pages]
        title = str((reader.metadata and reader.metadata.title) or "")
    except OSError:
        raise
    except Exception as error:
        # A damaged file ends in whatever error its first wrong byte leads to.
        raise ValueError(str(error)) from None
    # Words that a line end divides are put together again.
    text = re.sub(r"(?<=[a-z])-\n(?=[a-z])", "", "\n".join(pages))
    return Page("" if _NO_TITLE.fullmatch(title) else title, text)


def _docx(path: Path) -> Page:
    with zipfile.ZipFile(path) as archive:
        body = ElementTree.fromstring(_member(archive, "word/document.xml"))
        title = ""
        if "docProps/core.xml" in archive.namelist():
            core = ElementTree.fromstring(_member(archive, "docProps/core.xml"))
            title = core.findtext(f"{_CORE}title") or ""
    paragraphs = []
    for paragraph in body.iter(f"{_WORD}p"):
        text = "".join(_runs(paragraph)).strip()
        style = paragraph.find(f"{_WORD}pPr/{_WORD}pStyle")
        if style is not None and style.get(f"{_WORD}val") == "Title" and text == (title or text):
            title = title or text
        else:
            paragraphs.append(text)
    return Page(title, "\n\n".join(text for text in paragraphs if text))


def _runs(paragraph: ElementTree.Element) -> Iterator[str]:
    for node in paragraph.iter():
        if node.tag == f"{_WORD}t":
            yield node.text or ""
        elif node.tag in (f"{_WORD}tab", f"{_WORD}br", f"{_WORD}cr"):
            yield " "


def _epub(path: Path) -> Page:
    with zipfile.ZipFile(path) as archive:
        container = ElementTree.fromstring(_member(archive, "META-INF/container.xml"))
        roots = [node.get("full-path") for node in container.iter() if node.get("full-path")]
        if not roots:
            raise ValueError("it names no package of chapters")
        package = ElementTree.fromstring(_member(archive, str(roots[0])))
        files = {node.get("id"): node for node in package.iter() if node.get("href")}
        chapters = []
        for node in package.iter():
            if (item := files.get(node.get("idref"))) is not None:
                name = posixpath.join(
                    posixpath.dirname(str(roots[0])), unquote(item.get("href", ""))
                )
                chapters.append(_html(_member(archive, posixpath.normpath(name))))
    title = next((n.text for n in package.iter(f"{_CORE}title") if n.text), "")
    parts = [
        part
        for chapter in chapters
        for part in (chapter.title if chapter.title != title else "", chapter.text)
    ]
    return Page(title, "\n\n".join(part for part in parts if part))


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > _LARGEST:
        raise ValueError(f"{name} in it takes {info.file_size:,} bytes")
    return archive.read(info)
