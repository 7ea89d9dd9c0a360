"""KDPL's loss and class selection against their formulas and the reference's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.losses import kdpl_loss, select_classes, top_classes

FIXTURES = Path(__file__).parents[1] / "fixtures" / "kdpl_losses"


def test_loss_is_the_mean_of_both_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64).unbind()
    p, q = student.softmax(1), teacher.softmax(1)
    forward = (q * (q / p).log()).sum(1).mean().item()
    reverse = (p * (p / q).log()).sum(1).mean().item()
    losses = kdpl_loss(student, teacher)
    assert losses["forward_kl"].item() == pytest.approx(forward, rel=1e-5)
    assert losses["reverse_kl"].item() == pytest.approx(reverse, rel=1e-5)
    assert losses["loss"].item() == pytest.approx((forward + reverse) / 2, rel=1e-5)
    assert forward != pytest.approx(reverse, rel=1e-2)


def test_loss_of_equal_logits_is_zero_and_teacher_gets_no_gradient() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    teacher = torch.randn(3, 4, requires_grad=True)
    assert kdpl_loss(logits, logits)["loss"].item() == pytest.approx(0, abs=1e-7)
    kdpl_loss(logits, teacher)["loss"].backward()
    assert teacher.grad is None
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher = 30 * torch.randn(2, 3, 500).bfloat16().unbind()[0], 30 * torch.randn(3, 500).bfloat16()
    expected = kdpl_loss(student.float(), teacher.float())["loss"]
    loss = kdpl_loss(student, teacher)["loss"]
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 5)), ((4,), (4,)), ((2, 3, 4), (2, 3, 4))])
def test_shapes_are_checked(shapes: tuple) -> None:
    with pytest.raises(ClipAlignError, match=r"\[images, classes\]"):
        kdpl_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_selection_averages_probabilities_not_logits() -> None:
    # Class 2 is certain in one image; class 0 is second everywhere: mean logits would prefer class 0.
    logits = torch.tensor([[3.0, 0.0, 9.0, 0.0], [4.0, 5.0, -20.0, 0.0]])
    assert select_classes(logits, 2).tolist() == [1, 2]
    assert logits.mean(0).topk(2).indices.sort().values.tolist() == [0, 1]


def test_ties_go_to_the_lower_index() -> None:
    assert select_classes(torch.zeros(3, 1000), 5).tolist() == [0, 1, 2, 3, 4]
    assert top_classes(torch.tensor([0.1, 0.4, 0.1, 0.4]), 3).tolist() == [0, 1, 3]


def test_selection_does_not_depend_on_how_the_batch_is_spread() -> None:
    logits = 5 * torch.randn(8, 300, generator=torch.Generator().manual_seed(1))
    halves = torch.stack([half.softmax(1).mean(0) for half in logits.chunk(2)]).mean(0)
    assert torch.equal(select_classes(logits, 40), top_classes(halves, 40))


@pytest.mark.parametrize("k", [0, -1, 5])
def test_k_is_checked(k: int) -> None:
    with pytest.raises(ClipAlignError, match=f"k = {k} .* dictionary of 4"):
        select_classes(torch.zeros(2, 4), k)


@pytest.mark.parametrize("method", json.loads((FIXTURES / "params.json").read_text())["methods"])
def test_reference_losses(method: str) -> None:
    vectors = np.load(FIXTURES / "vectors.npz")
    for variant in ("kdpl_all_classes", "kdpl_class_agnostic"):
        get = lambda name, prefix=f"{method}/{variant}": torch.from_numpy(vectors[f"{prefix}/{name}"])  # noqa: E731
        teacher, kept = get("teacher_logits_all"), get("selected_indices")
        assert torch.equal(select_classes(teacher, len(kept)), kept)
        losses = kdpl_loss(get("student_logits"), teacher[:, kept])
        torch.testing.assert_close(losses["forward_kl"], get("loss_F"), atol=2e-5, rtol=0)
        torch.testing.assert_close(losses["reverse_kl"], get("loss_R"), atol=2e-5, rtol=0)
