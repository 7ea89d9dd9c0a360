"""The view of CLIP and MetaCLIP 2."""

import pytest
import torch
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPVisionModel

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import Projector, as_dual_encoder, supported_model_types, tokenize
from tests.tiny_models import tiny_clip, tiny_metaclip2, tiny_pixel_values, tiny_tokenizer

MAKERS = {"clip": tiny_clip, "metaclip_2": tiny_metaclip2}
TEXTS = ["a photo of a cat", "owl", "the big red boat on the old bridge"]


@pytest.fixture(params=MAKERS)
def family(request):
    return request.param


def padded_ids(family):
    ids = tiny_tokenizer(family)(TEXTS, padding="max_length", max_length=77, return_tensors="pt")
    return ids["input_ids"], ids["attention_mask"]


def test_sizes(family):
    encoder = as_dual_encoder(MAKERS[family]())
    assert (encoder.embed_dim, encoder.vision_dim, encoder.text_dim) == (24, 48, 32)
    assert (encoder.image_size, encoder.max_text_length, encoder.causal_text) == (32, 77, True)
    assert encoder.logit_scale.item() == pytest.approx(torch.tensor(3.0).exp().item())
    assert encoder.logit_bias is None
    assert "embed_dim=24" in repr(encoder)


@torch.no_grad()
def test_preprojection_and_projector_give_the_stock_features(family):
    model = MAKERS[family]()
    encoder = as_dual_encoder(model)
    ids, mask = padded_ids(family)
    pixel_values = tiny_pixel_values(3)["pixel_values"]
    image = encoder.image_preprojection(pixel_values) @ encoder.image_projector.weight.T
    torch.testing.assert_close(image, model.get_image_features(pixel_values).pooler_output, atol=1e-6, rtol=1e-6)
    stock = model.get_text_features(ids, attention_mask=mask).pooler_output
    for text in (encoder.encode_text(ids), encoder.encode_text(ids, mask)):
        torch.testing.assert_close(text, stock, atol=1e-5, rtol=1e-5)
    assert encoder.encode_image(pixel_values, normalize=True).norm(dim=1).tolist() == pytest.approx([1, 1, 1])


@torch.no_grad()
def test_text_is_cut_after_the_last_end_token(family):
    model = MAKERS[family]()
    encoder = as_dual_encoder(model)
    lengths = []
    hook = model.text_model.embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    ids, _ = padded_ids(family)
    encoder.text_preprojection(ids)
    hook.remove()
    assert lengths == [int(encoder.end_positions(ids).max()) + 1]
    assert lengths[0] < 77


@torch.no_grad()
def test_a_checkpoint_with_the_legacy_end_token_pools_at_the_largest_id():
    model = tiny_clip(eos_token_id=2)
    ids, _ = padded_ids("clip")
    encoder = as_dual_encoder(model)
    stock = model.get_text_features(ids).pooler_output
    torch.testing.assert_close(encoder.encode_text(ids), stock, atol=1e-5, rtol=1e-5)


def test_a_view_is_returned_as_it_is():
    encoder = as_dual_encoder(tiny_clip())
    assert as_dual_encoder(encoder) is encoder


def test_a_peft_model_is_unwrapped():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_clip(), LoraConfig(target_modules=["q_proj"]))
    assert as_dual_encoder(model).model is model.get_base_model()


@pytest.mark.parametrize("modality", ["image", "text"])
@torch.no_grad()
def test_the_stock_tower_takes_another_projector(family, modality):
    encoder = as_dual_encoder(MAKERS[family]())
    weight = torch.randn(5, encoder.projector(modality).weight.shape[1])
    stock = encoder.stock_tower(modality, weight)
    assert stock.config.projection_dim == 5
    if modality == "image":
        argument = tiny_pixel_values(3)["pixel_values"]
        ours, theirs = encoder.image_preprojection(argument), stock(argument).image_embeds
    else:
        argument = padded_ids(family)[0]
        ours, theirs = encoder.text_preprojection(argument), stock(argument).text_embeds
    torch.testing.assert_close(theirs, ours @ weight.T, atol=1e-5, rtol=1e-5)


def test_a_bias_is_a_column_for_a_constant_one():
    weight, bias, features = torch.randn(3, 4), torch.randn(3), torch.randn(5, 4)
    with_bias, without = Projector(weight, bias), Projector(weight)
    assert torch.equal(without.matrix, weight)
    assert without.lift(features) is features
    torch.testing.assert_close(with_bias.lift(features) @ with_bias.matrix.T, features @ weight.T + bias)


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), "openai/clip", None])
def test_what_is_no_model_is_an_error(thing):
    with pytest.raises(ClipAlignError, match=r"is not a two-tower CLIP-like model.*register_backbone"):
        as_dual_encoder(thing)


def test_one_tower_is_an_error():
    model = tiny_clip()
    for tower in (CLIPVisionModel(model.config.vision_config), CLIPTextModelWithProjection(model.config.text_config)):
        with pytest.raises(ClipAlignError, match="load the full model"):
            as_dual_encoder(tower)


def test_the_families_are_listed():
    assert {"clip", "metaclip_2"} <= set(supported_model_types())


def test_tokenize_pads_to_the_longest(family):
    encoder = as_dual_encoder(MAKERS[family]())
    batch = tokenize(encoder, tiny_tokenizer(family), TEXTS)
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["input_ids"].shape[1] == int(encoder.end_positions(batch["input_ids"]).max()) + 1


def test_a_text_over_the_context_length_is_named_or_cut(family):
    encoder = as_dual_encoder(MAKERS[family]())
    texts = ["owl", "cat " * 90]
    with pytest.raises(ClipAlignError, match=r"text 1 \('cat cat.*92 tokens.*reads 77.*truncate=True"):
        tokenize(encoder, tiny_tokenizer(family), texts)
    assert tokenize(encoder, tiny_tokenizer(family), texts, truncate=True)["input_ids"].shape == (2, 77)
