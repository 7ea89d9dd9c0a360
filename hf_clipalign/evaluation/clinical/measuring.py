"""What one model's scores of one finding are worth on test data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign.data import FindingLabels
from hf_clipalign.data.labels.finding_names import checked_findings
from hf_clipalign.metrics import (
    calibration,
    multilabel_intervals,
    multilabel_metrics,
    platt_scaling,
    threshold_metrics,
    youden_threshold,
)

AT_THRESHOLD = ("sensitivity", "specificity", "ppv", "npv", "f1", "predicted")


@dataclass(frozen=True)
class ModelScores:
    """What a model says of test and validation data.

    Args:
        name (`str`): of the model, for tables.
        findings (`list[str]`): F names of the findings that it scores.
        test (`np.ndarray [N, F]`): scores, higher where a finding is more likely.
        validation (`np.ndarray [M, F]`, *optional*): likewise, of the validation data.
        hard (`np.ndarray [N, F]`, *optional*): hard labels of the test data by a rule of the model's own.

    Example:
        ```python
        >>> ModelScores("chance", ["cough"], np.array([[0.5], [0.5]])).column("cough", "test").tolist()
        [0.5, 0.5]
        ```
    """

    name: str
    findings: list[str]
    test: NDArray
    validation: NDArray | None = None
    hard: NDArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "findings", checked_findings(self.findings))

    def column(self, finding: str, kind: str) -> Any:
        """One finding's column of `test`, `validation` or `hard`; None where there is none."""
        values = getattr(self, kind)
        return None if values is None else np.asarray(values)[:, self.findings.index(finding)].astype(np.float64)


def measure_finding(
    model: ModelScores,
    finding: str,
    test: FindingLabels,
    validation: FindingLabels | None,
    rows: NDArray | None = None,
    n_resamples: int = 1000,
) -> dict[str, Any]:
    """One row of the table: counts, AUROC and AUPRC with intervals, and what holds at a threshold.

    The threshold and the calibration come from validation data alone; without them they are NaN. Intervals draw
    patients where they are known, images otherwise.

    Args:
        model (`ModelScores`): whose scores.
        finding (`str`): which column.
        test, validation (`FindingLabels`): the labels.
        rows (`np.ndarray`, *optional*): numbers of the test rows, of a subgroup. Default: all.
        n_resamples (`int`, *optional*, defaults to 1000): of the bootstrap.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels
        >>> labels = FindingLabels(["1.png", "2.png"], ["cough"], [[1], [0]])
        >>> measure_finding(ModelScores("m", ["cough"], np.array([[0.9], [0.1]])), "cough", labels, None)["auroc"]
        1.0
        ```
    """
    index = np.arange(len(test)) if rows is None else rows
    target = test.targets()[index, test.findings.index(finding)].astype(np.float64)
    scores = model.column(finding, "test")[index]
    known, positives = int((~np.isnan(target)).sum()), int(np.nansum(target))
    row: dict[str, Any] = {"finding": finding, "model": model.name, "n": known, "positives": positives}
    row["prevalence"] = positives / known if known else math.nan
    ranked = multilabel_metrics(target[:, None], scores[:, None], finding_names=[finding])
    groups = None if test.patients is None else np.array(test.patients, dtype=str)[index]
    intervals = {}
    if not ranked["undefined"]:
        intervals = multilabel_intervals(
            *(target[:, None], scores[:, None]),
            finding_names=[finding],
            groups=groups,
            n_resamples=n_resamples,
            kinds=("auroc", "auprc"),
        )
    for kind in ("auroc", "auprc"):
        low, high = intervals.get(f"{kind}/{finding}", (math.nan, math.nan))
        row |= {kind: ranked[kind][finding], f"{kind}_low": low, f"{kind}_high": high}
    hard = model.column(finding, "hard")
    by_rule = {} if hard is None else threshold_metrics(target, hard[index])
    row |= {f"hard_{name}": by_rule.get(name, math.nan) for name in AT_THRESHOLD}
    return row | _at_threshold(model, finding, target, scores, validation)


def reliability(
    model: ModelScores, finding: str, test: FindingLabels, validation: FindingLabels | None
) -> dict[str, Any] | None:
    """The calibration of scores as probabilities, scaled on validation data; None where they have none to scale on."""
    if validation is None or model.validation is None:
        return None
    scaled = _probabilities(model, finding, validation, model.column(finding, "test"))
    target = test.targets()[:, test.findings.index(finding)]
    return None if scaled is None else calibration(target, scaled)


def _at_threshold(
    model: ModelScores, finding: str, target: NDArray, scores: NDArray, validation: FindingLabels | None
) -> dict[str, Any]:
    empty = dict.fromkeys(("threshold", *AT_THRESHOLD, "ece"), math.nan)
    if validation is None or model.validation is None:
        return empty
    chosen_on = validation.targets()[:, validation.findings.index(finding)]
    threshold = youden_threshold(chosen_on, model.column(finding, "validation"))
    if math.isnan(threshold):
        return empty
    scaled = _probabilities(model, finding, validation, scores)
    ece = math.nan if scaled is None else calibration(target, scaled)["ece"]
    return {"threshold": threshold, **threshold_metrics(target, scores >= threshold), "ece": ece}


def _probabilities(model: ModelScores, finding: str, validation: FindingLabels, scores: NDArray) -> NDArray | None:
    """Scores as probabilities, by Platt scaling on validation data."""
    chosen_on = validation.targets()[:, validation.findings.index(finding)]
    slope, intercept = platt_scaling(chosen_on, model.column(finding, "validation"))
    if math.isnan(slope):
        return None
    return 1 / (1 + np.exp(-np.clip(slope * scores + intercept, -700, 700)))
