"""The commands of a folder index, on emoji and the built-in model."""

import csv
import io
import json
import os
import re

import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign.cli.app import app
from hf_clipalign.search import ImageIndex
from tests.cli.calls import call


def paths(printed):
    return [os.path.relpath(hit["path"], "photos") for hit in json.loads(printed)]


def test_making_an_index_says_what_was_found(made):
    _, printed = made
    assert "14 files, 13 images; heads: raw, aligned (band 1,48)" in printed
    assert "broken.png" in printed
    assert "next: clipalign search photos.index WORDS" in printed


def test_updating_an_index(own):
    (own / "photos" / "noto" / "red apple.png").rename(own / "photos" / "noto" / "fruit.png")
    (own / "photos" / "twemoji" / "cat.png").unlink()
    Image.new("RGB", (30, 30), "blue").save(own / "photos" / "blue.png")
    for arguments in (("photos.index",), ("photos", "--out", "photos.index")):
        printed = call("index", *arguments)
        assert "14 files, 13 images" in printed
    assert {path.name for path in own.iterdir()} == {"photos", "photos.index"}
    assert "noto/fruit.png" in ImageIndex.open("photos.index").files.names


def test_the_band_of_an_index_can_be_changed(own):
    call("index", "photos.index", "--head", "2,20")
    assert ImageIndex.open("photos.index").band == (2, 20)
    assert "heads: raw\n" in call("index", "photos.index", "--head", "none")
    hits = json.loads(call("search", "photos.index", "--image", "noto/cat.png", "--json"))
    assert {hit["head"] for hit in hits} == {"raw"}


def test_json_is_a_list_of_four_values(here):
    hits = json.loads(call("search", "photos.index", "an", "emoji", "of", "a", "cat", "--json", "--top", "3"))
    assert [set(hit) - {"also"} for hit in hits] == [{"path", "score", "confidence", "head"}] * 3
    assert {hit["head"] for hit in hits} == {"raw"}
    assert os.path.basename(hits[0]["path"]) == "cat.png"
    assert hits[0]["score"] >= hits[1]["score"] >= hits[2]["score"]


def test_images_find_images(here):
    found = paths(call("search", "photos.index", "--image", "photos/noto/cat.png", "--json"))
    assert len(found) == 8
    assert "noto/cat.png" not in found
    assert found[0] == "twemoji/cat.png"
    assert paths(call("search", "photos.index", "noto/cat.png", "--json")) == found
    itself = paths(call("search", "photos.index", "noto/cat.png", "--with-itself", "--json"))
    assert itself[:2] == ["noto/cat.png", "twemoji/cat.png"]


def test_arithmetic_equals_the_options(here):
    line = call("search", "photos.index", '"a heart" - "green heart" + noto/cat.png', "--json")
    options = call("search", "photos.index", '"a heart"', "--image", "noto/cat.png", "--not", "green heart", "--json")
    assert paths(line) == paths(options)
    assert '"a heart" + noto/cat.png − "green heart"; head: raw; exact' in call(
        "search", "photos.index", '"a heart"', "--image", "noto/cat.png", "--not", "green heart"
    )


def test_conditions_pages_and_copies(here):
    all_hits = json.loads(call("search", "photos.index", "sailboat", "--top", "50", "--json"))
    assert len(all_hits) == 13
    assert [len(hit.get("also", [])) for hit in all_hits].count(1) == 1
    of_class = paths(call("search", "photos.index", "sailboat", "--where", "class=twemoji", "--json"))
    assert {os.path.dirname(path) for path in of_class} == {"twemoji"}
    old = json.loads(call("search", "photos.index", "cat", "--where", "until=2020", "--json"))
    assert [os.path.basename(hit["path"]) for hit in old] == ["sailboat copy.png"]
    second = json.loads(call("search", "photos.index", "sailboat", "--top", "5", "--offset", "5", "--json"))
    assert second == all_hits[5:10]


def test_other_forms(here, tmp_path):
    printed = call("search", "photos.index", "a cat", "--top", "2", "--csv")
    assert [len(row) for row in csv.reader(io.StringIO(printed))] == [5] * 3
    printed = call("search", "photos.index", "a cat", "--html", tmp_path / "hits.html")
    page = (tmp_path / "hits.html").read_text()
    assert page.count("data:image/jpeg") == 8
    assert "next: clipalign search photos.index --image photos/" in printed


def test_no_good_match_is_an_answer(here):
    nothing = ("search", "photos.index", "a cat", "--where", "path=violins/")
    assert call(*nothing, "--json").strip() == "[]"
    assert call(*nothing).strip() == "no good match: no file meets the conditions."
    assert call(*nothing, "--csv").strip() == "path,score,confidence,head,also"


MISTAKES = [
    (("search", "photos.index"), "the query is empty: write what to look for"),
    (("search", "photos.index", ""), "the query is empty"),
    (("search", "photos.index", '"cat'), "quotation mark .* left open"),
    (("search", "photos.index", "--image", "missing.png"), "no file 'missing.png', neither in the index nor on"),
    (("search", "photos.index", "--image", "photos/broken.png"), "broken.png"),
    (("search", "photos.index", "cat " * 200), r"has \d+ tokens, but the model reads \d+: shorten it"),
    (("search", "photos.indx", "cat"), "no index 'photos.indx': did you mean 'photos.index'"),
    (("search", "photos", "cat"), "holds no index"),
    (("search", "photos.index", "cat", "--where", "color=red"), "unknown condition 'color'"),
    (("search", "photos.index", "cat", "--where", "since=soon"), "since is 'soon', which is no date"),
    (("search", "photos.index", "cat", "--min-confidence", "0.5"), "holds 13 images, too few for a confidence, which"),
    (("search", "photos.index", '"cat" - "dog"', "--min-confidence", "0.5"), "--min-confidence is for queries by one"),
    (("search", "photos.index", "cat", "--with-itself"), "--with-itself is for queries by an image: leave it out"),
    (("search", "photos.index", "--image", "noto/cta.png"), "did you mean 'noto/cat.png'"),
    (("search", "photos.index", "cat", "--where", "min-size=soon"), "^min-size is 'soon'"),
    (("search", "photos.index", "cat", "--json", "--csv"), "--json and --csv are two forms"),
    (("search", "photos.index", "cat", "--html", "page.txt"), r"--html 'page.txt' is no page"),
    (("duplicates", "photos.index", "--threshold", "2"), "--threshold is 2.0: give a number above 0, at most 1"),
    (("duplicates", "photos.index", "--only", "sam"), "unknown kind 'sam': did you mean 'same'"),
    (("duplicates", "photos.index", "--head", "rwa"), "unknown head 'rwa': did you mean 'raw'"),
    (("select", "photos.index"), "what to select.*--diverse N or --outliers N"),
    (("select", "photos.index", "--diverse", "99"), "--diverse is 99, but the index holds 13 images: give at most 13"),
    (("select", "photos.index", "--outliers", "3", "--seed", "1"), "--seed is for --diverse: leave it out"),
    (("index",), "which folder"),
    (("index", "photos", "--out", "new.index"), "which model"),
    (("index", "photos/noto", "--out", "photos.index"), "is the index of .*photos', not of .*noto'"),
    (("index", "photos.index", "--ignore", "x"), "was made with other --ignore patterns"),
    (("index", "--out", "new.index"), "'new.index' holds no index yet: give the folders of images before --out"),
    (
        ("export", "photos.index", "--model", "mini:student"),
        "--model is for the export of a tower, not of an index: the",
    ),
    (
        ("export", "photos.index", "--modality", "text"),
        "--modality is for the export of a tower, not of an index: leave",
    ),
    (("export", "photos.index", "--compact"), "--compact is for the export of a tower"),
    (("export", "photos.index", "--dtype", "float16"), "--dtype is for the export of a tower"),
    (
        ("export", "photos.index", "--image-band", "1,2"),
        "--image-band is for the export of a tower, .*--head K_TOP,K_B",
    ),
    (("export", "photos.index", "--text-band", "1,2"), "--text-band is for the export of a tower"),
    (("export", "photos.index", "--features", "photos"), "--features is for the export of a tower"),
    (
        ("export", "--model", "mini:student", "--image-band", "1,2", "--text-band", "1,2"),
        "--text-band changes nothing with",
    ),
    (("index", "photos.index", "--head", "1-2"), "'1-2' is no band"),
    (("index", "photos.index", "--model", "mini:teacher"), "made with another model"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(map(str, a))[:40] for a, _ in MISTAKES])
def test_mistakes_are_explained_on_one_line(here, arguments, message):
    with pytest.raises(ClipAlignError, match=message) as error:
        call(*arguments)
    assert len(str(error.value).splitlines()) == 1


def test_duplicates_are_told_apart_and_nothing_is_deleted(here, tmp_path):
    pytest.importorskip("imagehash")
    before = sorted(here.rglob("*.png"))
    groups = json.loads(call("duplicates", "photos.index", "--json", "--threshold", "0.9"))
    same = next(group for group in groups if group["kind"] == "same image")
    assert os.path.basename(same["keep"]) == "sailboat large.png"
    assert {os.path.basename(file["path"]) for file in same["files"]} == {
        "sailboat large.png",
        "sailboat copy.png",
        "sailboat.png",
    }
    assert (same["files"][0]["width"], same["files"][0]["height"]) == (90, 90)
    printed = call(
        "duplicates", "photos.index", "--html", tmp_path / "page.html", "--only", "same", "--threshold", "0.9"
    )
    assert (tmp_path / "page.html").read_text().count('class="marked"') == 1
    assert "keep photos/sailboat large.png" in printed
    rows = list(csv.DictReader(io.StringIO(call("duplicates", "photos.index", "--csv", "--threshold", "0.9"))))
    suggesting = [group for group in groups if group["kind"] in ("copies", "same image")]
    assert [row["keep"] for row in rows].count("yes") == len(suggesting)
    assert sorted(here.rglob("*.png")) == before


def test_nothing_is_suggested_for_images_that_are_merely_alike(here):
    pytest.importorskip("imagehash")
    chain = ["duplicates", "photos.index", "--threshold", "0.01", "--only", "similar", "--head", "raw"]
    found = CliRunner().invoke(app, [*chain, "--json"])
    groups = json.loads(found.stdout)
    largest = max(len(group["files"]) for group in groups)
    assert largest >= 5
    assert [group["keep"] for group in groups] == [None] * len(groups)
    assert f"warning: a group of images that are merely alike holds {largest} of 14 files" in found.stderr
    assert "--threshold 0.01 is too low for this model, give a higher one" in found.stderr
    rows = csv.DictReader(io.StringIO(CliRunner().invoke(app, [*chain, "--csv"]).stdout))
    assert {row["keep"] for row in rows} == {""}
    assert "keep " not in call(*chain)
    assert "warning" not in call("duplicates", "photos.index", "--threshold", "0.999")


def test_the_same_image_cannot_be_told_without_the_library(here, monkeypatch):
    monkeypatch.setattr("hf_clipalign.search.answers.pixels.is_installed", lambda: False)
    with pytest.raises(ClipAlignError, match=r"--only same compares pixels, .*: pip install 'hf_clipalign\[search\]'"):
        call("duplicates", "photos.index", "--only", "same")


def test_selections(here):
    chosen = json.loads(call("select", "photos.index", "--diverse", "4", "--json"))
    assert len({one["path"] for one in chosen}) == 4
    assert chosen == json.loads(call("select", "photos.index", "--diverse", "6", "--json"))[:4]
    outliers = json.loads(call("select", "photos.index", "--outliers", "3", "--json"))
    assert [one["score"] for one in outliers] == sorted((one["score"] for one in outliers), reverse=True)
    assert call("select", "photos.index", "--outliers", "3", "--csv").startswith("path,score,head\n/")
    assert "photos/" in call("select", "photos.index", "--diverse", "3")


def test_status(here):
    status = json.loads(call("status", "photos.index", "--json"))
    assert (status["files"], status["images"], status["heads"], status["levels"]) == (14, 13, ["raw", "aligned"], [])
    assert status["skipped_reasons"] == {"is not an image in a known format": 1}
    assert [one["state"] for one in status["confidence"]] == ["not measured"] * 2
    assert json.loads(call("status", "photos.index", "--skipped", "0", "--json"))["skipped"] == []
    printed = call("status", "photos.index")
    for part in ("raw, aligned (band 1,48)", "searched exactly", "broken.png", "next: clipalign index photos.index"):
        assert part in printed
    assert "1 file that cannot be read" in printed
    assert "1: is not an image in a known format" in printed
    assert "and 1 more: --skipped 1" in call("status", "photos.index", "--skipped", "0")


def test_verify(own):
    assert "no damage: 13 images" in call("verify", "photos.index")
    (shard,) = (own / "photos.index").glob("features-*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    printed = call("verify", "photos.index", expect=1)
    assert "damaged:" in printed
    assert "next: clipalign index photos.index --repair" in printed
    printed = call("index", "photos.index", "--repair")
    assert re.search(r"added .* 0 *\n", printed)
    assert re.search(r"embedded again .* 13 *\n", printed)
    assert "no damage: 13 images" in call("verify", "photos.index")


@pytest.mark.parametrize("file", ["heads.safetensors", "features-00000-*", "index.sqlite"])
def test_a_missing_file_is_named_with_the_command_that_mends_it(own, file):
    (path,) = (own / "photos.index").glob(file)
    path.unlink()
    told = rf"^'photos.index/{path.name}' is damaged \(it is missing\): mend it with `(clipalign index [^`]*)`\.$"
    for command in (
        ("status", "photos.index"),
        ("status", "photos.index", "--json"),
        ("search", "photos.index", "cat"),
    ):
        with pytest.raises(ClipAlignError, match=told) as error:
            call(*command)
        mending = re.search(told, str(error.value))[1]
        assert mending == "clipalign index photos.index --repair"
    call(*mending.split()[1:])
    assert json.loads(call("status", "photos.index", "--json"))["damage"] == []


def test_an_update_names_missing_heads_and_the_command_that_mends_them(own):
    (own / "photos.index" / "heads.safetensors").unlink()
    printed = call("index", "photos.index")
    assert (
        "heads.safetensors' is damaged (it is missing): mend it with `clipalign index photos.index --repair`."
        in printed
    )
    assert "update(" not in printed


def test_an_index_without_a_band_names_the_command_that_sets_one(own):
    call("index", "photos.index", "--head", "none")
    line = "this index has no head 'aligned': set a band with `clipalign index photos.index --head K_TOP,K_BOTTOM`."
    for command in (("export", "--to", "faiss"), ("duplicates",), ("select", "--outliers", "2")):
        with pytest.raises(ClipAlignError, match=f"^{re.escape(line)}$"):
            call(command[0], "photos.index", *command[1:], "--head", "aligned")
