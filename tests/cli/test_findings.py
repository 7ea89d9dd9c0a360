"""From label files in the formats of CheXpert and MIMIC-CXR to a page, on a few tiny images."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign.cli.app import app
from hf_clipalign.cli.options import console
from hf_clipalign.data import FindingLabels
from hf_clipalign.data.labels.formats import below, label_format, read_findings
from hf_clipalign.hub import check_card

TWO = ("Cardiomegaly", "Edema")
QUICK = ("--model", "mini:student", "--findings", ",".join(TWO), "--resamples", 50, "--epochs", 2)


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def draw(file, labels, generator):
    """Red is Cardiomegaly, blue is Edema; noise is added."""
    pixels = generator.integers(0, 90, (24, 24, 3))
    pixels[..., 0] += 150 * (labels[0] == 1)
    pixels[..., 2] += 150 * (labels[1] == 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(file)


def chexpert(folder, part, patients, seed, cell=lambda value: f"{value:.1f}"):
    """`train.csv` or `valid.csv` as published, and its images below `CheXpert-v1.0-small`."""
    generator = np.random.default_rng(seed)
    lines = ["Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema"]
    for patient in patients:
        for number, view in enumerate(("Frontal", "Lateral"), 1):
            labels = generator.integers(0, 2, 2)
            path = f"CheXpert-v1.0-small/{part}/patient{patient:05d}/study1/view{number}_{view.lower()}.jpg"
            draw(folder / path, labels, generator)
            sex, age = ("Female", "Male")[patient % 2], 30 + 25 * (patient % 3)
            lines.append(f"{path},{sex},{age},{view},AP,,{','.join(map(cell, labels))}")
    (folder / f"{part}.csv").write_text("\n".join(lines))
    return folder / f"{part}.csv"


@pytest.fixture
def chest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "width", 250)
    chexpert(tmp_path, "train", range(1, 21), 0)
    chexpert(tmp_path, "valid", range(101, 113), 1)
    return tmp_path


def test_two_label_files_become_a_page_and_a_second_run_embeds_nothing(chest, monkeypatch):
    command = ("findings", "train.csv", "--test", "valid.csv", "--images", ".", *QUICK, "--out", "out")
    printed = call(*command)
    assert "verdict: " in printed
    assert "push" not in printed  # an adapter of a built-in model cannot be pushed
    page = (chest / "out" / "index.html").read_text(encoding="utf-8")
    for text in (
        "linear probe",
        "zero-shot",
        "threshold",
        "Reliability",
        "not for diagnosis",
        "sex: Female",
        "before",
    ):
        assert text in page, text
    assert 'src="http' not in page
    with open(chest / "out" / "findings.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    whole = [row for row in rows if not row["subgroup"]]
    assert [(row["finding"], row["model"]) for row in whole] == [
        (name, model) for name in TWO for model in ("RE-tune", "zero-shot", "linear probe")
    ]
    assert {row["n"] for row in whole} == {"24"}
    for row in whole:
        assert 0 <= float(row["auroc_low"]) <= float(row["auroc"]) <= float(row["auroc_high"]) <= 1
        assert row["threshold"]
        assert row["ece"]
    assert float(whole[2]["auroc"]) > 0.9  # the colours are easily told apart
    assert {row["subgroup"] for row in rows if row["subgroup"]} == {
        *("view: Frontal", "view: Lateral", "sex: Female", "sex: Male"),
        *("age: 0–39", "age: 40–59", "age: 80+"),
    }
    card = (chest / "out" / "adapter" / "README.md").read_text(encoding="utf-8")
    check_card(card)
    assert "linear probe" in card
    assert json.loads((chest / "out" / "findings.json").read_text())["verdict"] in page.replace("&#39;", "'")
    stores = sorted(path.name for path in (chest / "out" / "embeddings").iterdir())
    assert stores == ["test", "train", "validation"]

    monkeypatch.setattr("hf_clipalign.features.engines.computing.image_block", None)
    first = (chest / "out" / "findings.csv").read_text()
    assert "verdict" in call(*command)
    assert (chest / "out" / "findings.csv").read_text() == first


def test_no_validation_no_thresholds(chest):
    call(
        "findings",
        "train.csv",
        "--test",
        "valid.csv",
        "--images",
        "CheXpert-v1.0-small",
        *QUICK,
        "--holdout",
        0,
        "--out",
        "out",
    )
    with open(chest / "out" / "findings.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name in ("threshold", "sensitivity", "specificity", "ppv", "npv", "f1", "ece"):
        assert {row[name] for row in rows} == {""}, name
    page = (chest / "out" / "index.html").read_text(encoding="utf-8")
    assert "There are no validation data" in page
    assert "Reliability" not in page


def test_patients_in_both_stop_the_command_unless_allowed(chest):
    chexpert(chest, "valid", range(18, 30), 1)
    command = ("findings", "train.csv", "--test", "valid.csv", "--images", ".", *QUICK, "--out", "out")
    with pytest.raises(ClipAlignError, match=r"3 of 12 patients .* --allow-shared-patients"):
        call(*command)
    assert not (chest / "out").exists()
    assert "patients of the test data were seen in training" in call(*command, "--allow-shared-patients")
    for name in ("index.html", "adapter/README.md"):
        text = (chest / "out" / name).read_text(encoding="utf-8")
        assert re.search(r"\d of 12 patients of the test data were seen in training", text), name


def test_images_in_both_are_an_error(chest):
    lines = (chest / "train.csv").read_text().splitlines()
    (chest / "both.csv").write_text("\n".join(lines[:9]))
    command = ("findings", "train.csv", "--images", ".", *QUICK, "--allow-shared-patients")
    for option in ("--test", "--validation"):
        other = () if option == "--test" else ("--test", "valid.csv")
        with pytest.raises(
            ClipAlignError, match=r"8 of 8 (test|validation) images were seen in training, first 'CheX"
        ):
            call(*command, option, "both.csv", *other)


def test_only_present_and_blank_labels_are_told(chest):
    chexpert(chest, "train", range(1, 21), 0, cell=lambda value: "1.0" if value else "")
    command = ("findings", "train.csv", "--test", "valid.csv", "--images", ".", *QUICK)
    call(*command, "--out", "ones")
    page = (chest / "ones" / "index.html").read_text(encoding="utf-8")
    assert "no negative example of" in page
    assert "missing=&#34;zeros&#34;" in page
    assert "No threshold for Cardiomegaly, Edema: the validation data have one class" in page


def test_from_an_earlier_adapter_forgetting_is_computed(chest):
    command = ("findings", "train.csv", "--test", "valid.csv", "--images", ".", *QUICK[:2], *QUICK[4:])
    call(*command, "--findings", "Cardiomegaly", "--out", "first")
    call(*command, "--findings", "Cardiomegaly,Edema", "--adapter", "first/adapter", "--out", "second")
    result = json.loads((chest / "second" / "joint.json").read_text())
    assert result["before"]["taught"] == ["Cardiomegaly"]
    page = (chest / "second" / "index.html").read_text(encoding="utf-8")
    assert re.search(r"AUROC, points: forgetting [+-]", page)


def mimic(folder, studies=40):
    generator = np.random.default_rng(3)
    labels, listing = ["subject_id,study_id,Cardiomegaly,Edema"], ["dicom_id,study_id,subject_id,split"]
    for number in range(studies):
        subject, study = 10000000 + number, 50000000 + number
        values = generator.integers(0, 2, 2)
        labels.append(f"{subject},{study},{values[0]:.1f},{values[1]:.1f}")
        split = ("train", "train", "test", "validate")[number % 4]
        listing.append(f"d{number},{study},{subject},{split}")
        draw(folder / f"files/p10/p{subject}/s{study}/d{number}.jpg", values, generator)
    (folder / "mimic-cxr-2.0.0-chexpert.csv").write_text("\n".join(labels))
    (folder / "mimic-cxr-2.0.0-split.csv").write_text("\n".join(listing))


def test_mimic_cxr_as_published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mimic(tmp_path)
    call("findings", "mimic-cxr-2.0.0-chexpert.csv", "--images", ".", *QUICK, "--out", "out")
    with open(tmp_path / "out" / "findings.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["n"] for row in rows} == {"10"}
    assert all(row["threshold"] for row in rows)
    adapter = json.loads((tmp_path / "out" / "adapter" / "retune.json").read_text())
    assert adapter["tasks"][0]["n_rows"] == 20


def test_mistakes_are_explained_before_a_model_is_loaded(chest, monkeypatch):
    def refuse(*unused):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("hf_clipalign.cli.commands.findings.load", refuse)
    (chest / "strange.csv").write_text("name,Edema\na.jpg,1\n")
    text = (chest / "train.csv").read_text()
    (chest / "wrong.csv").write_text(text.replace(",1.0", ",3.0", 1))
    head, *lines = text.splitlines()
    (chest / "absent.csv").write_text("\n".join([head, *(f"{line.rsplit(',', 1)[0]},0.0" for line in lines)]))
    known = ("--images", ".", *QUICK)
    for arguments, message in (
        (("train.csv", *known), "which test labels"),
        (("strange.csv", "--test", "valid.csv", *known), "no label file of CheXpert"),
        (("wrong.csv", "--test", "valid.csv", *known), r"row \d+ \(from 0\), column '\w+': found 3"),
        (("train.csv", "--test", "valid.csv", "--images", "out", *QUICK), "no image of train.csv is below 'out'"),
        (("train.csv", "--test", "valid.csv", *known, "--scenario", "none"), "no scenario 'none'"),
        (("train.csv", "--test", "valid.csv", *known, "--format", "none"), "no format 'none'"),
        (("train.csv", "--test", "valid.csv", *known, "--holdout", "1.5"), "--holdout is 1.5"),
        (("absent.csv", "--test", "valid.csv", *known), "no positive example of 'Edema' among its"),
        (("train.csv", "--test", "valid.csv", *known, "--prompts", "none.yaml"), "none.yaml"),
        (("train.csv", "--test", "valid.csv", *known, "--uncertain", "maybe"), "no policy 'maybe'"),
    ):
        with pytest.raises(ClipAlignError, match=message):
            call("findings", *arguments)


def test_formats(tmp_path):
    mimic(tmp_path, 4)
    assert label_format(tmp_path / "mimic-cxr-2.0.0-chexpert.csv") == "mimic"
    found = read_findings(tmp_path / "mimic-cxr-2.0.0-chexpert.csv", findings=TWO, split="train")
    assert len(found) == 2
    assert below(found, tmp_path / "files").ids[0].startswith("p10/p10000000/")
    (tmp_path / "mimic-cxr-2.0.0-split.csv").unlink()
    with pytest.raises(ClipAlignError, match=r"list of images too, splits=mimic-cxr-2\.0\.0-split\.csv"):
        read_findings(tmp_path / "mimic-cxr-2.0.0-chexpert.csv", findings=TWO)
    same = FindingLabels(["a/x.jpg", "b/x.jpg"], ["Edema"], [[1], [0]])
    (tmp_path / "x.jpg").touch()
    with pytest.raises(ClipAlignError, match="no image of labels is below"):
        below(same, tmp_path)
