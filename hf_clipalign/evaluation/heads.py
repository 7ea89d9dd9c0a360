"""Linear heads to compare: every way to turn features before the projector into embeddings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import map_rows, unit_rows
from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality
from hf_clipalign.features.in_memory import project_image_features
from hf_clipalign.isoclip.bands import Band
from hf_clipalign.isoclip.spectrum import compact_projectors, trim_projectors
from hf_clipalign.isoclip.text_pca import text_pca_projector

Centering = Literal["none", "gallery", "each"]


@dataclass(frozen=True)
class Head:
    """A linear head on features before the projector, optionally followed by centring.

    Args:
        name (`str`): how tables call it.
        matrix (`Tensor [k, w]`, *optional*): the projector; None compares the features as they are.
        centering (`str`): `"none"` (default); `"gallery"` subtracts the mean of the gallery from both sides; `"each"`
            subtracts from each side its own mean, for which the queries must be known together.
        before (`Callable`, *optional*): applied to the features before the matrix: the model's own head where it is
            not linear (SigLIP).

    Example:
        ```python
        >>> head = Head("first two", torch.eye(2, 3))
        >>> query, gallery = head.embed(torch.ones(1, 3), torch.ones(4, 3))
        >>> query.shape, head.width(gallery)
        (torch.Size([1, 2]), 2)
        ```
    """

    name: str
    matrix: Tensor | None = None
    centering: Centering = "none"
    before: Callable[[Tensor], Tensor] | None = None

    def embed(self, query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings `[Q, k]` and `[G, k]` from features before the projector `[Q, w]` and `[G, w]`."""
        query, gallery = self.project(query), self.project(gallery)
        if self.centering != "none":
            gallery_mean = gallery.mean(0)
            query = query - (query.mean(0) if self.centering == "each" else gallery_mean)
            gallery = gallery - gallery_mean
        return unit_rows(query, query.dtype), unit_rows(gallery, gallery.dtype)

    def project(self, features: Tensor) -> Tensor:
        """The map alone, `[N, k]`; equal features have equal results."""
        return map_rows(self._map, features)

    def _map(self, features: Tensor) -> Tensor:
        if self.before is not None:
            features = self.before(features)
        return features if self.matrix is None else features @ self.matrix.T.to(features)

    def width(self, features: Tensor) -> int:
        """Dimension of the embeddings."""
        return features.shape[1] if self.matrix is None else self.matrix.shape[0]


HEAD_NAMES = (
    *("raw", "linearised", "pre-projection", "centred", "centred-each"),
    *("isoclip", "isoclip-compact", "text-pca"),
)
"""Heads that `comparison_heads` can build. `centred` subtracts the gallery's mean, `centred-each` each side's own.

`linearised` is for models whose image head is not linear (SigLIP): `raw` is then the model's own head, and the
difference between the two is what the linearisation behind the IsoCLIP heads costs.
"""


def comparison_heads(
    encoder: DualEncoder,
    modality: Modality = "image",
    band: Band | None = None,
    text_embeds: Tensor | None = None,
    names: tuple[str, ...] | list[str] | None = None,
) -> list[Head]:
    """The heads that an honest comparison shows side by side.

    Args:
        encoder (`DualEncoder`): the backbone.
        modality (`"image"` or `"text"`): what is compared with what.
        band (`(k_top, k_bottom)`, *optional*): for the IsoCLIP heads; without it they are left out.
        text_embeds (`Tensor [M, d]`, *optional*): for text-PCA (images only); without them it is left out.
        names (`Sequence[str]`, *optional*): which of `HEAD_NAMES`, in this order. Default: all that can be built.

    Raises:
        `ClipAlignError`: an unknown name, or one whose band or texts were not given.

    Example:
        ```python
        >>> [head.name for head in comparison_heads(encoder, band=(1, 48))]
        ['raw', 'pre-projection', 'centred', 'centred-each', 'isoclip', 'isoclip-compact']
        ```
    """
    available = _available_heads(encoder, modality, band, text_embeds)
    if names is None:
        return list(available.values())
    names = as_texts(names, "names")
    for name in names:
        if name not in HEAD_NAMES:
            raise unknown_name("head", name, HEAD_NAMES)
        if name not in available:
            raise ClipAlignError(f"the head {name!r} needs {_NEEDS[name]}.")
    return [available[name] for name in names]


_NEEDS = {
    "isoclip": "a band",
    "isoclip-compact": "a band",
    "text-pca": "texts (text_embeds, or a folder with enough classes), and images to compare",
    "linearised": "images, and a model whose image head is not linear",
}


def _available_heads(
    encoder: DualEncoder, modality: Modality, band: Band | None, text_embeds: Tensor | None
) -> dict[str, Head]:
    image, text = encoder.image_projector.matrix.detach(), encoder.text_projector.matrix.detach()
    own = 0 if modality == "image" else 1
    projector, before = (image, text)[own], None
    linearised = []
    if modality == "image" and not encoder.exact_image_projector:
        before = functools.partial(project_image_features, encoder)
        linearised = [Head("linearised", projector)]
        projector = torch.eye(encoder.embed_dim)
    heads = [
        Head("raw", projector, before=before),
        *linearised,
        Head("pre-projection"),
        Head("centred", projector, "gallery", before),
        Head("centred-each", projector, "each", before),
    ]
    if band is not None:
        heads.append(Head("isoclip", trim_projectors(image, text, *band)[own]))
        heads.append(Head("isoclip-compact", compact_projectors(image, text, *band)[own]))
    if text_embeds is not None and modality == "image":
        heads.append(Head("text-pca", text_pca_projector(projector, text_embeds), before=before))
    return {head.name: head for head in heads}
