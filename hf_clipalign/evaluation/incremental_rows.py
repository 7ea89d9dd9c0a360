"""What a row of an incremental run keeps of `multilabel_metrics` beside its scores, and NaN in JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def silent_of(metrics: Mapping[str, Any]) -> list[str]:
    """The findings that no hard label says to be present, though some test images have them."""
    return [name for name, count in metrics.get("predicted", {}).items() if not count and metrics["positives"][name]]


def constant_of(metrics: Mapping[str, Any]) -> list[str]:
    """The findings that every hard label says to be present, though some test images have them not."""
    counts = metrics.get("predicted", {}).items()
    return [name for name, count in counts if count and count == metrics["known"][name] > metrics["positives"][name]]


def means_of(scores: Mapping[str, Mapping[str, float]], positives: Mapping[str, int]) -> dict[str, float]:
    """Plain and weighted means over the findings that have a score."""
    found = {}
    for metric, by_finding in scores.items():
        names = [name for name, value in by_finding.items() if not math.isnan(value)]
        values, weights = [by_finding[name] for name in names], [positives[name] for name in names]
        found[f"macro_{metric}"] = float(np.mean(values)) if names else math.nan
        found[f"weighted_{metric}"] = float(np.average(values, weights=weights)) if names else math.nan
    return found


def marks_of(metrics: Mapping[str, Any], given: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    """For each finding the kind of score, and what tells the test data from others."""
    if given is not None:
        return {name: list(mark) for name, mark in given.items()}
    positives, known = metrics["positives"], metrics["known"]
    return {name: ["", f"{positives[name]} positive of {known[name]}"] for name in metrics["auroc"]}


def without_nan(value: Any) -> Any:
    """NaN, which JSON lacks, as null."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def with_nan(content: dict[str, Any]) -> dict[str, Any]:
    """The inverse: null as NaN, but at the top level."""

    def restored(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: restored(part) for key, part in value.items()}
        if isinstance(value, list):
            return [restored(part) for part in value]
        return math.nan if value is None else value

    return {key: value if value is None else restored(value) for key, value in content.items()}
