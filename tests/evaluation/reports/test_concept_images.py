"""The strongest images of a concept, over blocks, and the figure of them."""

from __future__ import annotations

import io

import torch
from PIL import Image

from hf_clipalign.evaluation import plot_image_rows, strongest_images


def test_blocks_change_nothing_and_the_best_come_first() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(40, 8, generator=generator), torch.randn(12, 8, generator=generator)
    units = (torch.nn.functional.normalize(part, dim=1) for part in (images, texts))
    expected = torch.softmax(next(units) @ next(units).T / 0.1, dim=1)[:, [7, 2]].topk(5, dim=0).indices.T
    for size in (40, 7):
        found = strongest_images(images.split(size), texts, [7, 2], k=5, temperature=0.1)
        assert found.tolist() == expected.tolist()


def test_fewer_images_than_asked_for() -> None:
    assert strongest_images([torch.eye(3)], torch.eye(3), [1], k=9).tolist()[0][0] == 1
    assert strongest_images([torch.eye(3)], torch.eye(3), [1], k=9).shape == (1, 3)


def test_every_row_shows_its_images_and_its_name() -> None:
    red, blue = (Image.new("RGB", (200, 100), colour) for colour in ("red", "blue"))
    figure = plot_image_rows({"red $things_": [red, red], "blue things": [blue]})
    figure.savefig(io.BytesIO())  # a dollar sign begins no formula
    shown = [len(axes.images) for axes in figure.axes]
    assert shown == [1, 1, 1, 0]
    assert figure.axes[2].texts[0].get_text() == "blue things"
    assert figure.axes[2].images[0].get_array()[0, 0, 2] == 255  # type: ignore[index]
