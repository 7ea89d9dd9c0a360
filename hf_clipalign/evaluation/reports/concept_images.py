"""Which images show a concept: the strongest ones for each, as a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize


def strongest_images(
    blocks: Iterable[Tensor], text_features: Tensor, concepts: Any, k: int = 6, temperature: float = 0.01
) -> Tensor:
    """The images in whose distribution over the dictionary a concept has the highest probability.

    Args:
        blocks (iterable of `Tensor [n, d]`): image features in the shared space, in order.
        text_features (`Tensor [C, d]`): of all concepts.
        concepts (array of int `[m]`): which concepts to look for.
        k (`int`, *optional*, defaults to `6`): how many images for each.
        temperature (`float`, *optional*, defaults to `0.01`): of the distribution.

    Returns:
        `Tensor [m, min(k, N)]`: indices of the images, best first.

    Example:
        ```python
        >>> images = torch.eye(3)
        >>> strongest_images([images], torch.eye(3), [2], k=1)
        tensor([[2]])
        ```
    """
    texts = normalize(text_features.float(), dim=1)
    chosen = torch.as_tensor(concepts, device=texts.device)
    best = texts.new_empty(len(chosen), 0)
    rows = torch.empty(len(chosen), 0, dtype=torch.long, device=texts.device)
    first = 0
    for block in blocks:
        images = normalize(block.to(texts), dim=1)
        probabilities = torch.softmax(images @ texts.T / temperature, dim=1)[:, chosen].T
        numbers = torch.arange(first, first + len(block), device=texts.device).expand_as(probabilities)
        best, rows = torch.cat([best, probabilities], 1), torch.cat([rows, numbers], 1)
        order = best.argsort(dim=1, descending=True, stable=True)[:, :k]
        best, rows = best.gather(1, order), rows.gather(1, order)
        first += len(block)
    return rows.cpu()


def plot_image_rows(rows: Mapping[str, Sequence[Any]]) -> Figure:
    """Rows of images, each with its name at the left.

    Args:
        rows (`Mapping[str, Sequence[PIL.Image.Image]]`): images by name of the row.

    Returns:
        `matplotlib.figure.Figure`.

    Example:
        ```python
        >>> figure = plot_image_rows({"first": [images.read(0), images.read(1)]})
        >>> len(figure.axes)
        2
        ```
    """
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(2.2 + 0.9 * columns, 0.9 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, (name, images) in zip(panels, rows.items(), strict=True):
        for axes in axes_row:
            axes.axis("off")
        for axes, image in zip(axes_row, images, strict=False):
            thumbnail = image.copy()
            thumbnail.thumbnail((128, 128))
            axes.imshow(thumbnail)
        place = {"transform": axes_row[0].transAxes, "ha": "right", "va": "center"}
        axes_row[0].text(-0.1, 0.5, name, **place, fontsize=9, wrap=True, parse_math=False)
    return figure
