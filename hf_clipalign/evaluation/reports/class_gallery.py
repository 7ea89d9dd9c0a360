"""Found classes as rows of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign.data import GCDSplit
from hf_clipalign.evaluation.reports.pages import ImageRow, Match, Section
from hf_clipalign.metrics.clustering import match_clusters

_FRAMES = (
    "Unlabelled images. A green frame: the image is of the class that the row is matched with; a red frame: it is of "
    "another one, or the row is matched with none."
)
_NO_FRAMES = "Unlabelled images. Grey frames mean nothing: the true classes are not known."


def class_gallery(
    split: GCDSplit,
    classes: np.ndarray,
    labels: Sequence[str],
    concepts: Sequence[Sequence[tuple[str, float]]],
    n_images: int = 14,
) -> list[Section]:
    """All classes as rows of unlabelled images, known classes first, empty ones included; for `write_report`.

    A row shows all images of its class, or, where it has more than `n_images`, as many as that, evenly from the first
    to the last. Where the true classes are known, a frame shows whether an image belongs to the class that its cluster
    is matched with, and the row says which class that is.

    Args:
        split (`GCDSplit`): the images.
        classes (`np.ndarray [N]`): what the model predicts for all images.
        labels (`Sequence[str]`): readable names of all K classes.
        concepts (`Sequence`): K lists of (concept, contribution), see `SpectralGCDModel.class_concepts`.
        n_images (`int`, *optional*, defaults to `14`): images per row, at most; a longer row says so.

    Raises:
        `ClipAlignError`: `n_images` below 1.

    Example:
        ```python
        >>> from hf_clipalign.data import GCDSplit
        >>> names = images.class_names
        >>> split = GCDSplit(images, images.labels, images.labels < 6, names[:6], names[6:])
        >>> sections = class_gallery(split, split.labels, names, [[("heart", 0.5)]] * 12, n_images=2)
        >>> [section.title for section in sections]
        ['Known classes', 'Novel classes']
        ```
    """
    check_integer("n_images", n_images)
    rows = split.unlabelled_rows
    truth = [*split.class_names, *split.novel_names]
    matched = match_clusters(split.labels[rows], classes[rows]) if split.has_truth else {}
    frames = [_FRAMES if split.has_truth else _NO_FRAMES]
    sections = [Section("Known classes", text=frames), Section("Novel classes", text=frames)]
    for number, label in enumerate(labels):
        members = rows[classes[rows] == number]
        match = matched.get(number)
        chosen = _evenly(members, n_images)
        shown = [_shown(split, int(row), match, truth) for row in chosen]
        words = ", ".join(concept for concept, _ in concepts[number])
        target = "" if match is None else f", matched with “{truth[match]}”"
        few = f", {len(chosen)} shown" if len(chosen) < len(members) else ""
        title = f"{label}: {len(members) or 'no'} {'image' if len(members) == 1 else 'images'}{few}{target}"
        group = sections[0 if number < len(split.class_names) else 1]
        group.image_rows = [*group.image_rows, ImageRow(title, words, shown)]
    return [section for section in sections if section.image_rows]


def _evenly(members: np.ndarray, n: int) -> np.ndarray:
    """At most n of them, the first and the last among them."""
    if len(members) <= n:
        return members
    return members[np.linspace(0, len(members) - 1, n).round().astype(int)]


def _shown(split: GCDSplit, row: int, match: Any, truth: Sequence[str]) -> Match:
    image = split.source.read(row)
    if not split.has_truth:
        return Match(image, split.source.ids[row])
    label = int(split.labels[row])
    return Match(image, truth[label], match is not None and label == int(match))
