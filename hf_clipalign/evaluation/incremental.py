"""The protocol of incremental multi-label learning: scores of every finding after every task."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._files import atomic_file
from hf_clipalign.data import IncrementalTask
from hf_clipalign.evaluation.plots import plot_task_matrix
from hf_clipalign.evaluation.report import ReportTable, Section, write_report
from hf_clipalign.metrics import forgetting_metrics, multilabel_metrics

METRICS = {"auroc": "AUROC", "f1": "F1"}
ZERO_SHOT = "zero-shot"

Scores = Callable[[], tuple[Any, Any]]
"""Gives scores `[N, F]` in [0, 1] and hard labels `[N, F]` of the test data."""


@dataclass
class IncrementalResult:
    """What was measured after every task, on every finding.

    Args:
        scenario (`str`): what the tasks are: "class-incremental", for example.
        findings (`list[str]`): F names.
        tasks (`list[str]`): names of the tasks learned so far, in order.
        taught (`list[list[str]]`): for each task the findings whose labels it saw.
        scores (`dict[str, list[list[float]]]`): by metric (`"auroc"`, `"f1"`) one row of F numbers for each task, NaN
            where a score is undefined.
        means (`list[dict[str, float]]`): for each task the macro and weighted means and the subset accuracy.
        zero_shot (`dict`, *optional*): `multilabel_metrics` before anything was learned.
        undefined (`list[str]`): findings whose test labels are of one class only.
    """

    scenario: str
    findings: list[str]
    tasks: list[str] = field(default_factory=list)
    taught: list[list[str]] = field(default_factory=list)
    scores: dict[str, list[list[float]]] = field(default_factory=lambda: {name: [] for name in METRICS})
    means: list[dict[str, float]] = field(default_factory=list)
    zero_shot: dict[str, Any] | None = None
    undefined: list[str] = field(default_factory=list)

    def add(self, task: str, taught: Sequence[str], metrics: Mapping[str, Any]) -> None:
        """Adds what `multilabel_metrics` gave after a task."""
        self.tasks.append(task)
        self.taught.append(list(taught))
        for name, rows in self.scores.items():
            rows.append([float(metrics[name].get(finding, math.nan)) for finding in self.findings])
        kept = [key for key in metrics if key.startswith(("macro_", "weighted_", "subset_"))]
        self.means.append({key: float(metrics[key]) for key in kept})
        self.undefined = list(metrics["undefined"])

    def add_zero_shot(self, metrics: Mapping[str, Any]) -> None:
        """Notes scores before anything was learned; those of findings that were measured earlier are kept."""
        before = self.zero_shot or {name: {} for name in self.scores}
        self.zero_shot = {**metrics, **{name: {**metrics[name], **before[name]} for name in self.scores}}

    def extend(self, findings: Sequence[str]) -> None:
        """Adds findings that were not measured so far: NaN in the rows of the past."""
        new = [name for name in findings if name not in self.findings]
        self.findings += new
        for rows in self.scores.values():
            for row in rows:
                row += [math.nan] * len(new)

    def matrix(self, metric: str = "auroc") -> np.ndarray:
        """Scores `[T, F]` after every task."""
        return np.array(self.scores[metric], dtype=np.float64).reshape(len(self.tasks), len(self.findings))

    @property
    def learned_at(self) -> list[int]:
        """For each finding the first task that saw its labels.

        Raises:
            `ClipAlignError`: no task taught a finding.
        """
        for name in self.findings:
            if not any(name in taught for taught in self.taught):
                raise ClipAlignError(f"no task taught {name!r} yet, so its forgetting cannot be told.")
        return [next(i for i, taught in enumerate(self.taught) if name in taught) for name in self.findings]

    def forgetting(self, metric: str = "auroc") -> dict[str, Any]:
        """`forgetting_metrics` of the matrix; zero-shot scores, where known, are the baseline of forward transfer."""
        baseline = None if self.zero_shot is None else [self.zero_shot[metric].get(n, math.nan) for n in self.findings]
        return forgetting_metrics(self.matrix(metric), self.learned_at, baseline)

    def table(self, metric: str = "auroc", bounds: Mapping[str, Mapping[str, Any]] | None = None) -> ReportTable:
        """The matrix as rows of percent, the zero-shot scores above it and other bounds below.

        Args:
            metric (`str`): `"auroc"` (default) or `"f1"`.
            bounds (`Mapping[str, Mapping]`, *optional*): name and `multilabel_metrics` of joint training, for example.
        """
        rows = [] if self.zero_shot is None else [self._bound_row(ZERO_SHOT, metric, self.zero_shot)]
        for task, scores, means in zip(self.tasks, self.scores[metric], self.means, strict=True):
            rows.append([f"after {task}", *map(percent, scores), percent(means[f"macro_{metric}"])])
        rows += [self._bound_row(name, metric, bound) for name, bound in (bounds or {}).items()]
        caption = f"{METRICS[metric]}, in percent"
        if self.undefined:
            caption += (
                f"; undefined, and not in the mean: {', '.join(self.undefined)} (one class only in the test data)"
            )
        return ReportTable([self.scenario, *self.findings, "mean"], rows, caption)

    def plot(self, metric: str = "auroc") -> Any:
        """The matrix as a heat map, `matplotlib.figure.Figure`."""
        return plot_task_matrix(self.matrix(metric), self.tasks, self.findings, self.taught, METRICS[metric])

    def to_json(self) -> str:
        """Everything, so that `from_json` gives the same result."""
        return json.dumps(_without_nan(asdict(self)), indent=1)

    @classmethod
    def from_json(cls, text: str) -> IncrementalResult:
        """Reads what `to_json` wrote."""
        return cls(**_with_nan(json.loads(text)))

    def _bound_row(self, name: str, metric: str, metrics: Mapping[str, Any]) -> list[str]:
        scores = [percent(metrics[metric].get(finding, math.nan)) for finding in self.findings]
        return [name, *scores, percent(metrics[f"macro_{metric}"])]


def run_incremental(
    tasks: Sequence[IncrementalTask],
    learn: Callable[[IncrementalTask], Any],
    scores: Scores,
    targets: Any,
    findings: Sequence[str],
    scenario: str = "",
    zero_shot: Scores | None = None,
) -> IncrementalResult:
    """Learns tasks one after the other and scores all findings after each.

    Args:
        tasks (`Sequence[IncrementalTask]`): from `class_incremental`, `label_incremental`, `data_incremental`.
        learn (`Callable`): learns one task.
        scores (`Callable`): scores and hard labels of the test data, as the model is now.
        targets (array `[N, F]`): labels of the test data, 1, 0, NaN.
        findings (`Sequence[str]`): F names.
        scenario (`str`): name for tables.
        zero_shot (`Callable`, *optional*): scores and hard labels before anything is learned.

    Returns:
        `IncrementalResult`.
    """
    result = IncrementalResult(scenario, list(findings))
    if zero_shot is not None:
        result.add_zero_shot(_measured(zero_shot, targets, findings))
    for task in tasks:
        learn(task)
        result.add(task.name, task.findings, _measured(scores, targets, findings))
    return result


def write_incremental_report(
    folder: str | Path,
    results: Sequence[IncrementalResult],
    bounds: Mapping[str, Mapping[str, Any]] | None = None,
    title: str = "Incremental learning of findings",
    lead: str = "",
) -> Path:
    """Writes `index.html`, and for every scenario and metric the heat map as PNG and the result as JSON.

    Args:
        folder (`str` or `Path`): where to write.
        results (`Sequence[IncrementalResult]`): one for each scenario.
        bounds (`Mapping`, *optional*): see `IncrementalResult.table`.
        title, lead (`str`): heading and first paragraph of the page.

    Returns:
        `Path`: the page.
    """
    folder = Path(folder)
    sections = []
    for result in results:
        name = "".join(letter if letter.isalnum() else "-" for letter in result.scenario) or "result"
        figures = []
        for metric, label in METRICS.items():
            figure = result.plot(metric)
            figures.append((f"{label} of every finding after every task; framed: the findings of the task", figure))
            with atomic_file(folder / f"{name}-{metric}.png") as staging:
                figure.savefig(staging, dpi=110, format="png")
        with atomic_file(folder / f"{name}.json") as staging:
            staging.write_text(result.to_json(), encoding="utf-8")
        tables = [result.table(metric, bounds) for metric in METRICS]
        sections.append(Section(result.scenario, _summary(result), tables, figures))
    return write_report(folder / "index.html", title, sections, lead)


def percent(value: float) -> str:
    """A fraction in percent with one decimal, a dash where it is undefined."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _measured(scores: Scores, targets: Any, findings: Sequence[str]) -> dict[str, Any]:
    values, hard = scores()
    return multilabel_metrics(targets, values, predictions=hard, finding_names=findings)


def _summary(result: IncrementalResult) -> list[str]:
    if len(result.tasks) < 2 or not all(any(name in t for t in result.taught) for name in result.findings):
        return []
    lines = []
    for metric, label in METRICS.items():
        found = result.forgetting(metric)
        parts = [
            f"{name.replace('_', ' ')} {100 * found[name]:+.1f}"
            for name in ("forgetting", "backward_transfer", "forward_transfer")
            if not math.isnan(found.get(name, math.nan))
        ]
        lines.append(f"{label}, points: {', '.join(parts)}.")
    return lines


def _without_nan(value: Any) -> Any:
    """NaN, which JSON lacks, as null."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_nan(content: dict[str, Any]) -> dict[str, Any]:
    def restored(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: restored(part) for key, part in value.items()}
        if isinstance(value, list):
            return [restored(part) for part in value]
        return math.nan if value is None else value

    whole = {key: value for key, value in content.items() if key != "zero_shot"}
    zero_shot = content.get("zero_shot")
    return {**restored(whole), "zero_shot": None if zero_shot is None else restored(zero_shot)}
