"""What trainers add to their logs, by hand, and gathering in one process, which leaves everything as it is."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import Trainer

from hf_clipalign.trainers import SpectralGCDTrainer, gather_rows
from hf_clipalign.trainers.base import AlignmentTrainer
from hf_clipalign.trainers.gather import gather_views, gather_with_own


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """What reaches the log of transformers."""
    entries: list[dict[str, float]] = []
    monkeypatch.setattr(Trainer, "log", lambda self, logs, start_time=None: entries.append(logs))
    return entries


def test_terms_are_means_since_the_last_log_and_join_the_loss_alone(logged: list[dict[str, float]]) -> None:
    trainer = object.__new__(AlignmentTrainer)
    trainer._terms, trainer._n_terms = {}, 0
    for value in (1.0, 2.0, 6.0):
        trainer._keep_terms({"supcon": torch.tensor(value, requires_grad=True), "half": torch.tensor(value / 2)})
    trainer.log({"eval_loss": 0.5})
    trainer.log({"loss": 0.25})
    trainer._keep_terms({"supcon": torch.tensor(5.0)})
    trainer.log({"loss": 0.125})
    trainer.log({"loss": 0.0625})
    assert logged == [
        {"eval_loss": 0.5},
        {"loss": 0.25, "supcon": 3.0, "half": 1.5},
        {"loss": 0.125, "supcon": 5.0},
        {"loss": 0.0625},
    ]


def test_classes_are_counted_over_all_steps_since_the_last_log(logged: list[dict[str, float]]) -> None:
    trainer = object.__new__(SpectralGCDTrainer)
    trainer._terms, trainer._n_terms, trainer._class_counts = {}, 0, None
    trainer._count_classes(torch.eye(4)[[0, 0, 1]])
    trainer._count_classes(torch.eye(4)[[0, 1, 1, 1, 2]])
    trainer.log({"loss": 1.0})
    trainer.log({"loss": 2.0})
    shares = (3 / 8, 4 / 8, 1 / 8)
    assert logged[0]["largest_class"] == 0.5
    assert logged[0]["empty_classes"] == 1
    assert logged[0]["class_entropy"] == pytest.approx(-sum(share * math.log(share) for share in shares))
    assert logged[1] == {"loss": 2.0}


def test_one_process_gathers_its_own_rows() -> None:
    rows = torch.arange(12.0).reshape(4, 3).requires_grad_()
    assert torch.equal(gather_rows(rows), rows)
    assert torch.equal(gather_views(rows), rows)
    gathered, own = gather_with_own(rows)
    assert torch.equal(gathered[own], rows)
    gather_views(rows).sum().backward()
    assert torch.equal(rows.grad, torch.ones_like(rows))  # type: ignore[arg-type]
