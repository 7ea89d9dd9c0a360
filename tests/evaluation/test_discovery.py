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
from hf_clipalign.evaluation import (
    class_gallery,
    collapse,
    held_out_accuracy,
    kmeans_classes,
    semi_supervised_kmeans,
    write_report,
)
from hf_clipalign.evaluation.discovery import _nearest, _novel_centres, _semi_supervised

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
    assert titles[0].startswith("ant: 6 images, 5 shown, matched with “ant”")
    assert titles[1] == "nobody: no images"
    assert titles[2].startswith("honey, wing: 11 images, 5 shown, matched with “bee”")
    assert titles[3].startswith("whisker <b>: 13 images, 5 shown, matched with “cat”")
    assert sections[1].image_rows[1].text == "honey, wing"
    assert [len(row.images) for section in sections for row in section.image_rows] == [5, 0, 5, 5]
    assert all("A green frame" in section.text[0] for section in sections)
    last = sections[1].image_rows[2].images
    assert {match.relevant for match in last} <= {True, False}
    assert all(match.relevant == (match.name == "cat") for match in last)
    page = write_report(tmp_path / "gallery.html", "Found", sections).read_text()
    assert page.count('<div class="group">') == 4
    assert "A green frame" in page
    assert "whisker &lt;b&gt;" in page


def test_a_gallery_without_truth_draws_no_frames(tmp_path: Path) -> None:
    data = split()
    folder = GCDSplit(data.source, data.training_labels, data.labelled, data.class_names, [])
    sections = class_gallery(folder, np.zeros(36, dtype=np.int64), ["ant", "novel-1"], [[], []])
    assert [section.title for section in sections] == ["Known classes", "Novel classes"]
    (row,) = sections[0].image_rows
    assert row.title == "ant: 30 images, 14 shown"
    assert len(row.images) == 14
    assert sections[1].image_rows[0].title == "novel-1: no images"
    assert {match.relevant for match in row.images} == {None}
    page = write_report(tmp_path / "gallery.html", "Found", sections).read_text()
    assert 'class="relevant"' not in page
    assert "the true classes are not known" in page
    alone = np.where(np.arange(36) == data.unlabelled_rows[0], 1, 0)
    sections = class_gallery(folder, alone, ["ant", "novel-1"], [[], []])
    assert sections[1].image_rows[0].title == "novel-1: 1 image"
    with pytest.raises(ClipAlignError, match="n_images is 0"):
        class_gallery(folder, alone, ["ant", "novel-1"], [[], []], n_images=0)


def test_labelled_samples_stay_in_the_cluster_of_their_class() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(80) % 4
    features = torch.eye(4)[truth] + 0.1 * torch.randn(80, 4, generator=generator)
    labels = torch.where((truth < 2) & (torch.arange(80) < 40), truth, -1).numpy()
    labels[0] = 1  # lies among class 0, but is labelled 1
    found = semi_supervised_kmeans(features, labels, 4, seed=3)
    assert np.array_equal(found[labels >= 0], labels[labels >= 0])
    assert (found[(truth == 1).numpy()] == 1).all()
    assert len(np.unique(found[(truth == 2).numpy()])) == len(np.unique(found[(truth == 3).numpy()])) == 1
    assert set(found[(truth >= 2).numpy()].tolist()) == {2, 3}
    assert np.array_equal(found, semi_supervised_kmeans(features, labels, 4, seed=3))
    unlabelled = semi_supervised_kmeans(features, np.full(80, -1), 4)
    assert len({(a, b) for a, b in zip(truth.tolist(), unlabelled.tolist(), strict=True)}) == 4
    for n_classes, message in ((81, "81 clusters cannot be made of 80"), (1, "fewer than the 2 known classes")):
        with pytest.raises(ClipAlignError, match=message):
            semi_supervised_kmeans(features, labels, n_classes)
    with pytest.raises(ClipAlignError, match="without gaps"):
        semi_supervised_kmeans(features, np.where(labels == 0, -1, labels), 4)


def test_held_out_accuracy_asks_for_the_cluster_of_the_class() -> None:
    labels = [0, 0, 1, 1, 0, 1, 1]
    classes = [7, 7, 4, 4, 7, 4, 9]
    assert held_out_accuracy(labels, classes, [0, 1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 3)
    assert held_out_accuracy(labels, [0] * 7, [0, 1, 2, 3], [4, 5, 6]) in (1 / 3, 2 / 3)
    assert np.isnan(held_out_accuracy(labels, classes, [0, 1, 2, 3], []))


def test_collapse_is_seen_and_an_even_spread_is_not() -> None:
    rows = np.arange(12)
    assert collapse(np.arange(12) % 4, rows, 2, 2) is None
    assert "100 % lie in one, 3 are empty" in str(collapse(np.zeros(12, dtype=int), rows, 2, 2))
    known_only = np.array([0, 1, 2, 3] * 3)
    assert collapse(known_only, rows, 4, 2) == "2 of 2 novel classes have no unlabelled image"


def test_clusters_of_one_have_their_sample_as_centre() -> None:
    inertia, clusters = _semi_supervised(np.eye(3), np.array([0, 1, -1]), np.eye(3)[:2], 3, np.random.default_rng(0))
    assert inertia == pytest.approx(0)
    assert clusters.tolist() == [0, 1, 2]


def test_squared_distances_to_the_nearest_centre_by_hand() -> None:
    values, centres = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, -2.0]]), np.array([[0.0, 0.0], [3.0, 0.0]])
    assert _nearest(values, centres).tolist() == pytest.approx([16, 1, 4])
    assert _nearest(values, centres[:0]).tolist() == [1, 1, 1]


def test_further_centres_are_drawn_by_their_squared_distance() -> None:
    """Only one sample lies apart, however little: it is drawn, and where none does, any is."""
    values = np.zeros((50, 2))
    values[7] = 0.01
    for seed in range(5):
        centres = _novel_centres(values, np.ones(50, bool), np.zeros((1, 2)), 2, np.random.default_rng(seed))
        assert centres.tolist() == [[0, 0], [0.01, 0.01]]
    alike = _novel_centres(np.zeros((4, 2)), np.ones(4, bool), np.zeros((1, 2)), 3, np.random.default_rng(0))
    assert alike.tolist() == [[0, 0]] * 3
