"""Parts of a data set: k images of each class, some of the classes, the base and the novel half."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hf_clipalign._checks.sequences import as_positions
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.opening import ImageSource
from hf_clipalign.data.labels.columns import class_labels


def few_shot(source: ImageSource, k: int, seed: int = 0) -> ImageSource:
    """Draws k images of every class, without replacement; a class with fewer gives all that it has.

    Args:
        source (`ImageSource`): labelled images.
        k (`int`): images per class, 1 or more; the papers use 16.
        seed (`int`, *optional*, defaults to 0): another seed draws other images. What a class gives does not depend on
            the other classes.

    Returns:
        `ImageSource`: in the order of `source`.

    Raises:
        `ClipAlignError`: if there are no labels, or k is below 1.

    Example:
        ```python
        >>> from hf_clipalign.data import few_shot, open_source
        >>> few_shot(open_source("photos"), k=2, seed=1)
        ImageSource('photos', 6 images, 3 classes)
        ```
    """
    return take(source, few_shot_rows(_labels(source), k, seed))


def few_shot_rows(labels: Any, k: int, seed: int = 0) -> list[int]:
    """The rows that `few_shot` draws.

    Args:
        labels (array `[N]`): class numbers.
        k (`int`): rows per class.
        seed (`int`, *optional*, defaults to 0): see `few_shot`.

    Returns:
        `list[int]`: rows in ascending order.

    Example:
        ```python
        >>> from hf_clipalign.data import few_shot_rows
        >>> len(few_shot_rows([0, 0, 0, 1, 1, 1], k=2))
        4
        ```
    """
    if k < 1:
        raise ClipAlignError(f"{k} images per class cannot be drawn; give 1 or more")
    labels, _ = class_labels(labels, None, "labels")
    if len(unknown := np.flatnonzero(labels < 0)):
        raise ClipAlignError(f"labels: {labels[unknown[0]]} in row {unknown[0]} (from 0) is no class; number from 0")
    rows: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        generator = np.random.default_rng((seed, int(label)))
        rows += generator.permutation(members)[:k].tolist()
    return sorted(rows)


def take(source: ImageSource, rows: Iterable[int]) -> ImageSource:
    """The images of some rows, in that order; labels and class names stay as they are.

    Args:
        source (`ImageSource`): the images.
        rows (iterable of `int`, or mask `[N]` of `bool`): positions from 0.

    Raises:
        `ClipAlignError`: if there is no row.

    Example:
        ```python
        >>> from hf_clipalign.data import open_source, take
        >>> take(open_source("photos"), [11, 0]).ids
        ['owl/4.png', 'cat/1.png']
        ```
    """
    chosen = as_positions(rows, len(source), "rows").tolist()
    if not chosen:
        raise ClipAlignError(f"{source.name}: no image is left; check the classes or rows that were asked for")
    labels = None if source.labels is None else np.asarray(source.labels)[chosen]
    return _part(source, chosen, labels, source.class_names)


def keep_classes(source: ImageSource, classes: Sequence[int]) -> ImageSource:
    """The images of some classes, which are numbered anew from 0 in the given order.

    Args:
        source (`ImageSource`): labelled images.
        classes (`Sequence[int]`): numbers of the classes to keep.

    Raises:
        `ClipAlignError`: if there are no labels, a class does not exist, or none of them has an image.

    Example:
        ```python
        >>> from hf_clipalign.data import keep_classes, open_source
        >>> keep_classes(open_source("photos"), [2, 0]).class_names
        ['owl', 'cat']
        ```
    """
    labels = _labels(source)
    n_classes = int(labels.max(initial=-1)) + 1 if source.class_names is None else len(source.class_names)
    number = {label: new for new, label in enumerate(as_positions(classes, n_classes, "classes").tolist())}
    rows = [row for row, label in enumerate(labels.tolist()) if label in number]
    part = take(source, rows)
    renumbered = np.array([number[label] for label in labels[rows].tolist()], dtype=np.int64)
    names = None if source.class_names is None else [source.class_names[label] for label in number]
    return _part(source, rows, renumbered, names, base=part)


def base_and_novel(source: ImageSource) -> tuple[ImageSource, ImageSource]:
    """The base-to-novel split: the first half of the classes (one more if odd) and the second half.

    Args:
        source (`ImageSource`): labelled images; class numbers say which half.

    Returns:
        Base and novel images, each numbered from 0.

    Raises:
        `ClipAlignError`: if there are no labels, or fewer than two classes.

    Example:
        ```python
        >>> from hf_clipalign.data import base_and_novel, open_source
        >>> base, novel = base_and_novel(open_source("photos"))
        >>> base.class_names, novel.class_names
        (['cat', 'dog'], ['owl'])
        ```
    """
    n_classes = int(_labels(source).max()) + 1 if source.class_names is None else len(source.class_names)
    if n_classes < 2:
        raise ClipAlignError(f"{source.name}: base and novel classes need 2 or more classes, there is {n_classes}")
    half = (n_classes + 1) // 2
    return keep_classes(source, range(half)), keep_classes(source, range(half, n_classes))


class _Rows:
    """Some rows of a sequence, read when asked for."""

    def __init__(self, items: Any, rows: list[int]) -> None:
        self.items = items
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.items[self.rows[index]]


class _PartFingerprint:
    """Hash of the whole and of what was taken from it; picklable."""

    def __init__(self, source: ImageSource, rows: list[int], labels: Any, names: Any) -> None:
        self.source = source
        self.part = repr((rows, None if labels is None else labels.tolist(), names))

    def __call__(self) -> str:
        return hashlib.sha256(f"{self.source.fingerprint()} {self.part}".encode()).hexdigest()[:32]


def _part(
    source: ImageSource, rows: list[int], labels: Any, names: list[str] | None, base: ImageSource | None = None
) -> ImageSource:
    return ImageSource(
        base.items if base is not None else _Rows(source.items, rows),
        ids=[source.ids[row] for row in rows],
        labels=labels,
        class_names=names,
        texts=None if source.texts is None else [source.texts[row] for row in rows],
        name=source.name,
        fingerprint=_PartFingerprint(source, rows, labels, names),
    )


def _labels(source: ImageSource) -> np.ndarray:
    if source.labels is None:
        raise ClipAlignError(f"{source.name}: the images have no labels; give a source with classes")
    return np.asarray(source.labels)
