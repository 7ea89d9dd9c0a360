import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from scipy.optimize import linear_sum_assignment

from hf_clipalign import ClipAlignError
from hf_clipalign.metrics import cluster_balance, clustering_accuracy, clustering_report, match_clusters

VECTORS = np.load(Path(__file__).parent.parent / "fixtures" / "spectralgcd" / "cluster_accuracy.npz")
# case: all, old, new, and the same balanced
EXPECTED = {
    "balanced": (
        (0.7166666666666667, 0.7321428571428571, 0.703125),
        (0.7274162149984518, 0.7350274725274726, 0.7198049574694312),
    ),
    "imbalanced": (
        (0.6866666666666666, 0.6771653543307087, 0.7391304347826086),
        (0.7157133052133052, 0.6904745563078896, 0.7535714285714286),
    ),
    "missing_predictions": (
        (0.6166666666666667, 0.7142857142857143, 0.3888888888888889),
        (0.5630952380952381, 0.7472222222222222, 0.425),
    ),
    "extra_predicted_cluster": (
        (0.7222222222222222, 0.6666666666666666, 0.8055555555555556),
        (0.7174434312732184, 0.7269503546099291, 0.707936507936508),
    ),
}


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("case", EXPECTED)
def test_values_are_those_of_the_reference(case, balanced):
    labels, predictions, known = (VECTORS[f"{case}/{name}"] for name in ("y_true", "y_pred", "old_mask"))
    result = clustering_accuracy(labels, predictions, known, balanced=balanced)
    assert list(result) == ["all", "old", "new"]
    assert tuple(result.values()) == pytest.approx(EXPECTED[case][balanced], abs=1e-12)
    report = clustering_report(labels, predictions, known)
    prefix = "balanced_" if balanced else ""
    assert [report[prefix + part] for part in result] == list(result.values())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30))
def test_the_matching_is_the_best_of_all(pairs):
    labels, predictions = map(list, zip(*pairs, strict=True))
    best = max(np.mean([order[cluster] == label for label, cluster in pairs]) for order in permutations(range(5)))
    assert clustering_accuracy(labels, predictions, [True] * len(pairs))["all"] == pytest.approx(best)
    matched = match_clusters(labels, predictions)
    assert np.mean([matched.get(cluster) == label for label, cluster in pairs]) == pytest.approx(best)
    assert len(set(matched.values())) == len(matched)


def test_one_matching_serves_all_parts():
    labels, clusters, known = [0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [True, True, True, False, False]
    assert clustering_accuracy(labels, clusters, known) == {"all": 0.6, "old": 1.0, "new": 0.0}
    assert clustering_accuracy(labels, clusters, known, balanced=True) == {"all": 0.5, "old": 1.0, "new": 0.0}


@pytest.mark.parametrize("kind", [list, np.asarray, torch.as_tensor])
def test_arrays_tensors_lists_and_strings(kind):
    labels, clusters, known = [3, 3, 9, 9], [1, 1, 0, 1], [True, True, False, False]
    expected = {"all": 0.75, "old": 1.0, "new": 0.5}
    assert clustering_accuracy(kind(labels), kind(clusters), kind(known)) == expected
    assert clustering_accuracy([f"class {label}" for label in labels], kind(clusters), kind(known)) == expected


def test_a_part_without_samples_is_nan():
    result = clustering_accuracy([0, 1], [1, 0], [True, True])
    assert (result["all"], result["old"]) == (1, 1)
    assert math.isnan(result["new"])
    assert math.isnan(clustering_accuracy([0, 1], [1, 0], [0, 0], balanced=True)["old"])


def test_report_counts_and_agrees_with_scikit_learn():
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    rng = np.random.default_rng(0)
    labels, clusters = rng.integers(4, size=60), rng.integers(6, size=60)
    report = clustering_report(labels, clusters)
    assert set(report) == {"all", "balanced_all", "nmi", "ari", "n_classes", "n_clusters"}
    assert report["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters))
    assert report["ari"] == pytest.approx(adjusted_rand_score(labels, clusters))
    assert (report["n_classes"], report["n_clusters"]) == (4, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0], [1, 1]), "predictions has 1 entries for 2 rows"),
        (([0, 1], [0, 1], [1]), "known_mask has 1 entries"),
        (([], [], []), "empty"),
        (([0, 1], [0.5, 1.0], [1, 1]), "predictions must be all integers or all strings"),
        (([0, 1], [[0], [1]], [1, 1]), "predictions must be one label per row"),
        (([0, 1], [0, 1], [0, 2]), "True or False"),
        (([0, 1], [0, 1], ["yes", "no"]), "True or False"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ClipAlignError, match=message):
        clustering_accuracy(*arguments)


@pytest.mark.parametrize("n_classes", [7, 300])
def test_very_many_clusters_are_matched_without_a_square_matrix(n_classes, monkeypatch):
    rng = np.random.default_rng(0)
    matched = rng.permutation(8000)[:n_classes]  # three samples of each class, all others are alone in their cluster
    labels = np.concatenate([np.repeat(np.arange(n_classes), 3), rng.integers(n_classes, size=8000)])
    clusters = np.concatenate([np.repeat(matched, 3), np.arange(8000)])
    shapes = []

    def assignment(costs):
        shapes.append(costs.shape)
        return linear_sum_assignment(costs)

    monkeypatch.setattr(optimize, "linear_sum_assignment", assignment)
    for names in (labels, np.array([f"class {label:03d}" for label in labels])):
        pairs = match_clusters(names, clusters)
        assert [pairs[cluster] for cluster in matched] == np.unique(names).tolist()
    assert set(shapes) == {(8000, n_classes)}


def test_both_forms_are_equally_right(monkeypatch):
    rng = np.random.default_rng(1)
    labels, clusters, known = rng.integers(6, size=200), rng.integers(9, size=200), np.ones(200, bool)
    square = clustering_accuracy(labels, clusters, known)["all"]
    monkeypatch.setattr("hf_clipalign.metrics.clustering._SQUARE_IDS", 0)
    assert clustering_accuracy(labels, clusters, known)["all"] == square
    assert clustering_accuracy(clusters, labels, known)["all"] == square


def reference_accuracies(labels, clusters, known):
    """The reference's way: a square matrix over the ids as they are."""
    size = max(labels.max(), clusters.max()) + 1
    counts = np.zeros((size, size), dtype=int)
    np.add.at(counts, (clusters, labels), 1)
    matched = dict(zip(*linear_sum_assignment(counts.max() - counts), strict=True))
    right = np.array([matched[cluster] == label for cluster, label in zip(clusters, labels, strict=True)])
    return [right.mean(), right[known].mean(), right[~known].mean()]


def test_ties_between_ids_with_gaps_are_decided_as_by_the_reference():
    generator = np.random.default_rng(0)
    for _ in range(200):
        ids = np.sort(generator.choice(12, 5, replace=False))
        labels, clusters = ids[generator.integers(0, 5, 10)], generator.choice(12, 10)
        known = labels < np.median(ids)
        known[:2] = True, False
        found = clustering_accuracy(labels, clusters, known)
        assert list(found.values()) == pytest.approx(reference_accuracies(labels, clusters, known))


def test_balance_of_even_and_collapsed_classes():
    even = cluster_balance([0, 1, 2, 3], 4)
    assert (even["largest"], even["empty"]) == (0.25, 0)
    assert (even["entropy"], even["effective"]) == pytest.approx((math.log(4), 4))
    fallen = cluster_balance(np.zeros(9, dtype=int), 4)
    assert fallen == {"largest": 1.0, "empty": 3, "entropy": 0.0, "effective": 1.0}
    for bad in ([], [4], [-1], [0.5]):
        with pytest.raises(ClipAlignError, match="predictions must be"):
            cluster_balance(bad, 4)


@pytest.mark.parametrize(("highest", "n_columns"), [(1999, 2000), (2000, 3)])
def test_up_to_2000_ids_are_matched_as_they_are(highest, n_columns, monkeypatch):
    shapes = []

    def assignment(costs):
        shapes.append(costs.shape)
        return linear_sum_assignment(costs)

    monkeypatch.setattr(optimize, "linear_sum_assignment", assignment)
    found = clustering_accuracy(np.array([0, 7, highest]), np.array([7, highest, 0]), np.ones(3, bool))
    assert found["all"] == 1.0
    assert shapes == [(n_columns, n_columns)]
