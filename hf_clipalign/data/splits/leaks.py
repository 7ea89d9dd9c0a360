"""Whether test data were seen in training: images and patients that are in both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.labels.findings import FindingLabels

_MASK = (1 << 63) - 1


@dataclass(frozen=True)
class SeenRows:
    """Images and patients that something was learned from, as hashes: enough to recognise them in test data.

    Args:
        images (`np.ndarray [n]`): int64, sorted, each once.
        patients (`np.ndarray [m]`): likewise; empty where patients are not known.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels
        >>> labels = FindingLabels(["a.png", "b.png"], ["Edema"], [[1], [0]], ["p1", "p1"])
        >>> seen = SeenRows.of(labels)
        >>> len(seen.images), len(seen.patients)
        (2, 1)
        ```
    """

    images: np.ndarray
    patients: np.ndarray

    @classmethod
    def of(cls, labels: FindingLabels, rows: Iterable[int] | None = None) -> SeenRows:
        """Those of some rows of labels. Default: of all. Ids that are the numbers of the rows name no images."""
        chosen = range(len(labels)) if rows is None else rows
        index = np.unique(np.fromiter(chosen, dtype=np.int64))
        patients = [] if labels.patients is None else [labels.patients[row] for row in index]
        images = [] if _are_row_numbers(labels.ids) else [_plain(labels.ids[row]) for row in index]
        return cls(_hashes(images), _hashes(patients))

    def __or__(self, other: SeenRows) -> SeenRows:
        return SeenRows(np.union1d(self.images, other.images), np.union1d(self.patients, other.patients))

    def images_in(self, labels: FindingLabels) -> list[str]:
        """The ids of `labels` that are among those seen."""
        known = set() if _are_row_numbers(labels.ids) else set(self.images.tolist())
        return [name for name in labels.ids if _hash(_plain(name)) in known]

    def patients_in(self, labels: FindingLabels) -> list[str]:
        """The patients of `labels` that are among those seen."""
        known = set(self.patients.tolist())
        return [] if labels.patients is None else [p for p in dict.fromkeys(labels.patients) if _hash(p) in known]


def check_leaks(seen: SeenRows, test: FindingLabels, what: str = "test") -> str:
    """Refuses test images that were seen in training, and counts the patients that are in both.

    Args:
        seen (`SeenRows`): of all tasks.
        test (`FindingLabels`): the data to be tested on.
        what (`str`, *optional*, defaults to `"test"`): what errors call these data.

    Returns:
        `str`: how many patients are in both, in a sentence; empty where none is.

    Raises:
        `ClipAlignError`: an image is in both.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels
        >>> seen = SeenRows.of(FindingLabels(["a.png"], ["Edema"], [[1]], ["p1"]))
        >>> check_leaks(seen, FindingLabels(["b.png"], ["Edema"], [[1]], ["p1"]))
        '1 of 1 patients of the test data were seen in training too: scores on them are too good.'
        ```
    """
    if images := seen.images_in(test):
        raise ClipAlignError(
            f"{test.name}: {len(images)} of {len(test)} {what} images were seen in training, first {short(images[0])}"
            ": leave them out of one of the two."
        )
    patients = seen.patients_in(test)
    if not patients:
        return ""
    of = len(set(test.patients or ()))
    return (
        f"{len(patients)} of {of} patients of the {what} data were seen in training too: scores on them are too good."
    )


def split_patients(labels: FindingLabels, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows in two parts, no patient in both; rows themselves where patients are not known.

    Args:
        labels (`FindingLabels`): of the data.
        share (`float`): of the patients that the second part gets, between 0 and 1.
        seed (`int`, *optional*, defaults to 0): of the draw.

    Returns:
        `(np.ndarray, np.ndarray)`: row numbers, ascending.

    Raises:
        `ClipAlignError`: a share outside (0, 1), or fewer than two patients.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels
        >>> labels = FindingLabels(["a", "b", "c"], ["Edema"], [[1], [0], [1]], ["p1", "p1", "p2"])
        >>> [len(rows) for rows in split_patients(labels, 0.4)] in ([2, 1], [1, 2])
        True
        ```
    """
    names = np.asarray(labels.ids if labels.patients is None else labels.patients, dtype=object).astype(str)
    units = np.unique(names)
    if not 0 < share < 1 or len(units) < 2:
        raise ClipAlignError(
            f"{labels.name}: {share:g} of {len(units)} patients cannot be held out: give a share between 0 and 1."
        )
    n_held = min(max(1, round(share * len(units))), len(units) - 1)
    held = np.isin(names, np.random.default_rng(seed).permutation(units)[:n_held])
    return np.flatnonzero(~held), np.flatnonzero(held)


def _are_row_numbers(ids: list[str]) -> bool:
    """Whether ids are 0, 1, 2, … in any order, as data sets without names of images have them."""
    return set(ids) == set(map(str, range(len(ids))))


def _plain(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") & _MASK


def _hashes(texts: Iterable[str]) -> np.ndarray:
    return np.unique(np.array([_hash(text) for text in texts], dtype=np.int64))
