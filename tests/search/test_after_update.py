"""What follows from the features of an index is brought up to date with them, or said to be stale."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from hf_clipalign.search import Calibration, ImageIndex
from hf_clipalign.search.answers import calibrating, texts
from hf_clipalign.search.sidecars import choice
from tests.search.folders import begin, update, write_image, write_images


@pytest.fixture
def index(tmp_path, checkpoint, monkeypatch):
    """Ten images, which count as many."""
    monkeypatch.setattr(choice, "FEW_ROWS", 5)
    write_images(tmp_path / "images", 10)
    return begin(tmp_path / "images", tmp_path / "index", checkpoint, head=(1, 3))


def states(index):
    return [(one["head"], one["level"], one["state"]) for one in index.status().levels]


def test_levels_follow_an_update(index, tmp_path):
    assert states(index) == []
    report = update(index)
    fresh = [("raw", "exact", "up to date"), ("aligned", "exact", "up to date")]
    assert states(index) == fresh
    assert report.notes == ["head raw: lengths for exact search", "head aligned: lengths for exact search"]
    write_image(tmp_path / "images" / "new.png", 90)
    update(index, prepare=False)
    assert [state for *_, state in states(index)] == ["out of date"] * 2
    assert update(index).notes == report.notes
    assert states(index) == fresh
    assert states(ImageIndex.open(index.path)) == fresh
    assert update(index).notes == []


def test_the_short_way_of_words_is_proved_where_the_model_is_loaded(index, tmp_path, monkeypatch):
    update(index, prepare=False)
    assert index.setting(texts.SETTING) is None
    again = ImageIndex.open(index.path)
    update(again)
    assert again.setting(texts.SETTING) is None, "no model was loaded for it"
    write_image(tmp_path / "images" / "new.png", 90)
    update(again)
    assert set(again.setting(texts.SETTING)) == {"folder", "vector"}


def test_a_stale_confidence_is_named(index, monkeypatch):
    update(index)
    rows = index.embeddings("raw").read(0, 10)
    monkeypatch.setattr("hf_clipalign.search.calibration.FEWEST_IMAGES", 5)
    found = Calibration.fit(rows[:6], rows[:6, None] + 0.01, range(6))
    heads = dict.fromkeys(index.heads, found)
    monkeypatch.setattr(ImageIndex, "calibration", lambda self, head="raw": heads[head])
    assert update(index).notes == [
        "the confidence is stale: run `clipalign index`, or calibrate() and measure_words()"
    ]
    assert {one["state"] for one in index.status().confidence} == {calibrating.STALE}
    assert "was measured when the index held 6 images" in index.search(like="a/000.png").note
    monkeypatch.setattr(calibrating, "GROWN", 2)
    assert update(index).notes == []


def test_a_newer_state_is_never_replaced_by_an_older_one(index, monkeypatch):
    """A thread that reads the state while another one refreshes it."""
    from hf_clipalign.search.collection import stored

    update(index)
    real, seen = stored.read_snapshot, []

    def slow(*arguments):
        snapshot = real(*arguments)
        if not seen:
            seen.append(threading.Thread(target=index.refresh))
            seen[0].start()
            seen[0].join(0.2)
            assert seen[0].is_alive(), "the refresh waits for the reading"
        return snapshot

    index._state = None
    monkeypatch.setattr(stored, "read_snapshot", slow)
    assert len(index) == 10
    seen[0].join()
    assert np.array_equal(index.files.images, np.arange(10))
