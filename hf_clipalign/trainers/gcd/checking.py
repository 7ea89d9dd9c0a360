"""Which method to trust where nobody knows the truth: known classes are hidden in turn, to be found as novel ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import t as students_t

from hf_clipalign.data import GCDSplit, hide_classes
from hf_clipalign.metrics import match_clusters

_LEVEL = 0.95
_FEWEST_CLASSES = 3


@dataclass(frozen=True)
class HiddenClassCheck:
    """How often methods put labelled images that they did not see the label of with others of their class.

    Args:
        classes (`np.ndarray [n]`): known class of every observation; an image is observed in every fold in which its
            label was hidden.
        hidden (`np.ndarray [n]`, bool): whether the whole class was hidden then, so that it had to be found.
        right (`dict[str, np.ndarray [n]]`): by method, whether the image lies in the cluster matched with its class.

    Example:
        ```python
        >>> right = {"first": np.array([1.0, 1, 1, 1, 0, 1]), "second": np.array([0.0, 0, 1, 0, 0, 0])}
        >>> check = HiddenClassCheck(np.array([0, 0, 1, 1, 2, 2]), np.array([True, False] * 3), right)
        >>> check.by_class("first"), round(check.share("second"), 3)
        (array([1. , 1. , 0.5]), 0.167)
        ```
    """

    classes: np.ndarray
    hidden: np.ndarray
    right: dict[str, np.ndarray] = field(repr=False)

    @property
    def n_classes(self) -> int:
        """How many known classes there are."""
        return len(np.unique(self.classes))

    def by_class(self, method: str) -> np.ndarray:
        """Share of right images of every class, `[C]`: mean of that while it was known and while it was hidden."""
        values = self.right[method]
        return np.array(
            [
                np.mean([values[rows].mean() for rows in self._parts(number) if rows.any()])
                for number in np.unique(self.classes)
            ]
        )

    def share(self, method: str) -> float:
        """The mean of `by_class`."""
        return float(self.by_class(method).mean())

    def difference(self, method: str, other: str) -> tuple[float, float, float]:
        """Share of one method minus that of another, with a 95 % interval (Student's t over the classes).

        Fewer than three classes say nothing of others: the interval is then -1 to 1.
        """
        differences = self.by_class(method) - self.by_class(other)
        n, mean = len(differences), float(differences.mean())
        if n < _FEWEST_CLASSES:
            return mean, -1.0, 1.0
        half = float(students_t.ppf((1 + _LEVEL) / 2, n - 1) * differences.std(ddof=1) / np.sqrt(n))
        return mean, max(-1.0, mean - half), min(1.0, mean + half)

    def _parts(self, number: int) -> list[np.ndarray]:
        own = self.classes == number
        return [own & ~self.hidden, own & self.hidden]


def check_on_hidden_classes(
    split: GCDSplit,
    find: Callable[[GCDSplit, int, int], Any],
    n_novel: int,
    n_folds: int = 2,
    seed: int = 0,
) -> HiddenClassCheck:
    """Hides each known class in one fold, and asks how the methods sort its labelled images.

    Args:
        split (`GCDSplit`): the images, with all labels.
        find (function): gives the `Discovery` for a split with hidden classes, the number of novel classes to look
            for and the fold; it may hold out further labels.
        n_novel (`int`): novel classes beside the hidden ones.
        n_folds (`int`, *optional*, defaults to 2): see `hide_classes`.
        seed (`int`, *optional*, defaults to 0): of the folds.
    """
    own, hidden = [], []
    right: dict[str, list[np.ndarray]] = {}
    for fold in range(n_folds):
        part = hide_classes(split, fold, n_folds, seed)
        discovery = find(part, n_novel + len(split.class_names) - len(part.class_names), fold)
        rows = np.flatnonzero(split.labelled & ~discovery.split.labelled)
        own.append(split.labels[rows])
        hidden.append(part.labels[rows] >= len(part.class_names))
        for name, found in discovery.methods.items():
            right.setdefault(name, []).append(_right(split, found.classes, rows))
    joined = {name: np.concatenate(values) for name, values in right.items()}
    return HiddenClassCheck(np.concatenate(own), np.concatenate(hidden), joined)


def _right(split: GCDSplit, found: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Clusters are matched one to one with the known classes on all labelled images."""
    matched = match_clusters(split.labels[split.labelled], found[split.labelled])
    return np.array([matched.get(found[row].item()) == split.labels[row] for row in rows.tolist()], dtype=float)
