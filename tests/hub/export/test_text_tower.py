"""The text tower of an index gives what the model gives, without torch."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.features import extract_text_features
from hf_clipalign.features.description import describe_model
from hf_clipalign.hub import export_text_tower
from hf_clipalign.search import TextTower
from tests.tiny_models import ALL_MAKERS, tiny_clip, tokenizer_of

TEXTS = ["a red car", "Two  cats, playing", "x", "a photo of an old tree in the rain"]


@pytest.fixture(scope="module")
def model():
    return tiny_clip().eval()


@pytest.fixture(scope="module")
def tower(model, tmp_path_factory):
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    return export_text_tower(model, tokenizer_of("clip"), tmp_path_factory.mktemp("tower") / "text")


def test_features_are_those_of_the_model_for_any_batch(model, tower):
    opened = TextTower.open(tower, weights=describe_model(as_dual_encoder(model), None)["weights"])
    expected = extract_text_features(model, TEXTS, tokenizer_of("clip")).values.numpy()
    assert np.allclose(opened.features(TEXTS), expected, atol=1e-5)
    assert np.allclose(np.concatenate([opened.features([text]) for text in TEXTS]), expected, atol=1e-5)
    assert opened.features([]).shape == (0, expected.shape[1])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["siglip", "chinese_clip", "metaclip_2"])
def test_other_families(family, tmp_path):
    model, tokenizer = ALL_MAKERS[family]().eval(), tokenizer_of(family)
    opened = TextTower.open(export_text_tower(model, tokenizer, tmp_path / "text"))
    expected = extract_text_features(model, TEXTS, tokenizer).values.numpy()
    assert np.allclose(opened.features(TEXTS), expected, atol=1e-4)


def test_long_texts_and_single_strings_are_refused_as_with_torch(tower):
    opened = TextTower.open(tower)
    with pytest.raises(ClipAlignError, match=r"text 1 \('cat cat .*…'\) has \d+ tokens, but the model reads \d+"):
        opened.features(["cat", "cat " * 200])
    with pytest.raises(ClipAlignError, match="texts"):
        opened.features("a cat")


def test_the_tower_of_another_model_is_not_used(tower, tmp_path):
    assert TextTower.open(tower, weights="0" * 64) is None
    assert TextTower.open(tmp_path) is None


@pytest.mark.parametrize("name", ["tower.onnx", "tower.onnx.data", "tokenizer.json"])
def test_damage_is_one_line(tower, tmp_path, name):
    for file in tower.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 100 if file.name == name else None])
    with pytest.raises(ClipAlignError, match="damaged, delete it") as error:
        TextTower.open(tmp_path)
    assert "\n" not in str(error.value)


def test_words_are_looked_up_without_torch(tower):
    code = """
        import sys
        from hf_clipalign.search import TextTower
        assert TextTower.open(sys.argv[1]).features(["a cat"]).shape[0] == 1
        print(*sorted({"torch", "transformers", "datasets", "peft", "scipy", "sklearn", "pandas"} & set(sys.modules)))
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tower], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ""
