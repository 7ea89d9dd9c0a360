"""The rival baseline: image embeddings on the principal components of text embeddings (arXiv 2603.16100)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign._checks.tensors import check_finite
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.isoclip.spectrum import as_float64


def text_pca_projector(image_projector: Tensor, text_embeds: Tensor, n_components: int | None = None) -> Tensor:
    """An image projector that keeps only the leading principal components of text embeddings.

    The paper disputes that trimming is what helps and reports better image-image retrieval from this projection, worse
    where the background matters. Its details were not available to us; this is our reading: unit text embeddings, mean
    removed, P = first right singular vectors, head `P W_i`. It needs texts but no images, and is again linear.

    Args:
        image_projector (`Tensor [d, d_v]`): the trained projector (bias as a last column if there is one).
        text_embeds (`Tensor [M, d]`): embeddings of M prompts in the shared space; normalised here. The paper takes
            prompts of the ImageNet class names.
        n_components (`int`, *optional*): size q of the new space. Default: d // 2.

    Returns:
        `Tensor [q, d_v]`: a stock projector with `projection_dim = q`.

    Raises:
        `ClipAlignError`: sizes differ, an embedding is NaN, or there are fewer texts than components.

    Example:
        ```python
        >>> from hf_clipalign.backbones import encode_texts
        >>> from hf_clipalign.data import fill
        >>> from hf_clipalign.isoclip import text_pca_projector
        >>> texts = encode_texts(encoder, fill("an emoji of {}", images.class_names), processor)
        >>> text_pca_projector(model.visual_projection.weight, texts, n_components=8).shape
        torch.Size([8, 128])
        ```
    """
    shared = image_projector.shape[0]
    if text_embeds.ndim != 2 or text_embeds.shape[1] != shared:
        raise ClipAlignError(
            f"text embeddings have shape {tuple(text_embeds.shape)}, but the image projector has {shared} outputs: "
            "encode the texts with the same model, projector included."
        )
    check_finite(text_embeds, "text_embeds")
    n_components = shared // 2 if n_components is None else n_components
    if not 0 < n_components <= min(shared, len(text_embeds) - 1):
        raise ClipAlignError(
            f"{n_components} components cannot be taken from {len(text_embeds)} texts in {shared} dimensions: "
            f"give more than {n_components} texts, or fewer components."
        )
    unit = F.normalize(as_float64(text_embeds), dim=-1)
    covariance = torch.cov(unit.T)
    components = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :n_components]
    return (components.T @ as_float64(image_projector)).to(image_projector.device, image_projector.dtype)
