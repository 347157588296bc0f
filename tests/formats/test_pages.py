"""Pages give their title and their text, and nothing of what is not text; bad ones are counted."""

import importlib.util
import zipfile
from collections import Counter

import pytest

from ralm_jax.data.prepare import prepare
from ralm_jax.errors import UserError
from ralm_jax.formats import pages
from ralm_jax.formats.pages import Page, UnreadPage, read_page
from ralm_jax.sources.read import read_documents

HTML = """<!doctype html><html><head><meta charset="{charset}"><title>Öfen &amp; Brände</title>
<style>p {{ color: red }}</style></head><body><nav><a href="/">Home</a></nav>
<h1>Öfen &amp; Brände</h1><p>The <b>kil</b>n was
built in 1712.<br>It burns.</p><script>alert("x")</script>
<ul><li>One<li>Two</ul><table><tr><td>a</td><td>b</td></tr></table><!-- unseen --></body></html>"""
TEXT = "The kiln was built in 1712. It burns.\n\nOne\n\nTwo\n\na b"

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
DOCX = f"""<w:document {W}><w:body>
<w:p><w:pPr><w:pStyle w:val="Title"/></w:pPr><w:r><w:t>The Kiln</w:t></w:r></w:p>
<w:p><w:r><w:t xml:space="preserve">It was </w:t></w:r><w:r><w:t>built.</w:t><w:tab/>
<w:t>Late.</w:t></w:r></w:p>
<w:p/><w:del><w:r><w:delText>Deleted.</w:delText></w:r></w:del>
<w:tbl><w:tr><w:tc><w:p><w:r><w:t>cell</w:t></w:r></w:p></w:tc></w:tr></w:tbl>
</w:body></w:document>"""
CORE = '<c xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The Kiln</dc:title></c>'

CONTAINER = '<c><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></c>'
OPF = """<package><metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Kilns</dc:title></metadata>
<manifest><item id="b" href="second%20part.xhtml"/><item id="a" href="first.xhtml"/></manifest>
<spine><itemref idref="a"/><itemref idref="b"/></spine></package>"""


def archive(path, **members):
    with zipfile.ZipFile(path, "w") as out:
        for name, text in members.items():
            out.writestr(name, text)
    return path


def docx(path, core=CORE):
    return archive(path, **{"word/document.xml": DOCX, "docProps/core.xml": core})


def epub(path):
    chapters = {
        # An empty title is written so in XHTML; taken for HTML it would swallow the chapter.
        "OEBPS/first.xhtml": "<html><head><title/></head><body><p>One&nbsp;kiln.</p></body></html>",
        "OEBPS/second part.xhtml": "<html><head><title>Two</title></head><body><p>More.</p></body></html>",
    }
    return archive(path, **{"META-INF/container.xml": CONTAINER, "OEBPS/book.opf": OPF}, **chapters)


def pdf(path, text="The kiln was mod-", more="ern in 1712.", title="Old Kilns"):
    """The smallest PDF with two lines of text and a title."""
    shown = f"BT /F 12 Tf 20 100 Td ({text}) Tj 0 -20 Td ({more}) Tj ET" if text else ""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R"
        " /Resources << /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        f"<< /Length {len(shown)} >>\nstream\n{shown}\nendstream",
        f"<< /Title ({title}) >>",
    ]
    data, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    start = f"xref\n0 6\n0000000000 65535 f \n{table}trailer << /Size 6 /Root 1 0 R /Info 5 0 R >>"
    path.write_bytes(f"{data}{start}\nstartxref\n{len(data)}\n%%EOF".encode())
    return path


def unknown_compression(path):
    """An archive whose members say that they are packed by method 99."""
    data = bytearray(path.read_bytes())
    for header, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = data.find(header)
        while start >= 0:
            data[start + place] = 99
            start = data.find(header, start + 1)
    return bytes(data)


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1"])
def test_html(tmp_path, charset):
    (tmp_path / "x.html").write_bytes(HTML.format(charset=charset).encode(charset))
    assert read_page(tmp_path / "x.html") == Page("Öfen & Brände", TEXT)


def test_docx(tmp_path):
    text = "It was built. Late.\n\ncell"
    assert read_page(docx(tmp_path / "x.docx")) == Page("The Kiln", text)
    other = read_page(docx(tmp_path / "y.docx", core="<c/>"))
    assert other == Page("The Kiln", text)


def test_epub(tmp_path):
    found = read_page(epub(tmp_path / "x.epub"))
    assert found == Page("Kilns", "One kiln.\n\nTwo\n\nMore.")


def test_pdf(tmp_path):
    assert read_page(pdf(tmp_path / "x.pdf")) == Page("Old Kilns", "The kiln was modern in 1712.")
    named = pdf(tmp_path / "y.pdf", title="Microsoft Word - draft.doc")
    assert read_page(named).title == ""


def test_a_folder_of_pages_beside_texts(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("A text.")
    (folder / "b.htm").write_text("<p>A page.</p>")
    docx(folder / "c.docx")
    epub(folder / "d.epub")
    pdf(folder / "e_f.pdf", title="")
    pdf(folder / "scan.pdf", text="")
    (folder / "torn.pdf").write_bytes(b"%PDF-1.4\nnothing")
    (folder / "torn.docx").write_bytes((folder / "c.docx").read_bytes()[:-40])
    (folder / "packed.docx").write_bytes(unknown_compression(docx(tmp_path / "x.docx")))
    archive(folder / "empty.epub", x="")
    counts = Counter()
    found = {d.id: d.title for d in read_documents(str(folder), counts)}
    assert found == {
        "a.txt": "a", "b.htm": "b", "c.docx": "The Kiln", "d.epub": "Kilns", "e_f.pdf": "e f",
    }  # fmt: skip
    assert counts == {
        "rejected: .pdf file without text, as a scan is": 1,
        "rejected: damaged .pdf file": 1,
        "rejected: damaged .docx file": 2,
        "rejected: damaged .epub file": 1,
    }
    counted = prepare(str(folder), tmp_path / "corpus", vocab_size=99, processes=1, say=print)
    assert counted["documents"] == 5 and counted["rejected: damaged .pdf file"] == 1


def test_a_page_that_is_a_source_by_itself(tmp_path):
    assert [d.title for d in read_documents(str(pdf(tmp_path / "x.pdf")))] == ["Old Kilns"]
    (tmp_path / "torn.pdf").write_bytes(b"%PDF")
    with pytest.raises(UserError, match=r"torn\.pdf: damaged \.pdf file$"):
        list(read_documents(str(tmp_path / "torn.pdf")))


def test_a_library_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    pdf(tmp_path / "x.pdf")
    docx(tmp_path / "y.docx")
    counts = Counter()
    assert [d.id for d in read_documents(str(tmp_path), counts)] == ["y.docx"]
    wanted = "rejected: .pdf file, which pip install 'ralm_jax[documents]' lets it read"
    assert counts == {wanted: 1}


def test_a_member_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "_LARGEST", 100)
    with pytest.raises(UnreadPage, match=r"damaged \.docx file"):
        read_page(docx(tmp_path / "x.docx"))
