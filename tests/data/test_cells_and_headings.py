"""Every cell of a text file stands under its heading: rows with more cells and doubled headings are refused."""

from __future__ import annotations

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import from_table, load_captions, load_dictionary, read_chexpert, read_mimic_cxr

STUDIES = "subject_id,study_id,Edema\n10000032,50414267,1\n"
IMAGES = "dicom_id,study_id,subject_id,ViewPosition\nabc,50414267,10000032,PA\n"


@pytest.fixture
def write(tmp_path):
    def written(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return written


def test_cells_are_not_moved_to_the_left(write) -> None:
    with pytest.raises(ClipAlignError, match=r"t\.csv: rows have more cells than the first line has headings"):
        from_table(write("t.csv", "image,label\na.png,cat,dog\nb.png,owl,fox\n"), label_column="label")
    with pytest.raises(ClipAlignError, match=r"c\.csv: rows have more cells"):
        read_chexpert(write("c.csv", "Path,Edema\n1/a.jpg,1,0\n2/a.jpg,0,1\n"), ["Edema"])
    with pytest.raises(ClipAlignError, match=r"t\.csv: the table cannot be read"):
        from_table(write("t.csv", "image,label\na.png,cat\nb.png,owl,fox\n"), label_column="label")


def test_a_separator_at_the_end_of_rows_does_no_harm(write) -> None:
    source = from_table(write("t.csv", "image,label\na.png,cat,\nb.png,owl,\n"), label_column="label")
    assert (source.ids, source.class_names) == (["a.png", "b.png"], ["cat", "owl"])
    labels = read_chexpert(write("c.csv", "Path,Edema\n1/a.jpg,1,\n2/a.jpg,0,\n"), ["Edema"])
    assert (labels.ids, labels.values.tolist()) == (["1/a.jpg", "2/a.jpg"], [[1], [0]])


@pytest.mark.parametrize(
    "read",
    [
        lambda write: from_table(write("t.csv", "image,label,label\na.png,cat,dog\n"), label_column="label"),
        lambda write: read_chexpert(write("t.csv", "Path,label,label\n1/a.jpg,1,0\n"), ["label"]),
        lambda write: load_captions(write("t.csv", "image,label,label\na.png,a,b\n"), text_column="label"),
    ],
)
def test_headings_that_occur_twice_are_refused(write, read) -> None:
    with pytest.raises(ClipAlignError, match=r"t\.csv: several columns are called 'label'; rename them"):
        read(write)


def test_a_caption_is_not_cut_at_its_comma(write) -> None:
    with pytest.raises(ClipAlignError, match=r"line 3 has 3 cells under 2 headings.*put it into quotation marks"):
        load_captions(write("c.csv", "image,caption\na.png,hello\na.png,hello, world\n"))
    with pytest.raises(ClipAlignError, match=r"line 2 has 3 cells under 2 headings.*use another separator"):
        load_captions(write("c.txt", "image|caption\na.png|hello | world\n"))
    assert load_captions(write("c.csv", 'image,caption\na.png,"hello, world",\n')).texts == ["hello, world"]


def test_a_concept_is_not_cut_at_its_comma(write) -> None:
    with pytest.raises(ClipAlignError, match="line 3 has 2 cells under 1 headings"):
        load_dictionary(write("d.csv", "name\ncat\nsalt, pepper\n"))
    assert load_dictionary(write("d.csv", 'name\ncat,\n"salt, pepper"\n')) == ["cat", "salt, pepper"]


def test_views_are_a_list(write) -> None:
    labels, images = write("labels.csv", STUDIES), write("images.csv", IMAGES)
    assert len(read_mimic_cxr(labels, images, ["Edema"], views=["PA"])) == 1
    with pytest.raises(ClipAlignError, match="views is a single string, 'PA'"):
        read_mimic_cxr(labels, images, ["Edema"], views="PA")
