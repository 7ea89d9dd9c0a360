"""Labels that are hidden from a method, so that what it makes of their images can be checked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hf_clipalign._checks.numbers import check_integer, check_number
from hf_clipalign.data.splits.gcd import GCDSplit

_FEWEST_LABELLED = 2
_HOLD_OUT = 7  # a stream of draws of its own


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
