"""The report: well-formed, escaped, complete, self-contained, written whole or not at all."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from candle_tf.errors import UserError
from candle_tf.reporting import html

VOID = {"meta", "img", "br", "hr"}
HOSTILE = "<script>alert(\"x\")</script> & 'y'"


class _Page(HTMLParser):
    """Collects tags and texts, and fails on tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def attributes_of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def _png(color):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(buffer, "PNG")
    return buffer.getvalue()


def _write(tmp_path, sections, title="Run"):
    path = tmp_path / "report.html"
    html.write_report(path, title, sections)
    text = path.read_text(encoding="utf-8")
    return text, _Page(text)


def test_every_figure_is_in_the_page_with_its_own_bytes_and_alt_text(tmp_path):
    figures = [html.Figure(_png((i * 50, 0, 0)), alt=f"image {i}") for i in range(4)]
    sections = [html.Section("one", figures[:3]), html.Section("two", figures[3:])]
    _, page = _write(tmp_path, sections)
    images = page.attributes_of("img")
    assert [image["alt"] for image in images] == [figure.alt for figure in figures]
    for image, figure in zip(images, figures, strict=True):
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == figure.png


def test_all_text_is_escaped(tmp_path):
    items = [
        HOSTILE,
        html.Code(HOSTILE),
        html.Table([HOSTILE], [[HOSTILE]], caption=HOSTILE),
        html.Table([HOSTILE], [[HOSTILE]] * 50, caption=HOSTILE),
        html.Figure(_png("red"), alt=HOSTILE, caption=HOSTILE),
    ]
    text, page = _write(tmp_path, [html.Section(HOSTILE, items)] * 2, title=HOSTILE)
    # The one script is the page's own, which its policy names by hash.
    assert "<script>alert" not in text
    assert len(page.attributes_of("script")) == 1
    own = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    policy = next(m["content"] for m in page.attributes_of("meta") if "http-equiv" in m)
    assert f"script-src 'sha256-{digest}'" in policy
    assert page.attributes_of("img")[0]["alt"] == HOSTILE
    # title, h1; and twice: contents, h2, p, code, caption, th, td, summary, th, 50 td, figcaption
    assert sum(HOSTILE in piece for piece in page.texts) == 2 + 2 * (10 + 50)


def test_nothing_is_fetched(tmp_path):
    table = html.Table(["a"], [["1"]])
    text, page = _write(tmp_path, [html.Section("s", [table, html.Figure(_png("red"), alt="r")])])
    assert not re.search(r"https?:|url\(|@import|<link|src=\"(?!data:)", text)
    policy = [m["content"] for m in page.attributes_of("meta") if "http-equiv" in m]
    assert "default-src 'none'" in policy[0]


def test_tables_sides_and_paragraphs(tmp_path):
    table = html.Table(["model", "mean %"], [["teacher", "86.1"]], caption="All models")
    _, page = _write(tmp_path, [html.Section("s", ["first\nstill\n\nsecond", table])])
    assert [cell.get("class") for cell in page.attributes_of("td")] == ["left", None]
    assert len(page.attributes_of("p")) == 2
    assert page.attributes_of("details") == []
    for text in ("first\nstill", "second", "All models", "teacher", "86.1"):
        assert text in page.texts


def test_long_tables_are_folded_and_complete(tmp_path):
    table = html.Table(["class"], [[f"c{i}"] for i in range(1200)], caption="Per class")
    _, page = _write(tmp_path, [html.Section("s", [table])])
    assert len(page.attributes_of("details")) == 1
    assert "Per class (1,200 rows)" in page.texts
    assert len(page.attributes_of("td")) == 1200


def test_contents_link_to_the_sections(tmp_path):
    sections = [html.Section("Same", []), html.Section("Same", [])]
    _, page = _write(tmp_path, sections)
    targets = [link["href"] for link in page.attributes_of("a")]
    assert targets == [f"#{section['id']}" for section in page.attributes_of("section")]
    assert len(set(targets)) == 2


def test_unicode_and_undecodable_names_are_written(tmp_path):
    text, _ = _write(tmp_path, [html.Section("s", ["猫 Ærø \udcff {braces}"])])
    assert r"猫 Ærø \udcff {braces}" in text


def test_a_path_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        html.write_report(tmp_path / "file" / "report.html", "t", [])


def test_refused_pieces():
    with pytest.raises(ValueError, match="not a PNG"):
        html.Figure(b"GIF89a", alt="x")
    with pytest.raises(ValueError, match="alt text"):
        html.Figure(_png("red"), alt=" ")
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        html.Table(["a", "b"], [["1"]])
