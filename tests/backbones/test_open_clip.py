"""open_clip's models through the view, and their conversion to transformers. Its own lane: `make test-open-clip`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hf_clipalign import ClipAlignError, IsoCLIPModel
from hf_clipalign.backbones import as_dual_encoder, image_projection_error, open_clip_to_transformers, tokenize
from hf_clipalign.evaluation import comparison_heads
from hf_clipalign.isoclip import compact_projectors, trim_projectors

try:
    import open_clip
except (ImportError, RuntimeError) as error:
    pytest.skip(f"open_clip (and the torchvision that it needs) does not import: {error}", allow_module_level=True)

TEXT = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 48, "head_width": 24, "patch_size": 8}
SIGLIP_TEXT = {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
TIMM = {"image_size": 32, "timm_model_pretrained": False}


def timm_tower(model_name: str, pool: str, proj: str | None) -> dict[str, Any]:
    return {**TIMM, "timm_model_name": model_name, "timm_pool": pool, "timm_proj": proj}


CONFIGS: dict[str, dict[str, Any]] = {
    "openai": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "openclip": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "openclip_custom": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT, "custom_text": True},
    "resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
        "text_cfg": TEXT,
    },
    "eva02": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": timm_tower("tiny_eva02_clip", "token", None),
        "text_cfg": TEXT,
    },
    "pe_core": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": timm_tower("tiny_pe_core", "map", None),
        "text_cfg": TEXT,
    },
    "siglip2": {
        "embed_dim": 32,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": timm_tower("tiny_siglip", "map", "none"),
        "text_cfg": SIGLIP_TEXT,
    },
    "biomedclip": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": timm_tower("tiny_vit", "", "linear"),
        "text_cfg": {
            "context_length": 16,
            "hf_model_name": "bert",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "hf_model_pretrained": False,
        },
    },
}
CONVERTIBLE = ("openai", "openclip", "openclip_custom")
REASONS = {
    "resnet": "its image tower is a ModifiedResNet, not a CLIP ViT",
    "eva02": "its image tower is a Eva of timm, not a CLIP ViT",
    "pe_core": "its image tower is a Eva of timm, not a CLIP ViT",
    "siglip2": "its image tower is a VisionTransformer of timm, not a CLIP ViT",
    "biomedclip": "its image tower is a VisionTransformer of timm, not a CLIP ViT",
}


@pytest.fixture(scope="module", autouse=True)
def tiny_towers() -> None:
    """timm's own classes of these architectures, small, under names that open_clip can ask for."""
    import timm

    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}
    towers = {
        "tiny_eva02_clip": "eva02_base_patch16_clip_224",
        "tiny_pe_core": "vit_pe_core_base_patch16_224",
        "tiny_siglip": "vit_base_patch16_siglip_224",
        "tiny_vit": "vit_base_patch16_224",
    }
    registry = timm.models._registry._model_entrypoints
    for name, original in towers.items():
        entry = timm.models._registry._model_entrypoints[original]
        registry[name] = lambda pretrained=False, entry=entry, **kwargs: entry(pretrained=False, **{**kwargs, **small})


@torch.no_grad()
def make(name: str) -> Any:
    config = {**CONFIGS[name]}
    custom = config.pop("custom_text", False)
    torch.manual_seed(0)
    with small_bert():
        model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config).eval()
    generator = torch.Generator().manual_seed(0)
    for path, parameter in model.named_parameters():
        if ".bn" in path and path.endswith("weight"):
            parameter.fill_(1.0)
        elif parameter.dim() == 1:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        elif parameter.dim() > 1 and parameter.std() < 0.05:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5)
    model.logit_scale.fill_(3.0)
    if name == "resnet":
        _calibrate_batch_norms(model)
    return model


def _calibrate_batch_norms(model: Any) -> None:
    """Statistics of one batch: with those of no data, the features of all images would be nearly equal."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    model.encode_image(images("resnet", 16))
    model.eval()


def small_bert() -> Any:
    """BERT's configuration as open_clip looks it up by name, without a download."""
    from unittest import mock

    from transformers import BertConfig

    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        pad_token_id=0,
    )
    return mock.patch("open_clip.hf_model.AutoConfig.from_pretrained", return_value=config)


def images(name: str, n: int = 5) -> torch.Tensor:
    side = 64 if name == "resnet" else 32
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def tokens() -> torch.Tensor:
    ids = torch.zeros(4, 16, dtype=torch.long)
    for row, length in enumerate((5, 9, 3, 16)):
        ids[row, :length] = torch.randint(1, 97, (length,), generator=torch.Generator().manual_seed(row))
        ids[row, 0], ids[row, length - 1] = 98, 99
    return ids


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def cosines(features: torch.Tensor) -> torch.Tensor:
    features = F.normalize(features, dim=-1)
    return features @ features.T


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_features_are_the_models_own(name: str) -> None:
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    encoder = as_dual_encoder(model)
    pixel_values, input_ids = images(name), tokens()
    image, text = model.encode_image(pixel_values), model.encode_text(input_ids)
    assert image.std(dim=0).mean() > 1e-3
    assert text.std(dim=0).mean() > 1e-3
    features = encoder.image_preprojection(pixel_values)
    assert features.shape == (5, encoder.vision_dim)
    assert relative_error(encoder.project_image(features), image) < 1e-6
    assert relative_error(encoder.encode_image(pixel_values), image) < 1e-6
    assert encoder.exact_image_projector == (name != "siglip2")
    if encoder.exact_image_projector:
        assert relative_error(F.linear(features, *_weight_and_bias(encoder.image_projector)), image) < 1e-6
        assert image_projection_error(encoder, pixel_values).worst < 1e-5
    else:
        assert image_projection_error(encoder, pixel_values).worst > 1e-3
    features = encoder.text_preprojection(input_ids)
    assert features.shape == (4, encoder.text_dim)
    assert relative_error(F.linear(features, *_weight_and_bias(encoder.text_projector)), text) < 1e-6
    assert relative_error(encoder.encode_text(input_ids), text) < 1e-6
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def _weight_and_bias(projector: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    return projector.weight, projector.bias


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_trimmed_and_compact_cosines_agree(name: str) -> None:
    encoder = as_dual_encoder(make(name))
    matrices = encoder.image_projector.matrix, encoder.text_projector.matrix
    trimmed, compact = trim_projectors(*matrices, 3, 4), compact_projectors(*matrices, 3, 4)
    features = (
        encoder.image_projector.lift(encoder.image_preprojection(images(name))),
        encoder.text_projector.lift(encoder.text_preprojection(tokens())),
    )
    for side in (0, 1):
        wide, short = features[side] @ trimmed[side].T, features[side] @ compact[side].T
        assert short.shape[1] < wide.shape[1]
        torch.testing.assert_close(cosines(short), cosines(wide), atol=1e-5, rtol=0)
        assert (cosines(features[side] @ matrices[side].T) - cosines(wide)).abs().max() > 1e-3
    assert comparison_heads(encoder, "image", (3, 4))


@pytest.mark.parametrize("name", CONVERTIBLE)
@torch.no_grad()
def test_conversion_keeps_the_logits(name: str, tmp_path: Any) -> None:
    from transformers import CLIPModel

    model = make(name)
    open_clip_to_transformers(model).save_pretrained(tmp_path)
    converted = CLIPModel.from_pretrained(tmp_path)
    image, text = model.encode_image(images(name), normalize=True), model.encode_text(tokens(), normalize=True)
    expected = model.logit_scale.exp() * image @ text.T
    found = converted(pixel_values=images(name), input_ids=tokens()).logits_per_image
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    aligned = IsoCLIPModel.from_clip_pretrained(converted, image_band=(3, 4))
    aligned.save_stock(tmp_path / "stock", compact=True)


@pytest.mark.parametrize("name", REASONS)
def test_conversion_says_why_not(name: str) -> None:
    with pytest.raises(ClipAlignError, match=f"cannot become a transformers CLIPModel: {REASONS[name]}"):
        open_clip_to_transformers(make(name))


def test_conversion_names_other_differences() -> None:
    config = {**CONFIGS["openclip"], "text_cfg": {**TEXT, "no_causal_mask": True}}
    with pytest.raises(ClipAlignError, match="its text attention is not causal"):
        open_clip_to_transformers(open_clip.CLIP(**config))
    config = {**CONFIGS["openclip"], "vision_cfg": {**VIT, "ls_init_value": 0.1}}
    with pytest.raises(ClipAlignError, match="its layers scale their outputs"):
        open_clip_to_transformers(open_clip.CLIP(**config))


@torch.no_grad()
def test_open_clips_tokenizer_is_taken() -> None:
    config = {**CONFIGS["openclip"], "text_cfg": {**TEXT, "vocab_size": 49408}}
    model = open_clip.CLIP(**config).eval()
    encoder, tokenizer = as_dual_encoder(model), open_clip.SimpleTokenizer(context_length=16)
    texts = ["a photo of a cat", "an owl"]
    batch = tokenize(encoder, tokenizer, texts)
    assert torch.equal(batch["input_ids"], tokenizer(texts))
    assert torch.allclose(encoder.encode_text(**batch), model.encode_text(tokenizer(texts)), atol=1e-6)
    with pytest.raises(ClipAlignError, match=r"text 1 .* has 22 tokens, but the model reads 16"):
        tokenize(encoder, tokenizer, ["an owl", "cat " * 20])
    assert tokenize(encoder, tokenizer, ["cat " * 20], truncate=True)["input_ids"].shape == (1, 16)


def test_features_are_extracted_with_open_clips_transform(tmp_path: Any) -> None:
    from PIL import Image

    from hf_clipalign.backbones import OpenClipProcessor
    from hf_clipalign.data import open_source
    from hf_clipalign.features import extract_image_features, extract_text_features

    for index, colour in enumerate(("red", "green", "blue")):
        folder = tmp_path / colour
        folder.mkdir()
        Image.new("RGB", (40 + index, 30), colour).save(folder / "image.png")
    config = {**CONFIGS["openclip"], "text_cfg": {**TEXT, "vocab_size": 49408}}
    model = open_clip.CLIP(**config).eval()
    preprocess = open_clip.image_transform(32, is_train=False)
    processor = OpenClipProcessor(preprocess, open_clip.SimpleTokenizer(context_length=16))
    features = extract_image_features(model, open_source(str(tmp_path)), processor, progress=False)
    images = torch.stack([preprocess(Image.open(tmp_path / name)) for name in features.ids])
    with torch.no_grad():
        expected = model.encode_image(images)
        found = as_dual_encoder(model).project_image(features.values)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert extract_text_features(model, ["a cat", "owl"], processor, progress=False).values.shape == (2, 32)


def test_methods_that_need_transformers_say_so(tmp_path: Any) -> None:
    model = make("eva02")
    with pytest.raises(ClipAlignError, match=r"no transformers configuration.*open_clip_to_transformers"):
        IsoCLIPModel.from_clip_pretrained(model, image_band=(3, 4))
    with pytest.raises(ClipAlignError, match="convert it first"):
        as_dual_encoder(model).stock_tower("image", torch.zeros(3, 3))
    with pytest.raises(ClipAlignError, match="Transformer has no visual and no encode_text"):
        as_dual_encoder(model.text.transformer)


INVERTIBLE = [name for name in CONFIGS if name != "resnet"]


@pytest.mark.parametrize("name", INVERTIBLE)
def test_ovi_reads_pseudo_patches_in_the_place_of_patches(name: str) -> None:
    from hf_clipalign.inversion import ovi

    model = make(name)
    targets = torch.randn(3, as_dual_encoder(model).embed_dim, generator=torch.Generator().manual_seed(2))
    output = ovi(model, targets, n_tokens=3, steps=4, progress=False)
    assert output.losses[-1] < output.losses[0]
    with torch.no_grad():
        direct = model.encode_image(_image_of_patches(model, output.tokens, name))
    torch.testing.assert_close(output.features, direct, atol=1e-4, rtol=1e-4)


def _image_of_patches(model: Any, tokens: torch.Tensor, name: str) -> torch.Tensor:
    """Pixels that the model's own patch embedding makes these patches of (it has more inputs than outputs)."""
    convolution = getattr(model.visual, "conv1", None)
    if convolution is None:
        convolution = model.visual.trunk.patch_embed.proj
    patches = tokens[:, torch.arange(16) * 3 // 16]
    if convolution.bias is not None:
        patches = patches - convolution.bias
    pixels = patches @ torch.linalg.pinv(convolution.weight.flatten(1)).T
    return F.fold(pixels.transpose(1, 2), images(name).shape[-2:], kernel_size=8, stride=8)


def test_ovi_needs_patches() -> None:
    from hf_clipalign.inversion import ovi

    with pytest.raises(ClipAlignError, match="pseudo-patches cannot be learned for this CLIP"):
        ovi(make("resnet"), torch.randn(2, 24), n_tokens=1, steps=1)


@pytest.mark.parametrize("custom", [False, True])
def test_oti_reads_pseudo_tokens_in_the_place_of_words(custom: bool) -> None:
    from hf_clipalign.inversion import oti

    torch.manual_seed(0)
    config = {**CONFIGS["openclip"], "text_cfg": {**TEXT, "vocab_size": 49408}}
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config).eval()
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    output = oti(model, torch.randn(3, 24), processor=tokenizer, n_tokens=2, steps=4, progress=False)
    assert output.losses[-1] < output.losses[0]
    ids = tokenizer(["a photo of cat cat"] * 3)
    table = (model.text if custom else model).token_embedding
    with torch.no_grad():
        embedded = table(ids)
        embedded[:, 4:6] = output.tokens
        handle = table.register_forward_hook(lambda module, args, out: embedded)
        direct = model.encode_text(ids)
        handle.remove()
    torch.testing.assert_close(output.features, direct, atol=1e-5, rtol=1e-5)
    with pytest.raises(ClipAlignError, match=r"with 20 pseudo-tokens has 25 tokens, but the model reads 16"):
        oti(model, torch.randn(3, 24), processor=tokenizer, n_tokens=20)


def test_oti_of_a_language_model_does_not_depend_on_batch_mates() -> None:
    from hf_clipalign.inversion import oti

    model = make("biomedclip")
    processor = _WordTokenizer()
    targets = torch.randn(3, 24, generator=torch.Generator().manual_seed(3))
    together = oti(model, targets, processor=processor, steps=3, progress=False)
    alone = oti(model, targets[1:2], processor=processor, steps=3, ids=[1], progress=False)
    assert together.losses[-1] < together.losses[0]
    torch.testing.assert_close(together.features[1:2], alone.features, atol=1e-5, rtol=1e-4)


class _WordTokenizer:
    """Words as numbers from 5 on, between 2 and 3, padded with 0 to 16, as open_clip's tokenizers are called."""

    context_length = 16

    def encode(self, text: str) -> list[int]:
        return [5 + sum(map(ord, word)) % 90 for word in text.split()]

    def __call__(self, texts: list[str], context_length: int = 16) -> torch.Tensor:
        rows = [[2, *self.encode(text), 3][:context_length] for text in texts]
        return torch.tensor([row + [0] * (context_length - len(row)) for row in rows])


_WordTokenizer.__module__ = "open_clip.tests"
