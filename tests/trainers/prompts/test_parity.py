"""One `trainer.train()` step of all five methods against the reference's numbers: loss, selection, optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign.trainers import (
    KDPLTrainer,
    KDPLTrainingArguments,
    PromptLearningTrainer,
    PromptLearningTrainingArguments,
    Teacher,
)
from tests.parity_models import parity_clip
from tests.tuners.test_parity import CONFIGS, K_MAX, part, prepared, vectors

VARIANTS = ("kdpl_all_classes", "kdpl_class_agnostic", "supervised")


class _Ids:
    """Stands in for a tokenizer: the reference's token ids are given instead of texts."""

    def __call__(self, texts: list[str]) -> dict[str, Any]:
        return {"input_ids": [[0]] * len(texts)}


def teacher_with(input_ids: Tensor) -> Teacher:
    teacher = Teacher(parity_clip("A_teacher"), processor=_Ids())
    with torch.no_grad():
        features = F.normalize(teacher.model.get_text_features(input_ids=input_ids).pooler_output, dim=-1)
    teacher.text_features = lambda prompts: features  # type: ignore[method-assign]
    return teacher


def frozen_text(method: str, expected: dict[str, Tensor], common: dict[str, Tensor], agnostic: bool) -> Tensor | None:
    """PromptSRC's frozen features: of the kept concepts the reference stores them, of the classes their mean."""
    if method != "promptsrc":
        return None
    if not agnostic:
        return F.normalize(common["promptsrc_fixed_text_features_mean_over_templates"], dim=-1)
    kept = expected["zero_shot_text_features"]
    whole = torch.zeros(26, kept.shape[1])
    whole[expected["selected_indices"]] = kept
    return whole


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", CONFIGS)
def test_one_training_step(method: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common, stored = vectors("common"), vectors(method)
    expected = part(stored, f"{variant}/")
    model, parameters = prepared(CONFIGS[method](), method, part(stored, "init/"))
    agnostic = variant == "kdpl_class_agnostic"
    vocabulary = "dictionary" if agnostic else "dataset_classes"
    input_ids = common[f"{vocabulary}/student_input_ids_a_photo_of_a"]
    monkeypatch.setattr("hf_clipalign.trainers.prompts.learner.build_prompts", lambda *args: input_ids)
    n_images = len(expected["teacher_logits_all"]) if "teacher_logits_all" in expected else len(expected["logits"])
    items = [
        {"pixel_values": pixels, "teacher_pixel_values": pixels, "labels": int(label)}
        for pixels, label in zip(common["pixel_values"][:n_images], common["labels"], strict=False)
    ]
    settings: dict[str, Any] = {
        "output_dir": str(tmp_path),
        "max_steps": 1,
        "per_device_train_batch_size": n_images,
        "published_schedule": False,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": [],
        "use_cpu": True,
        "logging_steps": 1,
    }
    names = [f"class {index}" for index in range(len(input_ids))]
    common_settings = {"processing_class": _Ids(), "train_dataset": items}
    if variant == "supervised":
        arguments = PromptLearningTrainingArguments(**settings)
        trainer = PromptLearningTrainer(model, arguments, class_names=names, **common_settings)
    else:
        arguments = KDPLTrainingArguments(**settings, class_agnostic=agnostic, k_max=K_MAX)
        teacher = teacher_with(common[f"{vocabulary}/teacher_input_ids"])
        known = {"dictionary": names} if agnostic else {"class_names": names}
        trainer = KDPLTrainer(model, arguments, teacher=teacher, **known, **common_settings)
    frozen = frozen_text(method, expected, common, agnostic)
    if frozen is not None:
        trainer.__dict__["_frozen_text"] = frozen
    trainer.train()
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert loss == pytest.approx(float(expected["loss"]), abs=2e-5)
    for name, parameter in parameters.items():
        start = stored[f"init/{name}"]
        gradient = expected.get(f"grad/{name}", expected.get(f"grad_rows/{name}"))
        after = start[: len(gradient)] - 0.002 * (
            gradient + 5e-4 * start[: len(gradient)]
        )  # the reference's first step
        limit = 2e-6 + 0.002 * (1e-3 if "meta_net" in name else 1e-4) * gradient.abs().max()
        assert (parameter.detach()[: len(gradient)] - after).abs().max() < limit, name
        if (value := expected.get(f"after_step/{name}")) is not None:
            torch.testing.assert_close(after, value, atol=2e-7, rtol=0)
