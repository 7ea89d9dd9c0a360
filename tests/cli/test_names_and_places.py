"""Names of files that are odd, and folders that hold something else, on the command line."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError, cli
from hf_clipalign.cli.app import app
from hf_clipalign.cli.commands import discover
from hf_clipalign.cli.options import console, quoted_word
from hf_clipalign.evaluation import write_report
from hf_clipalign.hub import describe_run
from hf_clipalign.isoclip import KnownBands, bands
from tests.tiny_models import save_tiny

MODEL = ("--model", "mini:student")
CLIP = "openai/clip-vit-base-patch32"
BAND = ("--image-band", "1,2")


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def photos(folder):
    generator = np.random.default_rng(0)
    for number in range(8):
        file = os.path.join(os.fsencode(folder), b"class%d" % (number % 4), b"%d.png" % number)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb") as stream:
            Image.fromarray(generator.integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(stream, "PNG")
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "width", 200)
    return tmp_path


@pytest.mark.parametrize(
    "word", ["MY PHOTOS", "A;RM", "it's", "a\nb", "caf\udce9 1", "é", "\\", "\t'", "photos", "OWNER/NAME", "--model"]
)
def test_the_next_command_can_be_copied(word):
    shown = quoted_word(word)
    assert shown.isprintable()
    shown.encode()
    printed = subprocess.run(["bash", "-c", f"printf %s {shown}"], capture_output=True, check=True).stdout
    assert printed == os.fsencode(word)
    if "'" not in word and word.isprintable():
        assert shlex.split(shown) == [word]


def test_a_name_like_an_option_is_given_as_a_path():
    assert quoted_word("-photos") == "./-photos"
    assert quoted_word("--model") == "--model"


def test_next_lines_quote_names_of_capitals():
    photos("MY PHOTOS")
    assert "next: clipalign evaluate 'FEAT URES' --model" in call("embed", "MY PHOTOS", *MODEL, "--out", "FEAT URES")


def test_data_whose_name_is_not_utf_8(here):
    photos("caf\udce9")
    for command in (("evaluate", "caf\udce9", "--task", "zero-shot"), ("compare", "caf\udce9", "--methods", "raw")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["clipalign", *command, *MODEL, "--out", "out"])
            patch.setattr(sys, "stdout", stream)
            cli._print_any_name()
            with pytest.raises(SystemExit) as left:
                app()
        assert left.value.code in (0, None)
        stream.flush()
        printed = stream.buffer.getvalue().decode()
        assert "$'caf\\xe9'" in printed
        assert json.loads((here / "out" / "results.json").read_text())["data"] == "caf\\xe9"
        assert "caf\\xe9" in (here / "out" / "index.html").read_text()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_terminal_can_print_every_name(encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    cli._print_any_name()
    stream.write("caf\udce9 − café \ud800")
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)
    assert text.startswith("caf\\xe9 ")
    assert text.endswith("\\ud800")


@pytest.mark.parametrize("command", ["embed", "evaluate", "compare", "concepts"])
def test_a_folder_for_results_has_a_name_in_utf_8(command):
    photos("photos")
    with pytest.raises(ClipAlignError, match=r"--out 'f\\+xe9' is not UTF-8: give the folder another name"):
        call(command, "photos", *MODEL, "--out", "f\udce9")


def test_a_page_of_somebody_else_is_not_replaced(here):
    photos("photos")
    (here / "site").mkdir()
    (here / "site" / "index.html").write_text("<html>mine</html>")
    for command in (("evaluate", "photos", *MODEL), ("compare", "photos", *MODEL), ("demo",)):
        with pytest.raises(ClipAlignError, match=r"'site' holds a page index.html that no command wrote"):
            call(*command, "--out", "site")
    assert (here / "site" / "index.html").read_text() == "<html>mine</html>"
    write_report(here / "own" / "index.html", "Mine", [])
    with pytest.raises(ClipAlignError, match="'odd' is no band"):  # and the page is none of its concern
        call("evaluate", "photos", *MODEL, "--image-band", "odd", "--out", "own")


def test_features_indexes_and_reports_have_folders_of_their_own(here):
    photos("photos")
    for name in ("index/index.sqlite", "features/features.json"):
        (here / name).parent.mkdir()
        (here / name).write_text("{}")
    for command, out, kind in (
        (("embed", "photos"), "index", "an index"),
        (("evaluate", "photos"), "index", "an index"),
        (("evaluate", "photos"), "features", "features"),
        (("index", "photos"), "features", "features"),
    ):
        with pytest.raises(ClipAlignError, match=f"--out '{out}' holds {kind}: give another folder"):
            call(*command, *MODEL, "--out", out)


@pytest.fixture
def copy(here, monkeypatch):
    monkeypatch.setitem(bands._PUBLISHED, CLIP, KnownBands(image=(2, 3), text=(1, 4)))
    save_tiny("clip", here / "mine")
    return "mine"


def test_every_command_with_a_band_takes_the_name_of_the_base_model(copy, here):
    photos("photos")
    with pytest.raises(
        ClipAlignError, match=r"'mine': published are .*--image-band 2,3.*give --base-model ID"
    ) as caught:
        call("export", "--model", copy)
    assert "image_band" not in str(caught.value)
    call("export", "--model", copy, "--base-model", CLIP, "--out", "tower")
    assert json.loads((here / "tower" / "config.json").read_text())["hf_clipalign"]["band"] == [2, 3]
    assert "published" in call("spectrum", "--model", copy, "--base-model", CLIP)
    options = ("--methods", "raw,isoclip", "--image-band", "known")
    with pytest.raises(ClipAlignError, match="--base-model ID"):
        call("compare", "photos", "--model", copy, *options)
    call("compare", "photos", "--model", copy, *options, "--base-model", CLIP)
    assert json.loads((here / "comparison" / "results.json").read_text())["band"] == [2, 3]


@pytest.mark.parametrize("command", [("trim", "--stock", "text"), ("export", "--modality", "text")])
def test_a_tower_without_a_band_names_options(copy, command):
    with pytest.raises(ClipAlignError, match="no text band: give --text-band K_TOP,K_BOTTOM") as caught:
        call(*command, "--model", copy, *BAND, "--out", "out")
    assert "from_clip_pretrained" not in str(caught.value)


def test_a_misspelt_folder_of_images_is_suggested_before_a_model_is_loaded(monkeypatch):
    photos("photos")
    monkeypatch.setattr("hf_clipalign.cli.index_commands.index.load", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(ClipAlignError, match="no file or folder 'photso': did you mean 'photos'"):
        call("index", "photso", *MODEL)


def test_a_name_of_two_words_is_no_part_of_a_card(here, monkeypatch):
    """What `discover` gives its card as the command."""
    (here / "Anna Mueller").mkdir()
    given = {}
    monkeypatch.setattr("hf_clipalign.trainers.gcd.outcome.write_card", lambda _, command, __: given.update(c=command))
    for name in ("assignments", "write_assignments", "write_summary", "write_gallery", "comparison"):
        monkeypatch.setattr(f"hf_clipalign.trainers.gcd.outcome.{name}", lambda *_: _Anything())
    discover._write(_Anything(), "kmeans", None, [], "Anna Mueller", here, {})
    assert describe_run(given["c"]) == "clipalign discover …"


class _Anything:
    model = best_kmeans = None

    def to_rich(self):
        return ""
