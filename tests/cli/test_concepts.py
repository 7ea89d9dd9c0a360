"""`clipalign concepts`: one command, a second call from what the first one kept, and its mistakes."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign.cli.app import app
from hf_clipalign.data import load_dictionary, load_mini

NAMES = ["giraffe", "octopus", "penguin", "camel", "fire engine", "violin", "volcano", "teacup", "mushroom", "guitar"]


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("animals")
    rows = load_mini().emoji_subset(styles=["noto", "twemoji"])
    for row in rows.select(np.flatnonzero(np.isin(rows["name"][:], NAMES[:4]))):
        row["image"].save(folder / f"{row['name']}-{row['style']}.png")
    (folder / "names.txt").write_text("\n".join(NAMES))
    return folder


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_kept_concepts_are_what_is_in_the_folder(animals, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ("concepts", animals, "--dictionary", animals / "names.txt", "--out", out)
    printed = call(*arguments, "--model", "mini:teacher")
    assert set(load_dictionary(out / "concepts.csv")[:4]) == set(NAMES[:4])
    content = json.loads((out / "concepts.json").read_text())
    assert content["template"] == "an emoji of {}"
    assert (content["n_images"], content["n_concepts"]) == (8, 10)
    assert {row["name"] for row in content["concepts"][:4]} == set(NAMES[:4])
    assert all(name in printed for name in NAMES[:4])
    assert Image.open(out / "concepts.png").width > 500
    assert Image.open(out / "images.png").width > 500

    def refuse(*unused):
        raise AssertionError("computed again")

    monkeypatch.setattr("hf_clipalign.features.engines.computing.image_block", refuse)
    monkeypatch.setattr("hf_clipalign.features.text_cache.encode_texts", refuse)
    call(*arguments, "--model", "mini:teacher", "--beta-c", 0.5)
    assert len(load_dictionary(out / "concepts.csv")) < len(content["concepts"])
    with pytest.raises(ClipAlignError, match="model"):
        call(*arguments, "--model", "mini:student")


def test_a_features_folder_and_further_names(animals, tmp_path):
    features, out = tmp_path / "features", tmp_path / "out"
    call("embed", animals, "--model", "mini:teacher", "--out", features, "--workers", 0)
    dictionary = tmp_path / "one.txt"
    dictionary.write_text("violin\nguitar [b]\n[/] $x^\n")
    options = ("--dictionary", dictionary, "--also", "giraffe, Violin", "--template", "a picture of {}")
    printed = call("concepts", features, *options, "--beta-c", 1, "--out", out)
    content = json.loads((out / "concepts.json").read_text())
    assert content["n_concepts"] == 4
    assert {"guitar [b]", "[/] $x^"} <= {row["name"] for row in content["concepts"]}
    assert "guitar [b]" in printed
    assert "[/] $x^" in printed
    assert content["template"] == "a picture of {}"
    assert not (out / "features").exists()
    assert not (out / "images.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--beta-e", "2"), "--beta-e is 2"),
        (("--beta-c", "1.5"), "--beta-c is 1.5"),
        (("--temperature", "nan"), "--temperature is nan"),
        (("--template", "a photo"), "exactly one"),
        (("--dictionary", "missing.txt"), "no such file"),
        (("--also", "dog,,cat"), "position 1 is blank"),
    ],
)
def test_mistakes_are_named_before_any_image_is_read(options, message, animals, tmp_path, monkeypatch):
    def refuse(*unused):
        raise AssertionError("features were extracted")

    monkeypatch.setattr("hf_clipalign.cli.commands.concepts._features", refuse)
    given = () if "--dictionary" in options else ("--dictionary", animals / "names.txt")
    with pytest.raises(ClipAlignError, match=message):
        call("concepts", animals, "--model", "mini:teacher", "--out", tmp_path / "out", *given, *options)


def test_a_model_that_does_not_know_such_images_gives_no_answer(tmp_path):
    generator = np.random.default_rng(0)
    noise = tmp_path / "noise"
    noise.mkdir()
    for number in range(8):
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(noise / f"{number}.png")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    options = ("--model", "mini:teacher", "--dictionary", tmp_path / "names.txt", "--out", tmp_path / "out")
    printed = call("concepts", noise, *options)
    assert "no answer: mini:teacher sees nearly the same in all images" in printed
    assert "concepts tell" not in printed
    assert json.loads((tmp_path / "out" / "concepts.json").read_text())["flat"] is True


def test_a_model_that_knows_the_images_answers(animals, tmp_path):
    options = ("--dictionary", animals / "names.txt", "--model", "mini:teacher", "--out", tmp_path / "out")
    assert "no answer" not in call("concepts", animals, *options)
    assert json.loads((tmp_path / "out" / "concepts.json").read_text())["flat"] is False
