"""Multi-label scores by finding, their means, and intervals; nothing undefined is averaged silently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_clipalign._checks.quoting import quoted
from hf_clipalign._checks.sequences import as_array, as_list
from hf_clipalign._checks.tensors import check_finite
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics._inputs import as_floats
from hf_clipalign.metrics.bootstrap import BLOCK_BYTES


def multilabel_metrics(
    labels: Any,
    scores: Any,
    *,
    threshold: float | Sequence[float] = 0.5,
    predictions: Any = None,
    finding_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """AUROC, AUPRC and F1 of every finding, their means, and the share of rows that are right in full.

    A finding whose known labels are of one class only has no AUROC and no usable F1: it is listed under `undefined`
    and left out of the means.

    Args:
        labels (array `[N, F]`): 1 present, 0 absent, NaN not known (left out).
        scores (array `[N, F]`): higher where a finding is more likely.
        threshold (`float` or `Sequence[float]`, *optional*, defaults to 0.5): scores at or above it, rounded to the
            precision of the scores, count as present; one number, or one for each finding.
        predictions (array `[N, F]`, *optional*): hard labels, 1 or 0, to be used instead of a threshold.
        finding_names (`Sequence[str]`, *optional*): F names. Default: "0", "1", …

    Returns:
        `auroc`, `auprc` (average precision) and `f1` by finding (NaN where undefined); `macro_auroc`, `macro_f1`:
        plain means over the defined findings; `weighted_auroc`, `weighted_f1`: weighted by the number of positives;
        `subset_accuracy`: share of the rows with all labels known whose hard labels are all right; `positives`,
        `known` and `predicted` (known rows whose hard label is 1) by finding; `undefined`: names. A mean of nothing is
        NaN.

    Raises:
        `ClipAlignError`: Shapes do not fit, labels are not 0, 1 or NaN, scores are not finite, a threshold is NaN,
            predictions are not 0 or 1, names repeat.

    Example:
        ```python
        >>> multilabel_metrics([[1], [0], [1]], [[0.9], [0.2], [0.4]])["macro_auroc"]
        1.0
        ```
    """
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

    target, score, names = _checked(labels, scores, finding_names)
    hard = _hard_labels(score, scores, threshold, predictions)
    known = ~np.isnan(target)
    positives = np.nansum(target, axis=0).astype(int)
    defined = (positives > 0) & (positives < known.sum(axis=0))
    auroc, auprc, f1 = np.full((3, len(names)), np.nan)
    for column in np.flatnonzero(defined):
        rows = known[:, column]
        auroc[column] = roc_auc_score(target[rows, column], score[rows, column])
        auprc[column] = average_precision_score(target[rows, column], score[rows, column])
        f1[column] = f1_score(target[rows, column], hard[rows, column], zero_division=0.0)
    whole = known.all(axis=1)
    return {
        "auroc": dict(zip(names, auroc.tolist(), strict=True)),
        "auprc": dict(zip(names, auprc.tolist(), strict=True)),
        "f1": dict(zip(names, f1.tolist(), strict=True)),
        "macro_auroc": _mean(auroc[defined]),
        "macro_f1": _mean(f1[defined]),
        "weighted_auroc": _mean(auroc[defined], positives[defined]),
        "weighted_f1": _mean(f1[defined], positives[defined]),
        "subset_accuracy": _mean((hard[whole] == target[whole]).all(axis=1).astype(float)),
        "positives": dict(zip(names, positives.tolist(), strict=True)),
        "known": dict(zip(names, known.sum(axis=0).tolist(), strict=True)),
        "predicted": dict(zip(names, (hard & known).sum(axis=0).tolist(), strict=True)),
        "undefined": [name for name, is_defined in zip(names, defined, strict=True) if not is_defined],
    }


def multilabel_intervals(
    labels: Any,
    scores: Any,
    *,
    threshold: float | Sequence[float] = 0.5,
    predictions: Any = None,
    finding_names: Sequence[str] | None = None,
    groups: Any = None,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    kinds: Sequence[str] = ("auroc", "f1"),
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals (Efron 1979) of AUROC, AUPRC and F1, by finding and in the mean.

    Args:
        labels (array `[N, F]`), scores (array `[N, F]`): see `multilabel_metrics`.
        threshold (`float` or `Sequence[float]`, *optional*, defaults to 0.5): see `multilabel_metrics`.
        predictions (array `[N, F]`, *optional*), finding_names (`Sequence[str]`, *optional*): see
            `multilabel_metrics`.
        groups (array `[N]`, *optional*): integers or texts, none empty, the patient of each row for example: rows of a
            group are drawn together.
        n_resamples (`int`, *optional*, defaults to 1000): number of resamples.
        level (`float`, *optional*, defaults to 0.95): coverage, between 0 and 1.
        seed (`int`, *optional*, defaults to 0): seed of the resampling.
        kinds (`Sequence[str]`, *optional*): among `"auroc"`, `"auprc"` and `"f1"`. Default: the first and the last.

    Returns:
        `auroc/<finding>`, `f1/<finding>`, `macro_auroc` and `macro_f1`, of all `kinds`: (low, high). A resample
        without both classes of a finding does not count for it, nor does the finding in that resample's mean.
        Undefined findings are left out.

    Raises:
        `ClipAlignError`: As `multilabel_metrics`, a level outside (0, 1), no whole number of resamples, or groups
            that are no labels.

    Example:
        ```python
        >>> multilabel_intervals([[1], [0], [1], [0]], [[0.9], [0.2], [0.8], [0.1]])["macro_auroc"]
        (1.0, 1.0)
        ```
    """
    if unknown := [kind for kind in as_texts(kinds, "kinds") if kind not in _WEIGHTED]:
        raise ClipAlignError(f"there are no intervals of {quoted(unknown)}, only of {quoted(_WEIGHTED)}")
    target, score, names = _checked(labels, scores, finding_names)
    hard = _hard_labels(score, scores, threshold, predictions)
    drawn: dict[str, list[NDArray]] = {kind: [] for kind in kinds}
    for times in _resamples(len(target), groups, n_resamples, level, seed):
        for kind, parts in drawn.items():
            given = hard if kind == "f1" else score
            columns = [_WEIGHTED[kind](target[:, c], given[:, c], times) for c in range(len(names))]
            parts.append(np.stack(columns, 1))
    return {
        name: interval
        for kind, parts in drawn.items()
        for name, interval in _intervals(kind, np.concatenate(parts), names, level).items()
    }


def auroc_differences(
    labels: Any,
    scores: Any,
    others: Any,
    *,
    finding_names: Sequence[str] | None = None,
    groups: Any = None,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float, float]]:
    """AUROC of one model minus that of another on the same rows, with paired percentile bootstrap intervals.

    Args:
        labels (array `[N, F]`), finding_names (`Sequence[str]`, *optional*): see `multilabel_intervals`.
        groups (array `[N]`, *optional*): see `multilabel_intervals`.
        n_resamples (`int`, *optional*, defaults to `1000`): number of resamples.
        level (`float`, *optional*, defaults to `0.95`), seed (`int`, *optional*, defaults to `0`): likewise.
        scores, others (array `[N, F]`): of the two models.

    Returns:
        `auroc/<finding>` and `macro_auroc`: (difference, low, high). An interval without 0 says that the difference is
        more than chance at that level. Undefined findings are left out.

    Raises:
        `ClipAlignError`: As `multilabel_intervals`.

    Example:
        ```python
        >>> labels = [[1], [0], [1], [0]]
        >>> auroc_differences(labels, [[0.9], [0.2], [0.8], [0.1]], [[0.9], [0.2], [0.8], [0.1]])["macro_auroc"]
        (0.0, 0.0, 0.0)
        ```
    """
    target, first, names = _checked(labels, scores, finding_names)
    _, second, _ = _checked(labels, others, finding_names)

    def difference(times: NDArray) -> NDArray:
        pairs = (
            (_weighted_auroc(target[:, c], kind[:, c], times) for kind in (first, second)) for c in range(len(names))
        )
        return np.stack([one - other for one, other in pairs], 1)

    drawn = [difference(times) for times in _resamples(len(target), groups, n_resamples, level, seed)]
    intervals = _intervals("auroc", np.concatenate(drawn), names, level)
    measured = difference(np.ones((1, len(target))))[0]
    values = {f"auroc/{name}": float(value) for name, value in zip(names, measured, strict=True)}
    values["macro_auroc"] = _mean(measured[~np.isnan(measured)])
    return {name: (values[name], *interval) for name, interval in intervals.items()}


def forgetting_metrics(matrix: Any, learned_at: Sequence[int] | None = None, baseline: Any = None) -> dict[str, Any]:
    """Forgetting and transfer from the matrix of scores after every task.

    With a[i, j] the score of finding j after task i (from 0), T tasks, and l(j) the task that taught j first:

    - forgetting (Chaudhry et al., 2018, arXiv 1801.10112): mean over j of max over i < T - 1 of a[i, j], minus
      a[T - 1, j];
    - backward transfer (Lopez-Paz and Ranzato, 2017, arXiv 1706.08840): mean over j of a[T - 1, j] - a[l(j), j];
    - forward transfer (the same): mean over j with l(j) > 0 of a[l(j) - 1, j] - b[j], b being the score before
      anything was learned.

    The first two are over findings learned before the last task. NaN entries (undefined scores) take no part; a
    finding without a score after the last task or after the task that taught it is named.

    Args:
        matrix (array `[T, F]`): scores, one row per task. Without `learned_at` it must be square: finding j is taught
            by task j.
        learned_at (`Sequence[int]`, *optional*): [F], the first task that teaches each finding. All 0 where every task
            teaches every finding.
        baseline (array `[F]`, *optional*): scores before the first task, for forward transfer. Default: none, and no
            forward transfer.

    Returns:
        `forgetting`, `backward_transfer`, `average` (mean of all scores of the last row) and, with a baseline,
        `forward_transfer`: numbers, NaN where nothing can be averaged; `forgetting_by_finding` [F]; `undefined`: the
        columns without a score after the last task or after the one that taught them.

    Raises:
        `ClipAlignError`: Shapes do not fit, infinite scores, or a task number outside the matrix.

    Example:
        ```python
        >>> forgetting_metrics([[0.75, 0.5], [0.5, 0.75]])["backward_transfer"]
        -0.25
        ```
    """
    scores = as_floats(matrix, "matrix")
    if scores.ndim != 2 or 0 in scores.shape or (learned_at is None and scores.shape[0] != scores.shape[1]):
        raise ClipAlignError(f"matrix must be [tasks, findings] (square without learned_at), got {scores.shape}")
    if np.isinf(scores).any():
        raise ClipAlignError("matrix holds infinite scores; NaN stands for one that is undefined")
    n_tasks, n_findings = scores.shape
    first: NDArray = np.arange(n_findings) if learned_at is None else as_floats(learned_at, "learned_at")
    if first.shape != (n_findings,) or (first % 1).any() or first.min() < 0 or first.max() >= n_tasks:
        raise ClipAlignError(
            f"learned_at must hold {n_findings} task numbers from 0 to {n_tasks - 1}, got {learned_at}"
        )
    first = first.astype(np.int64)
    columns, last = np.arange(n_findings), scores[-1]
    earlier = first < n_tasks - 1
    undefined = np.isnan(last) | np.isnan(scores[first, columns])
    best = np.where(np.isnan(scores[:-1]), -np.inf, scores[:-1]).max(axis=0, initial=-np.inf)
    forgotten = np.where(earlier & ~undefined, best - last, np.nan)
    result = {
        "forgetting": _mean(forgotten[earlier & ~undefined]),
        "backward_transfer": _mean((last - scores[first, columns])[earlier & ~undefined]),
        "average": _mean(last[~np.isnan(last)]),
        "forgetting_by_finding": forgotten.tolist(),
        "undefined": columns[undefined].tolist(),
    }
    if baseline is not None:
        before = as_floats(baseline, "baseline")
        if before.shape != (n_findings,) or np.isinf(before).any():
            raise ClipAlignError(
                f"baseline must hold one score, not infinite, for each of {n_findings} findings, got {baseline}"
            )
        transferred = scores[np.maximum(first - 1, 0), columns] - before
        result["forward_transfer"] = _mean(transferred[(first > 0) & ~np.isnan(transferred)])
    return result


def _resamples(n_rows: int, groups: Any, n_resamples: int, level: float, seed: int) -> Iterator[NDArray]:
    """Blocks `[R, N]`: how often each row is drawn, the rows of a group together."""
    if not 0 < level < 1 or not isinstance(n_resamples, (int, np.integer)) or n_resamples < 1:
        raise ClipAlignError(
            f"level must be between 0 and 1 and n_resamples an integer of at least 1, got {level} and {n_resamples}"
        )
    unit = np.arange(n_rows) if groups is None else _units(groups, n_rows)
    rng = np.random.default_rng(seed)
    n_units = int(unit.max()) + 1
    block = max(1, BLOCK_BYTES // (8 * n_rows * 4))
    for first in range(0, n_resamples, block):
        n_drawn = min(block, n_resamples - first)
        picks = rng.integers(n_units, size=(n_drawn, n_units)) + n_units * np.arange(n_drawn)[:, None]
        yield np.bincount(picks.ravel(), minlength=n_drawn * n_units).reshape(n_drawn, n_units)[:, unit].astype(float)


def _units(groups: Any, n_rows: int) -> NDArray[np.int64]:
    """The number of each row's group."""
    names = as_array(groups, "groups")
    if names.shape != (n_rows,):
        raise ClipAlignError(f"groups has {len(names) if names.ndim else 0} entries for {n_rows} rows")
    if names.dtype.kind not in "biufUS" or (names.dtype.kind == "f" and np.isnan(names).any()):
        raise ClipAlignError("groups must be all integers or all texts, and none may be empty")
    return np.unique(names, return_inverse=True)[1]


def _checked(labels: Any, scores: Any, finding_names: Sequence[str] | None) -> tuple[NDArray, NDArray, list[str]]:
    target, score = as_floats(labels, "labels"), as_floats(scores, "scores")
    if target.ndim != 2 or target.shape != score.shape or 0 in target.shape:
        raise ClipAlignError(
            f"labels {target.shape} and scores {score.shape} must both be [rows, findings], not empty"
        )
    if not (np.isin(target, (0.0, 1.0)) | np.isnan(target)).all():
        raise ClipAlignError("labels must be 1, 0, or NaN where they are not known")
    check_finite(torch.from_numpy(score), "scores")
    names = (
        [str(column) for column in range(target.shape[1])]
        if finding_names is None
        else as_list(finding_names, "finding_names")
    )
    if len(names) != target.shape[1] or len(set(names)) != len(names):
        raise ClipAlignError(f"finding_names must be {target.shape[1]} different names, got {len(names)}")
    return target, score, names


def _hard_labels(score: NDArray, given: Any, threshold: float | Sequence[float], predictions: Any) -> NDArray:
    if predictions is not None:
        hard = as_floats(predictions, "predictions")
        if hard.shape != score.shape:
            raise ClipAlignError(f"predictions {hard.shape} and scores {score.shape} must have the same shape")
        if not np.isin(hard, (0.0, 1.0)).all():
            raise ClipAlignError("predictions must be 1 or 0: for scores give a threshold")
        return hard.astype(bool)
    limits = _rounded_as(given, as_floats(threshold, "threshold"))
    if np.isnan(limits).any():
        raise ClipAlignError("threshold is NaN: give a number")
    if limits.ndim > 1 or (limits.ndim == 1 and len(limits) != score.shape[1]):
        raise ClipAlignError(f"threshold must be one number or {score.shape[1]}, got shape {limits.shape}")
    return score >= limits


def _rounded_as(given: Any, limits: NDArray) -> NDArray:
    """Thresholds rounded to the precision of the scores, in which a score of 0.7 may be a little less than 0.7."""
    if isinstance(given, Tensor):
        dtype = given.dtype if given.is_floating_point() else torch.float64
        return torch.from_numpy(np.array(limits)).to(dtype).double().numpy()
    scores = as_array(given, "scores")
    return limits.astype(scores.dtype).astype(np.float64) if scores.dtype.kind == "f" else limits


def _mean(values: NDArray, weights: NDArray | None = None) -> float:
    return float(np.average(values, weights=weights)) if len(values) else float("nan")


def _weighted_auroc(target: NDArray, score: NDArray, times: NDArray) -> NDArray:
    """AUROC [R] with every row counted `times` [R, N]: one pass over the sorted scores, ties count half."""
    known = ~np.isnan(target)
    order = np.flatnonzero(known)[np.argsort(score[known], kind="stable")]
    is_positive, weights = target[order] == 1, times[:, order]
    if not len(order):
        return np.full(len(times), np.nan)
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    positive = np.add.reduceat(weights * is_positive, starts, axis=1)
    negative = np.add.reduceat(weights * ~is_positive, starts, axis=1)
    below = negative.cumsum(axis=1) - 0.5 * negative
    with np.errstate(invalid="ignore", divide="ignore"):
        return (positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))


def _weighted_auprc(target: NDArray, score: NDArray, times: NDArray) -> NDArray:
    """Average precision [R] with every row counted `times` [R, N]; NaN in a resample without both classes."""
    known = ~np.isnan(target)
    order = np.flatnonzero(known)[np.argsort(-score[known], kind="stable")]
    is_positive, weights = target[order] == 1, times[:, order]
    if not len(order):
        return np.full(len(times), np.nan)
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) < 0])
    positive = np.add.reduceat(weights * is_positive, starts, axis=1)
    drawn = np.add.reduceat(weights, starts, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(positive.cumsum(axis=1) / drawn.cumsum(axis=1))
        found = (positive * precision).sum(axis=1) / positive.sum(axis=1)
    return np.where(positive.sum(axis=1) < drawn.sum(axis=1), found, np.nan)


def _weighted_f1(target: NDArray, hard: NDArray, times: NDArray) -> NDArray:
    """F1 [R] with every row counted `times` [R, N]; NaN in a resample without both classes."""
    positive, negative = target == 1, target == 0
    both, said, present = times @ (positive & hard), times @ ((positive | negative) & hard), times @ positive
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(said + present > 0, 2 * both / (said + present), 0.0)
    return np.where((present > 0) & (times @ negative > 0), f1, np.nan)


_WEIGHTED = {"auroc": _weighted_auroc, "auprc": _weighted_auprc, "f1": _weighted_f1}


def _intervals(kind: str, drawn: NDArray, names: Sequence[str], level: float) -> dict[str, tuple[float, float]]:
    """Quantiles of the columns that are ever defined, and of the mean over them."""
    usable, tails = ~np.isnan(drawn).all(axis=0), [(1 - level) / 2, (1 + level) / 2]
    found = {}
    for column in np.flatnonzero(usable).tolist():
        low, high = np.nanquantile(drawn[:, column], tails)
        found[f"{kind}/{names[column]}"] = (float(low), float(high))
    if usable.any():
        rows = drawn[:, usable]
        low, high = np.quantile(np.nanmean(rows[~np.isnan(rows).all(axis=1)], axis=1), tails)
        found[f"macro_{kind}"] = (float(low), float(high))
    return found
