"""What the linear stand-in of SigLIP's image head costs, and that the exact head stays at hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder, image_projection_error, projection_error
from hf_clipalign.backbones.siglip import SiglipEncoder
from hf_clipalign.evaluation import comparison_heads
from tests.tiny_models import ALL_MAKERS, tiny_pixel_values

SIGLIP = ("siglip", "siglip2")


@pytest.mark.parametrize("family", SIGLIP)
def test_the_error_is_what_the_features_say(family: str) -> None:
    model = ALL_MAKERS[family]()
    encoder, inputs = as_dual_encoder(model), tiny_pixel_values(6, family)
    error = image_projection_error(encoder, **inputs)
    with torch.no_grad():
        exact = model.get_image_features(**inputs).pooler_output
        linear = encoder.image_projector.lift(encoder.image_preprojection(**inputs)) @ encoder.image_projector.matrix.T
    relative = (linear - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert error.relative == pytest.approx(relative.mean().item(), rel=1e-4)
    assert error.worst == pytest.approx(relative.max().item(), rel=1e-4)
    assert error.cosine == pytest.approx(F.cosine_similarity(linear, exact, dim=-1).mean().item(), rel=1e-4)
    assert error.relative > 0.01
    stored = encoder.image_projector.lift(encoder.image_preprojection(**inputs))
    assert projection_error(encoder, stored).relative == pytest.approx(error.relative, rel=1e-4)


@pytest.mark.parametrize("family", [family for family in ALL_MAKERS if family not in SIGLIP])
def test_linear_heads_have_no_error(family: str) -> None:
    error = image_projection_error(as_dual_encoder(ALL_MAKERS[family]()), **tiny_pixel_values(4))
    assert error.worst < 1e-6
    assert error.cosine == pytest.approx(1.0, abs=1e-6)


@torch.no_grad()
def test_a_small_mlp_is_nearly_linear_to_first_order() -> None:
    """With small inner weights and no reliance on the division, the approximation must become good."""
    model = ALL_MAKERS["siglip"]()
    head = model.vision_model.head
    head.layernorm.weight.mul_(1e-3)
    head.layernorm.bias.mul_(1e-3)
    head.mlp.fc1.bias.mul_(1e-3)
    assert image_projection_error(as_dual_encoder(model), **tiny_pixel_values(6, "siglip")).worst < 1e-2


def test_raw_head_is_exact_and_linearised_shows_the_difference() -> None:
    model = ALL_MAKERS["siglip"]()
    encoder, inputs = as_dual_encoder(model), tiny_pixel_values(6, "siglip")
    with torch.no_grad():
        features = encoder.image_projector.lift(encoder.image_preprojection(**inputs))
        exact = F.normalize(model.get_image_features(**inputs).pooler_output, dim=-1)
    heads = {head.name: head for head in comparison_heads(encoder, "image", (3, 4), torch.randn(40, 32))}
    assert torch.allclose(heads["raw"].embed(features, features)[0], exact, atol=1e-6)
    assert (heads["linearised"].embed(features, features)[0] - exact).abs().max() > 1e-3
    assert heads["raw"].width(features) == heads["linearised"].width(features) == 32
    centred = heads["centred"].embed(features, features)[0]
    raw = model.get_image_features(**inputs).pooler_output.detach()
    assert torch.allclose(centred, F.normalize(raw - raw.mean(0), dim=-1), atol=1e-5)
    assert heads["text-pca"].embed(features, features)[0].shape == (6, 16)


def test_linearised_is_only_for_heads_that_are_not_linear() -> None:
    with pytest.raises(ClipAlignError, match="'linearised' needs images, and a model whose image head is not linear"):
        comparison_heads(as_dual_encoder(ALL_MAKERS["clip"]()), "image", names=["linearised"])
    with pytest.raises(ClipAlignError, match="'linearised' needs images"):
        comparison_heads(as_dual_encoder(ALL_MAKERS["siglip"]()), "text", names=["linearised"])


def test_reference_layout_transposes_both_projectors() -> None:
    model = ALL_MAKERS["siglip"]()
    usual, reference = SiglipEncoder(model), SiglipEncoder(model, layout="reference")
    for name in ("image_projector", "text_projector"):
        assert torch.equal(getattr(reference, name).weight, getattr(usual, name).weight.T)
        assert torch.equal(getattr(reference, name).bias, getattr(usual, name).bias)
    inputs = tiny_pixel_values(2, "siglip")
    assert torch.equal(reference.encode_image(**inputs), usual.encode_image(**inputs))
    with pytest.raises(ClipAlignError, match="unknown layout"):
        SiglipEncoder(model, layout="authors")  # type: ignore[arg-type]
