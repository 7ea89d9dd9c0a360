"""Trimming, compact embeddings, saving and stock export in every family."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel

from hf_clipalign import ClipAlignError, IsoCLIPModel
from hf_clipalign.backbones import as_dual_encoder, tokenize
from hf_clipalign.backbones.siglip import SiglipEncoder
from hf_clipalign.isoclip import trim_projectors
from tests.tiny_models import ALL_MAKERS, tiny_pixel_values, tokenizer_of

SIGLIP = ("siglip", "siglip2")
IMAGE_BAND, TEXT_BAND = (3, 4), (2, 5)
TEXTS = ["a photo of a cat", "the red fox and the old house", "owl", "a blue bird"]
STOCK = {
    ("clip", "image"): "CLIPVisionModelWithProjection",
    ("clip", "text"): "CLIPTextModelWithProjection",
    ("metaclip_2", "image"): "MetaClip2VisionModelWithProjection",
    ("metaclip_2", "text"): "MetaClip2TextModelWithProjection",
    ("siglip", "image"): "SiglipVisionModel",
    ("siglip", "text"): "SiglipTextModel",
    ("siglip2", "image"): "Siglip2VisionModel",
    ("siglip2", "text"): "Siglip2TextModel",
    ("chinese_clip", "image"): "CLIPVisionModelWithProjection",
    ("altclip", "image"): "CLIPVisionModelWithProjection",
    ("vision_text_clip", "image"): "CLIPVisionModelWithProjection",
    ("vision_text_clip", "text"): "CLIPTextModelWithProjection",
    ("clipseg", "image"): "CLIPVisionModelWithProjection",
    ("clipseg", "text"): "CLIPTextModelWithProjection",
}
NO_STOCK = [("chinese_clip", "text"), ("altclip", "text"), ("vision_text", "image"), ("vision_text", "text")]


def image_inputs(family):
    return tiny_pixel_values(5, family if family in SIGLIP else "clip")


def text_inputs(family, encoder):
    return tokenize(encoder, tokenizer_of(family), TEXTS)


def inputs_of(family, modality, encoder):
    return image_inputs(family) if modality == "image" else text_inputs(family, encoder)


def aligned_features(model, family, modality):
    batch = inputs_of(family, modality, model.encoder)
    with torch.no_grad():
        return getattr(model, f"get_{modality}_features")(**batch).pooler_output


def cosines(features):
    features = F.normalize(features, dim=-1)
    return features @ features.T


def run_without_package(code):
    blocked = "import sys; sys.modules['hf_clipalign'] = None\n" + textwrap.dedent(code)
    result = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.fixture(params=ALL_MAKERS)
def family(request):
    return request.param


@pytest.fixture
def aligned(family):
    return IsoCLIPModel.from_clip_pretrained(ALL_MAKERS[family](), image_band=IMAGE_BAND, text_band=TEXT_BAND)


@pytest.mark.parametrize("modality", ["image", "text"])
@torch.no_grad()
def test_compact_embeddings_have_the_trimmed_cosines(aligned, family, modality):
    encoder, features = aligned.encoder, aligned_features(aligned, family, modality)
    compact = aligned.aligned_projector(modality, compact=True)
    before = getattr(encoder, f"{modality}_preprojection")(**inputs_of(family, modality, encoder))
    short = F.linear(before, compact.weight, compact.bias)
    assert short.shape[1] < features.shape[1]
    torch.testing.assert_close(cosines(short), cosines(features), atol=1e-5, rtol=0)
    untrimmed = F.linear(before, encoder.projector(modality).weight, encoder.projector(modality).bias)
    assert (cosines(untrimmed) - cosines(features)).abs().max() > 1e-3


@torch.no_grad()
def test_image_text_logits_are_the_base_models(aligned, family):
    base = ALL_MAKERS[family]()
    batch = {**image_inputs(family), **text_inputs(family, aligned.encoder)}
    assert torch.equal(aligned(**batch).logits_per_image, base(**batch).logits_per_image)


def test_saved_and_loaded_by_the_auto_class(aligned, family, tmp_path):
    aligned.save_pretrained(tmp_path)
    for loaded in (AutoModel.from_pretrained(tmp_path), IsoCLIPModel.from_pretrained(tmp_path)):
        assert type(loaded) is IsoCLIPModel
        for modality in ("image", "text"):
            expected = aligned_features(aligned, family, modality)
            torch.testing.assert_close(aligned_features(loaded, family, modality), expected, atol=1e-5, rtol=1e-5)


def has_compact_stock(family, modality):
    return not (family in SIGLIP and modality == "image")


@pytest.fixture(scope="module")
def stock_exports(tmp_path_factory):
    """Every stock export, read by one process in which this package cannot be imported: folder of features."""
    root, cases = tmp_path_factory.mktemp("stock"), []
    for (family, modality), class_name in STOCK.items():
        aligned = IsoCLIPModel.from_clip_pretrained(ALL_MAKERS[family](), image_band=IMAGE_BAND, text_band=TEXT_BAND)
        torch.save(inputs_of(family, modality, aligned.encoder), root / f"{family}-{modality}.pt")
        for compact in (False, True)[: 1 + has_compact_stock(family, modality)]:
            folder = root / f"{family}-{modality}-{compact}"
            aligned.save_stock(folder, modality=modality, compact=compact)
            cases.append((str(folder), class_name, str(root / f"{family}-{modality}.pt"), modality))
    run_without_package(
        f"""
        import torch, transformers
        for folder, class_name, batch, modality in {cases!r}:
            model, info = getattr(transformers, class_name).from_pretrained(folder, output_loading_info=True)
            assert not info["missing_keys"] and not info["unexpected_keys"], (folder, info)
            with torch.no_grad():
                output = model(**torch.load(batch))
            name = modality + "_embeds"
            torch.save(output[name] if name in output else output.pooler_output, folder + "/features.pt")
        """
    )
    return root


@pytest.mark.parametrize(("family", "modality"), STOCK)
def test_stock_export_loads_without_the_package(family, modality, stock_exports):
    aligned = IsoCLIPModel.from_clip_pretrained(ALL_MAKERS[family](), image_band=IMAGE_BAND, text_band=TEXT_BAND)
    expected = aligned_features(aligned, family, modality)
    full = torch.load(stock_exports / f"{family}-{modality}-False" / "features.pt")
    torch.testing.assert_close(full, expected, atol=1e-5, rtol=1e-5)
    if has_compact_stock(family, modality):
        short = torch.load(stock_exports / f"{family}-{modality}-True" / "features.pt")
        assert short.shape[1] < expected.shape[1]
        torch.testing.assert_close(cosines(short), cosines(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("family", "modality"), NO_STOCK)
def test_towers_without_a_stock_class_say_so(family, modality, tmp_path):
    aligned = IsoCLIPModel.from_clip_pretrained(ALL_MAKERS[family](), image_band=IMAGE_BAND, text_band=TEXT_BAND)
    with pytest.raises(ClipAlignError, match=f"no class for the {modality} tower .* sentence-transformers or ONNX"):
        aligned.save_stock(tmp_path / "out", modality=modality)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", SIGLIP)
def test_a_compact_siglip_image_tower_says_why_not(family, tmp_path):
    aligned = IsoCLIPModel.from_clip_pretrained(ALL_MAKERS[family](), image_band=IMAGE_BAND)
    with pytest.raises(ClipAlignError, match="as wide as its tower, dimension 32: a compact one of 25 cannot"):
        aligned.save_stock(tmp_path / "out", compact=True)


def test_a_bias_that_the_classes_have_no_place_for_is_refused():
    model = ALL_MAKERS["clip"]()
    with pytest.raises(ClipAlignError, match="has a bias, which the stock class CLIPVisionModelWithProjection would"):
        as_dual_encoder(model).stock_tower("image", torch.zeros(24, 48), torch.ones(24))
    model.visual_projection = torch.nn.Linear(48, 24)
    with pytest.raises(ClipAlignError, match=r"image projector of this CLIPModel has a bias.* silently drop it"):
        IsoCLIPModel.from_clip_pretrained(model, image_band=IMAGE_BAND)
    assert IsoCLIPModel.from_clip_pretrained(model, text_band=TEXT_BAND).text_projection is not None


@pytest.mark.parametrize("part", ["image", "text"])
def test_broken_weights_are_named(family, part):
    model = ALL_MAKERS[family]()
    encoder = as_dual_encoder(model)
    weight = encoder.projector(part).weight
    if not encoder.exact_image_projector and part == "image":
        weight = model.vision_model.head.mlp.fc2.weight
    weight.data[0, 0] = float("nan")
    with pytest.raises(ClipAlignError, match=f"the {part} projector holds NaN"):
        IsoCLIPModel.from_clip_pretrained(model, image_band=IMAGE_BAND)


@torch.no_grad()
def test_the_authors_layout_survives_saving(tmp_path):
    model, inputs = ALL_MAKERS["siglip"](), tiny_pixel_values(5, "siglip")
    reference = SiglipEncoder(model, layout="reference")
    aligned = IsoCLIPModel.from_clip_pretrained(reference, image_band=IMAGE_BAND)
    matrices = reference.image_projector.matrix, reference.text_projector.matrix
    trimmed = trim_projectors(*matrices, *IMAGE_BAND)[0]
    features = reference.image_projector.lift(reference.image_preprojection(**inputs))
    torch.testing.assert_close(
        aligned.get_image_features(**inputs).pooler_output, features @ trimmed.T, atol=1e-5, rtol=1e-5
    )
    aligned.save_pretrained(tmp_path)
    compact = IsoCLIPModel.from_pretrained(tmp_path).aligned_projector("image", compact=True)
    torch.testing.assert_close(cosines(features @ compact.matrix.T), cosines(features @ trimmed.T), atol=1e-5, rtol=0)
    usual = IsoCLIPModel.from_clip_pretrained(model, image_band=IMAGE_BAND)
    difference = usual.get_image_features(**inputs).pooler_output - features @ trimmed.T
    assert difference.abs().max() > 1e-2
    with pytest.raises(ClipAlignError, match="CLIPEncoder has no projector layout 'reference'"):
        as_dual_encoder(ALL_MAKERS["clip"]()).with_layout("reference")


def test_bfloat16(family):
    model = ALL_MAKERS[family]().to(torch.bfloat16)
    aligned = IsoCLIPModel.from_clip_pretrained(model, image_band=IMAGE_BAND, text_band=TEXT_BAND)
    batch = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value
        for name, value in image_inputs(family).items()
    }
    with torch.no_grad():
        found = aligned.get_image_features(**batch).pooler_output
    full = IsoCLIPModel.from_clip_pretrained(ALL_MAKERS[family](), image_band=IMAGE_BAND)
    assert found.dtype == torch.bfloat16
    assert (F.cosine_similarity(found.float(), aligned_features(full, family, "image"), dim=-1) > 0.98).all()
