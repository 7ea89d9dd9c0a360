"""Prompts of findings, and the label files of CheXpert and MIMIC-CXR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import CHEXPERT_COMPETITION, FindingLabels, FindingPrompts, read_chexpert, read_mimic_cxr

CHEXPERT = """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,
CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Female,87,Frontal,AP,,-1.0,1.0
CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg,Female,87,Lateral,,,0.0,1.0
"""
MIMIC_LABELS = """subject_id,study_id,Cardiomegaly,Edema
10000032,50414267,1.0,
10000032,53189527,,-1.0
11000001,50000001,0.0,1.0
"""
MIMIC_SPLIT = """dicom_id,study_id,subject_id,split
02aa804e-bde0afdd,50414267,10000032,train
174413ec-4ec4c1f7,50414267,10000032,train
2a2277a9-b0ded155,53189527,10000032,test
e084de3b-be89b11e,50000001,11000001,train
11111111-22222222,59999999,12000001,train
"""
TWO = ["Cardiomegaly", "Edema"]


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def labels(values: list[list[float]], **kwargs: object) -> FindingLabels:
    names = [chr(ord("A") + column) for column in range(len(values[0]))]
    return FindingLabels([f"{row}.png" for row in range(len(values))], names, np.array(values, float), **kwargs)


def test_published_prompts() -> None:
    prompts = FindingPrompts.published(CHEXPERT_COMPETITION)
    assert prompts.findings == list(CHEXPERT_COMPETITION)
    assert prompts.positive["Edema"] == [
        "Findings consistent with Edema",
        "Findings suggesting Edema",
        "This opacity can represent Edema",
        "Findings are most compatible with Edema",
    ]
    assert prompts.negative["Edema"] == [
        "There is no Edema",
        "No evidence of Edema",
        "No evidence of acute Edema",
        "No signs of Edema",
    ]
    single = FindingPrompts.published(["Edema"], single=True)
    assert single.to_dict() == {
        "Edema": {"positive": ["Findings suggesting Edema"], "negative": ["No evidence of Edema"]}
    }


@pytest.mark.parametrize("name", ["prompts.yaml", "prompts.json"])
def test_prompts_from_a_file(tmp_path: Path, name: str) -> None:
    content = {"Edema": {"positive": ["wet"], "negative": ["dry", "clear"]}}
    text = (
        json.dumps(content)
        if name.endswith("json")
        else "Edema:\n  positive: [wet]\n  negative:\n  - dry\n  - clear\n"
    )
    assert FindingPrompts.load(written(tmp_path, name, text)).to_dict() == content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Edema:\n  positive: [wet]\n", r"'Edema' has no list of negative prompts"),
        ("Edema:\n  positive: wet\n  negative: [dry]\n", r"'Edema' has no list of positive prompts"),
        ("Edema:\n  positive: [' ']\n  negative: [dry]\n", r"blank positive prompt"),
        ("Edema:\n  positive: 5\n  negative: [dry]\n", r"'Edema' has no list of positive prompts"),
        ("Edema:\n  positive: [wet]\n  negative: [1]\n", r"'Edema' has the negative prompt 1, .* in quotes"),
        ("Edema:\n  positive: [wet]\n  negative: [dry]\n  negatve: [x]\n", r"'Edema' has 'negatve'"),
        ("A: {positive: [a], negative: [b]}\nA: {positive: [c], negative: [d]}\n", r"'A' occurs twice"),
        ("A: {positive: [a], negative: [b], positive: [c]}\n", r"'positive' occurs twice"),
        ("- wet\n", r"must hold, for each finding"),
        ("{}", r"there are no findings"),
        ("Edema: [", r"no valid YAML or JSON"),
        ("1:\n  positive: [wet]\n  negative: [dry]\n", r"finding 1 is no name"),
        ("No:\n  positive: [wet]\n  negative: [dry]\n", r"finding False is no name"),
    ],
)
def test_bad_prompt_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, "prompts.yaml", text)
    with pytest.raises(ClipAlignError, match=message) as caught:
        FindingPrompts.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_prompts() -> None:
    with pytest.raises(ClipAlignError, match=r"prompts\.yaml: cannot be read"):
        FindingPrompts.load("prompts.yaml")
    for template in ("no place", "{} or {}", "x {} {0}", "{{}}", 5):
        with pytest.raises(ClipAlignError, match=r"exactly one '\{\}'|not a text"):
            FindingPrompts.from_templates(["a"], [template], ["not {}"])
    with pytest.raises(ClipAlignError, match="differ"):
        FindingPrompts.published(["a", "a"])
    with pytest.raises(ClipAlignError, match="no prompts for 'b'"):
        FindingPrompts.published(["a"]).select(["a", "b"])
    with pytest.raises(ClipAlignError, match=r"findings is a single string, 'abc'"):
        FindingPrompts.published("abc")


def test_a_finding_that_is_twice_in_json_is_named(tmp_path: Path) -> None:
    parts = '{"positive": ["wet"], "negative": ["dry"]}'
    with pytest.raises(ClipAlignError, match="'Edema' occurs twice"):
        FindingPrompts.load(written(tmp_path, "prompts.json", f'{{"Edema": {parts}, "Edema": {parts}}}'))


def test_a_binary_prompt_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "prompts.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ClipAlignError, match=r"prompts\.yaml: cannot be read"):
        FindingPrompts.load(tmp_path / "prompts.yaml")


def test_chexpert_as_it_comes(tmp_path: Path) -> None:
    found = read_chexpert(written(tmp_path, "train.csv", CHEXPERT), TWO)
    assert found.findings == TWO
    assert found.patients == ["patient00001", "patient00002", "patient00002"]
    np.testing.assert_array_equal(found.values, [[np.nan, np.nan], [-1, 1], [0, 1]])
    assert found.ids[0] == "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    frontal = read_chexpert(tmp_path / "train.csv", TWO, frontal_only=True)
    assert frontal.ids == found.ids[:2]


def test_chexpert_with_backslashes(tmp_path: Path) -> None:
    expected = read_chexpert(written(tmp_path, "train.csv", CHEXPERT), TWO)
    rows = [line.split(",", 1) for line in CHEXPERT.splitlines()]
    text = "\n".join(f"{path.replace('/', chr(92))},{rest}" for path, rest in rows)
    found = read_chexpert(written(tmp_path, "windows.csv", text), TWO)
    assert (found.ids, found.patients) == (expected.ids, expected.patients)


def test_one_path_without_a_patient_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "train.csv", CHEXPERT + "CheXpert-v1.0-small/train/p7/a.jpg,,,Frontal,AP,,1.0,0.0\n")
    with pytest.raises(ClipAlignError, match=r"row 3 \(from 0\): the path '.*/p7/a\.jpg' has no part patient00001"):
        read_chexpert(path, TWO)
    none = written(tmp_path, "none.csv", "Path,Edema\na.jpg,1\nb.jpg,0\n")
    assert read_chexpert(none, ["Edema"]).patients is None


def test_mimic_as_it_comes(tmp_path: Path) -> None:
    files = written(tmp_path, "chexpert.csv", MIMIC_LABELS), written(tmp_path, "split.csv", MIMIC_SPLIT)
    found = read_mimic_cxr(*files, TWO)
    assert found.ids[0] == "files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg"
    assert found.patients == ["p10000032"] * 3 + ["p11000001"]
    np.testing.assert_array_equal(found.values, [[1, np.nan], [1, np.nan], [np.nan, -1], [0, 1]])
    assert len(read_mimic_cxr(*files, TWO, split="train")) == 3
    with pytest.raises(ClipAlignError, match="no image of a study"):
        read_mimic_cxr(*files, TWO, split="validate")
    with pytest.raises(ClipAlignError, match="'ViewPosition'"):
        read_mimic_cxr(*files, TWO, views=["PA"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("174413ec-4ec4c1f7,", ",", r"split\.csv: row 1 \(from 0\): dicom_id is nan"),
        ("10000032,53189527", "10000032,", r"chexpert\.csv: row 1 \(from 0\): study_id is nan"),
        ("10000032,50414267,", "10000032,50414267.0,", r"chexpert\.csv: row 0 \(from 0\): study_id is '50414267\.0'"),
        ("11000001,50000001", "10000032,50414267", r"the study '50414267' has two rows that differ"),
        (
            "11000001,50000001",
            "11000009,50000001",
            r"study '50000001' is of the subject '11000001' in .*'11000009'",
        ),
    ],
)
def test_mimic_rows_that_name_no_image_or_two_studies(tmp_path: Path, old: str, new: str, message: str) -> None:
    texts = [text.replace(old, new) for text in (MIMIC_LABELS, MIMIC_SPLIT)]
    files = written(tmp_path, "chexpert.csv", texts[0]), written(tmp_path, "split.csv", texts[1])
    with pytest.raises(ClipAlignError, match=message):
        read_mimic_cxr(*files, TWO)


def test_a_study_that_stands_twice_alike_counts_once(tmp_path: Path) -> None:
    labels_csv = written(tmp_path, "chexpert.csv", MIMIC_LABELS + MIMIC_LABELS.splitlines()[1] + "\n")
    assert len(read_mimic_cxr(labels_csv, written(tmp_path, "split.csv", MIMIC_SPLIT), TWO)) == 4


def test_policies() -> None:
    found = labels([[1, -1], [-1, np.nan], [0, np.nan]])
    np.testing.assert_array_equal(found.targets(), [[1, np.nan], [np.nan, np.nan], [0, np.nan]])
    np.testing.assert_array_equal(found.targets("ones", "zeros"), [[1, 1], [1, 0], [0, 0]])
    mixed = found.targets({"A": "zeros"}, {"B": "ones"})
    np.testing.assert_array_equal(mixed, [[1, np.nan], [0, 1], [0, 1]])
    assert mixed.dtype == np.float32
    with pytest.raises(ClipAlignError, match=r"no policy 'maybe' for 'A'.*ignore, zeros, ones"):
        found.targets("maybe")
    with pytest.raises(ClipAlignError, match="'C'"):
        found.targets({"C": "ones"})


def test_selection() -> None:
    found = labels([[1, 0], [0, 1], [1, 1]], patients=["a", "b", "b"])
    some = found.select([2, 0], ["B"])
    assert (some.ids, some.findings, some.patients) == (["2.png", "0.png"], ["B"], ["b", "a"])
    np.testing.assert_array_equal(some.values, [[1], [0]])
    assert len(found.select(np.array([True, False, True]))) == 2
    assert found.fingerprint() != found.select([0, 2, 1]).fingerprint()
    with pytest.raises(ClipAlignError, match="no finding 'C'"):
        found.select(findings=["C"])


def test_fingerprints_are_of_the_known_labels_of_a_finding() -> None:
    found = labels([[1, 0], [0, 1], [-1, 1]]).fingerprints()
    assert labels([[1, 0], [0, 1], [-1, 1]]).select([2, 1, 0]).fingerprints() == found
    wider = labels([[1, 0], [0, 1], [np.nan, 0], [np.nan, 1]]).fingerprints()
    assert wider["A"] == found["A"]
    assert wider["B"] != found["B"]
    other = FindingLabels(["0.png", "2.png"], ["A"], np.array([[1.0], [0.0]]))
    assert other.fingerprints()["A"] != found["A"]


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "a/../../b.jpg", "/etc/passwd", "~/x.jpg", "C:/x.jpg", "a\\..\\b.jpg", "\\x.jpg", ""]
)
def test_paths_that_leave_their_folder_are_refused(tmp_path: Path, path: str) -> None:
    text = f"Path,Edema\ngood.jpg,1\n{path},1\n"
    with pytest.raises(ClipAlignError, match="no relative path"):
        read_chexpert(written(tmp_path, "train.csv", text), ["Edema"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Path,Edema\na.jpg,1\n", r"no column 'Cardiomegaly'; the columns are 'Path', 'Edema'"),
        ("File,Cardiomegaly,Edema\na.jpg,1,1\n", r"no column 'Path'"),
        ("Path,Cardiomegaly,Edema\na.jpg,1,2\n", r"found 2"),
        ("Path,Cardiomegaly,Edema\na.jpg,1,yes\n", r"a label is no number"),
        ("Path,Cardiomegaly,Edema\na.jpg,1,1\na.jpg,0,1\n", r"'a.jpg' occurs twice"),
        ("", r"cannot be read"),
        ("Path,Cardiomegaly,Edema\n", r"there are no rows"),
    ],
)
def test_bad_label_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, "train.csv", text)
    with pytest.raises(ClipAlignError, match=message) as caught:
        read_chexpert(path, TWO)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_labels() -> None:
    with pytest.raises(ClipAlignError, match="shape"):
        FindingLabels(["a"], ["A"], np.zeros((2, 1)))
    with pytest.raises(ClipAlignError, match="2 rows but 1 patients"):
        labels([[1], [0]], patients=["a"])
    for values in (np.array([["a"]]), [[1.0, 0.0], [1.0]], [[{}]]):
        with pytest.raises(ClipAlignError, match="labels must be numbers"):
            FindingLabels(["a"], ["A"], values)
    with pytest.raises(ClipAlignError, match="differ"):
        FindingLabels(["a"], ["A", "A"], np.zeros((1, 2)))


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_labels_may_be_arrays_tensors_and_lists(kind: Any) -> None:
    found = FindingLabels(["a", "b"], ["A"], kind([[1], [0]]))
    assert found.values.dtype == np.float64
    assert found.targets().tolist() == [[1], [0]]


def test_findings_are_a_list_of_names(tmp_path: Path) -> None:
    path = written(tmp_path, "train.csv", CHEXPERT)
    with pytest.raises(ClipAlignError, match="there are no findings"):
        read_chexpert(path, [])
    with pytest.raises(ClipAlignError, match=r"such as \['Edema'\]"):
        read_mimic_cxr(path, path, "Edema")


def test_images_of_the_rows(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "1.png")
    source = labels([[1], [0]]).source(tmp_path)
    assert source.ids == ["0.png", "1.png"]
    assert source.read(1).size == (4, 4)


def test_a_wrong_label_is_named_by_row_and_column(tmp_path: Path) -> None:
    for cell, found in (("2", "found 2"), ("yes", "a label is no number, found 'yes'")):
        path = written(tmp_path, "train.csv", f"Path,Cardiomegaly,Edema\na.jpg,1,0\nb.jpg,,{cell}\n")
        with pytest.raises(ClipAlignError, match=rf"train\.csv: row 1 \(from 0\), column 'Edema': {found}"):
            read_chexpert(path, TWO)
    split = written(tmp_path, "split.csv", MIMIC_SPLIT)
    wrong = written(tmp_path, "mimic.csv", MIMIC_LABELS.replace("0.0,1.0", "0.0,7"))
    with pytest.raises(ClipAlignError, match=r"mimic\.csv: row 2 \(from 0\), column 'Edema': found 7"):
        read_mimic_cxr(wrong, split, TWO, split="train")
    with pytest.raises(ClipAlignError, match=r"found 5 in row 1 \(from 0, '1\.png'\), column 'B'"):
        labels([[1, 0], [1, 5]])


def test_subgroups_come_with_the_labels(tmp_path: Path) -> None:
    found = read_chexpert(written(tmp_path, "train.csv", CHEXPERT), TWO)
    assert found.subgroups == {
        "view": ["Frontal", "Frontal", "Lateral"],
        "sex": ["Female"] * 3,
        "age": ["60–79", "80+", "80+"],
    }
    assert found.select([2, 0]).subgroups["view"] == ["Lateral", "Frontal"]
    views = MIMIC_SPLIT.replace("split\n", "split,ViewPosition\n").replace(",train\n", ",train,PA\n")
    views = views.replace(",test\n", ",test,\n")
    mimic = read_mimic_cxr(written(tmp_path, "mimic.csv", MIMIC_LABELS), written(tmp_path, "split.csv", views), TWO)
    assert mimic.subgroups == {"view": ["PA", "PA", "", "PA"]}
    with pytest.raises(ClipAlignError, match="1 rows but 2 sex"):
        FindingLabels(["1.png"], ["Edema"], [[1]], subgroups={"sex": ["Female", "Male"]})
