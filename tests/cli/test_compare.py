"""`clipalign compare`: mistakes are named before any image is read."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign.cli.app import app


def call(*arguments):
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "0"), "--steps is 0"),
        (("--methods", "zzz"), "unknown method 'zzz'"),
        (("--methods", "raw,ovi"), "ovi does not invert images"),
        (("--methods", "isoclip", "--band", "x"), "'x' is no band"),
        (("--methods", "isoclip", "--band", "100,28"), "removes all 128"),
        (("--methods", "isoclip", "--band", "none"), "needs a band"),
        (("--n-tokens", "0"), "--n-tokens is 0"),
        (("--batch-size", "0"), "--batch-size is 0"),
        (("--tolerance", "-1"), "--tolerance is -1"),
        (("--oti-template", "nothing"), "0 places"),
        (("--template", "nothing"), "exactly one"),
        (("--evaluate-at", "1,200"), "step 200, but there are 150"),
        (("--task", "zero-shot", "--steps", "0"), "steps is 0"),
        (("--task", "zero-shot", "--methods", "isoclip"), "unknown method 'isoclip' for zero-shot"),
        (("--task", "zero-shot", "--oti-template", "nothing"), "0 places"),
        (("--task", "text-text", "--steps", "0"), "steps is 0"),
        (("--task", "text-text", "--gallery", "photos"), "--gallery is for --task image-image, not text-text"),
        (("--task", "zero-shot", "--evaluate-at", "10"), "--evaluate-at is for retrieval"),
        (("--task", "text-text", "--n-tokens", "999"), "999 pseudo-patches"),
    ],
)
def test_mistakes_are_named_before_any_image_is_read(options, message, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    for name in ("cat", "dog", "owl", "fox"):
        (photos / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(photos / name / "1.png")

    def refuse(*unused):
        raise AssertionError("features were extracted")

    monkeypatch.setattr("hf_clipalign.cli.commands.compare._task", refuse)
    monkeypatch.setattr("hf_clipalign.cli.commands.compare.image_features", refuse)
    with pytest.raises(ClipAlignError, match=message):
        call(photos, "--model", "mini:student", *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_numbers_say_how_many_steps_there_were(tmp_path):
    rows = [f"{animal}.png,{article} {animal}" for animal in ("cat", "dog", "owl", "fox") for article in ("a", "the")]
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption", *rows]))
    arguments = (
        tmp_path / "captions.csv",
        "--model",
        "mini:student",
        "--task",
        "text-text",
        "--methods",
        "raw,ovi,isoclip",
    )
    printed = call(*arguments, "--steps", "2", "--out", tmp_path / "out")
    assert "was chosen on one half of the classes (4 queries)" in " ".join(printed.split())
    assert "4 queries of captions.csv" in printed
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["inversion"]["steps"] == len(content["losses"]) == 2
