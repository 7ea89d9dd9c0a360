"""The text tower in NumPy: the same features as the model's own, or none."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder, load_model, load_processor, tokenize
from hf_clipalign.backbones.lean.text_tower import LeanTextTower, _gelu
from hf_clipalign.data import load_mini
from tests.tiny_models import save_tiny

TEXTS = ["a photo of a cat.", "A RED Car, at night!", "café 日本", "x", "two\nlines  and spaces"]


def expected(folder, texts=TEXTS):
    encoder, processor = as_dual_encoder(load_model(folder)), load_processor(folder)
    with torch.no_grad():
        return np.concatenate(
            [encoder.text_preprojection(**tokenize(encoder, processor, [text])).float().numpy() for text in texts]
        )


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_features_are_those_of_the_model(model):
    folder = getattr(load_mini(), f"{model}_path")
    tower = LeanTextTower.open(folder)
    np.testing.assert_allclose(tower.features(TEXTS), expected(folder), atol=2e-5)


def changed(folder, **changes):
    """A checkpoint of the tiny CLIP with other settings of its text tower."""
    save_tiny("clip", folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("changes", [{}, {"hidden_act": "quick_gelu"}, {"hidden_act": "gelu"}, {"eos_token_id": 2}])
def test_settings_of_the_tower_count(tmp_path, changes):
    folder = changed(tmp_path, **changes)
    np.testing.assert_allclose(
        LeanTextTower.open(folder).features(["cat", "dog"]), expected(folder, ["cat", "dog"]), atol=2e-5
    )


def test_half_precision_and_several_files(tmp_path):
    folder = changed(tmp_path)
    wanted = expected(folder, ["cat"])
    tensors = load_file(folder / "model.safetensors")
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    names = sorted(halves)
    files = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: halves[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    np.testing.assert_allclose(LeanTextTower.open(folder).features(["cat"]), wanted, atol=5e-3)


def spoilt(folder, kind):
    if kind == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif kind == "cut weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    elif kind == "bfloat16":
        tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
        save_file(tensors, folder / "model.safetensors")
    elif kind == "a file outside":
        index = {"weight_map": dict.fromkeys(load_file(folder / "model.safetensors"), "../model.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        (folder / "config.json").write_text("{}" if kind == "no config" else '{"text_config": {"hidden_act": "relu"}}')


@pytest.mark.parametrize("kind", ["no tokenizer", "cut weights", "bfloat16", "a file outside", "no config", "relu"])
def test_what_cannot_be_read_here_is_left_to_the_model(tmp_path, kind):
    folder = changed(tmp_path)
    spoilt(folder, kind)
    assert LeanTextTower.open(folder) is None


def test_bfloat16_is_left_to_the_model_whatever_else_is_loaded(tmp_path):
    pytest.importorskip("ml_dtypes", reason="gives NumPy bfloat16, as soon as anything imports it")
    folder = changed(tmp_path)
    spoilt(folder, "bfloat16")
    assert LeanTextTower.open(folder) is None


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_other_families_are_left_to_the_model(tmp_path, family):
    assert LeanTextTower.open(save_tiny(family, tmp_path)) is None


def test_a_text_beyond_the_context():
    tower = LeanTextTower.open(load_mini().student_path)
    with pytest.raises(ClipAlignError, match=r"text 1 \('cat .*…'\) has 42 tokens, but the model reads 24: short"):
        tower.features(["cat", "cat " * 40])


def test_the_error_function():
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    np.testing.assert_allclose(_gelu(x.float().numpy()), torch.nn.functional.gelu(x).numpy(), atol=2e-6)
