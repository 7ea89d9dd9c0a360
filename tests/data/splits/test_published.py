"""The papers' split files and draws."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageSource, published_few_shot, published_few_shot_rows, read_split

ROWS = [["b/1.png", 1, "red_fox"], ["a/1.png", 0, "owl"], ["b/2.png", 1, "red_fox"]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    return tmp_path / "images"


def split(folder: Path, content: Any) -> Path:
    (folder / "split_zhou_Test.json").write_text(json.dumps(content))
    return folder / "split_zhou_Test.json"


def test_parts_keep_their_order_and_all_class_names(images: Path, tmp_path: Path) -> None:
    parts = read_split(split(tmp_path, {"train": ROWS[:2], "val": [], "test": ROWS[2:]}), images)
    assert list(parts) == ["train", "test"]
    assert parts["train"].ids == ["b/1.png", "a/1.png"]
    assert parts["train"].labels.tolist() == [1, 0]
    assert parts["test"].class_names == ["owl", "red_fox"]
    assert parts["test"].read(0).size == (8, 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "no images; a split file has lists"),
        ({"train": [["a/1.png", 0]]}, r"entry 0 \(from 0\) is .* not \[path, label, name\]"),
        ({"train": [["a/1.png", "0", "owl"]]}, "entry 0"),
        ({"train": [["a/1.png", -1, "owl"]]}, "entry 0"),
        ({"train": [["../a.png", 0, "owl"]]}, "leads out of the folder"),
        ({"train": [["/a.png", 0, "owl"]]}, "leads out of the folder"),
        ({"train": [["a/9.png", 0, "owl"]]}, "'a/9.png' is not in"),
        ({"train": [["a/1.png", 0, "owl"], ["b/1.png", 0, "fox"]]}, "label 0 is 'owl' and 'fox'"),
        ({"train": [["a/1.png", 2, "owl"]]}, "no image has label 0"),
    ],
)
def test_what_is_no_split_is_refused(content: Any, message: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match=message):
        read_split(split(tmp_path, content), images)
    with pytest.raises(ClipAlignError, match="cannot read the split file"):
        read_split(tmp_path / "missing.json", images)


def reference_draw(labels: list[int], k: int, seed: int) -> list[int]:
    """The rule of the public code: the global generator is seeded, then classes are drawn in order of appearance."""
    state = random.getstate()
    random.seed(seed)
    drawn = []
    for label in dict.fromkeys(labels):
        items = [row for row, other in enumerate(labels) if other == label]
        drawn += random.sample(items, k) if len(items) >= k else items
    random.setstate(state)
    return drawn


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_draws_are_the_published_ones(seed: int) -> None:
    labels = [2] * 9 + [0] * 3 + [1] * 9 + [2] * 9
    assert published_few_shot_rows(labels, 4, seed) == reference_draw(labels, 4, seed)


def test_draws_are_pinned() -> None:
    labels = [0] * 8 + [1] * 8
    assert published_few_shot_rows(labels, 3, seed=1) == [2, 4, 0, 12, 8, 11]
    assert published_few_shot_rows(labels, 3, seed=2) == [0, 7, 6, 13, 14, 9]


def test_a_class_with_fewer_gives_all() -> None:
    source = ImageSource([b""] * 3, ids=["a", "b", "c"], labels=[0, 1, 1], class_names=["x", "y"])
    assert sorted(published_few_shot(source, 2).ids) == ["a", "b", "c"]
    with pytest.raises(ClipAlignError, match="0 images per class"):
        published_few_shot(source, 0)
    with pytest.raises(ClipAlignError, match="no labels"):
        published_few_shot(ImageSource([b""], ids=["a"]), 2)


def test_one_image_of_each_class() -> None:
    rows = published_few_shot_rows([1, 0, 1, 0, 1], k=1, seed=1)
    assert [[1, 0, 1, 0, 1][row] for row in rows] == [1, 0]
