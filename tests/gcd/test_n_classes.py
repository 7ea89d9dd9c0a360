"""The number of classes of blobs with known centres, the refinement of the grid, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.gcd import ClassCountEstimate, estimate_n_classes
from hf_clipalign.gcd.n_classes import _between


def blobs(n_classes: int = 12, per_class: int = 20, n_known: int = 6) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Well separated classes, of which the first are known, with labels for half of their samples."""
    generator = torch.Generator().manual_seed(0)
    labels = np.repeat(np.arange(n_classes), per_class)
    centres = torch.nn.functional.normalize(torch.randn(n_classes, 16, generator=generator), dim=1)
    features = centres[torch.from_numpy(labels)] + 0.05 * torch.randn(len(labels), 16, generator=generator)
    labelled = (labels < n_known) & (np.arange(len(labels)) % 2 == 0)
    return features, labels, labelled


def test_separate_classes_are_counted() -> None:
    features, labels, labelled = blobs()
    estimate = estimate_n_classes(features, labels, labelled)
    assert (estimate.n_classes, estimate.n_known, estimate.n_novel) == (12, 6, 6)
    assert estimate.accuracy == 1.0
    assert list(estimate.curve) == sorted(estimate.curve)
    assert {11, 12, 13} <= set(estimate.curve)
    assert min(estimate.curve) == 6
    assert max(estimate.curve) == 24
    assert len(estimate.curve) < 24 - 6 + 1


@pytest.mark.parametrize(("n_classes", "n_known"), [(40, 4), (16, 1)])
def test_the_range_grows_while_its_end_is_the_best(n_classes: int, n_known: int) -> None:
    features, labels, labelled = blobs(n_classes, 10, n_known)
    estimate = estimate_n_classes(features, labels, labelled, n_init=2)
    assert 0.75 * n_classes <= estimate.n_classes < max(estimate.curve) < len(labels)
    assert estimate.accuracy == 1.0


def test_a_given_range_does_not_grow_but_its_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    features, labels, labelled = blobs(20, 10, 4)
    assert estimate_n_classes(features, labels, labelled, max_classes=12).n_classes == 12
    assert "12, is the largest that was tried: there may be more classes; raise max_classes" in caplog.text
    caplog.clear()
    assert estimate_n_classes(*blobs(6, 10, 3), max_classes=12).n_classes < 12
    assert not caplog.text


def test_labels_may_be_missing_where_nobody_labelled() -> None:
    features, labels, labelled = blobs(6, 10, 3)
    some = [int(label) if known else None for label, known in zip(labels, labelled, strict=True)]
    assert estimate_n_classes(features, some, labelled).curve == estimate_n_classes(features, labels, labelled).curve


def test_labels_of_the_unlabelled_are_not_looked_at() -> None:
    features, labels, labelled = blobs(6, 10, 3)
    names = np.array([f"class {label}" for label in labels])
    names[~labelled] = "?"
    assert estimate_n_classes(features, names, labelled).curve == estimate_n_classes(features, labels, labelled).curve


def test_the_same_seed_gives_the_same_curve() -> None:
    features, labels, labelled = blobs(8, 12, 4)
    features = features + 0.4 * torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    curves = [estimate_n_classes(features, labels, labelled, n_init=1, seed=seed).curve for seed in (3, 3, 4)]
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


def test_given_counts_are_tried_and_no_others() -> None:
    features, labels, labelled = blobs(6, 10, 3)
    estimate = estimate_n_classes(features, labels, labelled, counts=[9, 6, 3])
    assert list(estimate.curve) == [3, 6, 9]
    assert estimate.n_classes == 6


def test_of_equal_accuracies_the_largest_count_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, labelled = blobs(6, 10, 3)
    monkeypatch.setattr("hf_clipalign.gcd.n_classes._cluster", lambda rows, count, n_init, seed: labels)
    assert estimate_n_classes(features, labels, labelled, counts=[5, 6, 7]).n_classes == 7


def test_lengths_of_vectors_count_only_if_asked_for() -> None:
    features, labels, labelled = blobs(6, 10, 3)
    scale = torch.tensor([0.1, 10.0]).repeat(len(features) // 2)[:, None]
    kept = estimate_n_classes(features, labels, labelled, counts=[6])
    assert estimate_n_classes(features * scale, labels, labelled, counts=[6]).curve == kept.curve
    assert estimate_n_classes(features * scale, labels, labelled, counts=[6], normalize=False).curve != kept.curve


def test_table_and_plot_show_the_curve() -> None:
    estimate = ClassCountEstimate(4, 2, {2: 0.5, 4: 1.0, 8: 0.75})
    assert estimate.table().row_count == 3
    line = estimate.plot().axes[0].lines[0]
    assert line.get_xydata().tolist() == [[2, 50], [4, 100], [8, 75]]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labelled_mask": np.zeros(30, bool)}, "no sample is labelled"),
        ({"labelled_mask": np.ones(29, bool)}, r"labelled_mask has the shape \(29,\) for 30"),
        ({"labelled_mask": np.full(30, 2)}, "True or False"),
        ({"labels": [0, 1]}, r"labels has the shape \(2,\)"),
        (
            {"features": torch.full((30, 4), float("nan"))},
            r"NaN or infinite values in 30 of 30 rows \(0, 1",
        ),
        ({"features": torch.ones(30, 4)}, "nothing to cluster"),
        ({"max_classes": 2}, "at least the 3 known classes"),
        ({"max_classes": 30}, "fewer than the 30 samples"),
        ({"counts": [2, 5]}, "from 3"),
        ({"counts": [5, 30]}, "to 29"),
        ({"counts": []}, "from 3"),
        ({"counts": 8}, "counts is 8"),
        ({"seed": 2**40}, "seed is 1099511627776"),
        ({"counts": ["a"]}, "a number in counts is 'a'"),
        ({"max_classes": "9"}, "max_classes is '9'"),
        ({"n_init": 0}, "n_init is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"labels": [None] * 30}, "a labelled sample has no label"),
        ({"labels": [float("nan")] * 30}, "a labelled sample has no label"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    features, labels, _ = blobs(3, 10, 3)
    arguments = {"features": features, "labels": labels, "labelled_mask": np.ones(30, bool), **change}
    with pytest.raises(ClipAlignError, match=message):
        estimate_n_classes(**arguments)


def test_a_lucky_point_does_not_beat_the_plateau(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = dict.fromkeys(range(7, 13), 0.90) | {5: 0.7, 6: 0.7, 13: 0.8, 14: 0.8, 15: 0.905, 16: 0.7, 17: 0.7}
    features, labels, labelled = blobs(6, 40, 3)
    monkeypatch.setattr("hf_clipalign.gcd.n_classes._cluster", lambda rows, count, n_init, seed: labels * 0 + count)
    monkeypatch.setattr(
        "hf_clipalign.gcd.n_classes.clustering_accuracy", lambda labels, found, mask: {"all": curve[found[0]]}
    )
    estimate = estimate_n_classes(features, labels, labelled, counts=sorted(curve))
    assert estimate.n_classes == 12
    assert estimate.range == (7, 12)
    assert "7 to 12 classes" in str(estimate.table().caption)
    assert ClassCountEstimate(4, 2, {4: 1.0}).range == (4, 4)


def test_three_samples_are_enough() -> None:
    features = torch.eye(3)
    assert estimate_n_classes(features, [0, 1, None], np.array([True, True, False]), counts=[2]).n_classes == 2
    with pytest.raises(ClipAlignError, match="2 samples, all alike or too few"):
        estimate_n_classes(features[:2], [0, 1], np.ones(2, bool), counts=[2])


@pytest.mark.parametrize(
    ("end", "between"),
    [(2, [5, 14]), (8, [5, 14, 30]), (20, [5, 14, 30, 60]), (40, [14, 30, 60]), (80, [30, 60])],
)
def test_counts_between_an_end_and_two_neighbours_on_either_side(end: int, between: list[int]) -> None:
    assert _between(dict.fromkeys((2, 8, 20, 40, 80), 0.5), end) == between
    assert _between(dict.fromkeys((2, 3, 4), 0.5), 3) == []
