"""The k-means baseline and the gallery of found classes."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import GCDSplit, ImageSource
from hf_clipalign.evaluation import class_gallery, kmeans_classes, write_report

NAMES = ["ant", "bee", "cat"]


def split() -> GCDSplit:
    labels = np.arange(36) % 3
    source = ImageSource(
        [Image.new("RGB", (4, 4))] * 36,
        ids=[f"image {row}" for row in range(36)],
        labels=labels,
        class_names=NAMES,
        name="zoo",
        fingerprint=functools.partial(str, "abc"),
    )
    return GCDSplit.from_source(source, 1)


def test_kmeans_finds_what_lies_apart_and_repeats_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(60) % 4
    features = torch.eye(4)[truth] + 0.05 * torch.randn(60, 4, generator=generator)
    found = kmeans_classes(features, 4, seed=1)
    assert found.dtype == np.int64
    assert len({(a, b) for a, b in zip(truth.tolist(), found.tolist(), strict=True)}) == 4
    assert np.array_equal(found, kmeans_classes(features.bfloat16().float(), 4, seed=1))
    with pytest.raises(ClipAlignError, match="61 clusters cannot be made of 60"):
        kmeans_classes(features, 61)


def test_the_gallery_has_a_row_per_class_with_images(tmp_path: Path) -> None:
    data = split()
    classes = np.where(data.labels == 0, 0, data.labels + 1)
    wrong = int(data.unlabelled_rows[data.labels[data.unlabelled_rows] == 1][0])
    classes[wrong] = 3
    labels = ["ant", "nobody", "honey, wing", "whisker <b>"]
    concepts = [[("six legs", 0.5)], [], [("honey", 0.4), ("wing", 0.2)], []]
    sections = class_gallery(data, classes, labels, concepts, n_images=5)
    assert [section.title for section in sections] == ["Known classes", "Novel classes"]
    titles = [row.title for section in sections for row in section.image_rows]
    assert titles[0].startswith("ant: 6 images, matched with “ant”")
    assert titles[1].startswith("honey, wing: 11 images, matched with “bee”")
    assert titles[2].startswith("whisker <b>: 13 images, matched with “cat”")
    assert sections[1].image_rows[0].text == "honey, wing"
    assert all(len(row.images) <= 5 for section in sections for row in section.image_rows)
    last = sections[1].image_rows[1].images
    assert {match.relevant for match in last} <= {True, False}
    assert all(match.relevant == (match.name == "cat") for match in last)
    page = write_report(tmp_path / "gallery.html", "Found", sections).read_text()
    assert page.count('<div class="group">') == 3
    assert "whisker &lt;b&gt;" in page


def test_a_gallery_without_truth_draws_no_frames(tmp_path: Path) -> None:
    data = split()
    folder = GCDSplit(data.source, data.training_labels, data.labelled, data.class_names, [])
    sections = class_gallery(folder, np.zeros(36, dtype=np.int64), ["ant", "novel-1"], [[], []])
    assert [section.title for section in sections] == ["Known classes"]
    (row,) = sections[0].image_rows
    assert row.title == "ant: 30 images"
    assert {match.relevant for match in row.images} == {None}
    page = write_report(tmp_path / "gallery.html", "Found", sections).read_text()
    assert 'class="relevant"' not in page
    alone = np.where(np.arange(36) == data.unlabelled_rows[0], 1, 0)
    sections = class_gallery(folder, alone, ["ant", "novel-1"], [[], []])
    assert sections[1].image_rows[0].title == "novel-1: 1 image"
    with pytest.raises(ClipAlignError, match="n_images is 0"):
        class_gallery(folder, alone, ["ant", "novel-1"], [[], []], n_images=0)
