"""Class prompts, the start of a context, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModel, CLIPVisionModel

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.tuners import (
    CoCoOpConfig,
    CoOpConfig,
    MaPLeConfig,
    PromptSRCConfig,
    VPTConfig,
    build_prompts,
    class_text_features,
    has_text_prompts,
    plan_prompts,
    prompted_logits,
    prompted_outputs,
)
from hf_clipalign.tuners._layers import active_context
from tests.tiny_models import save_tiny, tiny_clip, tiny_model, tiny_pixel_values, tiny_siglip, tiny_tokenizer
from tests.tuners.methods import prompted, stirred

START, END = 632, 633


def ids(text: str) -> list[int]:
    return tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]


def one_prompt(model: Any, name: str = "red_fox", template: str | None = None) -> list[int]:
    return build_prompts(model, tiny_tokenizer(), [name], template)[0].tolist()


def context(model: Any) -> torch.Tensor:
    return next(p for name, p in model.named_parameters() if "context" in name)


def test_prompts_without_an_adapter_are_the_template() -> None:
    assert one_prompt(tiny_clip()) == [START, *ids("a photo of a red fox."), END]
    assert one_prompt(tiny_clip(), template="{} texture.") == [START, *ids("red fox texture."), END]
    assert one_prompt(get_peft_model(tiny_clip(), VPTConfig())) == [START, *ids("a photo of a red fox."), END]


def test_other_braces_of_a_template_are_left_alone() -> None:
    for template in ("a {photo} of {}", "{0} a {} { b }"):
        assert one_prompt(tiny_clip(), template=template) == [START, *ids(template.replace("{}", "red fox")), END]


def test_prompts_keep_the_words_that_the_context_replaces() -> None:
    model = get_peft_model(tiny_clip(), MaPLeConfig(n_ctx=2))
    assert one_prompt(model, template="a photo of a {}.") == [START, *ids("a photo of a red fox."), END]
    assert one_prompt(model) == [START, START, START, *ids("red fox."), END]
    short = [START, *[START] * 2, *ids("red fox texture."), END]
    assert one_prompt(model, template="{} texture.") == short


def test_prompts_start_with_the_words_of_ctx_init(tmp_path: Path) -> None:
    model = get_peft_model(
        AutoModel.from_pretrained(save_tiny("clip", tmp_path)), CoOpConfig(n_ctx=2, ctx_init="a photo of a")
    )
    assert one_prompt(model) == [START, *ids("a photo of a red fox."), END]


@pytest.mark.parametrize(("position", "before"), [("middle", 2), ("front", 0)])
def test_prompts_mark_the_places_around_the_name(position: str, before: int) -> None:
    model = get_peft_model(tiny_clip(), CoOpConfig(n_ctx=5, class_token_position=position))
    expected = [START, *[START] * before, *ids("red fox"), *[START] * (5 - before), *ids("."), END]
    assert one_prompt(model) == expected
    assert one_prompt(model, template="a photo of a {}.") == expected


def test_prompts_are_padded_as_the_tower_needs() -> None:
    rows = build_prompts(tiny_clip(), tiny_tokenizer(), ["cat", "old tree house"])
    longest, shortest = (len(ids(f"a photo of a {name}.")) + 2 for name in ("old tree house", "cat"))
    assert rows.shape == (2, longest)
    assert rows[0, shortest - 1 :].tolist() == [END] * (longest - shortest + 1)
    assert rows[0, shortest - 2] != END
    assert build_prompts(tiny_siglip(), tiny_tokenizer("siglip"), ["cat"]).shape == (1, 64)
    model = get_peft_model(tiny_siglip(), CoOpConfig(n_ctx=2))
    row = build_prompts(model, tiny_tokenizer("siglip"), ["cat"])[0]
    name = tiny_tokenizer("siglip")("cat.", add_special_tokens=False)["input_ids"]
    assert row[2 : 2 + len(name)].tolist() == name


def test_bad_prompts_are_refused() -> None:
    with pytest.raises(ClipAlignError, match="no class names"):
        build_prompts(tiny_clip(), tiny_tokenizer(), [])
    with pytest.raises(ClipAlignError, match="exactly one"):
        one_prompt(tiny_clip(), template="a photo of a cat.")
    with pytest.raises(ClipAlignError, match=r"class 'cat cat.* has 86 tokens, but the model reads 77"):
        one_prompt(tiny_clip(), name=" ".join(["cat"] * 79))


def test_the_context_starts_from_words(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(save_tiny("clip", tmp_path))
    table = model.text_model.embeddings.token_embedding.weight.detach().clone()
    peft_model = get_peft_model(model, CoOpConfig(n_ctx=4, ctx_init="a photo of a"))
    assert torch.equal(context(peft_model), table[ids("a photo of a")])
    assert peft_model.peft_config["default"].ctx_init_ids == ids("a photo of a")
    same = prompted_outputs(
        peft_model,
        tiny_pixel_values(2)["pixel_values"],
        plan_prompts(peft_model, build_prompts(peft_model, tiny_tokenizer(), ["cat", "dog"])),
    )
    with peft_model.disable_adapter():
        stock = prompted_outputs(
            peft_model,
            tiny_pixel_values(2)["pixel_values"],
            plan_prompts(peft_model, build_prompts(peft_model, tiny_tokenizer(), ["cat", "dog"])),
        )
    assert torch.allclose(same.logits, stock.logits, atol=1e-5)


def test_the_words_are_looked_up_once_and_not_on_loading(tmp_path: Path) -> None:
    base = save_tiny("clip", tmp_path / "base")
    model = get_peft_model(AutoModel.from_pretrained(base), CoOpConfig(n_ctx=2, ctx_init="a photo"))
    with torch.no_grad():
        context(model).add_(1)
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(tiny_clip(), tmp_path / "adapter")  # a model without a folder
    assert torch.equal(context(loaded), context(model))


def test_class_specific_contexts_start_equal_from_words_and_apart_from_noise() -> None:
    options: dict[str, Any] = {"n_ctx": 2, "class_specific": True, "n_classes": 3}
    from_words = context(get_peft_model(tiny_clip(), CoOpConfig(**options, ctx_init_ids=ids("a photo"))))
    assert torch.equal(from_words[0], from_words[2])
    from_noise = context(get_peft_model(tiny_clip(), CoOpConfig(**options)))
    assert from_noise.shape == (3, 2, 32)
    assert not torch.equal(from_noise[0], from_noise[2])


def test_a_context_without_a_tokenizer_says_how_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match=r"ctx_init_ids .* or tokenizer_name_or_path"):
        get_peft_model(tiny_clip(), CoOpConfig(n_ctx=4, ctx_init="a photo of a"))
    tiny_clip().save_pretrained(tmp_path / "model")
    with pytest.raises(ClipAlignError, match="no tokenizer"):
        get_peft_model(AutoModel.from_pretrained(tmp_path / "model"), CoOpConfig(ctx_init="a photo of a"))
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    config = CoOpConfig(ctx_init="a photo of a", tokenizer_name_or_path=str(tmp_path / "tokenizer"))
    assert get_peft_model(tiny_clip(), config).peft_config["default"].ctx_init_ids == ids("a photo of a")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CoOpConfig(n_ctx=0), "n_ctx must be at least 1"),
        (lambda: CoOpConfig(class_token_position="back"), "end, middle, front"),
        (lambda: CoOpConfig(class_specific=True), "needs n_classes"),
        (lambda: CoOpConfig(n_classes=3), "set both or neither"),
        (lambda: CoCoOpConfig(reduction=0), "reduction"),
        (lambda: VPTConfig(n_prompts=0), "n_prompts"),
        (lambda: VPTConfig(depth=0), "depth"),
        (lambda: PromptSRCConfig(image_depth=0), "image_depth"),
    ],
)
def test_contradictory_configurations_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ClipAlignError, match=message):
        make()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CoOpConfig(n_ctx=4, ctx_init_ids=[1, 2]), "has 2 ids, n_ctx is 4"),
        (CoOpConfig(n_ctx=1, ctx_init_ids=[9_999]), "knows the ids 0 to 633"),
        (VPTConfig(depth=4), "the tower has 3 layers"),
        (MaPLeConfig(depth=9), "the tower has 3 layers"),
        (PromptSRCConfig(text_depth=5), "text_depth=5"),
    ],
)
def test_what_the_model_cannot_do_is_refused(config: Any, message: str) -> None:
    with pytest.raises(ClipAlignError, match=message):
        get_peft_model(tiny_clip(), config)


def test_too_few_words_are_refused(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(save_tiny("clip", tmp_path))
    with pytest.raises(ClipAlignError, match="2 tokens, fewer than n_ctx=4"):
        get_peft_model(model, CoOpConfig(n_ctx=4, ctx_init="a photo"))


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_a_family_without_start_token_cannot_mark_places(family: str) -> None:
    with pytest.raises(ClipAlignError, match="class_token_position='end'"):
        get_peft_model(tiny_model(family), CoOpConfig(class_token_position="middle"))


def test_other_models_are_refused_at_construction() -> None:
    with pytest.raises(ClipAlignError, match="single tower"):
        get_peft_model(CLIPVisionModel(tiny_clip().config.vision_config), VPTConfig(n_prompts=2))


def test_default_depths_fit_the_tower() -> None:
    assert get_peft_model(tiny_clip(), MaPLeConfig()).peft_config["default"].depth == 3
    config = get_peft_model(tiny_clip(), PromptSRCConfig()).peft_config["default"]
    assert (config.text_depth, config.image_depth) == (3, 3)


def test_maple_maps_of_deeper_layers_start_as_copies() -> None:
    layers = get_peft_model(tiny_clip(), MaPLeConfig()).get_base_model().vision_model
    first, second = (layers.encoder.layers[index].clip_maple_projection["default"] for index in (1, 2))
    assert torch.equal(first.weight, second.weight)
    assert first.weight is not second.weight
    assert not torch.equal(first.weight, layers.embeddings.clip_maple_projection["default"].weight)


def test_prompts_that_lack_the_context_words_are_refused() -> None:
    model = get_peft_model(tiny_clip(), CoOpConfig(n_ctx=4))
    bare = build_prompts(tiny_clip(), tiny_tokenizer(), ["red fox", "old tree house"], "{} texture.")
    with pytest.raises(ClipAlignError, match="would overwrite its class name"):
        plan_prompts(model, bare)


def test_prompts_without_marked_places_are_refused() -> None:
    model = get_peft_model(tiny_clip(), CoOpConfig(n_ctx=4, class_token_position="front"))
    rows = build_prompts(tiny_clip(), tiny_tokenizer(), ["red fox", "owl"])
    with pytest.raises(ClipAlignError, match="no 4 places"):
        class_text_features(model, plan_prompts(model, rows))


def test_class_specific_contexts_follow_a_selection_of_classes() -> None:
    names = ["cat", "red fox", "owl", "horse"]
    model = prompted("coop", "clip", base=tiny_clip())
    model = model.unload()
    model = get_peft_model(model, CoOpConfig(n_ctx=2, class_specific=True, n_classes=4))
    torch.nn.init.normal_(context(model), std=0.5)
    plan = plan_prompts(model, build_prompts(model, tiny_tokenizer(), names))
    whole = class_text_features(model, plan)
    assert torch.allclose(class_text_features(model, plan.select([2, 0])), whole[[2, 0]], atol=1e-6)
    with pytest.raises(ClipAlignError, match="2 prompts for a class-specific context of 4"):
        model.get_text_features(input_ids=build_prompts(model, tiny_tokenizer(), names[:2]))


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_every_class_takes_its_own_vectors_at_every_place(position: str) -> None:
    names, n = ["cat", "red fox", "dog"], 3
    config = CoOpConfig(n_ctx=n, class_token_position=position, class_specific=True, n_classes=len(names))
    model = stirred(get_peft_model(tiny_clip(), config), seed=0)
    vectors = context(model).detach()
    table = model.get_base_model().text_model.embeddings.token_embedding
    input_ids = build_prompts(model, tiny_tokenizer(), names)
    with torch.no_grad():
        found, words = table(input_ids), table.get_base_layer()(input_ids)
    for row, name in enumerate(names):
        length, before = len(ids(name)), {"end": n, "middle": n // 2, "front": 0}[position]
        places = [*range(1, 1 + before), *range(1 + before + length, 1 + length + n)]
        assert torch.equal(found[row, places], vectors[row])
        others = [column for column in range(input_ids.shape[1]) if column not in places]
        assert torch.equal(found[row, others], words[row, others])


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_the_vectors_of_one_class_change_its_feature_alone(position: str) -> None:
    names = ["cat", "red fox", "dog", "old house"]
    config = CoOpConfig(n_ctx=2, class_token_position=position, class_specific=True, n_classes=len(names))
    model = stirred(get_peft_model(tiny_clip(), config), seed=0)
    plan = plan_prompts(model, build_prompts(model, tiny_tokenizer(), names))
    chosen = plan.select([3, 1])
    with torch.no_grad():
        before, before_chosen = class_text_features(model, plan), class_text_features(model, chosen)
        context(model)[1] *= -1
        change = (class_text_features(model, plan) - before).abs().amax(dim=1)
        change_chosen = (class_text_features(model, chosen) - before_chosen).abs().amax(dim=1)
    assert change[1] > 1e-2
    assert change[[0, 2, 3]].max() < 1e-6
    assert torch.allclose(before[[3, 1]], before_chosen, atol=1e-5)
    assert change_chosen[1] > 1e-2
    assert change_chosen[0] < 1e-6


@pytest.mark.parametrize("position", ["middle", "front"])
def test_packed_context_in_the_middle_equals_one_row_per_class(position: str) -> None:
    model = prompted("coop", "clip").unload()
    model = get_peft_model(model, CoOpConfig(n_ctx=5, class_token_position=position))
    torch.nn.init.normal_(context(model), std=0.5)
    names = ["red", "red fox", "red", "old tree house", "red frog", "owl"]
    rows = build_prompts(model, tiny_tokenizer(), names)
    packed = class_text_features(model, plan_prompts(model, rows, strategy="packed"))
    full = class_text_features(model, plan_prompts(model, rows, strategy="full"))
    assert torch.allclose(packed, full, atol=1e-5)
    only_red = plan_prompts(model, rows, strategy="packed").select([0, 2])
    assert torch.allclose(class_text_features(model, only_red), full[[0, 2]], atol=1e-5)


@pytest.mark.parametrize("family", ["clip", "metaclip_2", "siglip"])
def test_cocoop_gives_every_image_its_own_prompts(family: str) -> None:
    model = prompted("cocoop", family)
    rows = build_prompts(model, tiny_tokenizer(family), ["cat", "red fox", "owl"])
    plan, inputs = plan_prompts(model, rows), tiny_pixel_values(4, family)
    together = prompted_logits(model, plan=plan, **inputs)
    one_by_one = [prompted_logits(model, image[None], plan) for image in inputs["pixel_values"]]
    assert torch.allclose(together, torch.cat(one_by_one), atol=1e-5)
    features = prompted_outputs(model, plan=plan, **inputs).text_features
    assert features.shape[:2] == (4, 3)
    assert (features[0] - features[1]).abs().max() > 1e-3


def test_cocoop_refuses_the_contrastive_loss() -> None:
    model = prompted("cocoop", "clip")
    rows = build_prompts(model, tiny_tokenizer(), ["cat", "owl"])
    with pytest.raises(ClipAlignError, match="logits only"):
        model(input_ids=rows, return_loss=True, **tiny_pixel_values(2))


def test_vpt_takes_text_features_computed_once() -> None:
    model = prompted("vpt_deep", "clip")
    assert not has_text_prompts(model)
    assert has_text_prompts(prompted("maple", "clip"))
    plan = plan_prompts(model, build_prompts(model, tiny_tokenizer(), ["cat", "owl"]))
    pixel_values = tiny_pixel_values(2)["pixel_values"]
    once = class_text_features(model, plan).detach()
    found = prompted_logits(model, pixel_values, plan, text_features=once)
    assert torch.allclose(found, prompted_logits(model, pixel_values, plan), atol=1e-6)


def test_two_adapters_at_once_are_refused() -> None:
    model = prompted("coop", "clip")
    model.add_adapter("second", CoOpConfig(n_ctx=4))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ClipAlignError, match="set_adapter"):
        prompted_logits(model, tiny_pixel_values(1)["pixel_values"], plan_prompts(model, torch.tensor([[START, END]])))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        *((config, "n_ctx") for config in (CoOpConfig, CoCoOpConfig, MaPLeConfig, PromptSRCConfig)),
        (CoCoOpConfig, "reduction"),
        *((config, "n_prompts") for config in (VPTConfig, PromptSRCConfig)),
        *((config, "depth") for config in (VPTConfig, MaPLeConfig)),
        *((PromptSRCConfig, name) for name in ("text_depth", "image_depth")),
    ],
)
def test_no_number_of_a_configuration_may_be_zero(config: Any, name: str) -> None:
    with pytest.raises(ClipAlignError, match=f"^{name} must be at least 1, got 0"):
        config(**{name: 0})
    assert getattr(config(**{name: 1}), name) == 1


@pytest.mark.parametrize("class_specific", [False, True])
def test_only_class_specific_contexts_need_rows_of_their_own(class_specific: bool) -> None:
    options = {"class_specific": True, "n_classes": 3} if class_specific else {}
    model = get_peft_model(tiny_clip(), CoOpConfig(n_ctx=3, **options))
    layer = active_context(as_dual_encoder(model))
    assert layer is not None
    assert layer.needs_own_rows == class_specific
    assert (layer.shared_prefix == 0) == class_specific


@pytest.mark.parametrize("config", [CoCoOpConfig, MaPLeConfig, PromptSRCConfig])
def test_contexts_that_all_classes_share_need_no_rows_of_their_own(config: Any) -> None:
    layer = active_context(as_dual_encoder(get_peft_model(tiny_clip(), config())))
    assert layer is not None
    assert not layer.needs_own_rows
