"""RE-tune's adapters: their start, their sides, every family, and embeddings without towers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.nn import functional as F

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder, encode_texts, weights_hash
from hf_clipalign.tuners import EmbeddingSpace, RETuneConfig, adapt_image, adapt_text, load_without_towers
from tests.tiny_models import ALL_MAKERS, tiny_clip, tiny_model, tiny_pixel_values, tokenizer_of
from tests.tuners.methods import logits, prompted, prompts, stirred


def features(model: Any, family: str) -> tuple[torch.Tensor, torch.Tensor]:
    encoder = as_dual_encoder(model)
    with torch.no_grad():
        images = encoder.encode_image(**tiny_pixel_values(2, family))
        texts = encode_texts(encoder, ["a cat", "old house"], tokenizer_of(family), normalize=False)
    return images, texts


@pytest.mark.parametrize("family", ALL_MAKERS)
@pytest.mark.parametrize("sides", ["both", "shared", "image", "text"])
def test_every_family_and_side(family: str, sides: str) -> None:
    base = features(ALL_MAKERS[family]().requires_grad_(False), family)
    torch.manual_seed(0)
    model = get_peft_model(ALL_MAKERS[family](), RETuneConfig(sides=sides)).eval()
    found = features(model, family)
    for side, adapt, before, after in zip(("image", "text"), (adapt_image, adapt_text), base, found, strict=True):
        assert torch.allclose(adapt(model, before), after, atol=1e-5)
        changed = sides in ("both", "shared", side)
        assert torch.equal(before, after) != changed, side
    n_adapters = {"both": 2}.get(sides, 1)
    width = model.peft_config["default"].embed_dim
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == n_adapters * (4 * width**2 + 3 * width)


def test_shared_weights_are_the_same_map() -> None:
    model = get_peft_model(EmbeddingSpace(8), RETuneConfig(sides="shared"))
    embeds = torch.randn(3, 8)
    assert torch.equal(adapt_image(model, embeds), adapt_text(model, embeds))
    both = get_peft_model(EmbeddingSpace(8), RETuneConfig())
    assert not torch.equal(adapt_image(both, embeds), adapt_text(both, embeds))


@pytest.mark.parametrize("adapter", ["mlp", "linear"])
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_identity_start_is_exact(adapter: str, family: str) -> None:
    base = features(tiny_model(family).requires_grad_(False), family)
    model = get_peft_model(tiny_model(family), RETuneConfig(adapter=adapter, identity_start=True))
    for before, after in zip(base, features(model, family), strict=True):
        assert torch.equal(before, after)


def test_published_start_is_not_the_identity() -> None:
    model = get_peft_model(EmbeddingSpace(32), RETuneConfig())
    embeds = torch.randn(4, 32)
    assert F.cosine_similarity(adapt_image(model, embeds), embeds).abs().max() < 0.9


def test_the_map_is_the_papers() -> None:
    model = stirred(get_peft_model(EmbeddingSpace(6), RETuneConfig(sides="image")), seed=1)
    weights = {name.split("clip_retune_")[1]: p for name, p in model.named_parameters() if p.requires_grad}
    embeds = torch.randn(3, 6)
    hidden = (embeds @ weights["in.default.weight"].T + weights["in.default.bias"]).clamp(min=0)
    assert weights["in.default.weight"].shape == (12, 6)
    expected = hidden @ weights["out.default.weight"].T + weights["out.default.bias"]
    assert torch.allclose(adapt_image(model, embeds), expected, atol=1e-6)


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("sides", ["both", "shared"])
def test_without_towers(family: str, sides: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(family), RETuneConfig(sides=sides)).eval()
    model.save_pretrained(tmp_path)
    alone = load_without_towers(tmp_path)
    embeds = torch.randn(3, model.peft_config["default"].embed_dim)
    assert torch.allclose(adapt_image(alone, embeds), adapt_image(model, embeds), atol=1e-6)
    assert torch.allclose(adapt_text(alone, embeds), adapt_text(model, embeds), atol=1e-6)
    with alone.disable_adapter():
        assert torch.equal(adapt_text(alone, embeds), embeds)


def test_trained_on_embeddings_and_loaded_on_the_model(tmp_path: Path) -> None:
    alone = stirred(get_peft_model(EmbeddingSpace(24), RETuneConfig()), seed=3)
    alone.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_clip(), tmp_path).eval()
    embeds = torch.randn(3, 24)
    assert torch.allclose(adapt_image(loaded, embeds), adapt_image(alone, embeds), atol=1e-6)


def test_adapters_of_different_sides_beside_each_other() -> None:
    model = prompted("retune_shared", "clip", seed=1)
    expected = logits(model, "clip")
    torch.manual_seed(5)
    model.add_adapter("images", RETuneConfig(sides="image", adapter="linear"))
    model.set_adapter("images")
    assert not torch.allclose(logits(model, "clip"), expected, atol=1e-3)
    model.set_adapter("default")
    assert torch.allclose(logits(model, "clip"), expected, atol=1e-4)
    model.delete_adapter("default")
    assert model.active_adapter == "images"


def test_store_hash_sees_through_the_adapter_and_the_plain_one_does_not() -> None:
    bare = tiny_clip()
    before = weights_hash(bare)
    assert weights_hash(bare, before_projector=True) == before
    model = get_peft_model(bare, RETuneConfig()).get_base_model()
    assert weights_hash(model, before_projector=True) == before
    assert weights_hash(model) != before
    vpt = prompted("vpt_shallow", "clip").get_base_model()
    assert weights_hash(vpt, before_projector=True) != before
    model.visual_projection.base_layer.weight.data += 1
    assert weights_hash(model, before_projector=True) != before


def test_projections_can_leave_the_adapter_out() -> None:
    for family in ("clip", "siglip"):
        model = prompted("retune", family)
        encoder = as_dual_encoder(model)
        inputs = torch.randn(2, encoder.vision_dim), torch.randn(2, encoder.text_dim)
        plain = as_dual_encoder(tiny_model(family))
        for name, value in zip(("project_image", "project_text"), inputs, strict=True):
            found = getattr(encoder, name)(value, adapted=False)
            assert torch.allclose(found, getattr(plain, name)(value), atol=1e-5)
            assert not torch.allclose(found, getattr(encoder, name)(value), atol=1e-2)


def test_several_active_adapters_are_refused() -> None:
    model = prompted("retune", "clip")
    model.add_adapter("second", RETuneConfig())
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ClipAlignError, match="set_adapter"):
        model(input_ids=prompts("clip"), **tiny_pixel_values(1))


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match=r"adapter='conv'.*mlp, linear"):
        RETuneConfig(adapter="conv")
    with pytest.raises(ClipAlignError, match="sides='left'"):
        RETuneConfig(sides="left")
    model = get_peft_model(EmbeddingSpace(8), RETuneConfig())
    with pytest.raises(ClipAlignError, match=r"\[N, 8\]"):
        adapt_image(model, torch.ones(2, 9))
    with pytest.raises(ClipAlignError, match="no RE-tune adapter"):
        adapt_image(tiny_clip(), torch.ones(2, 24))
    model.save_pretrained(tmp_path / "eight")
    with pytest.raises(ClipAlignError, match="dimension 8, the model's has 24"):
        PeftModel.from_pretrained(tiny_clip(), tmp_path / "eight")
    prompted("vpt_shallow", "clip").save_pretrained(tmp_path / "vpt")
    with pytest.raises(ClipAlignError, match="CLIP_VPT"):
        load_without_towers(tmp_path / "vpt")
    with pytest.raises(ClipAlignError, match="none' holds no adapter"):
        load_without_towers(tmp_path / "none")


@pytest.mark.parametrize("adapt", [adapt_image, adapt_text])
def test_arrays_are_refused(adapt: Any) -> None:
    model = get_peft_model(EmbeddingSpace(4), RETuneConfig())
    with pytest.raises(ClipAlignError, match="embeds is of type ndarray: give a tensor"):
        adapt(model, torch.ones(2, 4).numpy())


@pytest.mark.parametrize("damage", [{"embed_dim": "x"}, {"image_head": 3}, {"peft_type": None}, {"adapter": []}])
def test_a_damaged_adapter_is_one_clear_error(damage: dict[str, Any], tmp_path: Path) -> None:
    get_peft_model(EmbeddingSpace(8), RETuneConfig()).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**content, **damage}))
    with pytest.raises(ClipAlignError, match=r"adapter|cannot be read"):
        load_without_towers(tmp_path)


def test_damaged_weights_of_an_adapter_are_one_clear_error(tmp_path: Path) -> None:
    get_peft_model(EmbeddingSpace(8), RETuneConfig()).save_pretrained(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ClipAlignError, match=r"cannot be read \(.*\): replace it"):
        load_without_towers(tmp_path)
