"""Which singular directions to keep: published bands, and a suggestion from the spectrum alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError

Band = tuple[int, int]


@dataclass(frozen=True)
class KnownBands:
    """Bands `(k_top, k_bottom)` that the IsoCLIP paper reports for one checkpoint; None where it reports none."""

    image: Band | None = None
    text: Band | None = None
    source: str = "IsoCLIP, arXiv 2603.19862"


_CLIP_B32 = KnownBands(image=(150, 50), text=(20, 100))
_CLIP_B16 = KnownBands(image=(200, 50), text=(10, 50))
_CLIP_L14 = KnownBands(image=(250, 200), text=(10, 300))
_DATACOMP_B32 = KnownBands(image=(50, 50))
_DATACOMP_B16 = KnownBands(image=(100, 100), text=(2, 150))
_PE_CORE_B16 = KnownBands(image=(300, 50))
_SIGLIP2_B16 = KnownBands(image=(350, 50))

_PUBLISHED: dict[str, KnownBands] = {
    "openai/clip-vit-base-patch32": _CLIP_B32,
    "openai/clip-vit-base-patch16": _CLIP_B16,
    "openai/clip-vit-large-patch14": _CLIP_L14,
    "laion/clip-vit-b-32-datacomp.xl-s13b-b90k": _DATACOMP_B32,
    "laion/clip-vit-b-16-datacomp.xl-s13b-b90k": _DATACOMP_B16,
    "timm/pe-core-b-16": _PE_CORE_B16,
    "facebook/pe-core-b16-224": _PE_CORE_B16,
    "timm/vit-b-16-siglip2": _SIGLIP2_B16,
    "google/siglip2-base-patch16-224": _SIGLIP2_B16,
}


def known_bands(checkpoint: str) -> KnownBands | None:
    """Published bands of a checkpoint.

    Args:
        checkpoint (`str`): Hub id, for example `"openai/clip-vit-base-patch32"`. Case does not matter.

    Returns:
        `KnownBands`, or None for a checkpoint that the paper does not cover. (The SigLIP 2 band was chosen with the
        authors' layout of the linearised head.)
    """
    return _PUBLISHED.get(checkpoint.lower().removeprefix("hf-hub:").strip("/"))


def known_checkpoints() -> list[str]:
    """Hub ids for which `known_bands` has an answer."""
    return sorted(_PUBLISHED)


def suggest_band(singular_values: Tensor) -> Band:
    """A first guess at a band, from the spectrum alone.

    Fits three straight pieces to the logarithm of the singular values by least squares and takes the outer two as the
    steep top and bottom. No data are looked at, so this is ONLY a suggestion, and on some models no band helps at all:
    prefer `search_band` wherever labelled images exist.

    Args:
        singular_values (`Tensor [r]`): descending, r of at least 9.

    Returns:
        `(k_top, k_bottom)`.

    Raises:
        `ClipAlignError`: fewer than 9 values.
    """
    rank = len(singular_values)
    if rank < 9:
        raise ClipAlignError(f"a spectrum of {rank} values is too short for a suggestion: give a band yourself.")
    values = singular_values.detach().double()
    heights = values.clamp(min=values[0] * torch.finfo(values.dtype).eps).log()
    cost = _line_fit_costs(heights)
    # cost[a, b] is the squared error of one line through points a..b-1; pieces hold at least three points
    first, last = torch.meshgrid(torch.arange(rank + 1), torch.arange(rank + 1), indexing="ij")
    total = cost[0, first] + cost[first, last] + cost[last, rank]
    total[(first < 3) | (last < first + 3) | (last > rank - 3)] = torch.inf
    k_top, end = divmod(int(total.argmin()), rank + 1)
    return k_top, rank - end


def _line_fit_costs(heights: Tensor) -> Tensor:
    """Squared error `[n + 1, n + 1]` of the least-squares line through points a..b-1, by prefix sums."""
    positions = torch.arange(len(heights), dtype=heights.dtype, device=heights.device)
    products = (torch.ones_like(heights), positions, heights, positions**2, positions * heights, heights**2)
    prefix = [torch.cat([heights.new_zeros(1), product.cumsum(0)]) for product in products]
    count, x, y, xx, xy, yy = (sums[None, :] - sums[:, None] for sums in prefix)
    count = count.clamp(min=1)
    spread_x, spread_xy, spread_y = xx - x * x / count, xy - x * y / count, yy - y * y / count
    slope_gain = torch.where(spread_x > 0, spread_xy**2 / spread_x.clamp(min=1e-12), 0.0)
    return (spread_y - slope_gain).clamp(min=0)
