"""Labels meet the embeddings of their own image, or none."""

from __future__ import annotations

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import FindingLabels
from hf_clipalign.features.labelled_embeddings import matched_rows


def labels(*ids: str) -> FindingLabels:
    return FindingLabels(list(ids), ["Edema"], np.zeros((len(ids), 1)))


def matched(ids, *names, partial=False):
    rows, kept = matched_rows(ids, labels(*names), "store", set(), partial)
    return list(zip(kept.tolist(), [ids[row] for row in rows], strict=True))


def test_labels_of_two_patients_never_meet_one_image() -> None:
    with pytest.raises(ClipAlignError, match="no image of labels is in 'store'"):
        matched(["view.png"], "patient1/view.png", "patient2/view.png", partial=True)


def test_as_few_folders_are_left_out_as_it_takes() -> None:
    ids = ["a/view.png", "view.png"]
    assert matched(ids, "root/a/view.png", "root/view.png") == [(0, "a/view.png"), (1, "view.png")]
    assert matched(ids, "a/view.png", "view.png") == [(0, "a/view.png"), (1, "view.png")]


def test_an_id_that_occurs_twice_is_named() -> None:
    with pytest.raises(ClipAlignError, match="the id 'x' occurs twice"):
        matched(["x", "y", "x"], "x")
