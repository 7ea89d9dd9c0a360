"""An index that knows what its scores mean: measured from its files, kept with it, and used by the search."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import load_mini, read_image
from hf_clipalign.evaluation import BandChoice
from hf_clipalign.search import Calibration, ImageIndex
from hf_clipalign.search.answers import calibrating


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """48 emoji, four of them twice with other bytes, in an index that was calibrated."""
    mini, root = load_mini(), tmp_path_factory.mktemp("calibrated")
    rows = mini.emoji_subset(styles="noto").select(range(0, 960, 20))
    for number, row in enumerate(rows):
        image = read_image(row["image"])
        image.save(root / f"{number:03d}.png")
        if number < 4:
            image.save(root / f"copy{number}.bmp")
    index = ImageIndex.create(root, mini.student, root.parent / f"{root.name}.index", processor=mini.student_processor)
    index.update(progress=False)
    due = index.is_calibration_due
    index.set_head((1, 48))
    lines = index.calibrate(progress=False, num_workers=0)
    return root, index, due, lines


@pytest.fixture
def index(made):
    return made[1]


def opened(index):
    return ImageIndex.open(index.path)


def test_both_heads_are_measured_and_kept(made):
    _, index, due, lines = made
    assert due
    assert not index.is_calibration_due
    assert [line.split(":")[0] for line in lines] == ["confidence (raw)", "confidence (aligned)"]
    for head in ("raw", "aligned"):
        calibration = index.calibration(head)
        assert (calibration.n_gallery, calibration.n_images) == (52, 52)
        assert opened(index).calibration(head) == calibration
    assert index.calibration("raw") != index.calibration("aligned")
    assert index.calibration("raw") is index.calibration("raw")


def test_changed_copies_are_found_with_more_confidence_than_unknown_images(made):
    root, index, *_ = made
    names = [f"{number:03d}.png" for number in range(8, 48, 5)]
    known = [read_image(root / name).resize((100, 100)).crop((4, 4, 96, 96)) for name in names]
    unknown = [read_image(row["image"]) for row in load_mini().icons.select(range(0, 4000, 500))]
    found, others = ([index.search(image=image) for image in images] for images in (known, unknown))
    assert sum(answer[0].path.endswith(name) for answer, name in zip(found, names, strict=True)) >= 7
    low = np.median([answer[0].confidence for answer in others])
    assert np.median([answer[0].confidence for answer in found]) > 0.8 > low + 0.1
    sure = max(answer[0].confidence for answer in others) + 1e-6
    nothing = index.search(image=unknown[0], min_confidence=sure)
    assert list(nothing) == []
    assert nothing.note.startswith("no good match: no image reaches a confidence of")
    assert any(index.search(image=image, min_confidence=sure) for image in known)


def test_confidence_depends_on_the_query_not_on_how_much_is_shown(made):
    root, index, *_ = made
    image = read_image(root / "030.png")
    shown = [index.search(image=image, top_k=k)[0].confidence for k in (1, 3, 30)]
    assert len(set(shown)) == 1
    second = index.search(image=image, top_k=5)[1]
    assert index.search(image=image, top_k=1, offset=1)[0].confidence == second.confidence


def test_copies_in_other_files_count_as_right(made, monkeypatch):
    pytest.importorskip("imagehash")
    index = made[1]
    numbers = calibrating._same_images(index, np.arange(52))
    names = [index.files.names[int(index.files.of_image(row)[0])] for row in range(52)]
    for number in range(4):
        pair = names.index(f"{number:03d}.png"), names.index(f"copy{number}.bmp")
        assert numbers[pair[0]] == numbers[pair[1]]
    assert len(np.unique(numbers)) >= 40
    monkeypatch.setattr(calibrating, "is_installed", lambda: False)
    assert calibrating._same_images(index, np.arange(52)) is None


def test_another_band_makes_the_aligned_head_unknown_but_not_the_raw_one(made):
    index = opened(made[1])
    before = index.band
    index.set_head((2, 16))
    try:
        assert index.calibration("aligned") is None
        assert index.calibration("raw") is not None
        assert index.is_calibration_due
        assert index.search(like="030.png")[0].confidence is None
        with pytest.raises(ClipAlignError, match="calibration"):
            index.search(like="030.png", min_confidence=0.5)
    finally:
        index.set_head(before)


def test_a_calibration_that_cannot_be_read_is_none(made):
    index = opened(made[1])
    stored = index.setting("calibration")
    try:
        for damaged in ([1, 2], {"heads": [1]}, {"heads": {"raw": {"format": 1}}}, "text"):
            index.put_setting("calibration", damaged)
            assert index.calibration("raw") is None
            assert index.is_calibration_due
            assert index.search(like="030.png")[0].confidence is None
    finally:
        index.put_setting("calibration", stored)


def test_growth_makes_a_new_calibration_due(made, monkeypatch):
    index = opened(made[1])
    assert not index.is_calibration_due
    stored = json.loads(json.dumps(index.setting("calibration")))
    monkeypatch.setattr(index, "setting", lambda name: stored)
    for one in stored["heads"].values():
        one["n_gallery"] = 30
    assert index.is_calibration_due


def test_files_that_are_gone_or_changed_are_left_out(made, tmp_path):
    mini = load_mini()
    root = tmp_path / "images"
    root.mkdir()
    rows = mini.emoji_subset(styles="noto").select(range(0, 480, 20))
    for number, row in enumerate(rows):
        read_image(row["image"]).save(root / f"{number:03d}.png")
    index = ImageIndex.create(root, mini.student, tmp_path / "index", processor=mini.student_processor)
    index.update(progress=False)
    (root / "000.png").unlink()
    read_image(mini.icons[0]["image"]).save(root / "001.png")
    assert [line.split(":")[0] for line in index.calibrate(progress=False)] == ["confidence (raw)"]
    assert index.calibration("raw").n_images == 22
    for path in root.glob("*.png"):
        path.unlink()
    (line,) = index.calibrate(progress=False)
    assert line.startswith("no confidence: none of the")


def test_few_images_have_no_confidence(tmp_path):
    mini = load_mini()
    read_image(mini.icons[0]["image"]).save(tmp_path / "one.png")
    index = ImageIndex.create(tmp_path, mini.student, tmp_path.parent / "few", processor=mini.student_processor)
    assert not index.is_calibration_due
    assert index.calibrate() == ["no confidence: 0 images are too few to measure it, which takes 20."]
    index.update(progress=False)
    assert index.calibrate() == ["no confidence: 1 image is too few to measure it, which takes 20."]
    assert index.search(image=read_image(mini.icons[0]["image"]))[0].confidence is None


def test_a_band_is_chosen_where_there_is_none(made, monkeypatch):
    index = opened(made[1])
    index._model = made[1]._model
    seen = []

    def choose(views, encoder, seed):
        seen.append(views.strengths)
        return BandChoice((2, 32), "band (2, 32): it helps.", 0.1, (0.05, 0.2), views.strengths, {}, {}, len(views))

    monkeypatch.setattr("hf_clipalign.evaluation.band_from_views", choose)
    before = index.band
    stored = index.setting("calibration")
    try:
        index.calibrate(choose_band=True, n_images=20, progress=False)
        assert (index.band, seen) == (before, []), "a band that is set stays"
        index.set_head(None)
        lines = index.calibrate(choose_band=True, n_images=20, progress=False)
        assert lines[0] == "head: band (2, 32): it helps."
        assert index.band == (2, 32)
        assert seen == [(0.25, 0.5, 0.75)]
        assert isinstance(index.calibration("aligned"), Calibration)
    finally:
        index.set_head(before)
        index.put_setting("calibration", stored)


def test_a_band_can_be_chosen_again(made, monkeypatch):
    index = opened(made[1])
    index._model = made[1]._model
    before, stored = index.band, index.setting("calibration")

    def chosen(band, reason, grid):
        choice = BandChoice(band, reason, 0.1, (0.05, 0.2), (0.25,), {}, grid, 20)
        monkeypatch.setattr("hf_clipalign.evaluation.band_from_views", lambda *unused, **options: choice)
        lines = index.calibrate(replace_band=True, n_images=20, progress=False)
        assert lines[0] == f"head: {reason}"
        return index.band

    try:
        assert chosen((2, 32), "band (2, 32): it helps.", {(2, 32): 0.5}) == (2, 32)
        assert index.head_choice == "band (2, 32): it helps."
        index.set_head((1, 40))
        assert index.head_choice is None, "it speaks of another band"
        assert chosen(None, "do not trim: too few.", {}) == (1, 40), "nothing was measured: the band stays"
        assert chosen(None, "do not trim: no gain.", {(2, 32): 0.5}) is None
        assert opened(index).head_choice == "do not trim: no gain."
        assert opened(index).status().head_choice == "do not trim: no gain."
    finally:
        index.set_head(before)
        index.put_setting("calibration", stored)


def test_status_says_what_was_measured_and_whether_it_is_stale(made, monkeypatch):
    index = opened(made[1])
    raw, aligned = index.status().confidence
    assert (raw["head"], raw["state"], raw["images"], raw["of"]) == ("raw", "up to date", 52, 52)
    assert 0 <= aligned["found"] <= 1
    calibration = index.calibration("raw")
    assert raw["threshold"] in (None, calibration.threshold(0.05))
    stored = json.loads(json.dumps(index.setting("calibration")))
    for one in stored["heads"].values():
        one["n_gallery"] = 30
    monkeypatch.setattr(index, "setting", lambda name: stored if name == "calibration" else None)
    assert {one["state"] for one in index.status().confidence} == {"stale: the index has grown by half"}
    note = index.search(like="030.png").note
    assert note == "The confidence was measured when the index held 30 images: run `clipalign index` on it, or " + (
        "index.calibrate()."
    )
    assert index.search("cat").note == "", "words have none"


def test_the_command_measures_once_and_the_search_uses_it(made, tmp_path):
    from typer.testing import CliRunner

    from hf_clipalign.cli.app import app

    root, out = made[0], tmp_path / "emoji.index"

    def run(*arguments):
        result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    first = run("index", root, "--model", load_mini().student_path, "--out", out)
    assert "confidence (raw): measured on views of 52 images" in first
    assert ("head: do not trim" in first) == (ImageIndex.open(out).band is None)
    assert "confidence (words): measured with 500 unrelated texts" in first
    assert "measured" not in run("index", out)
    hits = json.loads(run("search", out, "--image", root / "030.png", "--json"))
    assert all(0 <= hit["confidence"] <= 1 for hit in hits)
    assert json.loads(run("search", out, "--image", root / "030.png", "--min-confidence", "1", "--json")) == []
