"""One sentence about an adapter, and what it rests on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.evaluation import Verdict, paired_verdict
from hf_clipalign.metrics import paired_bootstrap


def logits(right: list[bool]) -> torch.Tensor:
    return torch.tensor([[1.0, 0.0] if is_right else [0.0, 1.0] for is_right in right])


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(0.01, 0.2, "better"), (-0.2, -0.01, "worse"), (-0.1, 0.1, "not told apart")]
)
def test_the_interval_decides(low: float, high: float, outcome: str) -> None:
    verdict = Verdict((low + high) / 2, low, high, 100)
    assert verdict.outcome == outcome
    assert f"the adapter is {outcome} " in str(verdict)
    assert f"{100 * low:+.1f} to {100 * high:+.1f}" in str(verdict)


def test_the_images_are_paired() -> None:
    adapted, plain = [True] * 30 + [False] * 10, [True] * 20 + [False] * 20
    verdict = paired_verdict(logits(adapted), logits(plain), [0] * 40)
    expected = paired_bootstrap(np.array(adapted, dtype=float), np.array(plain, dtype=float))
    assert (verdict.difference, verdict.low, verdict.high) == expected
    assert verdict.outcome == "better"
    assert "On 40 held-out images the adapter is better than the plain student: accuracy +25.0 points" in str(verdict)


@pytest.mark.parametrize(("n_differing", "outcome"), [(1, "not told apart"), (5, "not told apart"), (6, "better")])
def test_a_handful_of_images_tells_nothing(n_differing: int, outcome: str) -> None:
    verdict = paired_verdict(logits([True] * n_differing), logits([False] * n_differing), [0] * n_differing)
    assert (verdict.low, verdict.outcome) == (1.0, outcome)
    assert ("too few to tell" in str(verdict)) == (outcome != "better")


def test_ties_are_wrong_and_agreement_is_no_accuracy() -> None:
    verdict = paired_verdict(torch.ones(8, 3), torch.eye(3)[[0] * 8], [0] * 8, teacher="me/clip")
    assert (verdict.difference, verdict.outcome) == (-1.0, "worse")
    assert "agreement with the teacher me/clip -100.0 points" in str(verdict)
    assert str(verdict).endswith("agreement only, not accuracy.")


def test_lengths_that_differ() -> None:
    with pytest.raises(ClipAlignError, match="2 targets for logits of shape"):
        paired_verdict(torch.eye(3), torch.eye(3), [0, 1])
    with pytest.raises(ClipAlignError, match="0 targets"):
        paired_verdict(torch.zeros(0, 3), torch.zeros(0, 3), [])
