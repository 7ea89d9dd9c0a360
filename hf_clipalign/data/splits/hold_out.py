"""Labels that are hidden from a method, so that what it makes of their images can be checked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hf_clipalign._checks.numbers import check_integer, check_number
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.splits.gcd import GCDSplit

_FEWEST_LABELLED = 2
_HOLD_OUT, _HIDE = 7, 8  # streams of draws of their own


def hold_out_labels(split: GCDSplit, share: float = 0.2, seed: int = 0) -> tuple[GCDSplit, np.ndarray]:
    """Takes the label from some labelled images, so that what a method makes of them can be checked.

    Args:
        split (`GCDSplit`): the images and their labels.
        share (`float`, *optional*, defaults to `0.2`): share of every known class's labelled images, at
            least one image; classes with two labelled images keep both.
        seed (`int`, *optional*, defaults to `0`): which images.

    Returns:
        The split without these labels, and the positions of the images `[n]`; none where no class has three
        labelled images.

    Example:
        ```python
        >>> import numpy as np
        >>> from PIL import Image
        >>> from hf_clipalign.data import GCDSplit, ImageSource, hold_out_labels
        >>> names, labels = ["ant", "bee", "cat"], np.arange(30) % 3
        >>> pixels, ids = [Image.new("RGB", (4, 4))] * 30, [str(row) for row in range(30)]
        >>> source = ImageSource(pixels, ids=ids, labels=labels, class_names=names, name="zoo", fingerprint=str)
        >>> split = GCDSplit(source, labels, labels < 2, names[:2], names[2:])
        >>> visible, held_out = hold_out_labels(split)
        >>> len(held_out), int(visible.labelled.sum()), int(split.labelled.sum())
        (4, 16, 20)
        ```
    """
    check_number("share", share, "a share between 0 and 1", above=0, below=1)
    generator = np.random.default_rng((check_integer("seed", seed, 0), _HOLD_OUT))
    held_out = []
    for label in range(len(split.class_names)):
        rows = np.flatnonzero(split.labelled & (split.labels == label))
        most = max(0, len(rows) - _FEWEST_LABELLED)
        held_out.extend(generator.permutation(rows)[: min(most, max(1, round(share * len(rows))))].tolist())
    chosen = np.array(sorted(held_out), dtype=np.int64)
    labelled = split.labelled.copy()
    labelled[chosen] = False
    return replace(split, labelled=labelled), chosen


def hide_classes(split: GCDSplit, fold: int, n_folds: int = 2, seed: int = 0) -> GCDSplit:
    """Takes all labels from a part of the known classes, so that what a method makes of novel classes can be checked.

    The known classes are shuffled and dealt to the folds; those of one fold become novel classes, the first of them.
    Over all folds every known class is novel once.

    Args:
        split (`GCDSplit`): the images and their labels.
        fold (`int`): which part of the classes, from 0.
        n_folds (`int`, *optional*, defaults to 2): how many parts, at most as many as there are known classes.
        seed (`int`, *optional*, defaults to 0): which class is in which part.

    Returns:
        `GCDSplit`: of the same images; `labels` of the hidden classes follow those of the known ones.

    Raises:
        `ClipAlignError`: fewer than two known classes, or no such fold.

    Example:
        ```python
        >>> import numpy as np
        >>> from PIL import Image
        >>> from hf_clipalign.data import GCDSplit, ImageSource, hide_classes
        >>> names, labels = ["ant", "bee", "cat"], np.arange(30) % 3
        >>> pixels, ids = [Image.new("RGB", (4, 4))] * 30, [str(row) for row in range(30)]
        >>> source = ImageSource(pixels, ids=ids, labels=labels, class_names=names, name="zoo", fingerprint=str)
        >>> split = GCDSplit(source, labels, labels < 2, names[:2], names[2:])
        >>> hidden = hide_classes(split, 0)
        >>> len(hidden.class_names), len(hidden.novel_names), int(hidden.labelled.sum())
        (1, 2, 10)
        ```
    """
    n_known = len(split.class_names)
    if n_known < 2:
        raise ClipAlignError(f"{split.source.name}: of {n_known} known class none can be hidden; label another class")
    if not 2 <= check_integer("n_folds", n_folds) <= n_known:
        raise ClipAlignError(f"n_folds is {n_folds}: give 2 to {n_known}, the number of known classes")
    if not 0 <= check_integer("fold", fold, 0) < n_folds:
        raise ClipAlignError(f"fold is {fold}: give 0 to {n_folds - 1}")
    shuffled = np.random.default_rng((check_integer("seed", seed, 0), _HIDE)).permutation(n_known)
    hidden = np.sort(shuffled[fold::n_folds])
    kept = np.setdiff1d(np.arange(n_known), hidden)
    place = np.empty(n_known, dtype=np.int64)
    place[np.concatenate([kept, hidden])] = np.arange(n_known)
    known = (split.labels >= 0) & (split.labels < n_known)
    labels = split.labels.copy()
    labels[known] = place[split.labels[known]]
    names = [split.class_names[label] for label in (*kept, *hidden)]
    labelled = split.labelled & (labels < len(kept))
    return replace(
        split,
        labels=labels,
        labelled=labelled,
        class_names=names[: len(kept)],
        novel_names=[*names[len(kept) :], *split.novel_names],
    )
