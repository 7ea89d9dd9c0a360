"""Losses of two views against the reference's numbers and their formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.losses import info_nce_loss

VECTORS = np.load(Path(__file__).parents[1] / "fixtures" / "spectralgcd" / "losses.npz")


def vector(name: str) -> torch.Tensor:
    return torch.from_numpy(VECTORS[name])


def test_info_nce_is_that_of_the_reference() -> None:
    features = vector("info_nce/features").requires_grad_()
    loss = info_nce_loss(features)
    loss.backward()
    torch.testing.assert_close(loss.detach(), vector("info_nce/loss"), atol=2e-5, rtol=0)
    torch.testing.assert_close(features.grad, vector("info_nce/grad"), atol=1e-4 * features.grad.abs().max(), rtol=0)


def test_info_nce_at_a_temperature_is_its_formula() -> None:
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    units = torch.nn.functional.normalize(features, dim=1)
    exponentials = (units @ units.T / 0.2).exp()
    terms = [-(exponentials[i, (i + 3) % 6] / (exponentials[i].sum() - exponentials[i, i])).log() for i in range(6)]
    assert info_nce_loss(features, temperature=0.2).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (4,), (2, 2, 4)])
def test_info_nce_checks_the_views(shape: tuple[int, ...]) -> None:
    with pytest.raises(ClipAlignError, match="2N, d"):
        info_nce_loss(torch.ones(shape))


def test_info_nce_checks_the_temperature() -> None:
    with pytest.raises(ClipAlignError, match="temperature"):
        info_nce_loss(torch.ones(4, 2), temperature=0.0)
