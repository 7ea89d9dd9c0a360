"""Which singular directions to keep: published bands, and a suggestion from the spectrum alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.dual_encoder import DualEncoder, Layout
from hf_clipalign.isoclip.identity import Sizes, check_sizes, origin_of

Band = tuple[int, int]


@dataclass(frozen=True)
class KnownBands:
    """What the IsoCLIP paper reports for one checkpoint.

    Args:
        image (`(k_top, k_bottom)`, *optional*): the band for images; None where the paper reports none.
        text (`(k_top, k_bottom)`, *optional*): the band for texts.
        layout (`"consistent"` or `"reference"`): how the projectors were stacked when the band was chosen. In
            the other layout the band means nothing (see `hf_clipalign.backbones.linearize_pooling_head`).
        sizes (`Sizes`, *optional*): of the checkpoint, to recognise a model that only has its name.
        source (`str`): where the numbers stand.

    Example:
        ```python
        >>> from hf_clipalign.isoclip import KnownBands
        >>> KnownBands(image=(150, 50)).text is None
        True
        ```
    """

    image: Band | None = None
    text: Band | None = None
    layout: Layout = "consistent"
    sizes: Sizes | None = None
    source: str = "IsoCLIP, arXiv 2603.19862"


_B32, _B16, _L14 = (
    Sizes(512, 768, 512, 12, 12, 32),
    Sizes(512, 768, 512, 12, 12, 16),
    Sizes(768, 1024, 768, 24, 12, 14),
)
_CLIP_B32 = KnownBands(image=(150, 50), text=(20, 100), sizes=_B32)
_CLIP_B16 = KnownBands(image=(200, 50), text=(10, 50), sizes=_B16)
_CLIP_L14 = KnownBands(image=(250, 200), text=(10, 300), sizes=_L14)
_DATACOMP_B32 = KnownBands(image=(50, 50), sizes=_B32)
_DATACOMP_B16 = KnownBands(image=(100, 100), text=(2, 150), sizes=_B16)
_PE_CORE_B16 = KnownBands(image=(300, 50))
_SIGLIP2_B16 = KnownBands(image=(350, 50), layout="reference", sizes=Sizes(768, 768, 768, 12, 12, 16))

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


def known_bands(model_or_path: Any, base_model: str | None = None) -> KnownBands | None:
    """Published bands of a checkpoint, or of a local copy of one.

    A folder is recognised as a copy by its place in the Hub's cache, by the name in its `config.json`, or by the
    `base_model` of its card, unless the card calls it a fine-tuned, merged or quantised model.

    Args:
        model_or_path (`str`, `Path`, `nn.Module` or `DualEncoder`): Hub id, for example
            `"openai/clip-vit-base-patch32"` (case does not matter), a folder, or a loaded model.
        base_model (`str`, *optional*): Hub id of the published model that this one is a copy of. Default: found out.

    Returns:
        `KnownBands`, or None for a checkpoint that the paper does not cover.

    Raises:
        `ClipAlignError`: no band is published for `base_model`; the model has other sizes than the published one.

    Example:
        ```python
        >>> from hf_clipalign.isoclip import known_bands
        >>> known_bands("openai/clip-vit-base-patch32").image
        (150, 50)
        ```
    """
    known = _PUBLISHED.get(_key(base_model or origin_of(model_or_path, known_checkpoints()) or ""))
    if known is None:
        if base_model is not None:
            raise ClipAlignError(f"no band is published for base model {base_model!r}: {describe_published()}.")
        return None
    if known.sizes is not None:
        check_sizes(model_or_path, known.sizes, base_model)
    return known


def resolve_bands(
    encoder: DualEncoder,
    name: str | None,
    image_band: Band | None,
    text_band: Band | None,
    base_model: str | None = None,
) -> tuple[DualEncoder, Band | None, Band | None]:
    """Completes given bands with published ones, and the view with the layout that those were chosen with.

    Args:
        encoder (`DualEncoder`): the view of the model.
        name (`str`, *optional*): Hub id or folder that the model came from.
        image_band (`(k_top, k_bottom)`, *optional*), text_band (`(int, int)`, *optional*): as given by the user.
        base_model (`str`, *optional*): as in `known_bands`.

    Returns:
        `(DualEncoder, Band | None, Band | None)`: the view in the layout of the bands, and the bands.

    Raises:
        `ClipAlignError`: there is no band at all; a given band beside a published one of another layout.

    Example:
        ```python
        >>> from hf_clipalign.isoclip import resolve_bands
        >>> resolve_bands(encoder, None, image_band=(1, 48), text_band=(2, 20))[1:]
        ((1, 48), (2, 20))
        ```
    """
    if image_band is not None and text_band is not None:
        return encoder, image_band, text_band
    given = image_band or text_band
    try:
        known = known_bands(encoder, base_model)
    except ClipAlignError:
        if given is not None and base_model is None:  # the name promises a band that nobody needs
            return encoder, image_band, text_band
        raise
    missing = None if known is None else (known.text if image_band is not None else known.image)
    if given is None and known is None:
        raise ClipAlignError(unknown_band_message(name))
    if known is None or (given is not None and missing is None):
        return encoder, image_band, text_band
    if known.layout != encoder.layout:
        if given is not None:
            raise ClipAlignError(
                f"the published band {missing} of this model was chosen in the projector layout {known.layout!r}, and "
                f"the given band {given} would be applied in that layout too: give both bands, or none."
            )
        encoder = encoder.with_layout(known.layout)
        warnings.warn(
            f"the published band was chosen in the projector layout {known.layout!r}, so that layout is used: "
            "config.projector_layout says so. Give image_band=(k_top, k_bottom) for the consistent layout.",
            stacklevel=3,
        )
    return encoder, image_band or known.image, text_band or known.text


def known_checkpoints() -> list[str]:
    """Hub ids for which `known_bands` has an answer, in lower case and sorted.

    Example:
        ```python
        >>> from hf_clipalign.isoclip import known_checkpoints
        >>> known_checkpoints()[0]
        'facebook/pe-core-b16-224'
        ```
    """
    return sorted(_PUBLISHED)


def describe_published(spelling: str = "python") -> str:
    """The published checkpoints with their bands, in one line for errors.

    Args:
        spelling (`"python"` or `"cli"`, *optional*, defaults to `"python"`): `image (150, 50)`, or `--image-band
            150,50`.
    """
    entries = []
    for name, known in sorted(_PUBLISHED.items()):
        bands = {"image": known.image, "text": known.text}
        written = {side: band for side, band in bands.items() if band is not None}
        if spelling == "cli":
            shown = [f"--{side}-band {band[0]},{band[1]}" for side, band in written.items()]
        else:
            shown = [f"{side} {band}" for side, band in written.items()]
        entries.append(f"{name} ({', '.join(shown)})")
    return f"published are {'; '.join(entries)}"


def unknown_band_message(name: str | None, spelling: str = "python") -> str:
    """What to say where a band is needed, and neither given nor published for the model.

    Args:
        name (`str`, *optional*): what the model is called.
        spelling (`str`, *optional*, defaults to `"python"`): `"cli"` names options instead of arguments.

    Returns:
        `str`: one line.

    Example:
        ```python
        >>> from hf_clipalign.isoclip import unknown_band_message
        >>> unknown_band_message("me/my-clip").split(":")[0]
        "no band is published for 'me/my-clip'"
        ```
    """
    copy = "--base-model ID" if spelling == "cli" else "base_model=ID"
    if spelling == "cli":
        give = "--image-band K_TOP,K_BOTTOM or --text-band; `clipalign evaluate --band auto` finds one"
    else:
        give = (
            "image_band=(k_top, k_bottom) and/or text_band; hf_clipalign.evaluation.search_band finds one on labelled "
            "images, suggest_band guesses one"
        )
    return (
        f"no band is published for {name or 'this model'!r}: {describe_published(spelling)}. If it is a copy of one "
        f"of them, give {copy}; else give {give}."
    )


def _key(name: str) -> str:
    return name.lower().removeprefix("hf-hub:").strip("/")


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

    Example:
        ```python
        >>> import torch
        >>> from hf_clipalign.isoclip import suggest_band
        >>> suggest_band(torch.tensor([9.0, 6, 4, 2, 1.9, 1.8, 1.7, 1.6, 1.5, 0.5, 0.1, 0.02]))
        (3, 3)
        ```
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
