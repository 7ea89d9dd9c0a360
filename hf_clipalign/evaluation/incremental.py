"""The protocol of incremental multi-label learning: scores of every finding after every task."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from hf_clipalign._checks.quoting import short_reason
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import BadJson, checked_json, entries, number
from hf_clipalign._io.masking import without_secrets
from hf_clipalign.data import IncrementalTask
from hf_clipalign.evaluation.incremental_rows import constant_of, marks_of, means_of, silent_of, with_nan, without_nan
from hf_clipalign.evaluation.reports.pages import ReportTable
from hf_clipalign.evaluation.reports.plots import plot_task_matrix
from hf_clipalign.metrics import forgetting_metrics, multilabel_metrics

METRICS = {"auroc": "AUROC", "f1": "F1"}
ZERO_SHOT, BEFORE = "zero-shot", "before"

_SCORES = entries((None, number))
_STORED = {
    **{"scenario": str, "findings": [str], "tasks": [str], "taught": [[str]], "means": [_SCORES]},
    **{"scores": entries([[(None, number)]]), "zero_shot?": (None, dict), "undefined?": [[str]]},
    "measured_on?": [entries([str])],
}

Scores = Callable[[], tuple[Any, Any]]
"""Gives scores `[N, F]` in [0, 1] and hard labels `[N, F]` of the test data."""


@dataclass
class IncrementalResult:
    """What was measured after every task, on every finding.

    Test data may change between tasks: a month later they have one finding more, or other rows. Two scores of a
    finding are compared only if they are of the same kind and of the same known labels; see `forgetting`.

    Args:
        scenario (`str`): what the tasks are: "class-incremental", for example.
        findings (`list[str]`): F names.
        tasks (`list[str]`): names of the tasks learned so far, in order.
        taught (`list[list[str]]`): for each task the findings whose labels it saw.
        scores (`dict[str, list[list[float]]]`): by metric (`"auroc"`, `"f1"`) one row of F scores for each task, NaN
            where a score is undefined.
        means (`list[dict[str, float]]`): for each task the macro and weighted means and the subset accuracy, over the
            findings that have a score in its row.
        zero_shot (`dict`, *optional*): `multilabel_metrics` without the adapter, of every finding on the newest test
            data that had it (`measured_on`); the means are those of the newest measurement.
        undefined (`list[list[str]]`): for each task the findings that were measured, but whose test labels are of one
            class at most.
        measured_on (`list[dict[str, list[str]]]`): for each task, by finding that was measured: the kind of score, and
            a mark of the test data.
        before (`dict`, *optional*): what the adapter scored as it came, before the first task, and `taught`, the
            findings that it had learned elsewhere. With any, it is the first row of the matrix.
        silent, constant (`list[list[str]]`): for each task the findings that no hard label, and that every one, said
            to be present.
        warnings (`list[str]`): what a reader of the scores must know of the training data.
        leak (`str`): how many patients are in both training and test data, in a sentence; empty where none is.

    Example:
        ```python
        >>> from hf_clipalign.metrics import multilabel_metrics
        >>> result = IncrementalResult("class-incremental", ["cough", "fever"])
        >>> metrics = multilabel_metrics([[1, 0], [0, 1]], [[0.9, 0.2], [0.1, 0.8]], finding_names=result.findings)
        >>> result.add("first", ["cough", "fever"], metrics)
        >>> result.matrix("auroc").tolist()
        [[1.0, 1.0]]
        ```
    """

    scenario: str
    findings: list[str]
    tasks: list[str] = field(default_factory=list)
    taught: list[list[str]] = field(default_factory=list)
    scores: dict[str, list[list[float]]] = field(default_factory=lambda: {name: [] for name in METRICS})
    means: list[dict[str, float]] = field(default_factory=list)
    zero_shot: dict[str, Any] | None = None
    undefined: list[list[str]] = field(default_factory=list)
    measured_on: list[dict[str, list[str]]] = field(default_factory=list)
    before: dict[str, Any] | None = None
    silent: list[list[str]] = field(default_factory=list)
    constant: list[list[str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    leak: str = ""

    def __post_init__(self) -> None:
        self.silent = self.silent or [[] for _ in self.tasks]
        self.constant = self.constant or [[] for _ in self.tasks]
        self.undefined = self.undefined or [[] for _ in self.tasks]
        self.measured_on = self.measured_on or [{} for _ in self.tasks]

    def add(
        self,
        task: str,
        taught: Sequence[str],
        metrics: Mapping[str, Any],
        measured_on: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Adds what was measured after a task.

        Args:
            task (`str`): its name.
            taught (`Sequence[str]`): findings whose labels it saw.
            metrics (`Mapping`): from `multilabel_metrics`.
            measured_on (`Mapping[str, Sequence[str]]`, *optional*): for each finding the kind of score, and a mark of
                the test data, from `FindingLabels.fingerprints`. Default: how many labels are known and positive.
        """
        self.tasks.append(task)
        self.taught.append(list(taught))
        for name, rows in self.scores.items():
            rows.append([float(metrics[name].get(finding, math.nan)) for finding in self.findings])
        kept = [key for key in metrics if key.startswith(("macro_", "weighted_", "subset_"))]
        self.means.append({key: float(metrics[key]) for key in kept})
        self.undefined.append(list(metrics["undefined"]))
        self.silent.append(silent_of(metrics))
        self.constant.append(constant_of(metrics))
        self.measured_on.append(marks_of(metrics, measured_on))

    def add_before(
        self,
        taught: Sequence[str],
        metrics: Mapping[str, Any],
        measured_on: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Notes scores of the adapter as it came; findings that it had learned then count as taught.

        Args:
            taught (`Sequence[str]`): what it had learned elsewhere; none for a fresh adapter.
            metrics, measured_on: see `add`.
        """
        hard = {"silent": silent_of(metrics), "constant": constant_of(metrics)}
        self.before = {**metrics, **hard, "taught": list(taught), "measured_on": marks_of(metrics, measured_on)}

    def add_zero_shot(
        self, metrics: Mapping[str, Any], measured_on: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Notes scores without the adapter; of findings that `metrics` lacks, what was measured earlier is kept.

        Args:
            metrics, measured_on: see `add`.
        """
        before, new = self.zero_shot or {}, {**metrics, "measured_on": marks_of(metrics, measured_on)}
        undefined = [name for name in before.get("undefined", []) if name not in metrics["auroc"]]
        kept = (*self.scores, "positives", "known", "measured_on")
        merged = {key: {**before.get(key, {}), **new.get(key, {})} for key in kept}
        self.zero_shot = {
            **new,
            **merged,
            **means_of({name: merged[name] for name in self.scores}, merged["positives"]),
            "undefined": [*undefined, *metrics["undefined"]],
        }

    def extend(self, findings: Sequence[str]) -> None:
        """Adds findings that were not measured so far: NaN in the rows of the past."""
        new = [name for name in findings if name not in self.findings]
        self.findings += new
        for rows in self.scores.values():
            for row in rows:
                row += [math.nan] * len(new)

    @property
    def came_with(self) -> list[str]:
        """The findings that the adapter had learned before the first task."""
        return [] if self.before is None else list(self.before["taught"])

    @property
    def row_names(self) -> list[str]:
        """What the rows of the matrix are called: the tasks, and "before" where the adapter came with findings."""
        return [*([BEFORE] if self.came_with else []), *self.tasks]

    def matrix(self, metric: str = "auroc") -> np.ndarray:
        """Scores `[T, F]` after every task; an adapter that came with findings has a row before them."""
        rows = [self._before_scores(metric)] if self.came_with else []
        return np.array([*rows, *self.scores[metric]], dtype=np.float64).reshape(-1, len(self.findings))

    @property
    def learned_at(self) -> list[int]:
        """For each finding the first row of the matrix whose task, or earlier one, saw its labels.

        Raises:
            `ClipAlignError`: no task taught a finding.
        """
        taught = self._rows_of("taught")
        for name in self.findings:
            if not any(name in row for row in taught):
                raise ClipAlignError(f"no task taught {name!r} yet, so its forgetting cannot be measured.")
        return [next(i for i, row in enumerate(taught) if name in row) for name in self.findings]

    def forgetting(self, metric: str = "auroc") -> dict[str, Any]:
        """`forgetting_metrics` of the scores that were measured as after the last task; the others take no part.

        Zero-shot scores, where known, are the baseline of forward transfer. A finding is measured alike as long as its
        known labels, the names of their rows and the kind of score are unchanged: test data may grow by findings, and
        by rows that have no label of it.

        Args:
            metric (`str`): `"auroc"` (default) or `"f1"`.

        An F1 of findings that are never, or always, predicted present says nothing of what was learned, so nothing
        could be forgotten: such findings take no part either.

        Returns:
            `dict`: also `compared`, the findings that forgetting and backward transfer are means over, and, for F1,
            `never_predicted` and `one_answer`, those left out as the hard labels were all absent, or all the same.
        """
        rows = self._rows_of("measured_on")
        last = rows[-1] if rows else {}
        scores, silent, constant = self.matrix(metric), self._flags("silent"), self._flags("constant")
        for row, marks in enumerate(rows):
            scores[row, [marks.get(name) != last.get(name) for name in self.findings]] = math.nan
        mute = (silent | constant).all(axis=0) & (metric == "f1")
        average = forgetting_metrics(scores, self.learned_at)["average"]
        scores[:, mute] = math.nan
        baseline = None
        if self.zero_shot is not None:
            marks, before = self.zero_shot.get("measured_on", {}), self.zero_shot[metric]
            baseline = [before.get(n, math.nan) if marks.get(n) == last.get(n) else math.nan for n in self.findings]
        found = forgetting_metrics(scores, self.learned_at, baseline)
        forgotten = zip(self.findings, found["forgetting_by_finding"], strict=True)
        return {
            **found,
            "average": average,
            "compared": [name for name, value in forgotten if not math.isnan(value)],
            "never_predicted": [self.findings[column] for column in np.flatnonzero(mute & silent.all(axis=0))],
            "one_answer": [self.findings[column] for column in np.flatnonzero(mute & ~silent.all(axis=0))],
        }

    def table(self, metric: str = "auroc", bounds: Mapping[str, Mapping[str, Any]] | None = None) -> ReportTable:
        """The matrix as rows of percent; above it the zero-shot scores and the adapter as it came, bounds below.

        A mean is over the findings that have a score in its row; where some have none, it says how many have. The
        caption names what is undefined or was not measured, and from where on it was measured otherwise.

        Args:
            metric (`str`): `"auroc"` (default) or `"f1"`.
            bounds (`Mapping[str, Mapping]`, *optional*): name and `multilabel_metrics` of joint training, for example.
        """
        rows = [] if self.zero_shot is None else [self._bound_row(ZERO_SHOT, metric, self.zero_shot)]
        rows += [] if self.before is None else [self._bound_row(BEFORE, metric, self.before)]
        rows += [_row(f"after {task}", row) for task, row in zip(self.tasks, self.scores[metric], strict=True)]
        rows += [self._bound_row(name, metric, bound) for name, bound in (bounds or {}).items()]
        caption = "; ".join([f"{METRICS[metric]}, in percent", *self._remarks(metric)])
        return ReportTable([self.scenario, *self.findings, "mean"], rows, caption)

    def plot(self, metric: str = "auroc") -> Any:
        """The matrix as a heat map, `matplotlib.figure.Figure`."""
        scores, taught = list(self.scores[metric]), list(self.taught)
        names = [f"after {task}" for task in self.tasks]
        if self.before is not None:
            scores, taught, names = [self._before_scores(metric), *scores], [self.came_with, *taught], [BEFORE, *names]
        return plot_task_matrix(scores, self.tasks, self.findings, taught, METRICS[metric], row_names=names)

    def to_json(self) -> str:
        """Everything, so that `from_json` gives the same result."""
        return json.dumps(without_secrets(without_nan(asdict(self))), indent=1)

    @classmethod
    def from_json(cls, text: str) -> IncrementalResult:
        """Reads what `to_json` wrote.

        Raises:
            `ClipAlignError`: it is something else.
        """
        try:
            return cls(**with_nan(checked_json(text.encode(), _STORED)))
        except (BadJson, TypeError, UnicodeEncodeError) as error:
            raise ClipAlignError(f"these are no scores of learning in tasks: {short_reason(error)}.") from error

    def _bound_row(self, name: str, metric: str, metrics: Mapping[str, Any]) -> list[str]:
        return _row(name, [metrics[metric].get(finding, math.nan) for finding in self.findings])

    def _before_scores(self, metric: str) -> list[float]:
        assert self.before is not None
        return [self.before[metric].get(name, math.nan) for name in self.findings]

    def _rows_of(self, name: str) -> list[Any]:
        """What `undefined`, `taught`, `silent` or `measured_on` says of each row of the matrix."""
        return [*([self.before[name]] if self.before and self.came_with else []), *getattr(self, name)]

    def _remarks(self, metric: str) -> list[str]:
        """Which scores are not there, and which are not to be compared with those above them."""
        undefined, silent = self._flags("undefined"), self._flags("silent")
        others = [self._changes(part) for part in (1, 0)]
        remarks = {
            "undefined, as the test data have one class of it at most": undefined,
            "never predicted present, so that F1 is 0": silent & ~undefined & (metric == "f1"),
            "predicted present on all images": self._flags("constant") & ~undefined & (metric == "f1"),
            "not measured": np.isnan(self.matrix(metric)) & ~undefined,
            "on other test data than the rows above": others[0],
            "by another score than the rows above": others[1],
        }
        found = [f"{text}: {self._where(flags)}" for text, flags in remarks.items() if flags.any()]
        if self.zero_shot is not None and np.any(others):
            found.append(f"{ZERO_SHOT} is of the newest test data and score")
        return found

    def _flags(self, name: str) -> np.ndarray:
        """Where `[T, F]` the list `name` of a row holds a finding."""
        rows = [[finding in row for finding in self.findings] for row in self._rows_of(name)]
        return np.array(rows, dtype=bool).reshape(-1, len(self.findings))

    def _changes(self, part: int) -> np.ndarray:
        """Where `[T, F]` a finding was measured on something else than the last time."""
        measured_on = self._rows_of("measured_on")
        changed = np.zeros((len(measured_on), len(self.findings)), dtype=bool)
        for column, name in enumerate(self.findings):
            rows = [row for row, marks in enumerate(measured_on) if name in marks]
            for before, row in pairwise(rows):
                changed[row, column] = measured_on[before][name][part] != measured_on[row][name][part]
        return changed

    def _where(self, flags: np.ndarray) -> str:
        """The findings with a flag `[T, F]`, and the tasks after which they have it unless it is all."""
        found: dict[tuple[int, ...], list[str]] = {}
        for name, column in zip(self.findings, flags.T, strict=True):
            found.setdefault(tuple(np.flatnonzero(column)), []).append(name)
        return ", ".join(f"{', '.join(names)}{self._when(rows)}" for rows, names in found.items() if rows)

    def _when(self, rows: Sequence[int]) -> str:
        """Before and after what the matrix has some rows; empty for all rows."""
        if len(rows) == len(self.row_names):
            return ""
        names = [self.row_names[row] for row in rows]
        first = [BEFORE] if self.came_with and rows[0] == 0 else []
        later = names[len(first) :]
        return f" ({' and '.join([*first, *(['after ' + ', '.join(later)] if later else [])])})"


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

    Example:
        ```python
        >>> from hf_clipalign.data import IncrementalTask
        >>> tasks = [IncrementalTask(name, np.arange(2), [name]) for name in ("cough", "fever")]
        >>> scores = lambda: (np.array([[0.9, 0.2], [0.1, 0.8]]), np.array([[1, 0], [0, 1]]))
        >>> result = run_incremental(tasks, lambda task: None, scores, [[1, 0], [0, 1]], ["cough", "fever"])
        >>> result.tasks
        ['cough', 'fever']
        ```
    """
    result = IncrementalResult(scenario, as_texts(findings, "findings"))
    if zero_shot is not None:
        result.add_zero_shot(_measured(zero_shot, targets, findings))
    for task in tasks:
        learn(task)
        result.add(task.name, task.findings, _measured(scores, targets, findings))
    return result


def percent(value: float) -> str:
    """A fraction in percent with one decimal, a dash where it is undefined."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _row(name: str, scores: Sequence[float]) -> list[str]:
    """Scores in percent and their mean, with the number of those that are there where some are not."""
    there = [score for score in scores if not math.isnan(score)]
    mean = percent(sum(there) / len(there) if there else math.nan)
    partial = 0 < len(there) < len(scores)
    return [name, *map(percent, scores), f"{mean} ({len(there)} of {len(scores)})" if partial else mean]


def _measured(scores: Scores, targets: Any, findings: Sequence[str]) -> dict[str, Any]:
    values, hard = scores()
    return multilabel_metrics(targets, values, predictions=hard, finding_names=findings)
