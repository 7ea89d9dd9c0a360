"""Augmented views: the same for a seed, stronger where asked, and each image read once."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageSource, image_views
from hf_clipalign.data.images.views import view_source


def image(seed: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    low = np.random.default_rng(seed).integers(256, size=(5, 6, 3), dtype=np.uint8)
    return Image.fromarray(low).resize(size, Image.Resampling.BICUBIC)


def source(n: int = 4) -> ImageSource:
    return ImageSource([image(seed) for seed in range(n)], ids=[f"a#{i}" for i in range(n)])


def pixels(view: Image.Image) -> np.ndarray:
    return np.asarray(view).astype(float)


def test_views_depend_on_seed_and_place_only():
    images = [image(0), image(1)]
    first, second = image_views(images, 0.5), image_views([image(7), image(1), image(2)], 0.5)
    assert np.array_equal(pixels(first[1]), pixels(second[1]))
    assert not np.array_equal(pixels(first[0]), pixels(image_views(images, 0.5, seed=1)[0]))
    same_image = image_views([image(0), image(0)], 0.5)
    assert not np.array_equal(pixels(same_image[0]), pixels(same_image[1]))


def test_views_are_rgb_squares_and_not_larger_than_a_tower_needs():
    for size, side in (((60, 40), 60), ((1, 1), 1), ((3, 700), 384), ((2000, 30), 384)):
        view = image_views([image(0, size)], 1.0)[0]
        assert (view.mode, view.size) == ("RGB", (side, side))


def test_stronger_views_differ_more():
    images = [image(seed, (48, 48)) for seed in range(30)]
    changes = [
        np.mean([np.abs(pixels(view) - pixels(one)).mean() for view, one in zip(views, images, strict=True)])
        for views in (image_views(images, strength) for strength in (0.05, 0.3, 1.0))
    ]
    assert changes[0] < 15
    assert changes[0] < changes[1] < changes[2]


def test_strong_views_change_colour_go_grey_and_are_inverted():
    red = Image.new("RGB", (20, 20), (200, 40, 40))
    centres = np.array([pixels(view)[10, 10] for view in image_views([red] * 300, 1.0)])
    grey = np.ptp(centres, axis=1) < 2
    assert 0.3 < grey.mean() < 0.55
    assert len(np.unique(centres.argmax(1)[~grey])) == 3
    weak = np.array([pixels(view)[10, 10] for view in image_views([red] * 50, 0.05)])
    assert np.median(np.abs(weak - [200, 40, 40])) < 10


def test_an_image_of_one_colour_stays_one_colour():
    for view in image_views([Image.new("RGB", (30, 20), (10, 200, 90))] * 20, 0.8):
        assert np.ptp(pixels(view), axis=(0, 1)).max() <= 1


@pytest.mark.parametrize("strength", [0, -0.5, 1.5, float("nan"), True])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(ClipAlignError, match="strength"):
        image_views([image(0)], strength)
    with pytest.raises(ClipAlignError, match="strength"):
        view_source(source(), [0], [strength])


def test_a_source_of_views_reads_each_image_once_and_gives_it_first(monkeypatch):
    images, read = source(), []
    plain = ImageSource.read

    def counted(self, index):
        if self is images:
            read.append(index)
        return plain(self, index)

    monkeypatch.setattr(ImageSource, "read", counted)
    views = view_source(images, [2, 0], [0.2, 0.6], n_views=3)
    assert len(views) == len(set(views.ids)) == 2 * (1 + 2 * 3)
    got = [pixels(views.read(place)) for place in range(len(views))]
    assert read == [2, 0]
    assert np.array_equal(got[0], pixels(image(2)))
    assert np.array_equal(got[7], pixels(image(0)))
    alone = view_source(images, [0], [0.6], n_views=1)
    assert np.array_equal(got[7 + 4], pixels(alone.read(1)))
    assert len({one.tobytes() for one in got}) == len(got)
