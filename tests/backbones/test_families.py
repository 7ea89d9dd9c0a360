"""Every family through its view: features before the projector, projectors, and the model's own features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder, encode_texts, register_backbone, supported_model_types, tokenize
from tests.tiny_models import ALL_MAKERS, tiny_pixel_values, tokenizer_of

TEXTS = ["a photo of a cat", "the red fox and the old house", "owl"]
SIGLIP = ("siglip", "siglip2")
BERT_LIKE = ("chinese_clip", "altclip", "vision_text")


def image_inputs(family: str, n: int = 5) -> dict[str, Tensor]:
    return tiny_pixel_values(n, family if family in SIGLIP else "clip")


def stock_image_features(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return model.get_image_features(**inputs).pooler_output


def stock_text_features(model: Any, batch: dict[str, Tensor]) -> Tensor:
    if model.config.model_type == "vision-text-dual-encoder":
        return model.text_projection(model.text_model(**batch).pooler_output)
    return model.get_text_features(**batch).pooler_output


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("family", ALL_MAKERS)
@torch.no_grad()
def test_image_features_are_the_models_own(family: str) -> None:
    model = ALL_MAKERS[family]()
    encoder, inputs = as_dual_encoder(model), image_inputs(family)
    expected = stock_image_features(model, inputs)
    assert expected.std(dim=0).mean() > 0.01
    features = encoder.image_preprojection(**inputs)
    assert features.shape == (5, encoder.vision_dim)
    assert relative_error(encoder.project_image(features), expected) < 1e-6
    assert relative_error(encoder.encode_image(**inputs), expected) < 1e-6
    if encoder.exact_image_projector:
        projector = encoder.image_projector
        assert relative_error(projector.lift(features) @ projector.matrix.T, expected) < 1e-6
    assert torch.allclose(encoder.encode_image(**inputs, normalize=True), F.normalize(expected, dim=-1), atol=1e-6)


@pytest.mark.parametrize("family", ALL_MAKERS)
@torch.no_grad()
def test_text_features_are_the_models_own(family: str) -> None:
    model, tokenizer = ALL_MAKERS[family](), tokenizer_of(family)
    encoder = as_dual_encoder(model)
    batch = tokenize(encoder, tokenizer, TEXTS)
    expected = stock_text_features(model, batch)
    assert expected.std(dim=0).mean() > 0.01
    features, projector = encoder.text_preprojection(**batch), encoder.text_projector
    assert features.shape == (3, encoder.text_dim)
    assert relative_error(projector.lift(features) @ projector.matrix.T, expected) < 1e-6
    assert relative_error(encoder.encode_text(**batch), expected) < 1e-6


@pytest.mark.parametrize("family", ALL_MAKERS)
@torch.no_grad()
def test_a_text_means_the_same_alone_and_in_a_batch(family: str) -> None:
    encoder, tokenizer = as_dual_encoder(ALL_MAKERS[family]()), tokenizer_of(family)
    together = encoder.encode_text(**tokenize(encoder, tokenizer, TEXTS))
    alone = torch.cat([encoder.encode_text(**tokenize(encoder, tokenizer, [text])) for text in TEXTS])
    assert relative_error(together, alone) < 1e-5


@pytest.mark.parametrize("family", ALL_MAKERS)
def test_padding_follows_the_family(family: str) -> None:
    encoder = as_dual_encoder(ALL_MAKERS[family]())
    batch = tokenize(encoder, tokenizer_of(family), TEXTS)
    longest = len(tokenizer_of(family)(TEXTS[1])["input_ids"])
    if family in SIGLIP:
        assert list(batch) == ["input_ids"]
        assert batch["input_ids"].shape == (3, 64)
    else:
        assert batch["input_ids"].shape == (3, longest)
        assert batch["attention_mask"].sum(1).tolist() != [longest] * 3
    assert encoder.causal_text == (family not in (*SIGLIP, *BERT_LIKE))


@pytest.mark.parametrize("family", ALL_MAKERS)
@torch.no_grad()
def test_many_texts_at_once_are_the_same(family: str) -> None:
    encoder, tokenizer = as_dual_encoder(ALL_MAKERS[family]()), tokenizer_of(family)
    texts = (TEXTS * 100)[:259]
    expected = encoder.encode_text(**tokenize(encoder, tokenizer, TEXTS), normalize=True)
    found = encode_texts(encoder, texts, tokenizer)
    assert torch.allclose(found, expected.repeat(100, 1)[:259], atol=1e-5)


@pytest.mark.parametrize("family", BERT_LIKE)
@torch.no_grad()
def test_the_mask_matters_for_bert_like_towers(family: str) -> None:
    encoder = as_dual_encoder(ALL_MAKERS[family]())
    batch = tokenize(encoder, tokenizer_of(family), TEXTS)
    without = encoder.encode_text(batch["input_ids"])
    assert relative_error(without, encoder.encode_text(**batch)) > 1e-3


@pytest.mark.parametrize("family", ALL_MAKERS)
def test_the_longest_text_goes_through_and_a_longer_one_does_not(family: str) -> None:
    encoder, tokenizer = as_dual_encoder(ALL_MAKERS[family]()), tokenizer_of(family)
    extra = len(tokenizer("cat")["input_ids"]) - 1
    longest = " ".join(["cat"] * (encoder.max_text_length - extra))
    with torch.no_grad():
        assert encoder.encode_text(**tokenize(encoder, tokenizer, [longest])).isfinite().all()
    with pytest.raises(ClipAlignError, match=f"the model reads {encoder.max_text_length}"):
        tokenize(encoder, tokenizer, [longest + " cat"])


@pytest.mark.parametrize("family", ALL_MAKERS)
def test_logits_follow_from_the_view(family: str) -> None:
    model, tokenizer = ALL_MAKERS[family](), tokenizer_of(family)
    encoder, inputs = as_dual_encoder(model), image_inputs(family)
    batch = tokenize(encoder, tokenizer, TEXTS)
    with torch.no_grad():
        image, text = encoder.encode_image(**inputs, normalize=True), encoder.encode_text(**batch, normalize=True)
        logits = encoder.logit_scale * image @ text.T + (0.0 if encoder.logit_bias is None else encoder.logit_bias)
        if family == "vision_text_clip":
            expected = encoder.logit_scale * image @ F.normalize(stock_text_features(model, batch), dim=-1).T
        else:
            expected = model(**inputs, **batch).logits_per_image
    assert torch.allclose(logits, expected, atol=1e-4)


def test_the_square_side_of_flexible_images_is_known() -> None:
    assert as_dual_encoder(ALL_MAKERS["siglip2"]()).image_size == 32


def test_an_image_tower_without_pooling_head_is_refused() -> None:
    from transformers import SiglipConfig, SiglipModel

    config = SiglipConfig(
        vision_config={**ALL_MAKERS["siglip"]().config.vision_config.to_dict(), "vision_use_head": False}
    )
    with torch.device("meta"), pytest.raises(ClipAlignError, match="no attention-pooling image head"):
        as_dual_encoder(SiglipModel(config))


def test_a_tower_without_pooler_is_refused() -> None:
    from transformers import DistilBertConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel, ViTConfig

    text = DistilBertConfig(vocab_size=48, dim=32, hidden_dim=64, n_layers=1, n_heads=2, max_position_embeddings=40)
    vision = ViTConfig(hidden_size=48, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=24)
    encoder = as_dual_encoder(VisionTextDualEncoderModel(config))
    with pytest.raises(ClipAlignError, match="text tower DistilBertModel gives no pooled feature"):
        encoder.text_preprojection(torch.ones(1, 5, dtype=torch.long))


def test_an_unknown_family_says_how_to_add_one() -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.raises(ClipAlignError, match=r"BertModel \(model_type 'bert'\).*siglip.*register_backbone"):
        as_dual_encoder(BertModel(config))
    with pytest.raises(ClipAlignError, match="Linear is not a two-tower"):
        as_dual_encoder(nn.Linear(2, 2))


def test_a_family_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_clipalign.backbones import registry
    from hf_clipalign.backbones.clip import CLIPEncoder

    monkeypatch.setattr(registry, "_VIEW_BY_MODEL_TYPE", dict(registry._VIEW_BY_MODEL_TYPE))
    view = register_backbone("my_clip")(type("MyEncoder", (CLIPEncoder,), {}))
    assert "my_clip" in supported_model_types()
    model = ALL_MAKERS["clip"]()
    model.config.model_type = "my_clip"
    assert type(as_dual_encoder(model)) is view
