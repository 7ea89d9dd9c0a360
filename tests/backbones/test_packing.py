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


@pytest.mark.parametrize("names", [["cat"], ["cat"] * 3, ["cat"] * 40, ["cat", "cat", "dog"], ["red", "red fox"]])
def test_each_prompt_keeps_its_end_token_to_itself(names: list[str]) -> None:
    encoder, input_ids = as_dual_encoder(tiny_clip()), prompts("clip", names)
    plan = pack_prompts(encoder, input_ids, strategy="packed")
    lengths = encoder.end_positions(input_ids) + 1
    shared = 6 if names[0] == "red" else int(lengths.min()) - 1 if len(set(names)) == 1 else 5
    assert plan.prefix_length == shared
    assert plan.lengths.tolist() == lengths.tolist()
    assert len({(int(row), int(column)) for row, column in zip(plan.rows, plan.columns, strict=True)}) == len(names)
    expected = encoder.model.text_model(input_ids=input_ids).pooler_output
    assert relative_error(encode_prompts(encoder, plan), expected) < 1e-5


def test_the_plan_of_a_few_prompts_in_full() -> None:
    encoder, input_ids = as_dual_encoder(tiny_clip()), prompts("clip", ["cat", "red fox", "dog"])
    plan = pack_prompts(encoder, input_ids, strategy="packed")
    assert (plan.prefix_length, plan.input_ids.shape) == (5, (1, 15))
    assert plan.rows.tolist() == [0, 0, 0]
    assert plan.columns.tolist() == [7, 11, 14]
    assert plan.segments is not None
    assert plan.segments[0].tolist() == [0] * 5 + [1] * 3 + [2] * 4 + [3] * 3
    assert plan.position_ids is not None
    assert plan.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8, 5, 6, 7]
    mask = plan.attention_mask(slice(None), torch.float32)
    assert mask is not None
    assert mask.shape == (1, 1, 15, 15)
    open_to = [[column for column in range(15) if mask[0, 0, row, column] == 0] for row in (2, 6, 8, 14)]
    assert open_to == [[0, 1, 2], [*range(5), 5, 6], [*range(5), 8], [*range(5), 12, 13, 14]]


def test_short_ids_are_padded_to_the_length_that_a_strategy_needs() -> None:
    encoder, padded = as_dual_encoder(tiny_clip()), prompts("clip")
    short = padded[:, : int(encoder.end_positions(padded).max()) + 1]
    expected = encoder.model.text_model(input_ids=padded).pooler_output
    for strategy, length in (("full", 77), ("cut", short.shape[1])):
        plan = pack_prompts(encoder, short, strategy=strategy)  # type: ignore[arg-type]
        assert plan.input_ids.shape == (len(NAMES), length)
        assert relative_error(encode_prompts(encoder, plan), expected) < 1e-5


def test_what_follows_the_end_token_is_ignored() -> None:
    encoder, input_ids = as_dual_encoder(tiny_clip()), prompts("clip")
    ends = encoder.end_positions(input_ids)
    noisy = torch.where(torch.arange(77) > ends[:, None], 7, input_ids)
    for strategy in ("packed", "cut", "full"):
        found = encode_prompts(encoder, pack_prompts(encoder, noisy, strategy=strategy))  # type: ignore[arg-type]
        expected = encoder.model.text_model(input_ids=input_ids).pooler_output
        assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("strategy", ["packed", "cut", "full"])
def test_selections_and_copies_keep_their_strategy(strategy: str) -> None:
    encoder = as_dual_encoder(tiny_clip())
    plan = pack_prompts(encoder, prompts("clip", NAMES * 9), strategy=strategy)  # type: ignore[arg-type]
    chosen = plan.select(torch.arange(40, 2, -3))
    assert (chosen.strategy, chosen.indices.tolist()) == (strategy, list(range(40, 2, -3)))
    whole = encode_prompts(encoder, plan)
    assert torch.allclose(encode_prompts(encoder, chosen.repeat(3)), whole[chosen.indices].repeat(3, 1), atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(encode_prompts(encoder, plan), whole, atol=1e-5)


def test_a_shared_prefix_is_asked_of_every_strategy_that_shares() -> None:
    encoder = as_dual_encoder(tiny_clip())
    assert pack_prompts(encoder, prompts("clip"), shared_prefix=5, strategy="packed").prefix_length == 5
    for strategy in ("packed", "cut", "auto"):
        with pytest.raises(ClipAlignError, match="does not begin with the same 6 tokens"):
            pack_prompts(encoder, prompts("clip"), shared_prefix=6, strategy=strategy)  # type: ignore[arg-type]


def test_features_are_of_unit_length_only_if_asked_for() -> None:
    for family, model in (("clip", tiny_clip()), ("siglip", tiny_siglip())):
        texts = [f"a photo of a {name}." for name in NAMES]
        unit = encode_texts(model, texts, tiny_tokenizer(family))
        raw = encode_texts(model, texts, tiny_tokenizer(family), normalize=False)
        assert torch.allclose(unit.norm(dim=-1), torch.ones(len(texts)), atol=1e-5)
        assert torch.allclose(raw / raw.norm(dim=-1, keepdim=True), unit, atol=1e-5)
        assert (raw.norm(dim=-1) - 1).abs().min() > 1e-3


def test_many_texts_of_a_bidirectional_tower_are_read_in_blocks() -> None:
    texts = [f"a {name}" for name in NAMES] * 30
    found = encode_texts(tiny_siglip(), texts, tiny_tokenizer("siglip"))
    assert torch.allclose(found, encode_texts(tiny_siglip(), texts[:10], tiny_tokenizer("siglip")).repeat(30, 1))


def test_long_texts_are_cut_only_if_asked_for() -> None:
    with pytest.raises(ClipAlignError, match=r"text 1 .* tokens, but the model reads 77"):
        encode_texts(tiny_clip(), ["a cat", "cat " * 90], tiny_tokenizer())
    assert encode_texts(tiny_clip(), ["a cat", "cat " * 90], tiny_tokenizer(), truncate=True).shape == (2, 24)


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


def test_a_pass_of_the_tower_takes_no_more_tokens_than_asked_for() -> None:
    encoder = as_dual_encoder(tiny_clip())
    plan = pack_prompts(encoder, prompts("clip", NAMES * 12), strategy="packed")
    n_rows, length = plan.input_ids.shape
    assert n_rows > 3
    passes: list[int] = []
    layer = encoder.model.text_model.encoder.layers[0].mlp.fc1
    layer.register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    for batch_tokens, rows in ((1, 1), (2 * length, 2)):
        passes.clear()
        with torch.no_grad():
            encode_prompts(encoder, plan, batch_tokens=batch_tokens)
        assert max(passes) == rows
        assert sum(passes) == n_rows


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
