"""Where images and lists of images are looked for: folders above, the first images, columns of the label file."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import FindingLabels
from hf_clipalign.data.labels.formats import below, read_findings


@pytest.mark.parametrize("levels", range(5))
def test_up_to_four_leading_folders_are_left_out(levels: int, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").touch()
    labels = FindingLabels(["/".join("abcd"[:levels]) + "/" * bool(levels) + "images/x.png"], ["Edema"], [[1]])
    assert below(labels, tmp_path).ids == ["images/x.png"]


def test_a_fifth_folder_is_too_much(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    with pytest.raises(ClipAlignError, match="no image of labels is below"):
        below(FindingLabels(["a/b/c/d/e/x.png"], ["Edema"], [[1]]), tmp_path)


def test_images_may_be_missing_before_the_fiftieth(tmp_path: Path) -> None:
    (tmp_path / "49.png").touch()
    labels = FindingLabels([f"train/{number}.png" for number in range(60)], ["Edema"], [[1]] * 60)
    assert below(labels, tmp_path).ids == [f"{number}.png" for number in range(60)]


def test_labels_of_images_need_no_list_of_images(tmp_path: Path) -> None:
    rows = ["subject_id,study_id,dicom_id,Edema", "10000001,50000001,d1,1.0", "10000001,50000001,d2,1.0"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    found = read_findings(tmp_path / "labels.csv", findings=["Edema"])
    assert found.ids == [f"files/p10/p10000001/s50000001/{name}.jpg" for name in ("d1", "d2")]
