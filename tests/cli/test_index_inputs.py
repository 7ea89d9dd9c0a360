"""Indexes of no image, one image, one colour, and what is found out before a model is loaded."""

import json
import os
import re
import shutil

import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.cli.options import console
from hf_clipalign.data import load_mini, read_image
from hf_clipalign.search import ImageIndex
from hf_clipalign.search.collection.manifest import Manifest
from tests.cli.calls import call


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "width", 200)
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.fixture
def no_model(monkeypatch):
    def refuse(*unused):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("hf_clipalign.cli.index_commands.index.load", refuse)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photso",), "no file or folder 'photso': did you mean 'photos'?"),
        (("nothing-alike",), "/nothing-alike: no such folder; pass one that holds the images"),
        (("missing/photos",), "/missing/photos: no such folder; pass one that holds the images"),
        (("photos.idnex",), r"no file or folder 'photos.idnex': did you mean 'photos.index'?"),
        (
            ("photos/a.jpg",),
            "/photos/a.jpg: is a file, not a folder; pass the folder that holds .*such as '.*/photos'",
        ),
        (("photos", "photos/deep"), "photos/deep lies in .*photos: give one of them"),
        (("photos", "--head", "1-2"), "'1-2' is no band"),
        (("photos", "--ignore", "!"), "ignore: "),
    ],
)
def test_folders_are_looked_at_before_a_model_is_loaded(folder, arguments, message):
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    (folder / "deep").mkdir()
    (folder.parent / "photos.index").mkdir()
    with pytest.raises(ClipAlignError, match=message) as error:
        call("index", *arguments, "--model", "mini:student", "--out", "new.index")
    assert len(str(error.value).splitlines()) == 1
    assert not (folder.parent / "new.index").exists()


def test_an_index_of_no_images(folder):
    printed = call("index", "photos", "--model", "mini:student")
    assert "0 files, 0 images" in printed
    assert "no image was found below" in printed
    assert call("search", "photos.index", "cat").strip() == "no good match: the index holds no images."
    assert call("search", "photos.index", "cat", "--json").strip() == "[]"
    assert "no duplicates" in call("duplicates", "photos.index")
    assert call("select", "photos.index", "--diverse", "3", "--json").strip() == "[]"
    for command, message in (("--outliers", "the index holds 0 images: an outlier needs others to lie apart from"),):
        with pytest.raises(ClipAlignError, match=message):
            call("select", "photos.index", command, "3")
    assert "no damage: 0 images" in call("verify", "photos.index")
    assert json.loads(call("status", "photos.index", "--json"))["images"] == 0
    assert "not measured" in call("status", "photos.index")
    with pytest.raises(ClipAlignError, match="holds no images: there is nothing to export"):
        call("export", "photos.index")
    assert "0 files, 0 images" in call("index", "photos.index", "--head", "auto")


def test_an_index_of_one_image(folder):
    read_image(load_mini().icons[0]["image"]).save(folder / "one.png")
    assert "1 file, 1 image;" in call("index", "photos", "--model", "mini:student")
    assert len(json.loads(call("search", "photos.index", "cat", "--json"))) == 1
    assert call("search", "photos.index", "one.png").strip() == "no good match: there is no other image."
    with pytest.raises(ClipAlignError, match="holds 1 image, too few for a confidence, which takes 20"):
        call("search", "photos.index", "one.png", "--min-confidence", "0.5")
    assert len(json.loads(call("select", "photos.index", "--diverse", "1", "--json"))) == 1
    with pytest.raises(ClipAlignError, match="--diverse is 2, but the index holds 1 image: give at most 1"):
        call("select", "photos.index", "--diverse", "2")
    with pytest.raises(ClipAlignError, match="the index holds 1 image: an outlier needs others"):
        call("select", "photos.index", "--outliers", "1")
    assert "no damage: 1 image\n" in call("verify", "photos.index")
    assert "no confidence: 1 image is too few to measure it" in call("index", "photos.index", "--head", "auto")


def test_images_of_one_colour(folder):
    """Every embedding is finite, and such images are found like any other."""
    colours = ("white", "black", "red", "lime", "blue", "yellow")
    for colour in colours:
        Image.new("RGB", (40, 40), colour).save(folder / f"{colour}.png")
    Image.new("L", (1, 1), 0).save(folder / "dot.png")
    assert "7 files, 7 images" in call("index", "photos", "--model", "mini:student", "--head", "1,48")
    hits = json.loads(call("search", "photos.index", "red.png", "--with-itself", "--json"))
    assert os.path.basename(hits[0]["path"]) == "red.png"
    assert all(-1.001 <= hit["score"] <= 1.001 for hit in hits)
    assert len(json.loads(call("search", "photos.index", "a red heart", "--json"))) == 7
    call("duplicates", "photos.index", "--json")
    assert len(json.loads(call("select", "photos.index", "--outliers", "7", "--json"))) == 7


def test_a_newer_format_is_named(own):
    with Manifest(own / "photos.index").writing() as connection:
        connection.execute("PRAGMA user_version = 7")
    for command in (("search", "photos.index", "cat"), ("status", "photos.index"), ("index", "photos.index")):
        with pytest.raises(ClipAlignError, match=r"has format 7, .* reads 1: update hf_clipalign"):
            call(*command)


def test_a_folder_that_is_gone_is_not_forgotten(own):
    shutil.move(own / "photos", own / "unplugged")
    printed = call("index", "photos.index", expect=1)
    (line,) = [line for line in printed.splitlines() if str(own / "photos") + ";" in line or "No such file" in line]
    assert line == f"not there: {own / 'photos'} (No such file or directory); nothing of it was forgotten."
    assert re.search(r"not looked at .* 15 *\n", printed)
    assert "skipped" not in printed
    assert len(json.loads(call("search", "photos.index", "cat", "--top", "50", "--json"))) == 13
    assert "not there:" in call("status", "photos.index")


def test_head_auto_chooses_again_on_an_index_that_is_there(folder):
    """On 45 emoji, more than the 40 that choosing takes."""
    rows = load_mini().emoji_subset(styles="noto").select(range(0, 900, 20))
    for number, row in enumerate(rows):
        read_image(row["image"]).save(folder / f"{number}.png")
    call("index", "photos", "--model", "mini:student", "--head", "2,60")
    printed = call("index", "photos.index", "--head", "auto")
    (line,) = [line for line in printed.splitlines() if line.startswith("head: ")]
    chosen = ImageIndex.open("photos.index").band
    assert chosen != (2, 60)
    assert line.startswith("head: do not trim: on views of 45 items" if chosen is None else f"head: band {chosen}: on")
    assert line.removeprefix("head: ")[:60] in " ".join(call("status", "photos.index").split())
    assert "confidence (raw): measured" in printed
    call("index", "photos.index", "--head", "2,60")
    assert "chosen" not in call("status", "photos.index")


def test_links_are_followed_also_out_of_the_folder(folder):
    """As docs/search.md says."""
    outside = folder.parent / "elsewhere"
    outside.mkdir()
    for number, place in enumerate((outside / "far.png", folder / "near.png")):
        read_image(load_mini().icons[number]["image"]).save(place)
    (folder / "link").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "file.png").symlink_to(folder / "near.png")
    (folder / "broken.png").symlink_to(folder / "nothing.png")
    assert "3 files, 2 images" in call("index", "photos", "--model", "mini:student")
    assert ImageIndex.open("photos.index").files.names == ["file.png", "link/far.png", "near.png"]
