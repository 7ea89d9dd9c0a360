"""What an export brings along: the processor, facts about itself, and modes that let others read it."""

import json
import os
import stat
import subprocess
import sys
import textwrap

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessor, pipeline

from hf_clipalign import IsoCLIPModel
from hf_clipalign.hub import export_onnx, export_sentence_transformers, export_stock, folder_kind, onnx_facts
from tests.tiny_models import ALL_MAKERS, save_tiny, tiny_pixel_values, tiny_processor


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "clip"
    save_tiny("clip", folder)
    return folder


@pytest.fixture(scope="module")
def model(base):
    return IsoCLIPModel.from_clip_pretrained(base, image_band=(3, 4), text_band=(2, 5))


@pytest.fixture
def onnx_packages():
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")


def test_the_processor_of_the_base_comes_along(base, model, tmp_path):
    model.save_pretrained(tmp_path / "iso")
    model.save_stock(tmp_path / "stock")
    export_stock(IsoCLIPModel.from_pretrained(tmp_path / "iso"), tmp_path / "again", compact=True)
    export_sentence_transformers(model, tmp_path / "st")
    for name in ("iso", "stock", "again"):
        processor = AutoProcessor.from_pretrained(tmp_path / name)
        assert processor.tokenizer.get_vocab() == AutoProcessor.from_pretrained(base).tokenizer.get_vocab()
    assert CLIPImageProcessor.from_pretrained(tmp_path / "st").size == tiny_processor("clip").image_processor.size
    assert [folder_kind(tmp_path / name) for name in ("iso", "stock", "st")] == [
        *("isoclip", "stock", "sentence-transformers"),
    ]


def test_a_model_without_a_known_processor_is_saved_alone(tmp_path):
    unnamed = IsoCLIPModel.from_clip_pretrained(ALL_MAKERS["clip"](), image_band=(3, 4))
    unnamed.save_pretrained(tmp_path / "iso")
    assert sorted(os.listdir(tmp_path / "iso")) == ["config.json", "model.safetensors"]
    unnamed.save_pretrained(tmp_path / "given", tiny_processor("clip"))
    assert "tokenizer.json" in os.listdir(tmp_path / "given")


def test_saving_over_another_model_leaves_none_of_its_files(model, tmp_path):
    target = tmp_path / "iso"
    model.save_pretrained(target, max_shard_size="20KB")
    assert (target / "model.safetensors.index.json").is_file()
    (target / "spectrum.png").write_bytes(b"of the old band")
    (target / "README.md").write_text("by hand")
    (target / "runs").mkdir()
    (target / "runs" / "events").write_text("kept")
    model.save_pretrained(target)
    assert sorted(name for name in os.listdir(target) if name.startswith("model")) == ["model.safetensors"]
    assert not (target / "spectrum.png").exists()
    assert (target / "README.md").read_text() == "by hand"
    assert (target / "runs" / "events").read_text() == "kept"


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_others_may_read_every_export(model, tmp_path):
    before = os.umask(0o022)
    try:
        model.save_pretrained(tmp_path / "iso")
        export_stock(model, tmp_path / "stock")
        export_sentence_transformers(model, tmp_path / "st", modality="both")
    finally:
        os.umask(before)
    for place in (tmp_path / name for name in ("iso", "stock", "st")):
        assert stat.S_IMODE(place.stat().st_mode) == 0o755
        for file in place.rglob("*"):
            assert stat.S_IMODE(file.stat().st_mode) == (0o755 if file.is_dir() else 0o644), file


@pytest.mark.usefixtures("onnx_packages")
@pytest.mark.parametrize(("modality", "band"), [("image", [3, 4]), ("text", [2, 5])])
def test_an_onnx_file_says_how_to_use_it(model, base, tmp_path, modality, band):
    import onnx

    file = export_onnx(model, tmp_path / f"{modality}.v2", modality, compact=True, normalize=modality == "image")
    assert file == tmp_path / f"{modality}.v2.onnx"
    assert onnx_facts(file) == {
        **{"method": "isoclip", "format": "onnx", "modality": modality, "band": band, "compact": True},
        **{"similarity": "cosine", "base_model_name_or_path": None, "dimension": 17},
        **{"normalized": modality == "image", "output": f"{modality}_embeds"},
    }
    processor = AutoProcessor.from_pretrained(tmp_path / f"{modality}.v2-processor")
    metadata = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
    told = json.loads(metadata["preprocessing"])
    if modality == "image":
        settings = processor.image_processor.to_dict()
        for name in ("image_mean", "image_std", "size", "do_normalize"):
            assert told[name] == json.loads(json.dumps(settings[name], default=dict))
    else:
        assert (told["max_length"], told["padding"]) == (model.encoder.max_text_length, "longest")
    assert str(base.parent) not in "".join(metadata.values())
    (tmp_path / "other.onnx").write_bytes(b"nothing")
    assert onnx_facts(tmp_path / "other.onnx") is None


def test_gradient_checkpointing_gives_the_same_gradients(base):
    gradients = []
    for checkpointing in (False, True):
        model = IsoCLIPModel.from_clip_pretrained(base, image_band=(3, 4)).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.get_image_features(**tiny_pixel_values(2)).pooler_output.sum().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_the_stock_pipeline_gives_aligned_features(model, tmp_path):
    model.save_pretrained(tmp_path / "iso")
    image = Image.new("RGB", (40, 30), (200, 30, 90))
    for wanted in (str(tmp_path / "iso"), IsoCLIPModel.from_pretrained(tmp_path / "iso")):
        processor = CLIPImageProcessor.from_pretrained(tmp_path / "iso")
        extract = pipeline("image-feature-extraction", model=wanted, image_processor=processor, pool=True)
        found = torch.tensor(extract(image))
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            expected = model.get_image_features(pixels).pooler_output
        torch.testing.assert_close(found.view(-1), expected.view(-1), atol=1e-5, rtol=0)


def test_a_model_pushes_without_an_import_of_the_hub_room():
    code = """
        import sys
        from hf_clipalign import IsoCLIPModel, _hooks
        from hf_clipalign.gcd import SpectralGCDModel

        assert IsoCLIPModel

        assert "hf_clipalign.hub" not in sys.modules
        try:
            _hooks.push("isoclip", None, "owner/name")
        except AttributeError:
            pass  # of None: the hook was found and called
        from hf_clipalign.hub import push_isoclip, push_model

        assert _hooks._hooks == {"isoclip": push_isoclip, "model": push_model}
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
