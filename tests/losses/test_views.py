"""Losses of two views against the reference's numbers and their formulas."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.losses import (
    info_nce_loss,
    mean_entropy_regularizer,
    spectral_gcd_losses,
    supervised_contrastive_loss,
    teacher_temperature,
    view_distillation_loss,
)

VECTORS = np.load(Path(__file__).parents[1] / "fixtures" / "spectralgcd" / "losses.npz")


def vector(name: str) -> torch.Tensor:
    return torch.from_numpy(VECTORS[name])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_same_gradient(gradient: torch.Tensor | None, expected: torch.Tensor) -> None:
    torch.testing.assert_close(gradient, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_info_nce_is_that_of_the_reference() -> None:
    features = vector("info_nce/features").requires_grad_()
    loss = info_nce_loss(features)
    loss.backward()
    torch.testing.assert_close(loss.detach(), vector("info_nce/loss"), atol=2e-5, rtol=0)
    assert_same_gradient(features.grad, vector("info_nce/grad"))


def test_info_nce_at_a_temperature_is_its_formula() -> None:
    features = noise(6, 4)
    units = torch.nn.functional.normalize(features, dim=1)
    exponentials = (units @ units.T / 0.2).exp()
    terms = [-(exponentials[i, (i + 3) % 6] / (exponentials[i].sum() - exponentials[i, i])).log() for i in range(6)]
    assert info_nce_loss(features, temperature=0.2).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (4,), (2, 2, 4)])
def test_two_views_are_checked(shape: tuple[int, ...]) -> None:
    with pytest.raises(ClipAlignError, match="2N, d"):
        info_nce_loss(torch.ones(shape))
    with pytest.raises(ClipAlignError, match="2N, d"):
        view_distillation_loss(torch.ones(shape), teacher_temperature=0.04)


def test_temperatures_are_checked() -> None:
    rows = torch.ones(4, 2)
    for call in (
        lambda: info_nce_loss(rows, temperature=0.0),
        lambda: view_distillation_loss(rows, teacher_temperature=-1.0),
        lambda: mean_entropy_regularizer(rows, temperature=0.0),
        lambda: supervised_contrastive_loss(rows[:, None], temperature=0.0),
    ):
        with pytest.raises(ClipAlignError, match="temperature"):
            call()


def test_supervised_contrastive_is_that_of_the_reference() -> None:
    features = vector("supcon/features").requires_grad_()
    labels = vector("supcon/labels")
    loss = supervised_contrastive_loss(features, labels)
    loss.backward()
    torch.testing.assert_close(loss.detach(), vector("supcon/loss"), atol=2e-5, rtol=0)
    assert_same_gradient(features.grad, vector("supcon/grad"))
    scaled = supervised_contrastive_loss(features.detach(), labels, temperature=0.2)
    torch.testing.assert_close(scaled, vector("supcon/loss_temperature0.2_base0.07"), atol=2e-5, rtol=0)
    alone = supervised_contrastive_loss(features.detach())
    torch.testing.assert_close(alone, vector("supcon/loss_without_labels"), atol=2e-5, rtol=0)


def test_supervised_contrastive_without_a_positive_is_zero_and_has_a_gradient() -> None:
    one_view = noise(3, 1, 4).requires_grad_()
    loss = supervised_contrastive_loss(one_view, torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(one_view.grad, torch.zeros(3, 1, 4))  # type: ignore[arg-type]
    assert supervised_contrastive_loss(torch.ones(0, 2, 4), torch.ones(0)).item() == 0


def test_supervised_contrastive_skips_anchors_without_a_positive() -> None:
    features = torch.nn.functional.normalize(noise(3, 1, 4), dim=-1)
    logits = features.flatten(0, 1) @ features.flatten(0, 1).T / 0.07
    expected = [-logits[a, p] + logits[a, [b for b in range(3) if b != a]].logsumexp(0) for a, p in ((0, 1), (1, 0))]
    loss = supervised_contrastive_loss(features, torch.tensor([4, 4, 2]))
    torch.testing.assert_close(loss, torch.stack(expected).mean(), atol=1e-5, rtol=0)


def test_supervised_contrastive_checks_shapes() -> None:
    with pytest.raises(ClipAlignError, match=r"labels \[images\]"):
        supervised_contrastive_loss(torch.ones(3, 2, 4), torch.ones(6))
    with pytest.raises(ClipAlignError, match=r"labels \[images\]"):
        supervised_contrastive_loss(torch.ones(3, 2, 4), [0, 1])


def test_supervised_contrastive_takes_lists_and_arrays() -> None:
    features = noise(3, 2, 4)
    expected = supervised_contrastive_loss(features, torch.tensor([4, 4, 2]))
    assert torch.equal(supervised_contrastive_loss(features, [4, 4, 2]), expected)
    assert torch.equal(supervised_contrastive_loss(features, np.array([4, 4, 2])), expected)


def test_view_distillation_is_that_of_the_reference() -> None:
    for epoch, loss, gradient in zip(
        vector("distill/epochs").tolist(), vector("distill/loss"), vector("distill/grad"), strict=True
    ):
        logits = vector("distill/student_output").requires_grad_()
        value = view_distillation_loss(logits, teacher_temperature=teacher_temperature(epoch))
        value.backward()
        torch.testing.assert_close(value.detach(), loss, atol=2e-5, rtol=0)
        assert_same_gradient(logits.grad, gradient)


def test_view_distillation_takes_another_teacher() -> None:
    student, teacher = noise(4, 3), noise(4, 3, seed=1).requires_grad_()
    value = view_distillation_loss(student, teacher, teacher_temperature=0.05)
    targets = (teacher / 0.05).softmax(dim=-1)[[2, 3, 0, 1]]
    expected = -(targets * (student / 0.1).log_softmax(dim=-1)).sum(dim=-1).mean()
    torch.testing.assert_close(value, expected.detach(), atol=1e-5, rtol=1e-5)
    assert not value.requires_grad
    with pytest.raises(ClipAlignError, match="same views and classes"):
        view_distillation_loss(student, teacher[:, :2], teacher_temperature=0.05)


def test_teacher_temperatures_are_those_of_the_reference() -> None:
    expected = VECTORS["distill/teacher_temperature_schedule"]
    np.testing.assert_allclose([teacher_temperature(epoch) for epoch in range(len(expected))], expected, atol=1e-7)
    assert teacher_temperature(0, warmup_epochs=1) == teacher_temperature(0, warmup_epochs=0) == 0.04


def test_mean_entropy_is_zero_for_even_use_and_log_c_for_one_class() -> None:
    even, one = 20 * torch.eye(5), torch.zeros(4, 5)
    one[:, 2] = 1000.0
    assert mean_entropy_regularizer(even).item() == pytest.approx(0, abs=1e-6)
    assert mean_entropy_regularizer(one).item() == pytest.approx(math.log(5), rel=1e-6)


def test_mean_entropy_needs_classes() -> None:
    with pytest.raises(ClipAlignError, match=r"\(3, 0\)"):
        mean_entropy_regularizer(torch.ones(3, 0))


def test_mean_entropy_is_its_formula() -> None:
    logits = noise(6, 4).requires_grad_()
    mean = (logits / 0.3).softmax(dim=-1).mean(dim=0)
    expected = math.log(4) + (mean * mean.log()).sum()
    value = mean_entropy_regularizer(logits, temperature=0.3)
    torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (value, expected)]
    torch.testing.assert_close(*gradients)


def test_a_batch_without_labels_has_no_supervised_terms_and_no_nan() -> None:
    logits, embeddings, concepts = (noise(6, width, seed=width).requires_grad_() for width in (4, 5, 7))
    losses = spectral_gcd_losses(
        logits, embeddings, concepts, torch.full((3,), -1), noise(3, 7), teacher_temperature=0.05
    )
    losses["loss"].backward()
    assert losses["cross_entropy"].item() == losses["supcon"].item() == 0
    assert torch.isfinite(losses["loss"])
    for tensor in (logits, embeddings, concepts):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


def test_without_a_teacher_there_is_no_distillation() -> None:
    arguments = noise(6, 4), noise(6, 5), noise(6, 7), torch.tensor([0, -1, 2])
    without = spectral_gcd_losses(*arguments, None, teacher_temperature=0.05)
    teacher = noise(3, 7, seed=1)
    with_teacher = spectral_gcd_losses(*arguments, teacher, teacher_temperature=0.05, distillation_weight=0.5)
    assert "forward_kl" not in without
    distance = with_teacher["forward_kl"] + with_teacher["reverse_kl"]
    torch.testing.assert_close(with_teacher["loss"], without["loss"] + 0.5 * distance)


def test_losses_are_computed_in_float32() -> None:
    rows = noise(4, 6).bfloat16()
    losses = spectral_gcd_losses(rows, rows, rows, torch.tensor([0, -1]), rows[:2], teacher_temperature=0.05)
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())


def test_the_whole_loss_checks_its_rows() -> None:
    with pytest.raises(ClipAlignError, match="two views, 6 rows"):
        spectral_gcd_losses(noise(6, 4), noise(6, 5), noise(5, 7), torch.zeros(3), None, teacher_temperature=0.05)


@pytest.mark.parametrize("labels", [[0, 4, 1], [-2, 0, 1], [0.0, 1.0, 2.0]])
def test_the_whole_loss_checks_its_labels(labels: list[float]) -> None:
    with pytest.raises(ClipAlignError, match=r"from -1 .* to 3"):
        spectral_gcd_losses(
            noise(6, 4), noise(6, 5), noise(6, 7), torch.tensor(labels), None, teacher_temperature=0.05
        )


def test_labels_of_any_integer_type_are_the_same() -> None:
    arguments = noise(6, 4), noise(6, 5), noise(6, 7)
    first, second = (
        spectral_gcd_losses(*arguments, torch.tensor([0, -1, 3], dtype=kind), None, teacher_temperature=0.05)
        for kind in (torch.int32, torch.int64)
    )
    assert torch.equal(first["loss"], second["loss"])


@pytest.mark.parametrize("cut", [1, 3])
def test_the_shares_of_info_nce_add_up_to_loss_and_gradient(cut: int) -> None:
    rows = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    whole, split = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    expected = info_nce_loss(whole, 0.3)
    shares = [info_nce_loss(split, 0.3, own=own) for own in (slice(0, cut), slice(cut, 5))]
    torch.testing.assert_close(shares[0] + shares[1], expected)
    expected.backward()
    (shares[0] + shares[1]).backward()
    torch.testing.assert_close(split.grad, whole.grad)
    torch.testing.assert_close(info_nce_loss(rows, 0.3, own=slice(0, 5)), expected)


def test_an_image_without_a_positive_is_a_rival_and_no_anchor() -> None:
    rows = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    loss = supervised_contrastive_loss(rows[:, None], torch.tensor([0, 0, 1]), temperature=0.5, base_temperature=0.5)
    cosines = (rows @ rows.T / 0.5).fill_diagonal_(float("-inf"))
    log_probabilities = cosines.log_softmax(dim=-1)
    torch.testing.assert_close(loss, -(log_probabilities[0, 1] + log_probabilities[1, 0]) / 2)
