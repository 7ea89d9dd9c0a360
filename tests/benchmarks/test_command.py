"""`clipalign benchmarks`: list, show, check, run."""

import json

import pytest
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign.benchmarks import BENCHMARKS, check_benchmarks
from hf_clipalign.cli.app import app
from hf_clipalign.cli.options import console


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, ["benchmarks", *map(str, arguments)], env={"COLUMNS": "200"})
    if isinstance(result.exception, ClipAlignError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_list_names_every_data_set():
    output = invoke("list")
    assert all(name in output for name in BENCHMARKS)
    output = invoke("list", "--task", "text-text")
    assert "nocaps-captions" in output
    assert "CUB" not in output
    with pytest.raises(ClipAlignError, match="did you mean 'text-text'"):
        invoke("list", "--task", "texttext")


@pytest.mark.parametrize(("width", "heading"), [(200, "papers"), (80, "tasks"), (60, "on the Hub")])
def test_a_narrow_terminal_cuts_no_hub_id(width, heading, monkeypatch):
    monkeypatch.setattr(console, "width", width)
    lines = invoke("list").splitlines()
    assert heading in lines[1]
    assert max(map(len, lines[:-3])) <= width
    for name, entry in BENCHMARKS.items():
        assert any(line.split()[0] == name and line.split()[-1] == entry.hub for line in lines if line.strip())
    monkeypatch.setattr(console, "width", 40)
    folded = "".join(line.split()[-1] for line in invoke("list").splitlines() if line.strip())
    assert all(entry.hub in folded for entry in BENCHMARKS.values())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_show_tells_where_to_get_it_and_what_is_read(name):
    entry, output = BENCHMARKS[name], invoke("show", name)
    assert all(text in output for text in (entry.title, entry.page, entry.hub, entry.licence, entry.verified))
    assert all(file in output for layout in entry.layouts for file in layout.needed)


def test_check_says_what_lies_there(published, tmp_path):
    published("OxfordPets")
    published("CUB")
    output = invoke("check", tmp_path)
    assert (
        "OxfordPets: 3 train, 1 val, 2 test: readable, but not the published numbers (train: 3, published 2,944"
        in output
    )
    assert f"next: clipalign benchmarks run OxfordPets --data-root {tmp_path}" in output
    assert "SOP" not in output


def test_check_says_what_is_missing(published, tmp_path):
    (published("OxfordPets") / "images/a/1.jpg").unlink()
    (published("CUB") / "classes.txt").unlink()
    published("SOP")
    output = invoke("check", tmp_path, code=1)
    assert "OxfordPets: OxfordPets: train: 1 of 3 images is not there" in output
    assert "CUB: lacks 'classes.txt'" in output
    assert "SOP: 3 train, 2 test" in output


def test_check_of_the_folder_itself(published, tmp_path):
    output = invoke("check", published("CUB"))
    assert "CUB: 2 train, 3 test" in output


def test_check_of_a_complete_copy(published, tmp_path):
    published("MIMIC-CXR")
    (checked,) = check_benchmarks(tmp_path)
    assert checked.differences() == []
    assert "the published numbers are not recorded" in invoke("check", tmp_path)


def test_check_of_other_folders(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(ClipAlignError, match=f"holds none of the {len(BENCHMARKS)} data sets"):
        invoke("check", tmp_path)
    with pytest.raises(ClipAlignError, match="no such folder"):
        invoke("check", tmp_path / "none")


def test_run_prints_and_writes_the_scores(published, tmp_path):
    published("OxfordPets")
    options = ("--data-root", tmp_path, "--model", "mini:student", "--image-band", "4,30", "--out", tmp_path / "out")
    output = invoke("run", "pets", *options)
    assert "OxfordPets, image-image, mini:student" in output
    assert "OxfordPets, zero-shot, mini:student" in output
    written = (tmp_path / "out/OxfordPets.json").read_text()
    content = json.loads(written)
    assert (content["model"], content["image_band"], content["text_band"]) == ("mini:student", [4, 30], None)
    heads = {score["head"] for score in content["scores"] if score["task"] == "image-image"}
    assert {"raw", "isoclip", "isoclip-compact"} <= heads
    invoke("run", "pets", *options)
    assert (tmp_path / "out/OxfordPets.json").read_text() == written


def test_run_refuses_before_the_model_is_loaded(published, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_clipalign.cli.commands.benchmarks.load", None)
    options = ("--data-root", tmp_path, "--model", "mini:student")
    with pytest.raises(ClipAlignError, match="CUB is not there: it is looked for in 'CUB_200_2011'"):
        invoke("run", "CUB", *options)
    with pytest.raises(ClipAlignError, match="unknown benchmark 'CUBB'"):
        invoke("run", "CUBB", *options)
    with pytest.raises(ClipAlignError, match="has no task 'text-text'"):
        invoke("run", "CUB", "--task", "text-text", *options)
