"""How hits are shown: JSON, CSV, table, page."""

import csv
import io
import json
import re

import pytest
from PIL import Image
from rich.console import Console

from hf_clipalign import ClipAlignError
from hf_clipalign.search import Answer, Hit
from hf_clipalign.search.answers.hits import as_csv
from hf_clipalign.search.answers.pages import Tile, TileGroup, answer_group, write_page

NASTY = "/photos/<b>\"x\" & 'y'\n\udce9.jpg"


@pytest.fixture
def answer(tmp_path):
    Image.new("RGB", (900, 300), "red").save(tmp_path / "a.png")
    hits = [
        Hit(str(tmp_path / "a.png"), 0.51234567, 0.9, "aligned", (NASTY,)),
        Hit("/gone, too.jpg", 0.25, None, "raw"),
    ]
    return Answer(hits, '"<i>red</i>"', "aligned", "exact")


def test_json_is_a_list_of_four_values(answer):
    first, second = json.loads(answer.to_json())
    assert second == {"path": "/gone, too.jpg", "score": 0.25, "confidence": None, "head": "raw"}
    assert list(first) == ["path", "score", "confidence", "head", "also"]
    assert first["also"] == [NASTY]
    assert Answer([]).to_json() == "[]"


def test_csv_can_be_read_back(answer):
    rows = list(csv.DictReader(io.StringIO(answer.to_csv())))
    assert [row["path"] for row in rows] == [answer[0].path, "/gone, too.jpg"]
    assert json.loads(rows[0]["also"]) == [NASTY]
    assert rows[1]["also"] == ""
    assert (rows[0]["confidence"], rows[1]["confidence"]) == ("0.9", "")


@pytest.mark.parametrize("path", [NASTY, "/a|b.jpg", '/"x".jpg', "/caf\xe9\\n.jpg", "/a\rb\x00\u2028c\u200bd.jpg"])
def test_any_path_comes_back_from_csv(path):
    answer = Answer([Hit(path, 0.5, None, "raw", ("/1|2.jpg", path))])
    lines = answer.to_csv().splitlines()
    assert len(lines) == 2
    (row,) = csv.DictReader(lines)
    assert (json.loads(row["path"]) if row["path"].startswith('"') else row["path"]) == path
    assert json.loads(row["also"]) == ["/1|2.jpg", path]
    assert (row["path"] == path) == path.isprintable(), "what can be printed is written as it is"


def test_a_text_that_could_be_taken_for_a_json_string_is_one():
    texts = ['"red car"', '"red car" - "toy"', '"', "[1]", "tab\tstop"]
    rows = list(csv.reader(as_csv(("text",), [[text] for text in texts]).splitlines()))[1:]
    assert [row[0] for row in rows] == [r'"\"red car\""', *texts[1:4], r'"tab\tstop"']


def test_the_table_shows_copies_and_the_query(answer, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    console = Console(width=120, file=io.StringIO())
    console.print(answer.table())
    text = console.file.getvalue()
    assert re.search(r"^ ?a\.png +0\.512 +90 % *$", text, re.MULTILINE)
    assert "= /photos/<b>" in text
    assert '"<i>red</i>"; head: aligned; exact' in text


def test_the_page_is_self_contained_and_escaped(answer, tmp_path):
    file = write_page(tmp_path / "deep" / "page.html", '<script>alert("1")</script>', [answer_group(answer)])
    page = file.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert page.count("data:image/jpeg;base64,") == 1
    assert page.count("cannot be read") == 1
    assert not re.search(r"src=\"(?!data:)|<link|https?://|url\(|@import", page)
    assert re.findall(r'href="(.*?)"', page) == ["../a.png"]
    assert "width=device-width" in page
    assert len(page) < 20_000


def test_a_page_names_and_links_files_as_they_lie_from_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    here = tmp_path / "home" / "me"
    (here / "cat & dog").mkdir(parents=True)
    Image.new("RGB", (5, 5)).save(here / "cat & dog" / "a #1.png")
    tile = Tile(str(here / "cat & dog" / "a #1.png"), also=[str(here / "copy.png")])
    gone = Tile(f"/{'x' * 20}/gone.png")
    title = f"{here}/query.jpg"
    page = write_page(here / "page.html", title, [TileGroup("1", "", [tile, gone])]).read_text()
    assert '<a href="cat%20%26%20dog/a%20%231.png">cat &amp; dog/a #1.png</a>' in page
    assert "= copy.png" in page
    assert "<h1>~/me/query.jpg</h1>" in page
    assert f"<figcaption>{gone.path}</figcaption>" in page, "no link leads through the root of the disk"
    assert str(tmp_path) not in page
    other = write_page(tmp_path / "out" / "page.html", title, [TileGroup("1", "", [tile])]).read_text()
    assert 'href="../home/me/cat%20%26%20dog/a%20%231.png"' in other
    assert str(tmp_path) not in other


def test_a_page_of_nothing_says_so(tmp_path):
    assert "no good match" in write_page(tmp_path / "1.html", "t", [answer_group(Answer([], "x"))]).read_text()
    assert "no good match" in write_page(tmp_path / "2.html", "t", []).read_text()


def test_a_marked_image_has_a_frame(tmp_path):
    Image.new("RGB", (5, 5)).save(tmp_path / "a.png")
    groups = [TileGroup("1", "", [Tile(str(tmp_path / "a.png"), ["keep"], True), Tile(str(tmp_path / "a.png"))])]
    assert write_page(tmp_path / "page.html", "t", groups).read_text().count('class="marked"') == 1


def test_a_page_that_cannot_be_written(answer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ClipAlignError, match="cannot write to"):
        write_page(tmp_path / "file" / "page.html", "t", [])
