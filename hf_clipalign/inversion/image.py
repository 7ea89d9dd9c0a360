"""OVI: texts become pseudo-images, patch tokens whose image feature comes close to the text feature."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import DualEncoder, as_dual_encoder
from hf_clipalign.inversion.optimisation import (
    PUBLISHED_EPS,
    InversionOutput,
    InversionSettings,
    check_targets,
    frozen,
    initial_tokens,
    invert,
)


@torch.inference_mode(False)
def ovi(
    model: Any,
    text_embeds: Any,
    *,
    n_tokens: int,
    steps: int = 1000,
    init: Any = None,
    generator: torch.Generator | None = None,
    ids: Iterable[Any] | None = None,
    lr: float = 2e-2,
    weight_decay: float = 0.01,
    eps: float = PUBLISHED_EPS,
    batch_size: int = 64,
    evaluate_at: Sequence[int] = (),
    tolerance: float | None = None,
    progress: bool = True,
) -> InversionOutput:
    """Optimisation-based visual inversion (Cross the Gap, section 4.2): text features in the place of images.

    The pseudo-patches stand for all patch embeddings: of P patches, patch i gets token `floor(i · R / P)`. Class token
    and position embeddings are added as usual. The paper takes R = 1 for CLIP ViT-B/32, 4 for ViT-L/14 and SigLIP.

    Args:
        model (`nn.Module` or `DualEncoder`): the backbone. Its weights are read only.
        text_embeds (`Tensor` or array `[N, d]`): projected text features; their lengths do not matter.
        n_tokens (`int`): pseudo-patches R per item.
        steps (`int`, *optional*, defaults to `1,000`): AdamW steps.
        init (`Tensor` or array `[N, R, d_v]` or `[R, d_v]`, *optional*): tokens to start from. Default: N(0, 0.02²).
        generator (`torch.Generator`, *optional*), ids (`Iterable`, *optional*): as in `oti`.
        lr (`float`), weight_decay (`float`), eps (`float`), batch_size (`int`), evaluate_at (`Sequence[int]`): as in
            `oti`.
        tolerance (`float`, *optional*): an item stops once its loss fell by less than this within ten steps.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        `InversionOutput`: tokens `[N, R, d_v]`, features `[N, d]`, losses `[steps]`, snapshots.

    Raises:
        `ClipAlignError`: more pseudo-patches than patches, features of another width, zero or NaN features or tokens,
            numbers that are no steps, rates or sizes, or a result that is not finite.

    Example:
        ```python
        >>> from hf_clipalign.backbones import encode_texts
        >>> from hf_clipalign.inversion import ovi
        >>> texts = encode_texts(model, ["a cat", "a dog"], processor)
        >>> queries = ovi(model, texts, n_tokens=1, steps=2, progress=False).features  # published: 1,000 steps
        >>> queries.shape
        torch.Size([2, 128])
        ```
    """
    encoder = as_dual_encoder(model)
    settings = InversionSettings(n_tokens, steps, lr, weight_decay, eps, batch_size, evaluate_at, tolerance, progress)
    targets, names = check_targets(text_embeds, encoder.embed_dim, "text embeddings", ids)
    check_patches(encoder, n_tokens)
    start = initial_tokens(names, (n_tokens, _patch_width(encoder)), init, generator)
    with frozen(encoder.model):
        return invert(
            lambda n: _image_encode(encoder, n_tokens, n),
            targets.to(encoder.device),
            start.to(encoder.device),
            names,
            settings,
            "OVI",
        )


def check_patches(encoder: DualEncoder, n_tokens: int) -> None:
    """Refuses pseudo-patches that the model has no room for.

    Raises:
        `ClipAlignError`: more of them than patches, or a family whose patches cannot be replaced.
    """
    if encoder.patch_table is None:
        raise ClipAlignError(f"pseudo-patches cannot be learned for this {type(encoder.model).__name__}.")
    if n_tokens > encoder.n_patches:
        raise ClipAlignError(f"{n_tokens} pseudo-patches, but the model's images have {encoder.n_patches} patches.")


def _patch_width(encoder: DualEncoder) -> int:
    table = encoder.patch_table
    return table.out_channels if isinstance(table, nn.Conv2d) else encoder.vision_dim


def _image_encode(encoder: DualEncoder, n_tokens: int, n: int) -> Callable[[Tensor], Tensor]:
    """The map from pseudo-patches `[n, R, d_v]` to image features `[n, d]` through the stock tower."""
    patch_embedding: Any = encoder.patch_table
    token_of_patch = torch.arange(encoder.n_patches, device=encoder.device) * n_tokens // encoder.n_patches
    blank = encoder.blank_images(n)

    side = round(encoder.n_patches**0.5)
    as_map = isinstance(patch_embedding, nn.Conv2d)  # patches as a map [n, d_v, side, side], else as rows [n, P, d_v]

    def encode(tokens: Tensor) -> Tensor:
        patches = tokens.to(encoder.dtype)[:, token_of_patch]
        if as_map:
            patches = patches.transpose(1, 2).reshape(n, -1, side, side)
        with _answering(patch_embedding, patches):
            return encoder.encode_image(**blank)

    return encode


@contextlib.contextmanager
def _answering(module: nn.Module, output: Tensor) -> Iterator[None]:
    """A module that gives `output` whatever it is asked, and computes nothing."""
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = lambda *args, **kwargs: output
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own
