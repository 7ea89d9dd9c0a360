"""Random views: reproducible, within the image, of the sizes and shapes that were asked for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_clipalign.data.images.augmentation import crop_and_resize, random_view, view_generator


def draw(n: int, size: tuple[int, int] = (120, 80), scale: float = 0.08) -> list:
    return [random_view(size, view_generator(3, 0, index), scale) for index in range(n)]


def test_boxes_are_inside_and_cover_the_range_of_areas_and_ratios() -> None:
    boxes = np.array([box for box, _ in draw(400)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= 120).all()
    assert (boxes[:, 3] <= 80).all()
    shares, ratios = widths * heights / (120 * 80), widths / heights
    assert shares.min() >= 0.07
    assert shares.min() < 0.15
    assert shares.max() > 0.7
    assert ratios.min() > 0.7
    assert ratios.max() < 1.4
    assert 0.4 < np.mean([flip for _, flip in draw(400)]) < 0.6


def test_scale_one_keeps_the_largest_box_of_a_long_image() -> None:
    boxes = [box for box, _ in draw(20, size=(400, 100), scale=1.0)]
    assert set(boxes) == {(133, 0, 266, 100)}
    assert {box for box, _ in draw(5, size=(401, 1), scale=1.0)} == {(200, 0, 201, 1)}
    assert {box for box, _ in draw(5, size=(1, 401), scale=1.0)} == {(0, 200, 1, 201)}


def test_view_depends_on_seed_epoch_and_image_only() -> None:
    reference = random_view((50, 50), view_generator(1, 2, 3))
    assert random_view((50, 50), view_generator(1, 2, 3)) == reference
    others = [random_view((50, 50), view_generator(*key)) for key in ((0, 2, 3), (1, 0, 3), (1, 2, 0))]
    assert all(other != reference for other in others)


@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_take_the_right_pixels(flip: bool) -> None:
    pixels = np.zeros((10, 20, 3), dtype=np.uint8)
    pixels[:, 10:] = 255
    view = np.asarray(crop_and_resize(Image.fromarray(pixels), (5, 0, 15, 10), flip, 8))
    assert view.shape == (8, 8, 3)
    assert (view[:, 0] > 128).all() == flip
    assert (view[:, -1] < 128).all() == flip
