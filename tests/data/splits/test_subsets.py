"""Few-shot draws, class subsets and the base-to-novel split."""

from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageSource, base_and_novel, few_shot, few_shot_rows, keep_classes, take

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 0])


def source(labels: np.ndarray | None = LABELS, names: list[str] | None = None) -> ImageSource:
    return ImageSource(
        [np.full((2, 2, 3), row, dtype=np.uint8) for row in range(len(LABELS))],
        ids=[str(row) for row in range(len(LABELS))],
        labels=labels,
        class_names=names or ["ant", "bee", "cat"],
        fingerprint=functools.partial(str, "abc"),
    )


def test_k_of_every_class_and_all_of_a_small_one() -> None:
    rows = few_shot_rows(LABELS, 4, seed=3)
    assert rows == sorted(set(rows))
    assert np.bincount(LABELS[rows]).tolist() == [4, 4, 3]


def test_seed_decides_and_classes_are_drawn_independently() -> None:
    assert few_shot_rows(LABELS, 2, seed=0) == few_shot_rows(LABELS, 2, seed=0)
    assert len({tuple(few_shot_rows(LABELS, 2, seed=seed)) for seed in range(5)}) > 1
    of_class_0 = [row for row in few_shot_rows(LABELS, 2) if LABELS[row] == 0]
    without_others = few_shot_rows(np.where(LABELS == 0, 0, 9), 2)
    assert of_class_0 == [row for row in without_others if LABELS[row] == 0]


def test_parts_keep_images_labels_and_names_together() -> None:
    part = keep_classes(source(), [2, 0])
    assert part.class_names == ["cat", "ant"]
    assert part.ids == ["0", "2", "3", "5", "6", "8", "9", "11"]
    assert part.labels.tolist() == [1, 0, 1, 0, 1, 0, 1, 1]
    assert np.asarray(part.read(3))[0, 0, 0] == 5
    assert np.asarray(take(part, [7]).read(0))[0, 0, 0] == 11


def test_fingerprint_changes_with_the_part() -> None:
    whole = source()
    prints = {few_shot(whole, 2, seed).fingerprint() for seed in (0, 1)} | {keep_classes(whole, [0]).fingerprint()}
    assert len(prints) == 3
    assert few_shot(whole, 2).fingerprint() == few_shot(source(), 2).fingerprint()


def test_base_and_novel_halves() -> None:
    base, novel = base_and_novel(source())
    assert (base.class_names, novel.class_names) == (["ant", "bee"], ["cat"])
    assert set(novel.labels.tolist()) == {0}
    assert set(base.ids) | set(novel.ids) == set(source().ids)


def test_part_can_be_sent_to_workers() -> None:
    part = few_shot(source(), 1)
    copy = pickle.loads(pickle.dumps(part))
    assert copy.ids == part.ids
    assert copy.fingerprint() == part.fingerprint()
    assert np.array_equal(np.asarray(copy.read(1)), np.asarray(part.read(1)))


def test_bad_requests() -> None:
    with pytest.raises(ClipAlignError, match="no labels"):
        few_shot(source(labels=None), 1)
    with pytest.raises(ClipAlignError, match="give 1 or more"):
        few_shot(source(), 0)
    with pytest.raises(ClipAlignError, match="no image is left"):
        keep_classes(source(), [])
    with pytest.raises(ClipAlignError, match="2 or more classes, there is 1"):
        base_and_novel(source(labels=np.zeros(12, dtype=int), names=["ant"]))


def test_two_classes_are_one_base_and_one_novel() -> None:
    base, novel = base_and_novel(source(LABELS % 2, ["ant", "bee"]))
    assert (base.class_names, novel.class_names) == (["ant"], ["bee"])
    assert len(base) + len(novel) == len(LABELS)
