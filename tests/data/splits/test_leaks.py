"""Images and patients that are in training and test data."""

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import FindingLabels, SeenRows, check_leaks, split_patients


def labels(ids, patients=None):
    return FindingLabels(ids, ["Edema"], [[1]] * len(ids), patients, "the labels")


def test_an_image_in_both_is_an_error():
    seen = SeenRows.of(labels(["a/1.png", "a/2.png", "a/3.png"]), [0, 2])
    assert check_leaks(seen, labels(["a/2.png"])) == ""
    for same in ("a/3.png", "./a/3.png", "a\\3.png"):
        with pytest.raises(ClipAlignError, match=r"the labels: 1 of 2 test images were seen in training, first"):
            check_leaks(seen, labels(["a/4.png", same]))


def test_row_numbers_of_two_data_sets_are_no_names_of_images():
    seen = SeenRows.of(labels(["0", "1", "2"], ["p1", "p1", "p2"]))
    assert check_leaks(seen, labels(["1", "0"], ["q", "q"])) == ""
    assert "1 of 1 patients" in check_leaks(seen, labels(["1", "0"], ["p2", "p2"]))
    with pytest.raises(ClipAlignError, match="1 of 2 test images"):
        check_leaks(SeenRows.of(labels(["7", "8"])), labels(["8", "9"]))


def test_patients_in_both_are_counted_and_not_named():
    seen = SeenRows.of(labels(["1", "2", "3"], ["p1", "p2", "p2"])) | SeenRows.of(labels(["4"], ["p3"]))
    told = check_leaks(seen, labels(["5", "6", "7"], ["p3", "p4", "p1"]), "validation")
    assert told.startswith("2 of 3 patients of the validation data were seen in training")
    assert "p3" not in told
    assert check_leaks(seen, labels(["5"])) == ""
    assert check_leaks(seen, labels(["5"], ["p9"])) == ""


def test_no_patient_is_in_both_parts():
    many = labels([str(row) for row in range(60)], [f"p{row // 3}" for row in range(60)])
    kept, held = split_patients(many, 0.2)
    assert sorted([*kept, *held]) == list(range(60))
    assert not {many.patients[row] for row in kept} & {many.patients[row] for row in held}
    assert len(held) == 12
    assert [part.tolist() for part in split_patients(many, 0.2)] == [kept.tolist(), held.tolist()]
    assert not np.array_equal(split_patients(many, 0.2, seed=1)[1], held)
    assert [len(part) for part in split_patients(labels(["1", "2"]), 0.01)] == [1, 1]
    for share, few in ((1.0, many), (0.5, labels(["1"]))):
        with pytest.raises(ClipAlignError, match="cannot be held out"):
            split_patients(few, share)


def test_hashes_stay_exact_where_a_part_names_nothing():
    """An empty part must not turn the 63-bit hashes of the other one into floating-point numbers."""
    named = SeenRows.of(FindingLabels(["a.png", "b.png"], ["Edema"], [[1], [0]], ["p1", "p2"]))
    unnamed = SeenRows.of(FindingLabels(["0", "1"], ["Edema"], [[1], [0]]))
    assert len(unnamed.images) == len(unnamed.patients) == 0
    for seen in (named | unnamed, unnamed | named):
        assert seen.images.dtype == seen.patients.dtype == np.int64
        assert seen.images.tolist() == named.images.tolist()
        assert seen.patients.tolist() == named.patients.tolist()
