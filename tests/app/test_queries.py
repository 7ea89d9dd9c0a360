"""From a query to the page: both heads, what moved, confidence, and nothing outside the collection."""

import base64
import csv
import io
import re
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.app.answers import answer, answer_csv
from hf_clipalign.app.asking import ask
from hf_clipalign.app.folder_report import Concepts
from hf_clipalign.app.serving.uploads import MAX_BYTES, Uploads
from hf_clipalign.app.views import markup
from hf_clipalign.app.views.panels import Page
from hf_clipalign.app.workspace import Workspace
from hf_clipalign.data import load_mini
from hf_clipalign.search import ImageIndex
from tests.app.conftest import HOSTILE

BAND = (1, 48)


@pytest.fixture(scope="module")
def uploads(workspace):
    return Uploads(lambda data, name: workspace.encode_images([data])[0])


def names_of(workspace, hits):
    return [workspace.view.files.names[workspace.view.files_of(hit.row)[0]] for hit in hits]


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def png_bomb(width=60_000, height=60_000):
    """A small file of a huge image."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def test_an_image_is_answered_by_both_heads_as_the_index_answers(workspace, uploads, token_of, index_path):
    token = token_of("noto/cactus.png")
    found = answer(workspace.view, ask(workspace, uploads, "", token), BAND, 5)
    assert [column.head for column in found.columns] == ["raw", "aligned"]
    index = ImageIndex.open(index_path)
    expected = index.search(like="noto/cactus.png", top_k=5)
    assert expected.head == "aligned"
    files = workspace.view.files
    paths = [files.path(workspace.view.files_of(hit.row)[0]) for hit in found.columns[1].hits]
    assert paths == [hit.path for hit in expected]
    np.testing.assert_allclose(
        [hit.score for hit in found.columns[1].hits], [hit.score for hit in expected], atol=1e-5
    )
    assert "noto/cactus.png" not in names_of(workspace, found.columns[1].hits), "a file does not find itself"


def test_words_and_sums_are_answered_by_plain_clip_as_the_index_answers(workspace, uploads, index_path):
    index = ImageIndex.open(index_path)
    for line in ("red heart", '"red heart" - "green heart" + noto/cat.png'):
        found = answer(workspace.view, ask(workspace, uploads, line, ""), BAND, 4)
        expected = index.search(query=line, top_k=4)
        assert [column.head for column in found.columns] == ["raw"]
        files = workspace.view.files
        paths = [files.path(workspace.view.files_of(hit.row)[0]) for hit in found.columns[0].hits]
        assert paths == [hit.path for hit in expected]
        assert found.query == expected.query
    assert names_of(workspace, found.columns[0].hits)[0] != "noto/cat.png"


def test_an_image_that_is_given_finds_itself(workspace, uploads, photos):
    token, upload = uploads.add((photos / "fluent" / "cactus.png").read_bytes(), "C:\\photos\\cactus.png")
    assert upload.name == "cactus.png"
    assert upload.preview.startswith("data:image/jpeg;base64,")
    found = answer(workspace.view, ask(workspace, uploads, "", token), BAND, 3)
    for column in found.columns:
        assert names_of(workspace, column.hits)[0] == "fluent/cactus.png"
        assert column.hits[0].score == pytest.approx(1, abs=1e-4)
    both = ask(workspace, uploads, '"red"', token)
    assert not both.is_visual
    assert not both.is_single


def test_moving_the_band_moves_images_and_no_trimming_of_a_square_head_moves_none(workspace, uploads, token_of):
    asked = ask(workspace, uploads, "", token_of("noto/cactus.png"))
    still = answer(workspace.view, asked, (0, 0), 6)
    assert [hit.row for hit in still.columns[0].hits] == [hit.row for hit in still.columns[1].hits]
    assert still.moved == "The two heads show the same images in the same order."
    moved = answer(workspace.view, asked, (20, 60), 6)
    assert "same order" not in moved.moved


def test_conditions_say_which_files_may_be_found(workspace, uploads):
    asked = ask(workspace, uploads, "cat", "")
    found = answer(workspace.view, asked, BAND, 50, "class=noto")
    assert {name.split("/")[0] for name in names_of(workspace, found.columns[0].hits)} <= {"noto", "cat again.png"}
    none = answer(workspace.view, asked, BAND, 50, "path=nowhere/*")
    assert none.columns[0].hits == []
    assert none.columns[0].note == "no good match: no image meets the conditions."
    with pytest.raises(ClipAlignError, match="close the quotation mark"):
        answer(workspace.view, asked, BAND, 5, 'path="x')
    with pytest.raises(ClipAlignError, match="unknown condition"):
        answer(workspace.view, asked, BAND, 5, "colour=red")


@pytest.mark.parametrize(
    "line",
    ["../secret.png", '"cat" + ../secret.png', "/etc/passwd.png", "~/x.png", "noto/../../secret.png", "x.png"],
)
def test_a_name_outside_the_collection_is_never_opened(workspace, uploads, photos, line, monkeypatch):
    monkeypatch.chdir(photos)
    monkeypatch.setattr(type(workspace), "encode_images", lambda *given: pytest.fail("an image was read"))
    with pytest.raises(ClipAlignError, match="in this collection"):
        ask(workspace, uploads, line, "")


def test_a_file_beside_the_collection_is_not_found_by_its_path(workspace, uploads, photos):
    with pytest.raises(ClipAlignError, match="no image"):
        ask(workspace, uploads, str(photos.parent / "secret.png"), "")


@pytest.mark.parametrize(
    "token", ["file:-1", "file:1.-1", "file:1/../2", "file:", "file:٣.1", "guess", "../x", "file:1." + 5000 * "9"]
)
def test_tokens_that_are_none(workspace, uploads, token):
    with pytest.raises(ClipAlignError, match=r"no file|no longer kept") as error:
        ask(workspace, uploads, "", token)
    assert len(str(error.value)) < 300


def test_a_number_beyond_the_collection_and_a_page_of_long_ago(workspace, uploads):
    with pytest.raises(ClipAlignError, match="no file 999999: the collection has"):
        ask(workspace, uploads, "", f"file:{workspace.view.generation}.999999")
    with pytest.raises(ClipAlignError, match="changed since this page was made: search again"):
        ask(workspace, uploads, "", "file:987654.0")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the query is empty"),
        ('"open', "left open"),
        ('"cat" - "cat"', "cancel one another"),
        ("red " * 400, "context|tokens|longer"),
        ('"cat" + ', "a part is empty"),
    ],
)
def test_bad_queries_are_one_line(workspace, uploads, line, message):
    with pytest.raises(ClipAlignError, match=message) as error:
        ask(workspace, uploads, line, "")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"GIF89a", "damaged|not an image"),
        (b"<svg onload=alert(1)>", "not an image"),
        (png_bomb(), "megapixels"),
        (encoded(Image.new("RGB", (8, 8)))[:45], "damaged|truncated"),
        (b"\xff" * (MAX_BYTES + 1), "20 MB"),
    ],
)
def test_bad_images_are_refused_with_a_line(uploads, data, message):
    with pytest.raises(ClipAlignError, match=message) as error:
        uploads.add(data, "x\n<b>.png")
    assert "\n" not in str(error.value)


def test_few_images_are_decoded_at_once():
    """One of the most pixels takes some hundreds of megabytes."""
    running, most, lock = [0], [0], threading.Lock()

    def encode(data, name):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return np.zeros(3, np.float32)

    uploads, data = Uploads(encode), encoded(Image.new("RGB", (8, 8)))
    threads = [threading.Thread(target=uploads.add, args=(data, "a.png")) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most[0] <= 2


def test_only_the_last_uploads_are_kept():
    uploads = Uploads(lambda data, name: np.zeros(3, np.float32), most=2)
    tokens = [uploads.add(encoded(Image.new("RGB", (8, 8), (number, 0, 0))), "a.png")[0] for number in range(3)]
    assert len(set(tokens)) == 3
    with pytest.raises(ClipAlignError, match="give it again"):
        uploads.get(tokens[0])
    assert uploads.get(tokens[2]).name == "a.png"


class Sure:
    """A calibration that knows only how high a score is, and looks at the next ones."""

    reference_rank = 9

    def __init__(self, shift):
        self.shift = shift

    def confidence(self, scores, n_gallery=None):
        assert len(scores) == 9
        self.n_gallery = n_gallery
        return np.clip(np.asarray(scores) - self.shift, 0, 1)


def test_confidences_are_those_of_the_index(workspace, uploads, number_of, tmp_path, photos):
    """On a collection large enough to be measured."""
    index = ImageIndex.create(photos, load_mini().student_path, tmp_path / "index", head=BAND)
    own = Workspace(lambda: index, is_to_update=True, template="{}")
    own.prepare()
    assert own.progress().state == "ready"
    assert any(note.startswith("confidence (aligned)") or "no confidence" in note for note in own.all_notes())
    asked = ask(own, uploads, "noto/cactus.png", "")
    page = answer(own.view, asked, BAND, 4)
    expected = index.search(like="noto/cactus.png", top_k=4)
    found = [hit.confidence for hit in page.columns[1].hits]
    assert found == pytest.approx([hit.confidence for hit in expected], abs=1e-3)


def test_confidence_and_no_good_match(workspace, uploads, token_of, monkeypatch):
    index = workspace.view.index
    asked = ask(workspace, uploads, "", token_of("noto/cactus.png"))
    calibrations = {"raw": Sure(0.0), "aligned": Sure(0.9)}
    monkeypatch.setattr(index, "calibration", calibrations.get)
    page = answer(workspace.view, asked, BAND, 3)
    plain, aligned = page.columns
    assert plain.hits[0].confidence == pytest.approx(plain.hits[0].score, abs=1e-6)
    assert plain.note == ""
    assert calibrations["raw"].n_gallery == len(workspace.view), "as the index counts"
    answer(workspace.view, asked, BAND, 3, "path=*.png min_size=1")
    answer(workspace.view, asked, BAND, 3, "path=*.png max_size=1MB class=noto class=fluent")
    assert calibrations["raw"].n_gallery == 16
    assert re.fullmatch(r"no good match: the best image has a confidence of \d+ %\.", aligned.note)
    html = markup.results(workspace.view, page, 3)
    assert aligned.note in html
    assert "ca-doubtful" in html
    other = answer(workspace.view, asked, (2, 48), 3)
    assert other.columns[1].hits[0].confidence is None, "a calibration belongs to one band"
    assert "No confidence" in markup.results(workspace.view, other, 3)
    words = answer(workspace.view, ask(workspace, uploads, "cat", ""), BAND, 3)
    assert words.columns[0].hits[0].confidence is None


def test_images_below_the_least_confidence_are_left_out(workspace, uploads, token_of, monkeypatch):
    asked = ask(workspace, uploads, "", token_of("noto/cactus.png"))
    calibrations = {"raw": Sure(0.0), "aligned": Sure(0.9)}
    monkeypatch.setattr(workspace.view.index, "calibration", calibrations.get)
    everything = answer(workspace.view, asked, BAND, 8).columns[0].hits
    least = everything[2].confidence
    page = answer(workspace.view, asked, BAND, 8, min_confidence=least)
    assert page.columns[0].hits == everything[:3]
    assert page.columns[1].hits == []
    assert page.columns[1].note.startswith("no good match: the best image has a confidence of")
    assert page.moved == ""
    html = markup.results(workspace.view, page, 8)
    assert html.count("data-ca-file") == 3
    assert page.columns[1].note in html
    other = markup.results(workspace.view, answer(workspace.view, asked, (2, 48), 8, min_confidence=least), 8)
    assert "no calibration for this head and band, so none of these images is left out" in other
    words = answer(workspace.view, ask(workspace, uploads, "cat", ""), BAND, 8, min_confidence=least)
    assert len(words.columns[0].hits) == 8
    assert "Only the scores of one image have a confidence" in markup.results(workspace.view, words, 8)


WILD = [float("nan"), float("inf"), -1, 10**9, "7", None, True, [1]]


@pytest.mark.parametrize("place", range(4))
def test_sliders_that_stand_nowhere_are_refused(workspace, uploads, place):
    search = Page(workspace, uploads, Concepts(workspace)).search
    for value in WILD:
        values = [1, 48, 12, 0]
        values[place] = value
        with pytest.raises(ClipAlignError, match="must be a number from"):
            search("cat", "", *values[:3], "", values[3])


def test_thresholds_and_sizes_that_no_slider_has_are_refused(workspace, uploads):
    page = Page(workspace, uploads, Concepts(workspace))
    for value in (*WILD[:4], "x", None):
        with pytest.raises(ClipAlignError, match="must be a number from"):
            page.duplicates(value)
        with pytest.raises(ClipAlignError, match="must be a number from"):
            page.look("", value, 3, lambda share, text: None)
        with pytest.raises(ClipAlignError, match="must be a number from"):
            page.look("", 200, value, lambda share, text: None)


def test_names_and_queries_are_escaped(workspace, uploads, number_of):
    everything = answer(workspace.view, ask(workspace, uploads, '"<script>alert(1)</script>"', ""), BAND, 100)
    html = markup.results(workspace.view, everything, 100)
    assert HOSTILE in names_of(workspace, everything.columns[0].hits)
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;.png" in html
    assert "<script" not in html
    assert "<b>" not in markup.message("<b>bold</b>")


def test_hits_as_csv(workspace, uploads, token_of):
    asked = ask(workspace, uploads, "", token_of("noto/sailboat.png"))
    page = answer(workspace.view, asked, BAND, 4)
    rows = list(csv.DictReader(io.StringIO(answer_csv(workspace.view, page))))
    assert [row["head"] for row in rows] == ["raw"] * 4 + ["aligned"] * 4
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"] * 2
    html = markup.results(workspace.view, page, 4)
    address = re.search(r'href="data:text/csv;charset=utf-8;base64,([\w+/=]+)"', html)[1]
    assert base64.b64decode(address).decode() == answer_csv(workspace.view, page)


def test_files_with_equal_bytes_are_one_tile(workspace, uploads):
    page = answer(workspace.view, ask(workspace, uploads, "cat", ""), BAND, 100)
    (number,) = [hit for hit in page.columns[0].hits if len(workspace.view.files_of(hit.row)) > 1]
    assert names_of(workspace, [number]) == ["cat again.png"]
    assert "= 1 more with the same bytes" in markup.results(workspace.view, page, 100)


def test_the_spectrum_shows_what_is_kept(workspace):
    values = workspace.view.bands.singular_values
    html = markup.spectrum(values, BAND)
    assert f"{len(values) - 49} of {len(values)} directions are kept" in html
    assert "0 of" in markup.spectrum(values, (100, 100))
