"""The prompt that belongs to an adapter, and prompts that its context would overwrite."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.tuners import (
    CoCoOpConfig,
    CoOpConfig,
    MaPLeConfig,
    PromptSRCConfig,
    VPTConfig,
    adapter_template,
    build_prompts,
    chosen_template,
    class_text_features,
    nearest_words,
    own_template,
    plan_prompts,
)
from tests.tiny_models import (
    tiny_altclip,
    tiny_clip,
    tiny_metaclip2,
    tiny_model,
    tiny_pixel_values,
    tiny_siglip,
    tiny_tokenizer,
)

START, END = 632, 633
CONTEXTS = {"coop": CoOpConfig, "cocoop": CoCoOpConfig, "maple": MaPLeConfig, "promptsrc": PromptSRCConfig}
every_context = pytest.mark.parametrize("method", CONTEXTS)


def ids(text: str) -> list[int]:
    return tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]


def rows(texts: list[str], **padding: Any) -> torch.Tensor:
    return tiny_tokenizer()(texts, padding=True, return_tensors="pt", **padding)["input_ids"]


def ids_from(words: str, **options: Any) -> CoOpConfig:
    return CoOpConfig(n_ctx=len(ids(words)), ctx_init=words, ctx_init_ids=ids(words), **options)


@every_context
def test_a_random_context_stands_alone(method: str) -> None:
    model = get_peft_model(tiny_clip(), CONTEXTS[method](n_ctx=16))
    alone = [START, *[START] * 16, *ids("dog."), END]
    assert build_prompts(model, tiny_tokenizer(), ["dog"])[0].tolist() == alone
    assert build_prompts(model, tiny_tokenizer(), ["dog"], "a photo of a {}.")[0].tolist() == alone


@pytest.mark.parametrize(
    ("template", "tail"),
    [
        ("{} texture.", " texture."),
        ("a photo of {}, a type of food.", ", a type of food."),
        ("a centered satellite photo of {}.", "."),
    ],
)
def test_the_first_words_stay_whatever_the_data_sets_template(template: str, tail: str) -> None:
    model = get_peft_model(tiny_clip(), ids_from("a photo of a"))
    alone = [START, *[START] * 4, *ids(f"dog{tail}"), END]
    assert build_prompts(model, tiny_tokenizer(), ["dog"], template)[0].tolist() == alone
    assert adapter_template(model, tiny_tokenizer(), template) == f"X X X X {{}}{tail}"


@every_context
@pytest.mark.parametrize("padding", [{}, {"padding": "max_length"}])
def test_the_stock_forward_refuses_what_it_would_overwrite(method: str, padding: dict[str, str]) -> None:
    model = get_peft_model(tiny_clip(), CONTEXTS[method](n_ctx=16)).eval()
    texts = ["a photo of a dog.", "a photo of a cat."]
    input_ids = tiny_tokenizer()(texts, return_tensors="pt", **{"padding": True} | padding)["input_ids"]
    for wrong in (input_ids, input_ids[:1]):
        with pytest.raises(ClipAlignError, match=r"replaces the first 16 tokens.*'X X .*X \{\}\.'"):
            model(input_ids=wrong, **tiny_pixel_values(1))


@pytest.mark.parametrize("make", [tiny_clip, lambda: tiny_clip(eos_token_id=2), tiny_metaclip2, tiny_siglip])
def test_a_context_over_the_class_name_is_refused_in_every_family(make: Any) -> None:
    family = {"clip_model": "clip"}.get(make().config.model_type, make().config.model_type)
    model, tokenizer = get_peft_model(make(), CoOpConfig(n_ctx=5)).eval(), tiny_tokenizer(family)
    texts = ["a photo of a dog, on a table.", "a photo of a cat, on a table."]
    input_ids = tokenizer(texts, padding="max_length", return_tensors="pt")["input_ids"]
    with pytest.raises(ClipAlignError, match="do not begin with the same words"):
        model.get_text_features(input_ids=input_ids)


@pytest.mark.parametrize(
    ("config", "alone"),
    [
        (lambda: CoOpConfig(n_ctx=5), "a photo of a dog."),
        (lambda: CoOpConfig(n_ctx=5), "a photo of a dog"),
        (lambda: ids_from("a photo of a"), "dog dog on a table."),
        (lambda: ids_from("a photo of a", template="X X X X {}, a pet."), "an old dog on a table."),
        (lambda: CoOpConfig(n_ctx=len(ids("an old dog")), template="a photo of a {}."), "an old dog"),
    ],
)
def test_a_context_over_the_name_of_a_single_class_is_refused(config: Any, alone: str) -> None:
    model = get_peft_model(tiny_clip(), config()).eval()
    for texts in ([alone], [alone, alone]):
        with pytest.raises(ClipAlignError, match=r"and with them the class name: .* Use the template '.*\{\}"):
            model.get_text_features(input_ids=rows(texts))


@every_context
@pytest.mark.parametrize(
    ("n_ctx", "wrong", "right"),
    [
        (1, "dog on a table.", "X dog on a table."),
        (1, "dog.", "X dog."),
        (2, "dog dog.", "X X dog."),
        (2, "an old dog.", "X X old dog."),
    ],
)
def test_with_a_tokenizer_beside_the_model_stand_ins_are_told_from_names(
    method: str, n_ctx: int, wrong: str, right: str, tmp_path: Path
) -> None:
    tiny_clip().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = get_peft_model(type(tiny_clip()).from_pretrained(tmp_path), CONTEXTS[method](n_ctx=n_ctx)).eval()
    template = " ".join(["X"] * n_ctx)
    for texts in ([wrong], [wrong, wrong]):
        with pytest.raises(ClipAlignError, match=rf"the class name: .* Use the template '{template} \{{\}}\.'"):
            model.get_text_features(input_ids=rows(texts))
    model.get_text_features(input_ids=rows([right]))
    model.get_text_features(input_ids=build_prompts(model, tiny_tokenizer(), ["dog"]))


@pytest.mark.parametrize(("alone", "is_read"), [("an old dog.", True), ("dog dog dog.", False), ("X X dog.", True)])
def test_with_a_tokenizer_a_template_with_other_words_is_compared(alone: str, is_read: bool, tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    config = CoOpConfig(n_ctx=2, template="an old {}.", tokenizer_name_or_path=str(tmp_path))
    model = get_peft_model(tiny_clip(), config).eval()
    if is_read:
        model.get_text_features(input_ids=rows([alone]))
        return
    with pytest.raises(ClipAlignError, match="Use the template 'an old"):
        model.get_text_features(input_ids=rows([alone]))


@pytest.mark.parametrize(
    "config",
    [
        lambda: CoOpConfig(n_ctx=5),
        lambda: CoOpConfig(n_ctx=1),
        lambda: ids_from("a photo of a"),
        lambda: ids_from("a photo of a", template="X X X X {}, a pet."),
        lambda: CoOpConfig(n_ctx=2, template="an old {}."),
    ],
)
def test_a_single_class_in_the_adapters_own_template_is_read(config: Any) -> None:
    model = get_peft_model(tiny_clip(), config()).eval()
    template = adapter_template(model)
    together = model.get_text_features(input_ids=rows([template.format(name) for name in ("dog", "cat")]))
    single = model.get_text_features(input_ids=rows([template.format("dog")]))
    first, second = (getattr(found, "pooler_output", found)[0] for found in (together, single))
    assert torch.allclose(first, second, atol=1e-5)


@every_context
def test_the_named_template_works_in_the_stock_forward(method: str) -> None:
    model = get_peft_model(tiny_clip(), CONTEXTS[method](n_ctx=16)).eval()
    template, names = adapter_template(model), ["dog", "cat"]
    stock = rows([template.format(name) for name in names])
    plan = plan_prompts(model, build_prompts(model, tiny_tokenizer(), names))
    with torch.no_grad():
        found = model.get_text_features(input_ids=stock)
        found = torch.nn.functional.normalize(getattr(found, "pooler_output", found), dim=-1)
        assert torch.allclose(found, class_text_features(model, plan), atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("config", "template"),
    [
        (lambda: CoOpConfig(n_ctx=2), "X X {}."),
        (lambda: ids_from("a photo of a"), "a photo of a {}."),
        (lambda: CoOpConfig(n_ctx=2, class_token_position="front"), "{}."),
        (lambda: CoOpConfig(n_ctx=2, template="an old {}."), "an old {}."),
        (lambda: VPTConfig(n_prompts=2), "a photo of a {}."),
    ],
)
def test_the_template_lies_in_the_adapters_configuration(config: Any, template: str, tmp_path: Path) -> None:
    model = get_peft_model(tiny_clip(), config())
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["template"] == template
    assert adapter_template(PeftModel.from_pretrained(tiny_clip(), tmp_path)) == template


def test_another_template_is_named_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = get_peft_model(tiny_clip(), ids_from("a photo of a"))
    with caplog.at_level(logging.WARNING):
        build_prompts(model, tiny_tokenizer(), ["dog"], "a photo of a {}.")
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        build_prompts(model, tiny_tokenizer(), ["dog"], "a photo of a {}, a type of pet.")
    assert "is not the adapter's own, 'a photo of a {}.'" in caplog.text


def test_a_template_without_a_place_for_the_name_is_refused() -> None:
    with pytest.raises(ClipAlignError, match="must have exactly one"):
        CoOpConfig(template="a photo")


def test_one_configuration_for_two_models() -> None:
    config, shallow = MaPLeConfig(n_ctx=2), tiny_clip()
    shallow.text_model.encoder.layers = shallow.text_model.encoder.layers[:2]
    shallow.vision_model.encoder.layers = shallow.vision_model.encoder.layers[:2]
    before = copy.deepcopy(config)
    assert get_peft_model(shallow, config).peft_config["default"].depth == 2
    assert config.depth is before.depth is None
    assert config.target_modules is None
    assert get_peft_model(tiny_clip(), config).peft_config["default"].depth == 3


@pytest.mark.parametrize(("method", "family"), [("cocoop", "clip"), ("vpt", "siglip2"), ("maple", "siglip2")])
def test_no_hook_is_left_after_unload(method: str, family: str) -> None:
    def hooks(model: Any) -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before = hooks(tiny_model(family))
    config = {**CONTEXTS, "vpt": VPTConfig}[method]()
    model = get_peft_model(tiny_model(family), config)
    assert hooks(model) > before
    assert hooks(model.unload()) == before


def test_class_specific_contexts_fit_their_own_classes_only() -> None:
    config = CoOpConfig(n_ctx=2, class_specific=True, n_classes=2, class_names=["red fox", "owl"])
    model = get_peft_model(tiny_clip(), config)
    assert build_prompts(model, tiny_tokenizer(), ["red_fox", "owl"]).shape[0] == 2
    with pytest.raises(ClipAlignError, match="2 classes: give the classes that"):
        build_prompts(model, tiny_tokenizer(), ["red fox", "owl", "cat"])
    with pytest.raises(ClipAlignError, match="trained on other classes: red fox, owl, not cat"):
        build_prompts(model, tiny_tokenizer(), ["red fox", "cat"])


def test_nearest_words_of_a_moved_context() -> None:
    model = get_peft_model(tiny_clip(), ids_from("a photo"))
    vectors = next(p for name, p in model.named_parameters() if "context" in name)
    table = model.get_base_model().text_model.embeddings.token_embedding.get_base_layer().weight
    with torch.no_grad():
        vectors[1] = 0.9 * table[ids("owl")[0]] + 0.1 * vectors[1]
    found = nearest_words(model, tiny_tokenizer(), k=3)
    assert found[0][0] == ("a", 0.0)
    assert [len(words) for words in found] == [3, 3]
    assert found[1][0][0] == tiny_tokenizer().decode(ids("owl")[:1]).strip()
    assert [distance for _, distance in found[1]] == sorted(distance for _, distance in found[1])
    with pytest.raises(ClipAlignError, match="no learned context"):
        nearest_words(get_peft_model(tiny_clip(), VPTConfig()), tiny_tokenizer())
    specific = get_peft_model(tiny_clip(), CoOpConfig(n_ctx=2, class_specific=True, n_classes=2))
    with pytest.raises(ClipAlignError, match="class-specific"):
        nearest_words(specific, tiny_tokenizer())


@pytest.mark.parametrize("method", [*CONTEXTS, "vpt"])
def test_a_model_whose_layers_are_not_known_is_refused_with_the_ways_out(method: str) -> None:
    config = {**CONTEXTS, "vpt": VPTConfig}[method]()
    with pytest.raises(ClipAlignError, match=r"cannot be learned for AltCLIPModel of transformers.*ResNets cannot"):
        get_peft_model(tiny_altclip(), config)


@pytest.mark.parametrize(
    "config", [lambda: CoOpConfig(n_ctx=2), lambda: VPTConfig(n_prompts=2, template="an icon of {}")]
)
def test_the_adapters_own_prompt_is_taken_where_none_is_given(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    bare, model = tiny_clip(), get_peft_model(tiny_clip(), config())
    own = adapter_template(model)
    assert own_template(model) == own_template(as_dual_encoder(model)) == chosen_template(model) == own
    assert own_template(bare) is None
    assert (chosen_template(bare), chosen_template(bare, default="{}!")) == ("a photo of a {}.", "{}!")
    with caplog.at_level(logging.WARNING):
        assert chosen_template(model, own) == own
        assert not caplog.text
        assert chosen_template(model, "my {}") == "my {}"
    assert f"'my {{}}' is not the adapter's own, {own!r}" in caplog.text
    with model.disable_adapter():
        assert own_template(model) is None
