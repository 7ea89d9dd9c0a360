"""Every loss refuses arrays and lists in one line that names the argument."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

import hf_clipalign.losses
from hf_clipalign import ClipAlignError

ROWS = torch.eye(4)
LOGITS = {"logits": ROWS, "targets": ROWS}
COSINES = {"positive_cosines": ROWS, "negative_cosines": ROWS}
HEADS = {"image_embeds": ROWS, "positive": ROWS, "negative": ROWS}
PAIRS = {"image_embeds": ROWS, "text_embeds": ROWS, "logit_scale": 1.0, "positives": ROWS.bool()}
SOURCE = ("text_features", "image_features", "logits")
ARGUMENTS: dict[str, dict[str, Any]] = {
    "contrastive_loss": PAIRS,
    "sigmoid_loss": PAIRS,
    "kdpl_loss": {"student_logits": ROWS, "teacher_logits": ROWS},
    "select_classes": {"teacher_logits": ROWS, "k": 2},
    "top_classes": {"probabilities": ROWS[0], "k": 2},
    "promptsrc_losses": {prefix + name: ROWS for name in SOURCE for prefix in ("", "frozen_")},
    "masked_bce_loss": LOGITS,
    "masked_bce_sum": LOGITS,
    "retune_cosines": HEADS,
    "retune_logits": HEADS,
    "retune_scores": COSINES,
    "retune_labels": COSINES,
    "spectral_gcd_losses": {
        "logits": ROWS,
        "embeddings": ROWS,
        "cross_modal": ROWS,
        "labels": torch.tensor([0, 1]),
        "teacher_cross_modal": ROWS[:2],
        "teacher_temperature": 0.1,
    },
    "supervised_contrastive_loss": {"features": torch.eye(4)[:, None]},
    "info_nce_loss": {"features": ROWS},
    "view_distillation_loss": {"student_logits": ROWS, "teacher_logits": ROWS, "teacher_temperature": 0.1},
    "mean_entropy_regularizer": {"logits": ROWS},
}
CASES = [
    (name, argument)
    for name, arguments in ARGUMENTS.items()
    for argument in arguments
    if isinstance(arguments[argument], torch.Tensor)
]


@pytest.mark.parametrize("convert", [torch.Tensor.numpy, torch.Tensor.tolist], ids=["array", "list"])
@pytest.mark.parametrize(("name", "argument"), CASES)
def test_the_argument_is_named(name: str, argument: str, convert: Any) -> None:
    arguments = dict(ARGUMENTS[name])
    loss = getattr(hf_clipalign.losses, name)
    loss(**arguments)
    arguments[argument] = convert(arguments[argument])
    kind = type(arguments[argument]).__name__
    with pytest.raises(ClipAlignError, match=rf"^{argument} is of type {kind}: give a tensor"):
        loss(**arguments)


def test_no_loss_is_left_out() -> None:
    taking_tensors = {
        name
        for name in hf_clipalign.losses.__all__
        if "Tensor" in str(list(inspect.signature(getattr(hf_clipalign.losses, name)).parameters.values()))
    }
    assert taking_tensors - set(ARGUMENTS) == {"undo_small_updates"}


def test_updates_are_named() -> None:
    with pytest.raises(ClipAlignError, match="the old w is of type ndarray"):
        hf_clipalign.losses.undo_small_updates({"w": np.ones(2)}, {"w": torch.ones(2)}, 0.5)  # type: ignore[dict-item]
