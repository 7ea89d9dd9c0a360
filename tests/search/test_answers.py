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
    assert rows[0]["also"] == NASTY.replace("\n", "\\n").replace("\udce9", "\\xe9")
    assert (rows[0]["confidence"], rows[1]["confidence"]) == ("0.9", "")


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
    assert not re.search(r"(?:src|href)=\"(?!data:)|https?://|url\(|@import", page)
    assert "width=device-width" in page
    assert len(page) < 20_000


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
