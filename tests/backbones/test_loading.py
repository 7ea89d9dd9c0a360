"""Loading models and processors, and the errors on the way."""

import json
import os
import subprocess
import sys

import pytest
import transformers

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import load_model, load_processor
from tests.tiny_models import save_tiny, tiny_clip


def test_a_folder_is_loaded_in_evaluation_mode(tmp_path):
    folder = save_tiny("clip", tmp_path / "clip")
    assert not load_model(folder).training
    processor = load_processor(str(folder))
    first_releases = not hasattr(transformers, "CLIPImageProcessorPil")
    name = "CLIPImageProcessor" if first_releases else "CLIPImageProcessorPil"
    assert type(processor.image_processor).__name__ == name


def test_a_model_is_returned_as_it_is():
    model = tiny_clip()
    assert load_model(model) is model


@pytest.mark.parametrize("name", ["./missing", "/nowhere/at/all", "one/two/three"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(ClipAlignError, match=f"no folder '{name}'"):
        load_model(name)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(ClipAlignError, match=f"{tmp_path.name}' does not hold a model"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-thing"}))
    with pytest.raises(ClipAlignError, match="does not hold a model"):
        load_model(tmp_path)


def test_an_id_that_is_not_cached_while_offline_says_so(tmp_path):
    code = (
        "from hf_clipalign.backbones import load_model\n"
        "try:\n    load_model('owner/name')\n"
        "except ValueError as error:\n    print(type(error).__name__, error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "ClipAlignError cannot load the model 'owner/name'" in result.stdout
    assert "not in the local cache and the Hub cannot be reached" in result.stdout
    assert len(result.stdout.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("image_mean", "a"), ("image_mean", [0.5]), ("image_std", [0, 0, 0]), ("image_std", [None] * 3)),
        *(("size", {"a": 1}), ("size", [[]]), ("rescale_factor", "x"), ("rescale_factor", [])),
    ],
)
def test_settings_of_images_that_cannot_be_used_are_told_at_load(name, value, tmp_path):
    folder = save_tiny("clip", tmp_path / "clip")
    file = next(path for path in sorted(folder.glob("pr*processor_config.json")) if "image_mean" in path.read_text())
    content = json.loads(file.read_text())
    content.get("image_processor", content)[name] = value
    file.write_text(json.dumps(content))
    with pytest.raises(ClipAlignError, match="processor"):
        load_processor(folder)


def test_settings_of_texts_that_cannot_be_used_are_told_at_load(tmp_path):
    folder = save_tiny("clip", tmp_path / "clip")
    content = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**content, "model_max_length": [1]}))
    with pytest.raises(ClipAlignError, match="tokenizer"):
        load_processor(folder)
