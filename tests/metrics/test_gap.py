"""The modality gap and the cosines within and across modalities, on made-up clouds with known answers."""

import numpy as np
import pytest
import torch

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.evaluation import plot_intra_modal
from hf_clipalign.metrics import histogram_iou, intra_modal_report, modality_gap, pair_similarities


def cloud(n, d=16, shift=0.0, seed=0):
    points = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    points[:, 0] += shift
    return points


def test_the_distance_is_that_of_the_centroids_of_unit_vectors():
    image, text = cloud(200, shift=3.0), cloud(150, shift=-3.0, seed=1)
    unit = [table / table.norm(dim=1, keepdim=True) for table in (image, text)]
    expected = (unit[0].mean(0) - unit[1].mean(0)).norm().item()
    gap = modality_gap(7 * image, 0.1 * text)
    assert gap["centroid_distance"] == pytest.approx(expected, rel=1e-5)
    assert gap["centroid_distance"] > 0.8


def test_separability_goes_from_half_to_one():
    apart = modality_gap(cloud(300, shift=4.0), cloud(300, shift=-4.0, seed=1))
    mixed = modality_gap(cloud(300), cloud(300, seed=1))
    assert apart["linear_separability"] > 0.98
    assert mixed["linear_separability"] == pytest.approx(0.5, abs=0.07)
    assert mixed["centroid_distance"] < 0.2
    # one modality ten times as frequent does not look separable for it
    assert modality_gap(cloud(600), cloud(60, seed=1))["linear_separability"] == pytest.approx(0.5, abs=0.12)


def test_the_report_is_made_of_the_pairs():
    labels = np.repeat(np.arange(10), 6)
    centres = cloud(10, seed=2)
    image, text = centres[labels] + cloud(60), centres[labels] + 0.3 * cloud(60, seed=1)
    report = intra_modal_report(image, labels, text, labels)
    assert list(report) == ["image-image", "text-text", "image-text"]
    assert report["text-text"]["iou"] < report["image-text"]["iou"] < report["image-image"]["iou"]
    positive, negative = pair_similarities(image, labels)
    part = report["image-image"]
    assert part["iou"] == pytest.approx(histogram_iou(positive, negative))
    assert part["positive"]["pairs"] == 10 * 15
    assert part["positive"]["mean"] == pytest.approx(float(positive.mean()))
    assert part["negative"]["std"] == pytest.approx(float(negative.std()))
    assert np.sum(part["negative"]["histogram"]) * 0.02 == pytest.approx(1)
    assert report["image-text"]["positive"]["pairs"] == 10 * 36


def test_a_modality_with_one_item_per_class_has_no_pairs_within():
    report = intra_modal_report(cloud(8), [0, 0, 1, 1, 2, 2, 3, 3], cloud(4, seed=1), [0, 1, 2, 3])
    assert list(report) == ["image-image", "image-text"]


def test_the_plot_has_a_panel_for_each_kind():
    report = intra_modal_report(cloud(8), ["a", "b"] * 4, cloud(4, seed=1), ["a", "b"] * 2)
    titles = [axes.get_title() for axes in plot_intra_modal(report).axes]
    assert [title.split(":")[0] for title in titles] == ["image-image", "text-text", "image-text"]
    assert f"{report['text-text']['iou']:.2f}" in titles[1]


@pytest.mark.parametrize(
    ("image", "text", "words"),
    [
        (cloud(8), cloud(8, d=12), "16 dimensions and text_embeds has 12"),
        (cloud(8), torch.zeros(8, 16), "text_embeds has rows of zeros"),
        (cloud(8) * float("nan"), cloud(8), "image_embeds holds NaN"),
        (cloud(8), cloud(4), "8 images and 4 texts"),
    ],
)
def test_bad_input(image, text, words):
    with pytest.raises(ClipAlignError, match=words):
        modality_gap(image, text)


def test_a_report_needs_bins():
    with pytest.raises(ClipAlignError, match="bins must be"):
        intra_modal_report(cloud(8), ["a", "b"] * 4, cloud(4, seed=1), ["a", "b"] * 2, bins=0)
