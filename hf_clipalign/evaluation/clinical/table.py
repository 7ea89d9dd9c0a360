"""The clinical table: every finding and model, with what a reader has to know about the numbers."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_file
from hf_clipalign.data import FindingLabels
from hf_clipalign.evaluation.clinical.measuring import ModelScores, measure_finding, reliability
from hf_clipalign.evaluation.clinical.verdict import compared_models, notes_of
from hf_clipalign.evaluation.reports.pages import ReportTable

_SMALLEST_GROUP = 5


@dataclass(frozen=True)
class ClinicalTable:
    """What `clinical_table` measured.

    Args:
        rows (`list[dict]`): one for each finding and model, as `measure_finding` gives them, with `subgroup`: empty
            for all test data, else "sex: Female" and so on.
        verdict (`str`): whether the first model is better than the best baseline, in a sentence.
        notes (`list[str]`): what a reader has to know about the numbers.
        curves (`dict[str, dict[str, dict]]`): by finding and model the bins of a reliability plot.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels
        >>> labels = FindingLabels(["1.png", "2.png"], ["cough"], [[1], [0]])
        >>> table = clinical_table([ModelScores("adapter", ["cough"], np.array([[0.9], [0.1]]))], labels)
        >>> table.ranking_table().rows[0][:4]
        ['cough', 'adapter', '2', '1']
        ```
    """

    rows: list[dict[str, Any]]
    verdict: str
    notes: list[str]
    curves: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def ranking_table(self) -> ReportTable:
        """Counts, AUROC and AUPRC with intervals: what needs no threshold."""
        columns = ["finding", "model", "n", "positives", "prevalence, %", "AUROC", "AUPRC"]
        rows = [
            [*_names(row), f"{row['n']}", f"{row['positives']}", _percent(row["prevalence"])]
            + [_interval(row, kind) for kind in ("auroc", "auprc")]
            for row in self._whole
        ]
        return ReportTable(
            columns, rows, "percent, with 95 % bootstrap intervals over patients where they are known", 2
        )

    def threshold_table(self) -> ReportTable:
        """Sensitivity and so on at the threshold chosen on validation data, beside the model's own hard rule."""
        names = ("sensitivity", "specificity", "ppv", "npv", "f1")
        columns = ["finding", "model", "threshold", "sensitivity", "specificity", "PPV", "NPV", "F1", "said present"]
        columns += ["ECE", *(f"hard rule: {text}" for text in ("sensitivity", "specificity", "F1", "said present"))]
        rows = [
            [
                *_names(row),
                _number(row["threshold"]),
                *(_percent(row[name]) for name in names),
                _count(row["predicted"]),
            ]
            + [_percent(row["ece"])]
            + [_percent(row[f"hard_{name}"]) for name in ("sensitivity", "specificity", "f1")]
            + [_count(row["hard_predicted"])]
            for row in self._whole
        ]
        caption = (
            "percent; the threshold has the largest sensitivity + specificity on validation data, never on test data; "
            "hard rule: the cosine with the positive prompts is above that with the negative ones; ECE: expected "
            "calibration error of the scores as probabilities, scaled (Platt) on validation data; –: not defined or "
            "not honest to give"
        )
        return ReportTable(columns, rows, caption, 2)

    def subgroup_table(self) -> ReportTable | None:
        """AUROC of the first model by subgroup, with the number of positives; None where none are known."""
        first = self.rows[0]["model"]
        rows = [row for row in self.rows if row["model"] == first]
        groups = list(dict.fromkeys(row["subgroup"] for row in rows if row["subgroup"]))
        if not groups:
            return None
        cells = {(row["finding"], row["subgroup"]): row for row in rows}
        findings = list(dict.fromkeys(row["finding"] for row in rows))
        table = [[name, *(_group_cell(cells.get((name, group))) for group in groups)] for name in findings]
        caption = f"AUROC of {first} in percent with 95 % intervals (positives of known); –: one class or too few rows"
        return ReportTable(["finding", *groups], table, caption)

    def save(self, folder: str | Path) -> tuple[Path, Path]:
        """Writes `findings.csv`, one row for each finding, model and subgroup, and `findings.json`, all of it."""
        folder = Path(folder)
        with atomic_file(folder / "findings.csv") as staging, open(staging, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file, ["finding", "model", "subgroup", *(k for k in self.rows[0] if k not in _KEYS)]
            )
            writer.writeheader()
            writer.writerows({key: _cell(value) for key, value in row.items()} for row in self.rows)
        rows = [{key: None if _is_nan(value) else value for key, value in row.items()} for row in self.rows]
        content = {"verdict": self.verdict, "notes": self.notes, "rows": rows, "reliability": self.curves}
        with atomic_file(folder / "findings.json") as staging:
            staging.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        return folder / "findings.csv", folder / "findings.json"

    def plot(self) -> Any:
        """Reliability of every finding, `matplotlib.figure.Figure`; None without validation data."""
        from hf_clipalign.evaluation.clinical.plots import plot_reliability

        return plot_reliability(self.curves) if self.curves else None

    @property
    def _whole(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if not row["subgroup"]]


def clinical_table(
    models: Sequence[ModelScores],
    test: FindingLabels,
    validation: FindingLabels | None = None,
    learned: Sequence[str] | None = None,
    n_resamples: int = 1000,
) -> ClinicalTable:
    """Scores of every finding and model on test data, with thresholds and calibration from validation data.

    Args:
        models (`Sequence[ModelScores]`): the first is the one that the table is about, the others are baselines.
        test (`FindingLabels`): the test labels; with `subgroups`, the first model is also scored on each.
        validation (`FindingLabels`, *optional*): of data that are neither training nor test data. Default: none, and
            no number that depends on a threshold.
        learned (`Sequence[str]`, *optional*): the findings that the model has learned. Default: those of the test.
        n_resamples (`int`, *optional*, defaults to 1000): of the bootstrap.

    Returns:
        `ClinicalTable`.

    Raises:
        `ClipAlignError`: there is no model.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels
        >>> labels = FindingLabels(["1.png", "2.png"], ["cough"], [[1], [0]])
        >>> models = [ModelScores("adapter", ["cough"], np.array([[0.9], [0.1]]))]
        >>> clinical_table(models, labels, learned=["cough", "fever"]).notes[0]
        'Learned, but not in this test: fever; 1 of 2 learned findings are tested.'
        ```
    """
    if not models:
        raise ClipAlignError("there are no scores: give those of one model at least.")
    learned = None if learned is None else as_texts(learned, "learned")
    rows: list[dict[str, Any]] = []
    curves: dict[str, dict[str, dict[str, Any]]] = {}
    for finding in test.findings:
        for model in models:
            if finding not in model.findings:
                continue
            rows.append({**measure_finding(model, finding, test, validation, None, n_resamples), "subgroup": ""})
            if (curve := reliability(model, finding, test, validation)) is not None:
                curves.setdefault(finding, {})[model.name] = curve
        if finding in models[0].findings:
            rows += _subgroup_rows(models[0], finding, test, validation, n_resamples)
    verdict = compared_models(models, test, n_resamples)
    return ClinicalTable(rows, verdict, notes_of(rows, models[0], test, validation, learned), curves)


_KEYS = ("finding", "model", "subgroup")


def _subgroup_rows(
    model: ModelScores, finding: str, test: FindingLabels, validation: FindingLabels | None, n_resamples: int
) -> list[dict[str, Any]]:
    found = []
    for kind, values in test.subgroups.items():
        names = np.array(values, dtype=str)
        for name in sorted(set(values) - {""}):
            index = np.flatnonzero(names == name)
            if _SMALLEST_GROUP <= len(index) < len(names):
                row = measure_finding(model, finding, test, validation, index, n_resamples)
                found.append({**row, "subgroup": f"{kind}: {name}"})
    return found


def _names(row: dict[str, Any]) -> list[str]:
    return [row["finding"], row["model"]]


def _interval(row: dict[str, Any], kind: str) -> str:
    if _is_nan(row[kind]):
        return "–"
    return f"{_percent(row[kind])} [{_percent(row[f'{kind}_low'])}, {_percent(row[f'{kind}_high'])}]"


def _group_cell(row: dict[str, Any] | None) -> str:
    return "–" if row is None else f"{_interval(row, 'auroc')} ({row['positives']} of {row['n']})"


def _percent(value: float) -> str:
    return "–" if _is_nan(value) else f"{100 * value:.1f}"


def _number(value: float) -> str:
    return "–" if _is_nan(value) else f"{value:.4g}"


def _count(value: float) -> str:
    return "–" if _is_nan(value) else f"{int(value)}"


def _cell(value: Any) -> Any:
    return "" if _is_nan(value) else round(value, 6) if isinstance(value, float) else value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
