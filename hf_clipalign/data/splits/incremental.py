"""Tasks of incremental learning: which rows and which labels of a data set each one may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_clipalign._checks.quoting import quoted, short
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.labels.finding_names import checked_findings
from hf_clipalign.data.labels.findings import FindingLabels


@dataclass(frozen=True)
class IncrementalTask:
    """What is learned at once.

    Args:
        name (`str`): unique among the tasks of a run.
        rows (`np.ndarray [n]`): row numbers of the training data, integers.
        findings (`tuple[str, ...]`): findings whose labels are seen; one or more.

    Raises:
        `ClipAlignError`: rows that are no list of integers (a mask, for example), no findings, or findings that are
            no names.

    Example:
        ```python
        >>> from hf_clipalign.data import IncrementalTask
        >>> IncrementalTask("first", [0, 2], ("Edema",)).rows
        array([0, 2])
        ```
    """

    name: str
    rows: np.ndarray
    findings: tuple[str, ...]

    def __post_init__(self) -> None:
        rows = np.asarray(self.rows)
        if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
            raise ClipAlignError(
                f"the task {short(self.name)}: rows must be row numbers [n], got {rows.dtype} "
                f"{rows.shape}: for a mask "
                "give np.flatnonzero(mask)."
            )
        object.__setattr__(self, "rows", rows.astype(np.int64))
        object.__setattr__(self, "findings", tuple(checked_findings(self.findings)))


def class_incremental(
    labels: FindingLabels,
    order: Sequence[str] | None = None,
    seed: int | None = None,
    positives_only: bool = False,
) -> list[IncrementalTask]:
    """Task t sees a part of the data that no other task sees, labelled for finding t alone.

    Args:
        labels (`FindingLabels`): the training labels. With patients, no patient is in two parts.
        order (`Sequence[str]`, *optional*): the findings in the order of learning; by default as in `labels`.
        seed (`int`, *optional*):
            shuffles the data before it is cut; by default the parts are consecutive, as published.
        positives_only (`bool`, *optional*, defaults to `False`): keep the rows only where the finding is present.

    Raises:
        `ClipAlignError`: an unknown finding in `order`, or fewer rows or patients than parts.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels, class_incremental
        >>> labels = FindingLabels(list("abcd"), ["Edema", "Fracture"], [[1, 0], [0, 1], [1, -1], [0, 0]])
        >>> [(task.findings, task.rows.tolist()) for task in class_incremental(labels)]
        [(('Edema',), [0, 1]), (('Fracture',), [2, 3])]
        ```
    """
    findings = _ordered(labels, order)
    parts = disjoint_parts(labels, len(findings), seed)
    if positives_only:
        columns = [labels.findings.index(name) for name in findings]
        parts = [rows[labels.values[rows, column] == 1] for rows, column in zip(parts, columns, strict=True)]
    return [IncrementalTask(name, rows, (name,)) for name, rows in zip(findings, parts, strict=True)]


def label_incremental(
    labels: FindingLabels, order: Sequence[str] | None = None, seed: int | None = None
) -> list[IncrementalTask]:
    """Task t sees a part of the data that no other task sees, labelled for the findings 1 to t.

    Args:
        labels (`FindingLabels`): see `class_incremental`.
        order (`Sequence[str]`, *optional*): likewise.
        seed (`int`, *optional*): likewise.

    Raises:
        `ClipAlignError`: as `class_incremental`.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels, label_incremental
        >>> labels = FindingLabels(list("abcd"), ["Edema", "Fracture"], [[1, 0], [0, 1], [1, -1], [0, 0]])
        >>> [task.findings for task in label_incremental(labels)]
        [('Edema',), ('Edema', 'Fracture')]
        ```
    """
    findings = _ordered(labels, order)
    parts = disjoint_parts(labels, len(findings), seed)
    return [
        IncrementalTask(f"+ {name}" if index else name, parts[index], tuple(findings[: index + 1]))
        for index, name in enumerate(findings)
    ]


def data_incremental(labels: FindingLabels, n_parts: int = 20, seed: int | None = None) -> list[IncrementalTask]:
    """Task t sees part t of `n_parts`, labelled for all findings.

    Args:
        labels (`FindingLabels`): the training labels. With patients, no patient is in two parts.
        n_parts (`int`, *optional*, defaults to 20): number of tasks; published: 5, 10 or 20.
        seed (`int`, *optional*): shuffles the data before it is cut; by default the parts are consecutive.

    Raises:
        `ClipAlignError`: as `disjoint_parts`.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels, data_incremental
        >>> labels = FindingLabels(list("abcd"), ["Edema", "Fracture"], [[1, 0], [0, 1], [1, -1], [0, 0]])
        >>> [task.name for task in data_incremental(labels, n_parts=2)]
        ['part 1 of 2', 'part 2 of 2']
        ```
    """
    parts = disjoint_parts(labels, n_parts, seed)
    everything = tuple(labels.findings)
    return [IncrementalTask(f"part {index + 1} of {n_parts}", rows, everything) for index, rows in enumerate(parts)]


def joint(labels: FindingLabels) -> list[IncrementalTask]:
    """All data and all labels at once: the upper bound.

    Args:
        labels (`FindingLabels`): the training labels.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels, joint
        >>> labels = FindingLabels(list("abcd"), ["Edema", "Fracture"], [[1, 0], [0, 1], [1, -1], [0, 0]])
        >>> joint(labels)[0].rows
        array([0, 1, 2, 3])
        ```
    """
    return [IncrementalTask("joint", np.arange(len(labels)), tuple(labels.findings))]


def disjoint_parts(labels: FindingLabels, n_parts: int, seed: int | None = None) -> list[np.ndarray]:
    """Rows in `n_parts` parts of nearly equal size; where patients are known, each is in one part only.

    Args:
        labels (`FindingLabels`): of the data.
        n_parts (`int`): number of parts.
        seed (`int`, *optional*): shuffles rows or patients first; by default the parts are consecutive.

    Returns:
        `list[np.ndarray]`: row numbers of each part.

    Raises:
        `ClipAlignError`: no whole number of parts, fewer rows or patients than parts, or a negative seed.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels, disjoint_parts
        >>> labels = FindingLabels(list("abcd"), ["Edema", "Fracture"], [[1, 0], [0, 1], [1, -1], [0, 0]])
        >>> [rows.tolist() for rows in disjoint_parts(labels, 2)]
        [[0, 1], [2, 3]]
        ```
    """
    if not isinstance(n_parts, (int, np.integer)) or (seed is not None and seed < 0):
        raise ClipAlignError(
            f"n_parts={short(n_parts)}, seed={short(seed)}: give a whole number of parts and a seed from 0."
        )
    patients: Any = labels.ids if labels.patients is None else labels.patients
    _, first, unit = np.unique(np.asarray(patients, dtype=object).astype(str), return_index=True, return_inverse=True)
    if not 1 <= n_parts <= len(first):
        what = "rows" if labels.patients is None else "patients"
        raise ClipAlignError(
            f"{labels.name}: {n_parts} parts cannot be made of {len(first)} {what}: ask for 1 to {len(first)}."
        )
    rank = np.empty(len(first), dtype=np.int64)  # place of each patient: by first row, or shuffled
    rank[np.argsort(first) if seed is None else np.random.default_rng(seed).permutation(len(first))] = np.arange(
        len(first)
    )
    place = rank[unit]
    sizes = np.bincount(place)
    middle = np.cumsum(sizes) - sizes / 2
    part_of = np.minimum((middle * n_parts / len(labels)).astype(np.int64), n_parts - 1)
    if len(np.unique(part_of)) < n_parts:  # a few patients with very many rows: cut by their number instead
        part_of = np.arange(len(first)) * n_parts // len(first)
    if seed is None:
        return [np.flatnonzero(part_of[place] == part) for part in range(n_parts)]
    order = np.argsort(place, kind="stable")
    return [order[part_of[place[order]] == part] for part in range(n_parts)]


def _ordered(labels: FindingLabels, order: Sequence[str] | None) -> list[str]:
    findings = labels.findings if order is None else as_texts(order, "order")
    if sorted(findings) != sorted(labels.findings):
        raise ClipAlignError(f"order {quoted(findings)} must be an order of the findings {quoted(labels.findings)}.")
    return findings
