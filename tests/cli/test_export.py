"""`clipalign export`: every format from an aligned folder and from a base model."""

import json

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, CLIPVisionModelWithProjection
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign.cli.app import app
from tests.tiny_models import save_tiny, tiny_pixel_values


def clipalign(*arguments, expect=0):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if isinstance(result.exception, ClipAlignError):
        raise result.exception
    assert result.exit_code == expect, result.output
    return result.output.replace("\n", "")


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A folder that `clipalign trim` wrote."""
    root = tmp_path_factory.mktemp("aligned")
    save_tiny("clip", root / "base")
    clipalign("trim", "--model", root / "base", "--image-band", "3,4", "--text-band", "2,5", "--out", root / "iso")
    return root / "iso"


def cosines(features):
    features = F.normalize(features.float(), dim=-1)
    return features @ features.T


@torch.no_grad()
def test_stock_compact_in_half_precision(aligned, tmp_path):
    printed = clipalign(
        "export", "--model", aligned, "--to", "stock", "--compact", "--dtype", "float16", "--out", tmp_path / "stock"
    )
    assert "transformers.CLIPVisionModelWithProjection" in printed
    stock = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "stock")
    assert stock.dtype == torch.float16
    pixel_values = tiny_pixel_values(4)["pixel_values"]
    embeds = stock.float()(pixel_values=pixel_values).image_embeds
    assert embeds.shape == (4, 17)
    features = AutoModel.from_pretrained(aligned).get_image_features(pixel_values).pooler_output
    torch.testing.assert_close(cosines(embeds), cosines(features), atol=5e-3, rtol=0)
    assert (tmp_path / "stock" / "preprocessor_config.json").exists() or (
        tmp_path / "stock" / "processor_config.json"
    ).exists()


def test_a_new_band_replaces_that_of_an_aligned_model(aligned, tmp_path):
    for out, extra in (("own", []), ("other", ["--image-band", "10,4"])):
        clipalign("export", "--model", aligned, "--compact", "--out", tmp_path / out, *extra)
    sizes = [json.loads((tmp_path / out / "config.json").read_text())["projection_dim"] for out in ("own", "other")]
    assert sizes == [17, 10]


def test_sentence_transformers_of_both_sides(aligned, tmp_path):
    out = tmp_path / "st"
    printed = clipalign(
        "export", "--model", aligned, "--to", "sentence-transformers", "--modality", "both", "--out", out
    )
    assert "SentenceTransformer(" in printed
    config = json.loads((out / "sentence_bert_config.json").read_text())
    assert set(config["modality_config"]) == {"image", "text"}


def test_onnx_from_a_base_model_with_a_band(aligned, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    out = tmp_path / "image.onnx"
    clipalign("export", "--model", aligned.parent / "base", "--image-band", "3,4", "--to", "onnx", "--out", out)
    pixel_values = tiny_pixel_values(3)["pixel_values"]
    (found,) = runtime.InferenceSession(str(out)).run(None, {"pixel_values": pixel_values.numpy()})
    with torch.no_grad():
        expected = AutoModel.from_pretrained(aligned).get_image_features(pixel_values).pooler_output
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "pickle"], "unknown format 'pickle': choose from stock, sentence-transformers, onnx"),
        (["--modality", "both"], "unknown modality 'both' for stock: choose from image, text"),
        (["--dtype", "int4"], "unknown dtype 'int4'"),
        (["--to", "sentence-transformers", "--modality", "both", "--compact"], "write two folders"),
        (["--image-band", "20,20"], "removes all 24 singular directions"),
    ],
)
def test_mistakes_are_one_clear_line(aligned, tmp_path, arguments, message):
    with pytest.raises(ClipAlignError, match=message) as caught:
        clipalign("export", "--model", aligned, "--out", tmp_path / "out", *arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
