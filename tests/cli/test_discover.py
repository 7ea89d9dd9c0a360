"""`clipalign discover`: a partly labelled folder in, assignments out; resumed; doubts and exit codes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign._io.files import exclusive_lock
from hf_clipalign.cli.app import app
from hf_clipalign.data import load_mini, read_image
from hf_clipalign.gcd import SpectralGCDModel
from hf_clipalign.trainers import SpectralGCDTrainer
from hf_clipalign.trainers.gcd.checking import HiddenClassCheck
from hf_clipalign.trainers.gcd.found import KMEANS_TEACHER, SEMI_SUPERVISED, Discovery, FoundClasses

CONCEPTS = ("bird", "owl", "duck", "heart", "broken heart", "hammer", "wrench", "axe", "sun", "moon")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Birds and hearts with labels, and birds and tools without, some of them beside the folders."""
    root = tmp_path_factory.mktemp("photos")
    emoji = load_mini().emoji_subset(styles="noto")
    kinds = np.array(emoji["subgroup"][:])
    for kind, folder, chosen in (
        *(("animal-bird", "bird", slice(0, 6)), ("heart", "heart", slice(0, 6))),
        *(
            ("animal-bird", "unlabelled", slice(6, 10)),
            ("tool", "unlabelled", slice(0, 6)),
            ("tool", ".", slice(6, 9)),
        ),
    ):
        (root / folder).mkdir(exist_ok=True)
        for row in np.flatnonzero(kinds == kind)[chosen].tolist():
            read_image(emoji[row]["image"]).save(root / folder / f"{row}.png")
    return root


def call(*arguments: Any) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def options(photos: Path, out: Path, *more: Any) -> tuple[Any, ...]:
    dictionary = out.parent / "words.txt"
    dictionary.write_text("\n".join(CONCEPTS))
    models = ("--model", "mini:student", "--teacher", "mini:teacher")
    return ("discover", photos, *models, "--out", out, "--dictionary", dictionary, "--device", "cpu", *more)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_partly_labelled_folder_becomes_assignments_and_a_second_call_trains_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    given = options(photos, out, "--n-novel", 2, "--epochs", 2, "--center-concepts", "yes")
    first = call(*given)
    summary = json.loads((out / "summary.json").read_text())
    assert first.exit_code == (3 if summary["doubts"] else 0)
    assert (summary["n_images"], summary["n_known"], summary["n_novel"], summary["n_held_out"]) == (25, 2, 2, 6)
    assert list(summary["methods"]) == [
        "k-means on student features",
        "k-means on teacher features",
        "semi-supervised k-means on teacher features",
        "SpectralGCD",
    ]
    assert summary["recommended"] in summary["methods"]
    assert all(0 <= method["check"] <= 1 for method in summary["methods"].values())
    assert (out / "training" / "check-2").is_dir()
    found = rows(out / "assignments.csv")
    assert list(found[0]) == ["image", "class", "name", "probability", "concepts", "label", "held_out"]
    assert len({row["image"] for row in found}) == 25
    assert {row["class"] for row in found} <= {"bird", "heart", "novel-1", "novel-2"}
    for row in found:  # held-out labels are hidden from the methods, not from the reader
        folder = row["image"].split("/")[0]
        assert row["label"] == (folder if folder in ("bird", "heart") else "")
    assert sum(row["held_out"] == "yes" for row in found) == 6
    assert all(0 < float(row["probability"]) <= 1 for row in found)
    assert sum(entry["images"] for entry in summary["classes"]) == 25
    page = (out / "gallery.html").read_text()
    assert page.count('<div class="group">') == 4
    assert "the true classes are not known" in page
    assert all(f"<h3>novel-{number}: " in page for number in (1, 2))
    assert SpectralGCDModel.from_pretrained(out / "model").config.n_novel == 2

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("hf_clipalign.trainers.gcd.trainer.SpectralGCDTrainer.train", refuse)
    again = call(*given)
    assert again.exit_code == first.exit_code
    assert rows(out / "assignments.csv") == found
    with pytest.raises(ClipAlignError, match="other images or with other settings: delete it"):
        call(*options(photos, out, "--n-novel", 2, "--epochs", 3, "--center-concepts", "yes"))
    kmeans = call(*options(photos, out, "--n-novel", "auto", "--method", "kmeans"))
    assert kmeans.exit_code == 0
    assert "estimate:" in kmeans.output
    assert {row["probability"] for row in rows(out / "assignments.csv")} == {""}
    assert json.loads((out / "summary.json").read_text())["method"] == "k-means on teacher features"


def test_an_interrupted_training_resumes_from_its_last_epoch(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--n-novel", 2, "--epochs", 2, "--center-concepts", "yes", "--check-folds", 0)
    given = options(photos, tmp_path / "out", *more)

    def interrupt(self: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SpectralGCDTrainer, "assign_classes", interrupt)
        assert call(*given).exit_code != 0
    assert not (tmp_path / "out" / "assignments.csv").exists()
    resumed, train = [], SpectralGCDTrainer.train

    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        resumed.append(kwargs["resume_from_checkpoint"])
        return train(self, *args, **kwargs)

    monkeypatch.setattr(SpectralGCDTrainer, "train", recorded)
    assert call(*given).exit_code in (0, 3)
    assert resumed == [True]
    assert len(rows(tmp_path / "out" / "assignments.csv")) == 25
    assert not list((tmp_path / "out").rglob("checkpoint-*"))


@pytest.mark.parametrize(("fault", "told"), [("collapse", "the classes have collapsed"), ("worse", "is better: ")])
def test_an_answer_that_is_not_worth_having_ends_with_exit_code_3(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, told: str
) -> None:
    def spoiled(model: Any, settings: Any, split: Any, taught: Any, reuse: bool, progress: Any) -> Any:
        wrong = np.where(split.labels == 0, 1, np.where(split.labels == 1, 0, 2 + np.arange(len(split)) % 2))
        wrong[split.labelled] = split.labels[split.labelled]
        classes = np.zeros(len(split), dtype=np.int64) if fault == "collapse" else wrong
        model.describe_classes(taught.cross_modal(torch.arange(len(split))), classes)
        return model, classes, None

    monkeypatch.setattr("hf_clipalign.trainers.gcd.discovery._trained", spoiled)
    more = ("--n-novel", 2, "--center-concepts", "yes", "--check-folds", 0)
    result = call(*options(photos, tmp_path / "out", *more))
    assert result.exit_code == 3
    assert "not worth having: " in result.output
    assert told in result.output
    assert "kmeans" in result.output.splitlines()[-1]
    assert rows(tmp_path / "out" / "assignments-kmeans.csv")


@pytest.mark.parametrize("fallen", [("/not-centred", "/check-1"), ("centred",)])
def test_only_the_collapse_of_the_training_that_is_kept_is_a_warning(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fallen: tuple[str, ...],
) -> None:
    assign = SpectralGCDTrainer.assign_classes

    def assigned(self: Any) -> np.ndarray:
        assign(self)
        has_fallen = any(name in self.args.output_dir for name in fallen)
        return np.zeros(len(self.split), dtype=np.int64) if has_fallen else self.split.labels % 4

    monkeypatch.setattr(SpectralGCDTrainer, "assign_classes", assigned)
    result = call(*options(photos, tmp_path / "out", "--n-novel", 2, "--epochs", 1))
    is_kept = fallen == ("centred",)
    assert caplog.text.count("the classes have collapsed") == is_kept
    assert ("the classes have collapsed" in result.output) == is_kept


def found(name: str, held_out: float) -> FoundClasses:
    return FoundClasses(name, np.array([0, 1]), 2, held_out, None, {})


def discovery(own: float, other: float, check: HiddenClassCheck | None = None) -> Discovery:
    names = {KMEANS_TEACHER: other, SEMI_SUPERVISED: 0.0, "SpectralGCD": own}
    split: Any = None
    methods = {name: found(name, value) for name, value in names.items()}
    return Discovery(split, np.arange(50), 1, methods, "SpectralGCD", check=check)


def test_without_a_check_a_small_lead_on_few_held_out_images_recommends_k_means() -> None:
    for own in (0.45, 0.33):
        undecided = discovery(own, 0.35)
        assert "is not shown to be better than k-means on teacher features" in str(undecided.undecided())
        assert not undecided.doubts()
        assert undecided.recommended == KMEANS_TEACHER
    assert discovery(0.60, 0.35).undecided() is None
    assert discovery(0.60, 0.35).recommended == "SpectralGCD"
    assert "k-means on teacher features is better" in discovery(0.10, 0.35).doubts()[0]
    assert discovery(0.10, 0.35).recommended == KMEANS_TEACHER
    assert discovery(float("nan"), float("nan")).recommended in (KMEANS_TEACHER, SEMI_SUPERVISED)


@pytest.mark.parametrize("n_classes", [2, 8])
def test_the_check_on_hidden_classes_outweighs_held_out_images_of_known_ones(n_classes: int) -> None:
    classes, hidden = np.repeat(np.arange(n_classes), 20), np.tile([True, False], 10 * n_classes)
    known_only = (~hidden).astype(float)
    right = {"SpectralGCD": known_only, KMEANS_TEACHER: known_only * 0 + 0.9, SEMI_SUPERVISED: known_only * 0}
    check = HiddenClassCheck(classes, hidden, right)
    assert (check.share("SpectralGCD"), check.by_class(KMEANS_TEACHER).tolist()) == (0.5, [0.9] * n_classes)
    against = discovery(0.90, 0.35, check)
    assert against.recommended == KMEANS_TEACHER
    if n_classes < 3:
        assert "95 % interval -100 to +100" in str(against.undecided())
    else:
        assert "is better: 50 and 90 % of labelled images right, mean of 8 known classes" in against.doubts()[0]
    swapped = HiddenClassCheck(classes, hidden, right | {"SpectralGCD": hidden + 1.0 - hidden})
    assert discovery(0.10, 0.35, swapped).recommended == ("SpectralGCD" if n_classes > 2 else KMEANS_TEACHER)


def test_not_shown_to_be_better_offers_k_means_first(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_clipalign.trainers.gcd.found.Discovery._interval", lambda self: (0.05, -0.1, 0.2))
    more = ("--n-novel", 2, "--epochs", 1, "--center-concepts", "yes", "--check-folds", 0)
    result = call(*options(photos, tmp_path / "out", *more))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "k-means on teacher features" in summary["recommended"]
    assert result.exit_code == (3 if summary["doubts"] else 0)
    if not summary["doubts"]:
        assert "take k-means: SpectralGCD is not shown to be better than" in " ".join(result.output.split())
    table = result.output[result.output.index("method") :]
    assert table.index("teacher") < table.index("SpectralGCD")
    assert result.output.splitlines()[-1].endswith(("--method kmeans", "--method semi-kmeans"))


def test_two_runs_into_one_folder_are_refused(photos: Path, tmp_path: Path) -> None:
    with (
        exclusive_lock(tmp_path / "out" / ".discover.lock", "held"),
        pytest.raises(ClipAlignError, match=r"another run writes to .*name another folder with --out"),
    ):
        call(*options(photos, tmp_path / "out", "--n-novel", 2))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--n-novel", "many"), "--n-novel is 'many': give a number, or auto"),
        (("--method", "dbscan"), "--method is 'dbscan': give one of spectralgcd, kmeans"),
        (("--center-concepts", "maybe"), "--center-concepts is 'maybe'"),
    ],
)
def test_mistakes_are_told_before_any_work(photos: Path, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    with pytest.raises(ClipAlignError, match=message):
        call(*options(photos, tmp_path / "out", *more))


def test_the_teacher_is_asked_for_and_out_may_not_lie_among_the_images(photos: Path) -> None:
    with pytest.raises(ClipAlignError, match="which teacher"):
        call("discover", photos, "--model", "mini:student")
    with pytest.raises(ClipAlignError, match="lies in"):
        call("discover", photos, "--model", "mini:student", "--teacher", "mini:teacher", "--out", photos / "out")
