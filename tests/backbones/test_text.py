"""Texts reach the tower as it reads them, whatever the tokenizer prefers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from hf_clipalign import ClipAlignError, IsoCLIPModel
from hf_clipalign.backbones import as_dual_encoder, encode_texts, pack_prompts, tokenize
from hf_clipalign.features import extract_text_features
from hf_clipalign.tuners import build_prompts
from tests.tiny_models import ALL_MAKERS, tiny_clip, tiny_tokenizer, tokenizer_of, vocab_size

TEXTS = ["a cat", "a photo of an old tree in the red house", "dog"]


def on_the_left(family: str) -> Any:
    tokenizer = copy.deepcopy(tokenizer_of(family))
    tokenizer.padding_side = "left"
    return tokenizer


@pytest.mark.parametrize("family", ALL_MAKERS)
def test_a_tokenizer_that_pads_on_the_left_gives_the_same_features(family: str) -> None:
    encoder = as_dual_encoder(ALL_MAKERS[family]())
    expected = encode_texts(encoder, TEXTS, tokenizer_of(family))
    assert torch.allclose(encode_texts(encoder, TEXTS, on_the_left(family)), expected, atol=1e-6)
    alone = torch.cat([encode_texts(encoder, [text], tokenizer_of(family)) for text in TEXTS])
    assert torch.allclose(expected, alone, atol=1e-5)
    found = extract_text_features(encoder, TEXTS, on_the_left(family), progress=False).values
    assert torch.equal(found, extract_text_features(encoder, TEXTS, tokenizer_of(family), progress=False).values)


@pytest.mark.parametrize("family", [name for name in ALL_MAKERS if not name.startswith("siglip")])
def test_ids_padded_on_the_left_are_read_by_their_mask(family: str) -> None:
    encoder = as_dual_encoder(ALL_MAKERS[family]())
    expected = encode_texts(encoder, TEXTS, tokenizer_of(family))
    batch = on_the_left(family)(TEXTS, padding=True, return_tensors="pt")
    assert not batch["attention_mask"][:, 0].all()
    found = encoder.encode_text(batch["input_ids"], batch["attention_mask"], normalize=True)
    assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_an_aligned_model_reads_ids_padded_on_the_left_by_their_mask() -> None:
    model = IsoCLIPModel.from_clip_pretrained(tiny_clip(), text_band=(1, 2))
    right = tokenizer_of("clip")(TEXTS, padding=True, return_tensors="pt")
    left = on_the_left("clip")(TEXTS, padding=True, return_tensors="pt")
    expected = model.get_text_features(**right).pooler_output
    assert torch.allclose(model.get_text_features(**left).pooler_output, expected, atol=1e-5)
    with pytest.raises(ClipAlignError, match="text 0 begins with the end token"):
        model.get_text_features(left["input_ids"])


@pytest.mark.parametrize("legacy", [True, False])
def test_ids_padded_on_the_left_without_a_mask_are_refused(legacy: bool) -> None:
    encoder = as_dual_encoder(tiny_clip(eos_token_id=2) if legacy else tiny_clip())
    ids = on_the_left("clip")(TEXTS, padding=True, return_tensors="pt")["input_ids"]
    for read in (encoder.encode_text, lambda ids: pack_prompts(encoder, ids)):
        with pytest.raises(ClipAlignError, match="text 0 begins with the end token"):
            read(ids)
    ids[0] = ids[1]
    with pytest.raises(ClipAlignError, match="text 2 begins with the end token"):
        encoder.encode_text(ids)


def grown(eos_token_id: int) -> tuple[Any, Any]:
    """A tiny CLIP whose vocabulary has two words more, behind the end token."""
    model, tokenizer = tiny_clip(eos_token_id=eos_token_id), copy.deepcopy(tiny_tokenizer("clip"))
    tokenizer.add_tokens(["<one>", "<two>"])
    old = model.text_model.embeddings.token_embedding
    grown_embedding = torch.nn.Embedding(len(tokenizer), old.embedding_dim)
    with torch.no_grad():
        grown_embedding.weight[: old.num_embeddings] = old.weight
    model.text_model.embeddings.token_embedding = grown_embedding
    return model, tokenizer


def test_an_added_token_above_the_end_token_is_named_where_it_would_be_read() -> None:
    model, tokenizer = grown(eos_token_id=2)
    end = vocab_size("clip") - 1
    message = rf"'<two>' \(id {end + 2}\) lies above the end token \(id {end}\).*eos_token_id to {end}"
    for read in (
        lambda: encode_texts(model, ["a cat", "a <one> <two>"], tokenizer),
        lambda: extract_text_features(model, ["a cat", "a <one> <two>"], tokenizer, progress=False),
        lambda: build_prompts(model, tokenizer, ["cat", "<one> <two>"]),
    ):
        with pytest.raises(ClipAlignError, match=message):
            read()
    assert encode_texts(model, ["a cat"], tokenizer).shape == (1, 24)


def test_added_tokens_are_read_where_the_configuration_knows_the_end_token() -> None:
    model, tokenizer = grown(eos_token_id=vocab_size("clip") - 1)
    texts = ["a <two> cat", "a <two> dog"]
    found = encode_texts(model, texts, tokenizer)
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_single_string_is_not_taken_for_its_letters(family: str) -> None:
    encoder, tokenizer = as_dual_encoder(ALL_MAKERS[family]()), tokenizer_of(family)
    for read in (
        lambda: encode_texts(encoder, "cat", tokenizer),
        lambda: tokenize(encoder, tokenizer, "cat"),
    ):
        with pytest.raises(ClipAlignError, match="texts is a single string"):
            read()
    with pytest.raises(ClipAlignError, match="class_names is a single string"):
        build_prompts(encoder, tokenizer, "cat")


def test_arguments_in_another_order_are_told() -> None:
    with pytest.raises(ClipAlignError, match="give a list"):
        encode_texts(tiny_clip(), tiny_tokenizer(), TEXTS)
