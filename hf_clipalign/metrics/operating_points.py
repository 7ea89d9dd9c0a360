"""What a finding's scores are worth at one threshold, and as probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics._inputs import as_floats


def youden_threshold(labels: Any, scores: Any) -> float:
    """The threshold with the largest sensitivity + specificity − 1 (Youden 1950).

    Choose it on validation data and report it on others: on the data it was chosen on, it looks better than it is.

    Args:
        labels (array `[N]`): 1 present, 0 absent, NaN not known (left out).
        scores (array `[N]`): higher where the finding is more likely.

    Returns:
        `float`: scores at or above it count as present; it lies midway between two neighbouring scores. The lowest one
        of several equally good; NaN where the labels are of one class at most.

    Raises:
        `ClipAlignError`: Shapes do not fit, labels are not 0, 1 or NaN, or scores are not finite.

    Example:
        ```python
        >>> youden_threshold([0, 0, 1, 1], [0.0, 0.25, 0.75, 1.0])
        0.5
        ```
    """
    target, score = _known(labels, scores)
    values = np.unique(score)
    if len(np.unique(target)) < 2:
        return float("nan")
    limits = np.r_[values[0], (values[:-1] + values[1:]) / 2]
    positive, negative = (np.sort(score[target == kind]) for kind in (1, 0))
    sensitivity = 1 - np.searchsorted(positive, limits) / len(positive)
    specificity = np.searchsorted(negative, limits) / len(negative)
    return float(limits[np.argmax(sensitivity + specificity)])


def threshold_metrics(labels: Any, predictions: Any) -> dict[str, float]:
    """Sensitivity, specificity, predictive values and F1 of hard labels.

    Args:
        labels (array `[N]`): 1 present, 0 absent, NaN not known (left out).
        predictions (array `[N]`): 1 or 0.

    Returns:
        `sensitivity`, `specificity`, `ppv`, `npv`, `f1`: NaN where nothing could be counted: `ppv` and `f1` where
        nothing is predicted present, for example; `predicted`: the number of known rows predicted present.

    Raises:
        `ClipAlignError`: As `youden_threshold`.

    Example:
        ```python
        >>> threshold_metrics([1, 1, 0, 0], [1, 0, 0, 0])["sensitivity"]
        0.5
        ```
    """
    target, score = _known(labels, predictions)
    said = score > 0.5
    hits, misses = int((said & (target == 1)).sum()), int((~said & (target == 1)).sum())
    alarms, rejections = int((said & (target == 0)).sum()), int((~said & (target == 0)).sum())
    return {
        "sensitivity": _share(hits, hits + misses),
        "specificity": _share(rejections, rejections + alarms),
        "ppv": _share(hits, hits + alarms),
        "npv": _share(rejections, rejections + misses),
        "f1": _share(2 * hits, 2 * hits + misses + alarms) if hits + alarms else float("nan"),
        "predicted": hits + alarms,
    }


def platt_scaling(labels: Any, scores: Any) -> tuple[float, float]:
    """Slope and intercept that turn scores into probabilities, `sigmoid(slope · score + intercept)` (Platt 1999).

    Args:
        labels (array `[N]`), scores (array `[N]`): see `youden_threshold`; of validation data.

    Returns:
        `(float, float)`: NaN where the labels are of one class at most.

    Raises:
        `ClipAlignError`: As `youden_threshold`.

    Example:
        ```python
        >>> slope, intercept = platt_scaling([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])
        >>> slope > 0
        True
        ```
    """
    from sklearn.linear_model import LogisticRegression

    target, score = _known(labels, scores)
    if len(np.unique(target)) < 2:
        return float("nan"), float("nan")
    centre, width = score.mean(), score.std() or 1.0
    fitted = LogisticRegression().fit(((score - centre) / width)[:, None], target)
    slope = float(fitted.coef_[0, 0] / width)
    return slope, float(fitted.intercept_[0] - slope * centre)


def calibration(labels: Any, probabilities: Any, n_bins: int = 10) -> dict[str, Any]:
    """Expected calibration error (Naeini et al. 2015) over bins of equal width, and the bins of a reliability plot.

    Args:
        labels (array `[N]`): 1 present, 0 absent, NaN not known (left out).
        probabilities (array `[N]`): between 0 and 1.
        n_bins (`int`, *optional*, defaults to 10): number of bins.

    Returns:
        `ece`: mean distance between predicted and observed share, weighted by rows; `predicted`, `observed`, `n`: for
        each bin that has rows.

    Raises:
        `ClipAlignError`: As `youden_threshold`, or probabilities outside [0, 1].

    Example:
        ```python
        >>> calibration([1, 0, 1, 1], [0.75, 0.75, 0.75, 0.75])["ece"]
        0.0
        ```
    """
    target, score = _known(labels, probabilities)
    if len(score) and (score.min() < 0 or score.max() > 1):
        raise ClipAlignError("probabilities must lie between 0 and 1: scale the scores with platt_scaling first")
    place = np.minimum((score * n_bins).astype(int), n_bins - 1)
    counts = np.bincount(place, minlength=n_bins)
    there = counts > 0
    predicted, observed = (
        np.bincount(place, weights=values, minlength=n_bins)[there] / counts[there] for values in (score, target)
    )
    distance = np.abs(predicted - observed) @ counts[there]
    return {
        "ece": float(distance / len(score)) if len(score) else float("nan"),
        "predicted": predicted.tolist(),
        "observed": observed.tolist(),
        "n": counts[there].tolist(),
    }


def _known(labels: Any, scores: Any) -> tuple[NDArray, NDArray]:
    target, score = as_floats(labels, "labels"), as_floats(scores, "scores")
    if target.ndim != 1 or target.shape != score.shape:
        raise ClipAlignError(f"labels {target.shape} and scores {score.shape} must both be [rows]")
    known = ~np.isnan(target)
    if not np.isin(target[known], (0.0, 1.0)).all():
        raise ClipAlignError("labels must be 1, 0, or NaN where they are not known")
    if not np.isfinite(score[known]).all():
        raise ClipAlignError("scores hold NaN or infinite values")
    return target[known], score[known]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
