"""Features of views are those of the views themselves, item by item."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageSource, from_dataset, load_mini, text_views
from hf_clipalign.data.images.views import augmented
from hf_clipalign.features import extract_image_features, extract_text_features, view_features


@pytest.fixture(scope="module")
def mini():
    return load_mini()


@pytest.fixture(scope="module")
def images(mini):
    return from_dataset(mini.emoji.select(range(0, 400, 20)), image_column="image")


def test_image_views_are_embedded_beside_their_images(mini, images):
    model, processor = mini.student, mini.student_processor
    found = view_features(model, images, processor, n_items=6, strengths=(0.5, 0.25), seed=4, progress=False)
    assert found.strengths == (0.25, 0.5)
    assert found.modality == "image"
    assert len(found) == 6
    assert found.views.shape == (6, 2, 2, 128)
    assert (np.diff(found.rows) > 0).all()
    row = int(found.rows[3])
    views = [augmented(images.read(row), 0.5, (4, row, number)) for number in (0, 1)]
    source = ImageSource([images.read(row), *views], ids=["o", "a", "b"])
    expected = extract_image_features(model, source, processor, progress=False).values
    torch.testing.assert_close(found.originals[3], expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.views[3, 1], expected[1:], atol=1e-4, rtol=1e-4)
    again = view_features(model, images, processor, n_items=6, strengths=(0.25, 0.5), seed=4, progress=False)
    assert again.views.equal(found.views)
    assert again.rows.tolist() == found.rows.tolist()


def test_images_that_cannot_be_read_are_left_out(mini, images):
    broken = ImageSource([images.read(0), b"no image", images.read(2)], ids=["x", "y#1", "y"])
    found = view_features(mini.student, broken, mini.student_processor, n_views=1, progress=False)
    assert found.rows.tolist() == [0, 2]
    expected = extract_image_features(mini.student, broken, mini.student_processor, progress=False).values
    torch.testing.assert_close(found.originals, expected, atol=1e-4, rtol=1e-4)


def test_text_views_are_embedded_beside_their_texts(mini):
    texts = ["a red apple on a table", "dog", "two cats"]
    found = view_features(mini.student, texts, mini.student_processor, strengths=(0.3,), n_views=2, progress=False)
    assert found.modality == "text"
    assert found.views.shape == (3, 1, 2, 128)
    copies = [text_views(texts, 0.3, seed) for seed in (0, 1)]
    expected = extract_text_features(mini.student, [*texts, *copies[0], *copies[1]], mini.student_processor).values
    torch.testing.assert_close(found.originals, expected[:3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.views[:, 0, 1], expected[6:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [({"n_items": 0}, "n_items"), ({"n_views": 0}, "n_views"), ({"strengths": ()}, "strengths")],
)
def test_numbers_out_of_range_are_refused(mini, images, arguments, reason):
    with pytest.raises(ClipAlignError, match=reason):
        view_features(mini.student, images, mini.student_processor, progress=False, **arguments)
