"""Words without torch: proved beforehand, checked each time, and otherwise by the model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from hf_clipalign import ClipAlignError
from hf_clipalign.data import load_mini
from hf_clipalign.search import ImageIndex
from hf_clipalign.search.answers import texts
from hf_clipalign.search.answers.texts import SETTING, embedded_texts, prepare_texts
from hf_clipalign.search.text_tower import PROBES
from tests.tiny_models import save_tiny
from tests.versions import OLD

WORDS = ["an emoji of a cat", "a RED car!"]
ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "datasets", "peft", "scipy", "sklearn", "pandas", "accelerate", "matplotlib", "PIL"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("words")
    (root / "photos").mkdir()
    for name, colour in {"red": (200, 0, 0), "blue": (0, 0, 200), "white": (255, 255, 255)}.items():
        Image.new("RGB", (40, 40), colour).save(root / "photos" / f"{name}.png")
    shutil.copytree(load_mini().student_path, root / "model")
    index = ImageIndex.create(root / "photos", root / "model", root / "index", head=(1, 48))
    index.update(progress=False)
    assert prepare_texts(index)
    return root


@pytest.fixture
def index(made, tmp_path):
    """An index that may be changed, and so may its model."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    index = ImageIndex.open(tmp_path / "index")
    index.put_setting(SETTING, {**index.setting(SETTING), "folder": str(tmp_path / "model")})
    return index


def no_model(monkeypatch):
    def refuse(*unused):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(ImageIndex, "encode_texts", refuse)


def test_the_vectors_are_those_of_the_model(index, monkeypatch):
    expected = index.encode_texts(WORDS)
    no_model(monkeypatch)
    np.testing.assert_allclose(embedded_texts(index, WORDS), expected, atol=1e-5)


def other_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    name = "text_model.encoder.layers.1.mlp.fc1.weight"
    save_file({**tensors, name: -tensors[name]}, folder / "model.safetensors")


def test_what_is_known_is_not_found_out_again(made, monkeypatch):
    no_model(monkeypatch)
    assert prepare_texts(ImageIndex.open(made / "index"))


CHANGES = {
    "other weights": other_weights,
    "other settings": lambda folder: (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"gelu"', '"quick_gelu"')
    ),
    "other tokens": lambda folder: (folder / "tokenizer.json").write_text(
        (folder / "tokenizer.json").read_text().replace("photo", "phoot")
    ),
    "gone": lambda folder: shutil.rmtree(folder),
    "cut": lambda folder: (folder / "model.safetensors").write_bytes(b"12345678"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_was_changed_since_is_left_to_the_model(index, tmp_path, change, monkeypatch):
    CHANGES[change](tmp_path / "model")
    monkeypatch.setattr(ImageIndex, "encode_texts", lambda self, texts: "asked the model")
    monkeypatch.setattr(texts, "_LEAST_COSINE", 0.99999)
    assert embedded_texts(index, WORDS) == "asked the model"


def test_a_tower_that_reads_otherwise_is_never_used(index, monkeypatch):
    monkeypatch.setattr(texts.LeanTextTower, "features", lambda self, texts: np.ones((len(texts), 128), np.float32))
    index.put_setting(SETTING, None)
    assert not prepare_texts(index)
    assert index.setting(SETTING)["vector"] is None
    monkeypatch.setattr(ImageIndex, "encode_texts", lambda self, texts: "asked the model")
    assert embedded_texts(index, WORDS) == "asked the model"
    assert not prepare_texts(index), "that is not tried again"


def test_the_texts_of_the_proof_are_those_of_exports_and_within_the_context(index, monkeypatch):
    read = []
    real = texts.LeanTextTower.features
    monkeypatch.setattr(texts.LeanTextTower, "features", lambda self, given: read.extend(given) or real(self, given))
    monkeypatch.setattr(texts, "PROBES", (*PROBES, "cat " * 40))
    index.put_setting(SETTING, None)
    assert prepare_texts(index)
    assert set(PROBES) <= set(read)


@pytest.mark.skipif(OLD, reason="5.0 has no tokenizer class for SigLIP without sentencepiece")
def test_other_families_go_through_the_model(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "photos" / "red.png")
    index = ImageIndex.create(tmp_path / "photos", save_tiny("siglip", tmp_path / "model"), tmp_path / "index")
    index.update(progress=False)
    assert not prepare_texts(index)
    np.testing.assert_array_equal(embedded_texts(index, ["cat"]), index.encode_texts(["cat"]))


def test_a_text_beyond_the_context_says_how_long_it_is(index):
    for setting in (index.setting(SETTING), None):
        index.put_setting(SETTING, setting)
        with pytest.raises(ClipAlignError) as error:
            embedded_texts(index, ["cat " * 40])
        assert str(error.value).startswith("the text 'cat cat cat")
        assert str(error.value).endswith("has 42 tokens, but the model reads 24: shorten it.")


def modules_of(*arguments, cwd):
    code = (
        "import sys, json\nfrom hf_clipalign.cli import main\n"
        "try:\n    main()\nexcept SystemExit as leaving:\n    assert not leaving.code\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if "PROGRESS" not in name} | {"PYTHONPATH": path},
        check=True,
    )
    (line,) = result.stderr.splitlines()  # no progress bar is there where no terminal is
    return set(json.loads(line)), result.stdout


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (("search", "index", "an emoji of a cat", "--json"), set()),
        (("search", "index", "--image", "photos/red.png"), set()),
        (("search", "index", "red.png - white.png", "--where", "path=*.png", "--csv"), set()),
        (("search", "index", "a cat", "--html", "hits.html"), {"PIL"}),
        (("status", "index"), set()),
        (("select", "index", "--diverse", "2"), set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_cold_query_imports_only_what_it_needs(made, arguments, allowed):
    modules, printed = modules_of(*arguments, cwd=made)
    assert {name.split(".")[0] for name in modules} & HEAVY == allowed
    assert not {name for name in modules if name.startswith("hf_clipalign.trainers")}
    assert printed


@pytest.mark.skipif(OLD, reason="the first 5.x releases of transformers import more for an image")
def test_an_image_from_outside_imports_no_trainer_and_no_data_sets(made):
    Image.new("RGB", (20, 20), "green").save(made / "outside.png")
    modules, printed = modules_of("search", "index", "--image", "outside.png", "--json", cwd=made)
    assert len(json.loads(printed)) == 3
    assert not {name.split(".")[0] for name in modules} & {"datasets", "peft", "sklearn", "pandas", "matplotlib"}
    assert not {name for name in modules if name.startswith(("transformers.trainer", "hf_clipalign.trainers"))}
