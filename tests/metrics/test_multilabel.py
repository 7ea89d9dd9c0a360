"""Multi-label scores against scikit-learn, intervals against a plain bootstrap, forgetting by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from hf_clipalign import ClipAlignError
from hf_clipalign.metrics import auroc_differences, forgetting_metrics, multilabel_intervals, multilabel_metrics
from hf_clipalign.metrics.multilabel import _weighted_auroc, _weighted_f1

NAN = float("nan")


def data(n=200, f=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, f)) < [0.5, 0.3, 0.2][:f]).astype(float)
    return labels, np.round(rng.random((n, f)) * 0.7 + 0.3 * labels, 2)


def test_against_scikit_learn():
    labels, scores = data()
    found = multilabel_metrics(labels, scores, threshold=[0.5, 0.6, 0.7], finding_names=["a", "b", "c"])
    hard = scores >= [0.5, 0.6, 0.7]
    for kind, whole in (("macro", "macro"), ("weighted", "weighted")):
        assert found[f"{kind}_auroc"] == pytest.approx(roc_auc_score(labels, scores, average=whole))
        assert found[f"{kind}_f1"] == pytest.approx(f1_score(labels, hard, average=whole))
    assert found["auroc"]["b"] == pytest.approx(roc_auc_score(labels[:, 1], scores[:, 1]))
    assert found["subset_accuracy"] == pytest.approx((hard == labels).all(axis=1).mean())
    assert found["positives"]["c"] == labels[:, 2].sum()
    assert found["undefined"] == []


def test_a_finding_of_one_class_is_named_and_left_out():
    labels, scores = data()
    expected = multilabel_metrics(labels[:, :1], scores[:, :1])
    labels[:, 1], labels[:, 2] = 0, 1
    found = multilabel_metrics(labels, scores, finding_names=["a", "b", "c"])
    assert found["undefined"] == ["b", "c"]
    assert np.isnan(found["auroc"]["b"])
    assert np.isnan(found["f1"]["c"])
    for name in ("macro_auroc", "macro_f1", "weighted_auroc", "weighted_f1"):
        assert found[name] == expected[name]
    intervals = multilabel_intervals(labels, scores, finding_names=["a", "b", "c"], n_resamples=20)
    assert set(intervals) == {"auroc/a", "f1/a", "macro_auroc", "macro_f1"}
    nothing = multilabel_metrics(labels[:, 1:], scores[:, 1:])
    assert np.isnan(nothing["macro_auroc"])


def test_unknown_labels_do_not_count():
    labels, scores = data()
    labels[:50, 0] = NAN
    found = multilabel_metrics(labels, scores, finding_names=["a", "b", "c"])
    assert found["auroc"]["a"] == pytest.approx(roc_auc_score(labels[50:, 0], scores[50:, 0]))
    assert found["known"] == {"a": 150, "b": 200, "c": 200}
    whole = (scores[50:] >= 0.5) == labels[50:]
    assert found["subset_accuracy"] == pytest.approx(whole.all(axis=1).mean())


def test_hard_labels_take_the_place_of_a_threshold():
    labels, scores = data()
    found = multilabel_metrics(labels, scores, predictions=labels)
    assert found["macro_f1"] == found["subset_accuracy"] == 1.0
    assert found["macro_auroc"] < 1


@given(st.integers(0, 1000))
def test_weighted_scores_are_those_of_repeated_rows(seed):
    rng = np.random.default_rng(seed)
    labels, scores = data(12, 1, seed)
    labels[rng.random(12) < 0.2] = NAN
    times = rng.integers(3, size=12)
    target, score = (np.repeat(part[:, 0], times) for part in (labels, scores))
    hard = score >= 0.5
    known = ~np.isnan(target)
    found = _weighted_auroc(labels[:, 0], scores[:, 0], times[None].astype(float))
    f1 = _weighted_f1(labels[:, 0], scores[:, 0] >= 0.5, times[None].astype(float))
    if len(set(target[known])) < 2:
        assert np.isnan(found[0])
        assert np.isnan(f1[0])
    else:
        assert found[0] == pytest.approx(roc_auc_score(target[known], score[known]))
        assert f1[0] == pytest.approx(f1_score(target[known], hard[known], zero_division=0.0))


def test_intervals_hold_the_score_and_grow_with_groups():
    labels, scores = data(400)
    point = multilabel_metrics(labels, scores)
    alone = multilabel_intervals(labels, scores, n_resamples=300)
    assert all(
        alone[f"macro_{kind}"][0] < point[f"macro_{kind}"] < alone[f"macro_{kind}"][1] for kind in ("auroc", "f1")
    )
    repeated = np.repeat(labels, 4, axis=0), np.repeat(scores, 4, axis=0)
    grouped = multilabel_intervals(*repeated, groups=np.repeat(np.arange(400), 4), n_resamples=300)
    ungrouped = multilabel_intervals(*repeated, n_resamples=300)
    assert grouped["auroc/0"] == pytest.approx(alone["auroc/0"])
    assert np.ptp(ungrouped["auroc/0"]) < 0.75 * np.ptp(grouped["auroc/0"])


def test_forgetting_by_hand():
    matrix = [[0.9, 0.5, 0.4], [0.7, 0.8, 0.6], [0.6, 0.85, 0.9]]
    found = forgetting_metrics(matrix, baseline=[0.5, 0.5, 0.5])
    assert found["forgetting"] == pytest.approx(((0.9 - 0.6) + (0.8 - 0.85)) / 2)
    assert found["backward_transfer"] == pytest.approx(((0.6 - 0.9) + (0.85 - 0.8)) / 2)
    assert found["forward_transfer"] == pytest.approx(((0.5 - 0.5) + (0.6 - 0.5)) / 2)
    assert found["average"] == pytest.approx(np.mean(matrix[-1]))
    assert "forward_transfer" not in forgetting_metrics(matrix)


def test_forgetting_where_every_task_teaches_everything():
    found = forgetting_metrics([[0.5, 0.6], [0.9, 0.7], [0.8, 0.8]], learned_at=[0, 0])
    assert found["forgetting"] == pytest.approx((0.1 - 0.1) / 2)
    assert found["backward_transfer"] == pytest.approx((0.3 + 0.2) / 2)


def test_undefined_scores_are_named_and_a_past_without_them_is_not():
    found = forgetting_metrics([[0.9, NAN, NAN], [0.7, NAN, 0.5], [0.6, NAN, 0.8]], learned_at=[0, 1, 1])
    assert found["undefined"] == [1]
    assert found["forgetting"] == pytest.approx((0.3 - 0.3) / 2)
    assert np.isnan(forgetting_metrics([[0.5]])["forgetting"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: multilabel_metrics([[1, 0]], [[0.5]]), "must both be"),
        (lambda: multilabel_metrics([[2.0]], [[0.5]]), "labels must be 1, 0, or NaN"),
        (
            lambda: multilabel_metrics([[1.0], [0.0]], [[0.5], [NAN]]),
            r"1 of 2 rows \(1\)",
        ),
        (lambda: multilabel_metrics([[1.0]], [[0.5]], finding_names=["a", "b"]), "1 different names"),
        (lambda: multilabel_metrics([[1.0]], [[0.5]], threshold=[0.1, 0.2]), "threshold"),
        (lambda: multilabel_metrics([[1.0]], [[0.5]], predictions=[[1, 0]]), "predictions"),
        (lambda: multilabel_intervals([[1.0]], [[0.5]], level=95), "level"),
        (lambda: multilabel_intervals([[1.0]], [[0.5]], groups=[1, 2]), "2 entries for 1"),
        (
            lambda: multilabel_intervals([[1.0], [0.0]], [[0.5], [0.1]], groups=[None, "a"]),
            "groups has no value",
        ),
        (lambda: multilabel_intervals([[1.0], [0.0]], [[0.5], [0.1]], groups=[NAN, 1]), "none may be empty"),
        (lambda: multilabel_intervals([[1.0]], [[0.5]], groups="a"), "groups is a single string"),
        (lambda: multilabel_intervals([[1.0]], [[0.5]], n_resamples=10.0), "n_resamples an integer"),
        (lambda: forgetting_metrics([[0.5, 0.5]]), "square"),
        (lambda: forgetting_metrics([[0.5]], learned_at=[1]), "task numbers"),
        (lambda: forgetting_metrics([[0.5]], baseline=[0.1, 0.2]), "baseline"),
        (lambda: multilabel_metrics([["1"]], [[0.5]]), "labels must be numbers"),
        (lambda: multilabel_metrics([[1, 0], [1]], [[0.5]]), "labels must be numbers"),
        (lambda: multilabel_metrics([[1]], [["high"]]), "scores must be numbers"),
        (lambda: multilabel_metrics([[1]], [[0.5]], threshold="0.5"), "threshold must be numbers"),
        (lambda: multilabel_metrics([[1]], [[0.5]], threshold=NAN), "threshold is NaN"),
        (lambda: multilabel_metrics([[1]], [[0.5]], predictions=[[0.3]]), "predictions must be 1 or 0"),
        (lambda: multilabel_intervals([[1]], [[0.5]], predictions=[[NAN]]), "predictions must be 1 or 0"),
        (lambda: forgetting_metrics([[0.5, 0.5], [0.5]]), "matrix must be numbers"),
        (lambda: forgetting_metrics([["high"]]), "matrix must be numbers"),
        (lambda: forgetting_metrics([[float("inf")]]), "infinite"),
        (lambda: forgetting_metrics([[0.5]], learned_at=[0.5]), "task numbers"),
        (lambda: forgetting_metrics([[0.5]], learned_at=["A"]), "learned_at must be numbers"),
    ],
)
def test_bad_input_names_the_culprit(call, message):
    with pytest.raises(ClipAlignError, match=message):
        call()


@pytest.mark.parametrize("label", [-1.0, 0.5, 2.0, float("inf")])
def test_labels_that_are_neither_known_nor_unknown_are_refused(label):
    for metric in (multilabel_metrics, multilabel_intervals):
        with pytest.raises(ClipAlignError, match="labels must be 1, 0, or NaN"):
            metric([[1.0], [0.0], [label]], [[0.9], [0.1], [0.5]])


def test_unknown_labels_take_no_part():
    labels, scores = [[1, 0], [0, 1], [1, 1], [0, 0]], [[0.9, 0.2], [0.6, 0.3], [0.4, 0.8], [0.1, 0.6]]
    known = multilabel_metrics(labels, scores)
    more = multilabel_metrics([*labels, [NAN, NAN], [NAN, NAN]], [*scores, [0.0, 0.0], [1.0, 1.0]])
    assert more == known
    one = multilabel_metrics([*labels, [NAN, 1]], [*scores, [0.0, 0.1]])
    assert one["auroc"]["0"] == known["auroc"]["0"]
    assert one["auroc"]["1"] != known["auroc"]["1"]
    assert one["subset_accuracy"] == known["subset_accuracy"]
    assert one["known"] == {"0": 4, "1": 5}
    missing = pd.DataFrame([*labels, [None, 1]], dtype="Int64")
    assert multilabel_metrics(missing, [*scores, [0.0, 0.1]]) == one


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, np.float32, np.float16, np.float64])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7, 0.9])
def test_a_score_equal_to_the_threshold_counts_as_present(kind, threshold):
    values = [[threshold], [threshold - 0.05], [threshold + 0.05], [0.0]]
    scores = torch.tensor(values, dtype=kind) if isinstance(kind, torch.dtype) else np.array(values, dtype=kind)
    labels = [[1], [0], [1], [0]]
    assert multilabel_metrics(labels, scores, threshold=threshold)["subset_accuracy"] == 1.0
    assert multilabel_metrics(labels, scores, threshold=[threshold])["f1"] == {"0": 1.0}


def test_the_average_is_the_mean_of_the_whole_last_row():
    """Also of a finding that had no score after the task that taught it."""
    found = forgetting_metrics([[NAN, 0.5], [0.9, 0.75]])
    assert found["average"] == pytest.approx(0.825)
    assert found["undefined"] == [0]


def test_auprc_and_its_interval_against_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (40, 1)).astype(float)
    scores = (rng.random((40, 1)) + 0.5 * labels).round(1)  # with ties
    labels[:5] = NAN
    known = ~np.isnan(labels[:, 0])
    expected = average_precision_score(labels[known, 0], scores[known, 0])
    assert multilabel_metrics(labels, scores)["auprc"]["0"] == pytest.approx(expected)
    patients = np.arange(40) // 2
    found = multilabel_intervals(labels, scores, groups=patients, n_resamples=300, kinds=["auprc"])
    draw, drawn = np.random.default_rng(0), []
    for picks in draw.integers(20, size=(300, 20)):
        rows = np.concatenate([np.flatnonzero(patients == pick) for pick in picks])
        rows = rows[known[rows]]
        drawn.append(average_precision_score(labels[rows, 0], scores[rows, 0]))
    assert found["auprc/0"] == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    with pytest.raises(ClipAlignError, match="no intervals of 'recall', only of 'auroc', 'auprc', 'f1'"):
        multilabel_intervals(labels, scores, kinds=["recall"])


def test_differences_of_two_models_are_paired():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, (60, 2)).astype(float)
    good, bad = labels + rng.random((60, 2)), rng.random((60, 2))
    found = auroc_differences(labels, good, bad, finding_names=["a", "b"], n_resamples=200)
    whole = [multilabel_metrics(labels, scores)["macro_auroc"] for scores in (good, bad)]
    value, low, high = found["macro_auroc"]
    assert value == pytest.approx(whole[0] - whole[1])
    assert 0 < low < value < high
    assert set(found) == {"auroc/a", "auroc/b", "macro_auroc"}
    assert auroc_differences(labels, good, good)["macro_auroc"] == (0, 0, 0)
