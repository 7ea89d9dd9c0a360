"""Packed rows give the features and gradients of one padded row per prompt."""

from __future__ import annotations

import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder, encode_prompts, encode_texts, pack_prompts
from tests.tiny_models import tiny_clip, tiny_clipseg, tiny_metaclip2, tiny_siglip, tiny_tokenizer

NAMES = ["cat", "red fox", "dog", "zebra", "old tree house", "owl", "big blue bird", "car", "apple tree", "horse"]
MAKERS = {"clip": tiny_clip, "metaclip_2": tiny_metaclip2}


def prompts(family: str, names: list[str] | None = None, template: str = "a photo of a {}.") -> torch.Tensor:
    texts = [template.format(name) for name in names or NAMES]
    return tiny_tokenizer(family)(texts, padding="max_length", return_tensors="pt")["input_ids"]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("strategy", ["packed", "cut", "full"])
@pytest.mark.parametrize("family", MAKERS)
def test_features_equal_the_stock_tower(family: str, strategy: str, attention: str) -> None:
    model = MAKERS[family]()
    model.set_attn_implementation(attention)
    encoder, input_ids = as_dual_encoder(model), prompts(family)
    plan = pack_prompts(encoder, input_ids, strategy=strategy)
    assert plan.strategy == strategy
    expected = model.text_model(input_ids=input_ids).pooler_output
    assert relative_error(encode_prompts(encoder, plan), expected) < 1e-5


def test_features_equal_with_the_legacy_end_token() -> None:
    model = tiny_clip(eos_token_id=2)
    expected = model.text_model(input_ids=prompts("clip")).pooler_output
    assert expected.std(dim=0).min() > 0
    encoder = as_dual_encoder(model)
    assert relative_error(encode_prompts(encoder, pack_prompts(encoder, prompts("clip"))), expected) < 1e-5


def test_gradient_to_a_shared_context_equals_the_padded_pass() -> None:
    model = tiny_clip().requires_grad_(False)
    encoder, input_ids = as_dual_encoder(model), prompts("clip")
    context = torch.randn(4, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)

    def put_context(module: torch.nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, :1], context.expand(len(output), -1, -1), output[:, 5:]], dim=1)

    handle = model.text_model.embeddings.token_embedding.register_forward_hook(put_context)
    weights = torch.randn(len(NAMES), 32, generator=torch.Generator().manual_seed(2))
    gradients = []
    for strategy in ("full", "packed"):
        plan = pack_prompts(encoder, input_ids, shared_prefix=5, strategy=strategy)
        (encode_prompts(encoder, plan) * weights).sum().backward()
        gradients.append(context.grad.clone())
        context.grad = None
    handle.remove()
    assert relative_error(gradients[1], gradients[0]) < 1e-5


def test_rows_hold_every_prompt_once_and_share_the_prefix() -> None:
    plan = pack_prompts(as_dual_encoder(tiny_clip()), prompts("clip"), strategy="packed")
    assert plan.prefix_length == 5
    assert plan.n_tokens < len(NAMES) * 77 / 8
    assert plan.input_ids.shape[1] <= 77
    for index in range(len(plan)):
        row, end = plan.rows[index], plan.columns[index]
        own = plan.input_ids[row, end + 1 - (plan.lengths[index] - plan.prefix_length) : end + 1]
        assert own.tolist() == plan.prompts[index, plan.prefix_length : plan.lengths[index]].tolist()


def test_several_rows_are_balanced() -> None:
    plan = pack_prompts(as_dual_encoder(tiny_clip()), prompts("clip", ["cat"] * 30 + ["dog"] * 30), strategy="packed")
    assert plan.input_ids.shape[0] == 3
    assert plan.input_ids.shape[1] == 5 + 20 * 3


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_blocks_of_rows_give_the_same_features(batch_tokens: int) -> None:
    encoder = as_dual_encoder(tiny_clip())
    plan = pack_prompts(encoder, prompts("clip", NAMES * 12), strategy="packed")
    assert len(plan.input_ids) > 3
    with torch.no_grad():
        whole = encode_prompts(encoder, plan, batch_tokens=10**9)
        assert torch.allclose(encode_prompts(encoder, plan, batch_tokens=batch_tokens), whole, atol=1e-5)


def test_select_is_a_plan_of_the_chosen_prompts() -> None:
    encoder = as_dual_encoder(tiny_clip())
    plan = pack_prompts(encoder, prompts("clip"))
    chosen = plan.select(torch.tensor([7, 2, 4])).select([2, 0])
    assert chosen.indices.tolist() == [4, 7]
    assert chosen.n_tokens < plan.n_tokens
    assert torch.allclose(encode_prompts(encoder, chosen), encode_prompts(encoder, plan)[[4, 7]], atol=1e-5)


def test_repeat_stacks_copies() -> None:
    encoder = as_dual_encoder(tiny_clip())
    plan = pack_prompts(encoder, prompts("clip"))
    once, twice = encode_prompts(encoder, plan), encode_prompts(encoder, plan.repeat(2))
    assert torch.allclose(twice, torch.cat([once, once]), atol=1e-5)


def test_the_choice_follows_the_lengths() -> None:
    encoder = as_dual_encoder(tiny_clip())
    assert pack_prompts(encoder, prompts("clip")).strategy == "packed"
    assert pack_prompts(encoder, prompts("clip", ["cat"])).strategy == "cut"
    two_long = [f"{start} " + "cat dog " * 30 for start in ("red", "blue")]
    assert pack_prompts(encoder, prompts("clip", two_long)).strategy == "cut"


def test_prompts_without_a_common_word_are_packed_too() -> None:
    encoder, texts = as_dual_encoder(tiny_clip()), ["cat", "a red fox", "the old house"] * 9
    input_ids = prompts("clip", texts, "{}")
    plan = pack_prompts(encoder, input_ids)
    assert (plan.strategy, plan.prefix_length) == ("packed", 1)
    expected = encoder.model.text_model(input_ids=input_ids).pooler_output
    assert relative_error(encode_prompts(encoder, plan), expected) < 1e-5


def test_bfloat16() -> None:
    model = tiny_clip().to(torch.bfloat16)
    encoder, input_ids = as_dual_encoder(model), prompts("clip")
    found = encode_prompts(encoder, pack_prompts(encoder, input_ids, strategy="packed"))
    assert found.dtype == torch.bfloat16
    assert relative_error(found.float(), model.text_model(input_ids=input_ids).pooler_output.float()) < 0.05


def test_encode_texts_equals_the_model() -> None:
    model = tiny_clip()
    texts = [f"a photo of a {name}." for name in NAMES]
    found = encode_texts(model, texts, tiny_tokenizer())
    expected = torch.nn.functional.normalize(model.get_text_features(prompts("clip")).pooler_output, dim=-1)
    assert torch.allclose(found, expected, atol=1e-5)
    assert encode_texts(model, [], tiny_tokenizer()).shape == (0, 24)


def test_flash_attention_is_cut_and_never_packed() -> None:
    encoder = as_dual_encoder(tiny_clip())
    encoder.config.text_config._attn_implementation_internal = "flash_attention_2"
    assert pack_prompts(encoder, prompts("clip")).strategy == "cut"
    with pytest.raises(ClipAlignError, match="cut and full"):
        pack_prompts(encoder, prompts("clip"), strategy="packed")


def test_a_tower_that_lays_over_its_causal_mask_is_cut_and_never_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = as_dual_encoder(tiny_clip())

    def forward(inputs_embeds: object, attention_mask: object = None, causal_attention_mask: object = None) -> None:
        """As in CLIPSeg of transformers 5.0."""

    monkeypatch.setattr(encoder.model.text_model.encoder, "forward", forward)
    assert pack_prompts(encoder, prompts("clip")).strategy == "cut"
    with pytest.raises(ClipAlignError, match="cut and full"):
        pack_prompts(encoder, prompts("clip"), strategy="packed")


def test_clipseg_reads_prompts_as_its_release_of_transformers_can() -> None:
    encoder = as_dual_encoder(tiny_clipseg())
    expected = encoder.model.text_model(input_ids=prompts("clip")).pooler_output
    assert relative_error(encode_prompts(encoder, pack_prompts(encoder, prompts("clip"))), expected) < 1e-5


def test_a_tower_that_looks_both_ways_reads_the_full_length() -> None:
    encoder, input_ids = as_dual_encoder(tiny_siglip()), prompts("siglip")
    assert encoder.prompt_strategies == ("full",)
    plan = pack_prompts(encoder, input_ids)
    assert (plan.strategy, plan.input_ids.shape) == ("full", (len(NAMES), 64))
    expected = encoder.model.get_text_features(input_ids).pooler_output
    found = encoder.model.text_model.head(encode_prompts(encoder, plan))
    assert torch.allclose(found, expected, atol=1e-5)
    with pytest.raises(ClipAlignError, match="strategy='auto'"):
        pack_prompts(encoder, input_ids, strategy="packed")
    with pytest.raises(ClipAlignError, match="padded to 64"):
        pack_prompts(encoder, input_ids[:, :12])


def test_prompts_that_do_not_share_the_context_are_named() -> None:
    input_ids = torch.cat([prompts("clip", ["cat"]), prompts("clip", ["cat"], "the photo of a {}.")])
    with pytest.raises(ClipAlignError, match="prompt 1 does not begin"):
        pack_prompts(as_dual_encoder(tiny_clip()), input_ids, shared_prefix=5)


def test_bad_shapes_are_refused() -> None:
    encoder = as_dual_encoder(tiny_clip())
    with pytest.raises(ClipAlignError, match="C > 0"):
        pack_prompts(encoder, torch.zeros(0, 5, dtype=torch.long))
    with pytest.raises(ClipAlignError, match="the model reads 77"):
        pack_prompts(encoder, torch.zeros(2, 80, dtype=torch.long))
