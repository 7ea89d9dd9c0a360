"""All five methods against the reference's numbers: logits, losses, gradients, parameters after one step."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign.losses import gaussian_prompt_weights, kdpl_loss, promptsrc_losses, select_classes
from hf_clipalign.tuners import (
    CoCoOpConfig,
    CoOpConfig,
    MaPLeConfig,
    PromptedOutput,
    PromptSRCConfig,
    VPTConfig,
    plan_prompts,
    prompted_logits,
    prompted_outputs,
)
from tests.parity_models import parity_clip

FIXTURES = Path(__file__).parents[1] / "fixtures" / "kdpl"
A_PHOTO_OF_A = [320, 1125, 539, 320]
TABLE = "text_model.embeddings.token_embedding"
K_MAX = 7

CONFIGS: dict[str, Any] = {
    "coop": lambda: CoOpConfig(n_ctx=4, ctx_init_ids=A_PHOTO_OF_A),
    "cocoop": lambda: CoCoOpConfig(n_ctx=4, ctx_init_ids=A_PHOTO_OF_A),
    "vpt": lambda: VPTConfig(n_prompts=4, depth=3),
    "maple": lambda: MaPLeConfig(n_ctx=2, depth=2, ctx_init_ids=A_PHOTO_OF_A[:2]),
    "promptsrc": lambda: PromptSRCConfig(n_ctx=4, n_prompts=4, text_depth=2, image_depth=3, ctx_init_ids=A_PHOTO_OF_A),
}
LAYOUTS: dict[str, Any] = {
    "middle": lambda: CoOpConfig(n_ctx=6, class_token_position="middle"),
    "front": lambda: CoOpConfig(n_ctx=6, class_token_position="front"),
    "end_class_specific": lambda: CoOpConfig(n_ctx=4, class_specific=True, n_classes=11),
}
IMAGE_PROMPTS = {"vpt": "clip_vpt_prompts", "promptsrc": "clip_promptsrc_prompts"}


@functools.cache
def vectors(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        stored = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return {key: value.long() if value.dtype == torch.int32 else value for key, value in stored.items()}


def our_name(method: str, name: str) -> str:
    """Where a parameter of the reference is in our adapter."""
    if method == "cocoop" and "meta_net" in name:
        _, linear, kind = name.rsplit(".", 2)
        return f"{TABLE}.clip_cocoop_{linear}.default.{kind}"
    if name == "prompt_learner.ctx":
        return f"{TABLE}.clip_{method}_context.default"
    if name == "image_encoder.VPT":
        return f"vision_model.embeddings.{IMAGE_PROMPTS[method]}.default"
    if name.startswith("image_encoder.transformer"):
        return f"vision_model.encoder.layers.{name.split('.')[-2]}.{IMAGE_PROMPTS[method]}.default"
    if name.startswith("text_encoder.transformer"):
        return f"text_model.encoder.layers.{name.split('.')[-2]}.clip_promptsrc_context.default"
    if name.startswith("prompt_learner.proj."):
        return f"vision_model.embeddings.clip_maple_projection.default.{name.split('.')[-1]}"
    index = int(name.split(".")[2]) + 1
    if "compound_prompts_text" in name:
        return f"text_model.encoder.layers.{index}.clip_maple_context.default"
    return f"vision_model.encoder.layers.{index}.clip_maple_projection.default.{name.split('.')[-1]}"


def prepared(config: Any, method: str, initial: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """The prompted model at the reference's start, and its trained parameters by the reference's names."""
    model = get_peft_model(parity_clip("A"), config)
    named = dict(model.get_base_model().named_parameters())
    parameters = {name: named[our_name(method, name)] for name in initial}
    assert {id(value) for value in parameters.values()} == {id(p) for p in model.parameters() if p.requires_grad}
    with torch.no_grad():
        for name, value in initial.items():
            parameters[name].copy_(value)
    return model, parameters


def part(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def check_gradients(parameters: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    checked = set()
    for name, parameter in parameters.items():
        limit = 1e-3 if "meta_net" in name else 1e-4
        gradient = parameter.grad
        if (whole := stored.get(f"grad/{name}")) is not None:
            assert relative_error(gradient, whole) < limit, name
            checked.add(name)
        if (rows := stored.get(f"grad_rows/{name}")) is not None:
            assert relative_error(gradient[: len(rows)], rows) < limit, name
            checked.add(name)
        if (summary := stored.get(f"grad_norm_sum/{name}")) is not None:
            assert torch.allclose(torch.stack([gradient.norm(), gradient.sum()]), summary, rtol=1e-4, atol=1e-4)
    assert checked == set(parameters)


def check_step(parameters: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    torch.optim.SGD(parameters.values(), lr=0.002, momentum=0.9, weight_decay=5e-4).step()
    checked = set()
    for name, parameter in parameters.items():
        for kind in ("after_step", "after_step_rows"):
            if (expected := stored.get(f"{kind}/{name}")) is not None:
                assert (parameter.detach()[: len(expected)] - expected).abs().max() < 2e-6, name
                checked.add(name)
    assert checked == set(parameters)


def regulariser(model: Any, output: PromptedOutput, pixel_values: Tensor, frozen_text: Tensor) -> dict[str, Tensor]:
    with torch.no_grad(), model.disable_adapter():
        frozen_image = F.normalize(model.get_image_features(pixel_values).pooler_output, dim=-1)
    frozen_logits = model.get_base_model().logit_scale.exp() * frozen_image @ frozen_text.T
    return promptsrc_losses(
        output.text_features, frozen_text, output.image_features, frozen_image, output.logits, frozen_logits
    )


@pytest.mark.parametrize("variant", ["kdpl_all_classes", "kdpl_class_agnostic", "supervised"])
@pytest.mark.parametrize("method", CONFIGS)
def test_one_step(method: str, variant: str) -> None:
    common, stored = vectors("common"), vectors(method)
    expected = part(stored, f"{variant}/")
    model, parameters = prepared(CONFIGS[method](), method, part(stored, "init/"))
    vocabulary = "dictionary" if variant == "kdpl_class_agnostic" else "dataset_classes"
    plan = plan_prompts(model, common[f"{vocabulary}/student_input_ids_a_photo_of_a"])
    assert plan.strategy == "packed"
    supervised = variant == "supervised"
    logits = expected["logits" if supervised else "student_logits"]
    pixel_values = common["pixel_values"][: len(logits)]

    kept = plan
    if vocabulary == "dictionary":
        selected = select_classes(expected["teacher_logits_all"], K_MAX).sort().values
        assert selected.tolist() == expected["selected_indices"].tolist()
        kept = plan.select(selected)
    output = prompted_outputs(model, pixel_values, kept)
    assert (output.logits - logits).abs().max() < 1e-4
    if supervised:
        loss = F.cross_entropy(output.logits, common["labels"][: len(logits)])
    else:
        losses = kdpl_loss(output.logits, expected["teacher_logits_all"][:, expected["selected_indices"]])
        loss = losses["loss"]
        assert abs(losses["forward_kl"] - expected["loss_F"]) < 2e-5
        assert abs(losses["reverse_kl"] - expected["loss_R"]) < 2e-5
    if method == "promptsrc":
        frozen_text = expected.get("zero_shot_text_features")
        if frozen_text is None:
            frozen_text = F.normalize(common["promptsrc_fixed_text_features_mean_over_templates"], dim=-1)
        terms = regulariser(model, output, pixel_values, frozen_text)
        for ours, theirs in (("text", "loss_scl_text"), ("image", "loss_scl_image"), ("logits", "L_SCL_logits")):
            assert abs(terms[ours] - expected[theirs]) < 2e-5
        loss = loss + terms["loss"]
    assert abs(loss - expected["loss"]) < 2e-5

    loss.backward()
    check_gradients(parameters, expected)
    if variant == "kdpl_all_classes":
        check_step(parameters, expected)
        with torch.no_grad():
            after = prompted_logits(model, pixel_values, plan)
        assert (after - expected["logits_all_classes_after_step"]).abs().max() < 1e-4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_context_layouts(layout: str) -> None:
    common, expected = vectors("common"), part(vectors("coop_layouts"), f"{layout}/")
    model, parameters = prepared(LAYOUTS[layout](), "coop", part(expected, "init/"))
    input_ids = expected["student_input_ids"]
    if layout != "end_class_specific":
        input_ids = with_marked_places(input_ids, 6, 3 if layout == "middle" else 0)
    plan = plan_prompts(model, input_ids, strategy="packed")
    assert plan.strategy == ("cut" if layout == "end_class_specific" else "packed")
    output = prompted_outputs(model, common["pixel_values"], plan)
    assert (output.logits - expected["student_logits"]).abs().max() < 1e-4
    losses = kdpl_loss(output.logits, expected["teacher_logits_all"])
    assert abs(losses["loss"] - expected["loss"]) < 2e-5
    losses["loss"].backward()
    check_gradients(parameters, expected)
    check_step(parameters, expected)
    with torch.no_grad():
        after = prompted_logits(model, common["pixel_values"], plan)
    assert (after - expected["logits_all_classes_after_step"]).abs().max() < 1e-4


def with_marked_places(input_ids: Tensor, n_ctx: int, n_before: int) -> Tensor:
    """Prompts `start, X…X, name, full stop, end` with the context places moved and marked as `build_prompts` does."""
    rows = []
    for row in input_ids:
        name = row[1 + n_ctx : int((row == 49407).int().argmax()) - 1]
        places = row.new_full((n_ctx,), int(row[0]))
        moved = torch.cat([row[:1], places[:n_before], name, places[n_before:], row[1 + n_ctx + len(name) :]])
        rows.append(moved)
    return torch.stack(rows)


@pytest.mark.parametrize(("mean", "std"), [(15, 1), (6, 10)])
def test_gaussian_prompt_weights(mean: int, std: int) -> None:
    common = vectors("common")
    weights = gaussian_prompt_weights(20, mean, std)
    assert torch.allclose(weights, common[f"promptsrc_gpa_weights/epochs20_mean{mean}_std{std}"], atol=1e-7)
    if mean == 15:
        average = (weights[:, None, None] * common["promptsrc_gpa_example/epoch_values"]).sum(dim=0)
        assert torch.allclose(average, common["promptsrc_gpa_example/aggregated"], atol=1e-6)
