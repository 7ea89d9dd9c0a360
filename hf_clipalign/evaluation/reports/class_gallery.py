"""Found classes as rows of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign.data import GCDSplit
from hf_clipalign.evaluation.reports.pages import ImageRow, Match, Section
from hf_clipalign.metrics.clustering import match_clusters


def class_gallery(
    split: GCDSplit,
    classes: np.ndarray,
    labels: Sequence[str],
    concepts: Sequence[Sequence[tuple[str, float]]],
    n_images: int = 14,
) -> list[Section]:
    """The found classes as rows of unlabelled images, known classes first; for `write_report`.

    Where the true classes are known, a frame shows whether an image belongs to the class that its cluster is matched
    with, and the row says which class that is.

    Args:
        split (`GCDSplit`): the images.
        classes (`np.ndarray [N]`): what the model predicts for all images.
        labels (`Sequence[str]`): readable names of all K classes.
        concepts (`Sequence`): K lists of (concept, contribution), see `SpectralGCDModel.class_concepts`.
        n_images (`int`): images per row, at most. Default 14.

    Raises:
        `ClipAlignError`: `n_images` below 1.

    Example:
        ```python
        >>> from hf_clipalign.data import GCDSplit
        >>> names = images.class_names
        >>> split = GCDSplit(images, images.labels, images.labels < 6, names[:6], names[6:])
        >>> sections = class_gallery(split, split.labels, names, [[("heart", 0.5)]] * 12, n_images=2)
        >>> [section.title for section in sections]
        ['Novel classes']
        ```
    """
    check_integer("n_images", n_images)
    rows = split.unlabelled_rows
    truth = [*split.class_names, *split.novel_names]
    matched = match_clusters(split.labels[rows], classes[rows]) if split.has_truth else {}
    sections = [Section("Known classes"), Section("Novel classes")]
    for number, label in enumerate(labels):
        members = rows[classes[rows] == number]
        if not len(members):
            continue
        match = matched.get(number)
        shown = [_shown(split, int(row), match, truth) for row in members[:: -(-len(members) // n_images)]]
        words = ", ".join(concept for concept, _ in concepts[number])
        target = "" if match is None else f", matched with “{truth[match]}”"
        title = f"{label}: {len(members)} {'image' if len(members) == 1 else 'images'}{target}"
        group = sections[0 if number < len(split.class_names) else 1]
        group.image_rows = [*group.image_rows, ImageRow(title, words, shown)]
    return [section for section in sections if section.image_rows]


def _shown(split: GCDSplit, row: int, match: Any, truth: Sequence[str]) -> Match:
    image = split.source.read(row)
    if not split.has_truth:
        return Match(image, split.source.ids[row])
    label = int(split.labels[row])
    return Match(image, truth[label], match is not None and label == int(match))
