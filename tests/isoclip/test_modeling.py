"""The aligned model: construction, saving, loading, and that image-text logits stay the base's."""

import itertools
import subprocess
import sys
import textwrap

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from hf_clipalign import ClipAlignError, IsoCLIPConfig, IsoCLIPModel
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.gcd import SpectralGCDConfig
from hf_clipalign.isoclip import trim_projectors
from tests.tiny_models import tiny_clip, tiny_metaclip2, tiny_pixel_values, tiny_tokenizer

MAKERS = {"clip": tiny_clip, "metaclip_2": tiny_metaclip2}
ARGUMENTS = {"image": "pixel_values", "text": "input_ids"}
IMAGE_BAND, TEXT_BAND = (3, 4), (2, 5)


def inputs(family):
    tokens = tiny_tokenizer(family)(
        ["a photo of a cat", "the red boat on a bridge", "owl"], padding=True, return_tensors="pt"
    )
    return {**tiny_pixel_values(4), "input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


def cosines(embeds):
    embeds = F.normalize(embeds, dim=-1)
    return embeds @ embeds.T


def run_without_package(code):
    """Runs code in a fresh process in which this package cannot be imported."""
    blocked = "import sys; sys.modules['hf_clipalign'] = None\n" + textwrap.dedent(code)
    result = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(params=MAKERS)
def family(request):
    return request.param


@pytest.fixture
def aligned(family):
    return IsoCLIPModel.from_clip_pretrained(MAKERS[family](), image_band=IMAGE_BAND, text_band=TEXT_BAND)


@torch.no_grad()
def test_features_are_those_of_the_trimmed_projectors(aligned, family):
    batch = inputs(family)
    encoder = as_dual_encoder(MAKERS[family]())
    weights = encoder.image_projector.weight, encoder.text_projector.weight
    image = aligned.get_image_features(batch["pixel_values"])
    text = aligned.get_text_features(batch["input_ids"], batch["attention_mask"])
    expected_image = encoder.image_preprojection(batch["pixel_values"]) @ trim_projectors(*weights, *IMAGE_BAND)[0].T
    expected_text = encoder.text_preprojection(batch["input_ids"]) @ trim_projectors(*weights, *TEXT_BAND)[1].T
    torch.testing.assert_close(image.pooler_output, expected_image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(text.pooler_output, expected_text, atol=1e-5, rtol=1e-5)
    assert image.last_hidden_state.shape[0] == 4
    assert aligned.get_image_features(batch["pixel_values"], return_dict=False)[1].equal(image.pooler_output)


@torch.no_grad()
def test_logits_are_bitwise_those_of_the_base(aligned, family):
    batch = inputs(family)
    assert torch.equal(aligned(**batch).logits_per_image, MAKERS[family]()(**batch).logits_per_image)


@torch.no_grad()
def test_save_and_load_through_the_auto_classes(aligned, family, tmp_path):
    aligned.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is IsoCLIPModel
    assert (loaded.config.image_band, loaded.config.text_band) == (list(IMAGE_BAND), list(TEXT_BAND))
    assert loaded.config.clip_config.model_type == family
    batch = inputs(family)
    for name in ("get_image_features", "get_text_features"):
        argument = batch["pixel_values" if "image" in name else "input_ids"]
        expected = getattr(aligned, name)(argument).pooler_output
        torch.testing.assert_close(getattr(loaded, name)(argument).pooler_output, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        loaded(**batch).logits_per_image, MAKERS[family]()(**batch).logits_per_image, atol=1e-4, rtol=1e-5
    )


def test_import_of_the_package_alone_makes_the_auto_classes_know_the_model(tmp_path):
    IsoCLIPModel.from_clip_pretrained(tiny_clip(), image_band=IMAGE_BAND).save_pretrained(tmp_path)
    load = f"from transformers import AutoModel; print(type(AutoModel.from_pretrained({str(tmp_path)!r})))"
    for imports in ("hf_clipalign", "transformers.models.auto.modeling_auto, hf_clipalign"):
        code = f"import {imports}; {load}"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "IsoCLIPModel" in result.stdout


@pytest.fixture(scope="module")
def stock_embeds(tmp_path_factory):
    """Folder with the embeddings of every stock checkpoint, from one process without this package."""
    root, cases = tmp_path_factory.mktemp("stock"), []
    for family, modality in itertools.product(MAKERS, ARGUMENTS):
        aligned = IsoCLIPModel.from_clip_pretrained(MAKERS[family](), image_band=IMAGE_BAND, text_band=TEXT_BAND)
        folder = root / f"{family}-{modality}"
        for compact in (False, True):
            aligned.save_stock(folder / f"stock-{compact}", modality=modality, compact=compact)
        torch.save(inputs(family)[ARGUMENTS[modality]], folder / "inputs.pt")
        stock_class = {"clip": "CLIP", "metaclip_2": "MetaClip2"}[family]
        stock_class += {"image": "Vision", "text": "Text"}[modality] + "ModelWithProjection"
        cases.append((str(folder), stock_class, ARGUMENTS[modality], f"{modality}_embeds"))
    run_without_package(f"""
        import torch, transformers
        for folder, stock_class, argument, embeds in {cases!r}:
            inputs = torch.load(folder + "/inputs.pt")
            for compact in (False, True):
                model, info = getattr(transformers, stock_class).from_pretrained(
                    f"{{folder}}/stock-{{compact}}", output_loading_info=True
                )
                assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
                with torch.no_grad():
                    torch.save(model.eval()(**{{argument: inputs}})[embeds], f"{{folder}}/embeds-{{compact}}.pt")
    """)
    return root


@torch.no_grad()
@pytest.mark.parametrize("modality", ["image", "text"])
def test_stock_checkpoints_load_without_the_package(aligned, family, modality, stock_embeds):
    folder = stock_embeds / f"{family}-{modality}"
    wide, narrow = (torch.load(folder / f"embeds-{compact}.pt") for compact in (False, True))
    ours = getattr(aligned, f"get_{modality}_features")(inputs(family)[ARGUMENTS[modality]]).pooler_output
    torch.testing.assert_close(wide, ours, atol=1e-5, rtol=1e-5)
    assert narrow.shape[1] == 24 - sum(IMAGE_BAND if modality == "image" else TEXT_BAND)
    torch.testing.assert_close(cosines(narrow), cosines(wide), atol=1e-5, rtol=0)


def test_the_base_model_is_shared_and_not_copied():
    base = tiny_clip()
    aligned = IsoCLIPModel.from_clip_pretrained(base, image_band=IMAGE_BAND)
    assert aligned.clip is base
    assert not any(parameter.is_meta for parameter in aligned.parameters())
    assert as_dual_encoder(aligned).model is base
    assert aligned.config.clip_config is base.config


@pytest.mark.parametrize("configuration", [IsoCLIPConfig, SpectralGCDConfig])
def test_a_configuration_leaves_the_model_that_it_was_made_from_as_it_is(configuration):
    base = tiny_clip()
    before = base.config.text_config._attn_implementation
    config = configuration(base.config)
    assert base.config.text_config._attn_implementation == before is not None
    part = config.clip_config if configuration is IsoCLIPConfig else config.backbone_config
    part.text_config.hidden_size = -1
    assert base.config.text_config.hidden_size > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_close(dtype, tmp_path):
    exact = IsoCLIPModel.from_clip_pretrained(tiny_clip(), image_band=IMAGE_BAND)
    half = IsoCLIPModel.from_clip_pretrained(tiny_clip().to(dtype), image_band=IMAGE_BAND)
    pixel_values = tiny_pixel_values(6)["pixel_values"]
    features = half.get_image_features(pixel_values.to(dtype)).pooler_output
    assert features.dtype == dtype
    expected = cosines(exact.get_image_features(pixel_values).pooler_output)
    torch.testing.assert_close(cosines(features.float()), expected, atol=0.03, rtol=0)
    half.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).dtype == dtype


def test_one_band_aligns_one_modality_and_says_so_for_the_other():
    aligned = IsoCLIPModel.from_clip_pretrained(tiny_clip(), image_band=IMAGE_BAND)
    with pytest.raises(ClipAlignError, match="without a text band"):
        aligned.get_text_features(inputs("clip")["input_ids"])
    with pytest.raises(ClipAlignError, match="without a text band"):
        aligned.save_stock("unused", modality="text")


def test_published_bands_are_found_by_the_name_of_the_checkpoint():
    model = tiny_clip()
    model.config._name_or_path = "openai/clip-vit-base-patch32"
    with pytest.raises(ClipAlignError, match="projection_dim is 24 instead of 512"):
        IsoCLIPModel.from_clip_pretrained(model)


def test_an_unknown_checkpoint_without_a_band_is_an_error_that_says_how_to_choose():
    with pytest.raises(ClipAlignError, match=r"no band is published.*search_band"):
        IsoCLIPModel.from_clip_pretrained(tiny_clip())


@pytest.mark.parametrize("band", [(24, 0), (12, 12), (-1, 2)])
def test_an_impossible_band_is_an_error(band):
    with pytest.raises(ClipAlignError, match="band"):
        IsoCLIPModel.from_clip_pretrained(tiny_clip(), image_band=band)


def test_an_unknown_modality_is_an_error(tmp_path):
    aligned = IsoCLIPModel.from_clip_pretrained(tiny_clip(), image_band=IMAGE_BAND)
    with pytest.raises(ClipAlignError, match="unknown modality 'audio'"):
        aligned.save_stock(tmp_path, modality="audio")


@pytest.mark.parametrize("save", ["save_pretrained", "save_stock"])
def test_a_folder_that_cannot_be_written_is_an_error(save, tmp_path):
    (tmp_path / "file").write_text("in the way")
    aligned = IsoCLIPModel.from_clip_pretrained(tiny_clip(), image_band=IMAGE_BAND)
    with pytest.raises(ClipAlignError, match="cannot write to"):
        getattr(aligned, save)(tmp_path / "file" / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_configuration_round_trip():
    config = IsoCLIPConfig(tiny_clip().config, image_band=(1, 2), base_model_name_or_path="owner/name")
    again = IsoCLIPConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert again.clip_config.model_type == "clip"
    assert AutoConfig.for_model("isoclip").clip_config.model_type == "clip"
