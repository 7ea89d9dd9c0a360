"""Thresholds, predictive values and calibration, by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from hf_clipalign import ClipAlignError
from hf_clipalign.metrics import calibration, platt_scaling, threshold_metrics, youden_threshold

NAN = float("nan")


def test_the_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50).astype(float)
    scores = (labels + 1.5 * rng.random(50)).round(1)

    def youden(limit):
        found = threshold_metrics(labels, scores >= limit)
        return found["sensitivity"] + found["specificity"]

    best = youden_threshold(labels, scores)
    assert youden(best) == pytest.approx(max(youden(limit) for limit in [*scores, scores.max() + 1]))
    assert youden_threshold(np.r_[labels, NAN], np.r_[scores, 99.0]) == best
    assert np.isnan(youden_threshold([1, 1, NAN], [0.1, 0.2, 0.3]))


def test_predictive_values_by_hand():
    found = threshold_metrics([1, 1, 1, 0, 0, NAN], [1, 1, 0, 1, 0, 1])
    assert found == {
        "sensitivity": pytest.approx(2 / 3),
        "specificity": 0.5,
        "ppv": pytest.approx(2 / 3),
        "npv": 0.5,
        "f1": pytest.approx(2 / 3),
        "predicted": 3,
    }


def test_what_is_never_predicted_has_no_f1():
    found = threshold_metrics([1, 0, 1], [0, 0, 0])
    assert (found["predicted"], found["sensitivity"], found["specificity"]) == (0, 0, 1)
    assert np.isnan(found["f1"])
    assert np.isnan(found["ppv"])
    assert threshold_metrics([1, 0], [0, 1])["f1"] == 0  # a wrong prediction is one


def test_platt_scaling_is_a_logistic_regression_and_does_not_depend_on_the_unit():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    scores = 0.5 + 1e-3 * (labels + rng.standard_normal(200))
    slope, intercept = platt_scaling(labels, scores)
    scaled = (scores - scores.mean()) / scores.std()
    fitted = LogisticRegression().fit(scaled[:, None], labels).predict_proba(scaled[:, None])[:, 1]
    assert 1 / (1 + np.exp(-(slope * scores + intercept))) == pytest.approx(fitted)
    assert np.isnan(platt_scaling([1, 1], [0.1, 0.2])).all()


def test_calibration_by_hand():
    found = calibration([1, 0, 0, 1, 1], [0.05, 0.05, 0.95, 0.95, 1.0], n_bins=10)
    assert found["n"] == [2, 3]
    assert found["observed"] == [0.5, pytest.approx(2 / 3)]
    assert found["ece"] == pytest.approx((2 * 0.45 + 3 * abs(2.9 / 3 - 2 / 3)) / 5)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: calibration([1, 0], [0.1, 1.2]), "between 0 and 1"),
        (lambda: youden_threshold([1, 2], [0.1, 0.2]), "labels must be 1, 0"),
        (lambda: youden_threshold([1, 0], [0.1, NAN]), "NaN or infinite"),
        (lambda: threshold_metrics([[1, 0]], [[1, 0]]), r"must both be \[rows\]"),
    ],
)
def test_bad_input(run, message):
    with pytest.raises(ClipAlignError, match=message):
        run()


def test_counts_that_are_all_different():
    """5 hits, 3 misses, 2 alarms, 7 rejections: none can be taken for another."""
    labels = [1] * 8 + [0] * 9
    predictions = [1] * 5 + [0] * 3 + [1] * 2 + [0] * 7
    assert threshold_metrics(labels, predictions) == {
        "sensitivity": pytest.approx(5 / 8),
        "specificity": pytest.approx(7 / 9),
        "ppv": pytest.approx(5 / 7),
        "npv": pytest.approx(7 / 10),
        "f1": pytest.approx(10 / 15),
        "predicted": 7,
    }
