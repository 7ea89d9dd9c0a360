"""Labels and classes that are hidden from a method."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import GCDSplit, ImageSource, hide_classes


def split(n_known: int = 5, unknown: bool = False) -> GCDSplit:
    names, labels = [f"class {number}" for number in range(8)], np.arange(80) % 8
    pixels, ids = [Image.new("RGB", (4, 4))] * 80, [str(row) for row in range(80)]
    source = ImageSource(pixels, ids=ids, labels=labels, class_names=names, name="zoo", fingerprint=str)
    labelled = (labels < n_known) & (np.arange(80) < 40)
    if unknown:
        return GCDSplit(source, np.where(labelled, labels, -1), labelled, names[:n_known], [])
    return GCDSplit(source, labels, labelled, names[:n_known], names[n_known:])


@pytest.mark.parametrize("unknown", [False, True])
def test_every_known_class_is_novel_in_one_fold(unknown: bool) -> None:
    whole = split(unknown=unknown)
    hidden = []
    for fold in range(2):
        part = hide_classes(whole, fold, seed=3)
        names = [*part.class_names, *part.novel_names]
        assert [names[label] if label >= 0 else "" for label in part.labels] == [
            [*whole.class_names, *whole.novel_names][label] if label >= 0 else "" for label in whole.labels
        ]
        assert set(part.class_names) < set(whole.class_names)
        assert (part.labelled == (whole.labelled & (part.labels < len(part.class_names)))).all()
        assert part.novel_names[len(whole.class_names) - len(part.class_names) :] == whole.novel_names
        hidden += sorted(set(whole.class_names) - set(part.class_names))
    assert sorted(hidden) == whole.class_names


def test_what_cannot_be_hidden() -> None:
    with pytest.raises(ClipAlignError, match="of 1 known class none can be hidden"):
        hide_classes(split(1), 0)
    with pytest.raises(ClipAlignError, match="n_folds is 6: give 2 to 5"):
        hide_classes(split(), 0, 6)
    with pytest.raises(ClipAlignError, match="fold is 2: give 0 to 1"):
        hide_classes(split(), 2)
