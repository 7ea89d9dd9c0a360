"""Learning rates, averages of prompts and presets against the reference's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_clipalign import ClipAlignError
from hf_clipalign.trainers import adapter_preset, published_rates, training_preset
from hf_clipalign.trainers.prompts.average import PromptAverage
from hf_clipalign.trainers.prompts.learning_rate import published_scheduler

REFERENCE = json.loads((Path(__file__).parents[2] / "fixtures" / "kdpl_schedule" / "vectors.json").read_text())
METHODS = {"coop": "CoOp", "cocoop": "CoCoOp", "vpt": "VPT", "maple": "MaPLe", "promptsrc": "PromptSRC"}


@pytest.mark.parametrize("method", METHODS)
def test_rates_of_every_epoch(method: str) -> None:
    preset = training_preset(method)
    rates = published_rates(preset["learning_rate"], preset["num_train_epochs"])
    assert rates == pytest.approx(REFERENCE[f"lr_schedule/{METHODS[method]}"], rel=1e-5)


def test_scheduler_changes_at_epochs_only() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.002)
    rates = published_rates(0.002, 3)
    scheduler = published_scheduler(optimizer, rates, steps_per_epoch=4)
    seen = []
    for _ in range(14):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx([rate for rate in rates for _ in range(4)] + [rates[-1]] * 2)


def test_average_of_epochs(tmp_path: Path) -> None:
    model = nn.Module()
    model.register_parameter("prompt", nn.Parameter(torch.zeros(3, 4)))
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    model.register_parameter("frozen", frozen)
    average = PromptAverage(model, REFERENCE["promptsrc_gpa_weights/epochs20_mean15_std1"])
    for epoch, value in enumerate(REFERENCE["promptsrc_gpa_example/epoch_values"], start=1):
        model.prompt.data = torch.tensor(value)
        average.on_epoch_end(None, SimpleNamespace(epoch=float(epoch)), None)
        if epoch == 14:  # a run that is broken off and goes on
            average.save(tmp_path)
            average.total, average.sums = -1.0, {}
            average.load(tmp_path)
    average.parameters = {"prompt": model.prompt}
    average.apply()
    expected = torch.tensor(REFERENCE["promptsrc_gpa_example/aggregated"])
    torch.testing.assert_close(model.prompt.data, expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(frozen, torch.ones(2))


def test_average_is_missed_by_name(tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match=r"holds no prompt_average.safetensors"):
        PromptAverage(nn.Linear(1, 1), [1.0]).load(tmp_path)


def test_presets_differ_by_protocol_for_promptsrc_only() -> None:
    cross = training_preset("promptsrc", protocol="cross_dataset")
    assert (cross["gaussian_mean"], cross["gaussian_std"]) == (6.0, 10.0)
    assert training_preset("promptsrc")["gaussian_mean"] == 15.0
    assert adapter_preset("promptsrc", protocol="cross_dataset")["text_depth"] == 3
    for method in ("coop", "cocoop", "vpt", "maple"):
        assert training_preset(method) == training_preset(method, protocol="cross_dataset")


def test_published_sizes_of_the_prompts() -> None:
    sizes = {
        "coop": {"n_ctx": 4},
        "cocoop": {"n_ctx": 4},
        "vpt": {"n_prompts": 8, "depth": 12},
        "maple": {"n_ctx": 2, "depth": 9},
        "promptsrc": {"n_ctx": 4, "n_prompts": 4, "text_depth": 9, "image_depth": 9},
    }
    for method, size in sizes.items():
        preset = adapter_preset(method)
        assert {name: value for name, value in preset.items() if name != "ctx_init"} == size
        assert preset.get("ctx_init") == (None if method == "vpt" else "a photo of a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lora",), "method 'lora': there are coop, cocoop, vpt, maple, promptsrc"),
        (("coop", "vit_l14"), "backbone 'vit_l14': there are vit_b32"),
        (("coop", "vit_b32", "zero"), "protocol 'zero': there are base_to_novel, cross_dataset"),
    ],
)
def test_unknown_presets(arguments: tuple, message: str) -> None:
    for preset in (training_preset, adapter_preset):
        with pytest.raises(ClipAlignError, match=message):
            preset(*arguments)


def test_impossible_schedules() -> None:
    with pytest.raises(ClipAlignError, match="1 or more epochs"):
        published_rates(0.1, 0)
