"""The report of an incremental run: a page, heat maps as PNG, and the results as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from hf_clipalign._io.files import atomic_file
from hf_clipalign.evaluation.incremental import METRICS, IncrementalResult
from hf_clipalign.evaluation.reports.pages import Section, write_report


def write_incremental_report(
    folder: str | Path,
    results: Sequence[IncrementalResult],
    bounds: Mapping[str, Mapping[str, Any]] | None = None,
    title: str = "Incremental learning of findings",
    lead: str = "",
    first: Sequence[Section] = (),
) -> Path:
    """Writes `index.html`, and for every scenario and metric the heat map as PNG and the result as JSON.

    The files are called as the scenario; a second result of the same name gets a number.

    Args:
        folder (`str` or `Path`): where to write.
        results (`Sequence[IncrementalResult]`): one for each scenario.
        bounds (`Mapping`, *optional*): see `IncrementalResult.table`.
        title, lead (`str`): heading and first paragraph of the page.
        first (`Sequence[Section]`, *optional*): sections above those of the scenarios.

    Returns:
        `Path`: the page.

    Example:
        ```python
        >>> from hf_clipalign.metrics import multilabel_metrics
        >>> result = IncrementalResult("by class", ["cough", "fever"])
        >>> metrics = multilabel_metrics([[1, 0], [0, 1]], [[0.9, 0.2], [0.1, 0.8]], finding_names=result.findings)
        >>> result.add("first", ["cough", "fever"], metrics)
        >>> write_incremental_report("report", [result]).name
        'index.html'
        ```
    """
    folder = Path(folder)
    sections = list(first)
    for result, name in zip(results, _file_names([result.scenario for result in results]), strict=True):
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


def _file_names(scenarios: Sequence[str]) -> list[str]:
    """Names for files, all different, on file systems that do not tell A from a too."""
    names: list[str] = []
    for scenario in scenarios:
        plain = "".join(letter if letter.isalnum() else "-" for letter in scenario) or "result"
        numbered = (plain if number == 1 else f"{plain}-{number}" for number in count(1))
        names.append(next(name for name in numbered if name.lower() not in map(str.lower, names)))
    return names


def _summary(result: IncrementalResult) -> list[str]:
    taught = [result.came_with, *result.taught]
    lines = [f"Warning: {text}" for text in filter(None, [result.leak, *result.warnings])]
    compared: list[str] = []
    if len(result.row_names) < 2 or not all(any(name in t for t in taught) for name in result.findings):
        return lines
    for metric, label in METRICS.items():
        found = result.forgetting(metric)
        compared = found["compared"] if metric == "auroc" else compared
        if mute := found["never_predicted"]:
            lines.append(
                f"{label} of {', '.join(mute)} is 0 throughout, since they were never predicted present: "
                "forgetting is without them."
            )
        if same := found["one_answer"]:
            lines.append(f"{label} of {', '.join(same)} is of one answer for all images: forgetting is without them.")
        parts = [
            f"{name.replace('_', ' ')} {100 * found[name]:+.1f}"
            for name in ("forgetting", "backward_transfer", "forward_transfer")
            if not math.isnan(found.get(name, math.nan))
        ]
        if parts:
            lines.append(f"{label}, points: {', '.join(parts)}.")
    earlier = [name for name in result.findings if any(name in row for row in taught[:-1])]
    if left_out := [name for name in earlier if name not in compared]:
        lines.append(
            f"Forgetting and backward transfer are without {', '.join(left_out)}: no scores that were measured alike "
            "after the task that taught it and after the last one."
        )
    return lines
