"""The spectrum of the inter-modal operator, and the projectors that keep a band of it (IsoCLIP, arXiv 2603.19862)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError

# Below this ratio of the smallest to the largest singular value, squaring the operator would cost orthogonality.
_SAFE_TO_SQUARE = 1e-4


class Spectrum(NamedTuple):
    """Thin singular value decomposition of `Psi = W_i^T W_t`, `Psi = U diag(S) V^T`.

    Attributes:
        U (`Tensor [d_v, r]`): image directions, in the space before the image projector.
        S (`Tensor [r]`): singular values, descending; r = min(d, d_v, d_t).
        V (`Tensor [d_t, r]`): text directions, in the space before the text projector.

    Example:
        ```python
        >>> from hf_clipalign.isoclip import decompose
        >>> spectrum = decompose(model.visual_projection.weight, model.text_projection.weight)
        >>> spectrum.U.shape, spectrum.S.shape, spectrum.V.shape
        (torch.Size([128, 128]), torch.Size([128]), torch.Size([128, 128]))
        ```
    """

    U: Tensor
    S: Tensor
    V: Tensor


def decompose(image_projector: Tensor, text_projector: Tensor) -> Spectrum:
    """Decomposes the inter-modal operator `Psi = W_i^T W_t` of two projectors.

    The paper takes the singular value decomposition of the full `d_v x d_t` matrix. Here the operator is first reduced
    to the rank that it can have, and then decomposed through the eigenvectors of its smaller Gram matrix in float64:
    cheaper, and still more exact than the full decomposition in float32. A nearly singular operator takes the slower
    route, where squaring would lose directions.

    Args:
        image_projector (`Tensor [d, d_v]`): `visual_projection.weight`, a bias (if any) as its last column.
        text_projector (`Tensor [d, d_t]`): `text_projection.weight`, likewise.

    Returns:
        `Spectrum`: in the dtype and on the device of `image_projector` (float32 for half-precision projectors).

    Raises:
        `ClipAlignError`: the shared sizes differ, or a weight is NaN or infinite.

    Example:
        ```python
        >>> from hf_clipalign.isoclip import decompose
        >>> U, S, V = decompose(model.visual_projection.weight, model.text_projection.weight)
        >>> psi = model.visual_projection.weight.T @ model.text_projection.weight
        >>> torch.allclose(U * S @ V.T, psi, atol=1e-5)
        True
        ```
    """
    _check_projectors(image_projector, text_projector)
    image, text = as_float64(image_projector), as_float64(text_projector)
    if image.shape[0] < min(image.shape[1], text.shape[1]):
        parts = _svd_of_wide_projectors(image, text)
    else:
        parts = _thin_svd(image.T @ text)
    dtype = torch.promote_types(image_projector.dtype, torch.float32)
    return Spectrum(*(part.to(image_projector.device, dtype) for part in parts))


def trim_projectors(
    image_projector: Tensor, text_projector: Tensor, k_top: int, k_bottom: int, spectrum: Spectrum | None = None
) -> tuple[Tensor, Tensor]:
    """Projectors for image-image and text-text similarity: only the middle band of the spectrum is kept.

    `W_i' = W_i U_S U_S^T` and `W_t' = W_t V_S V_S^T` with S = [k_top, r - k_bottom) (IsoCLIP, section 4).
    Training-free. For image-text similarity keep the original projectors.

    Args:
        image_projector (`Tensor [d, d_v]`), text_projector (`Tensor [d, d_t]`): the trained projectors.
        k_top (`int`): how many leading singular directions to drop.
        k_bottom (`int`): how many trailing ones, of r = min(d, d_v, d_t). (The authors' code counts from
            min(d_v, d_t): subtract `min(d_v, d_t) - r` from its value, not below 0.)
        spectrum (`Spectrum`, *optional*): the decomposition, if it is at hand.

    Returns:
        `tuple[Tensor [d, d_v], Tensor [d, d_t]]`: drop-in replacements, in the dtype of the projectors.

    Raises:
        `ClipAlignError`: the band is negative or keeps nothing; or as `decompose`.

    Example:
        ```python
        >>> from hf_clipalign.isoclip import trim_projectors
        >>> image, text = model.visual_projection.weight, model.text_projection.weight
        >>> trimmed, _ = trim_projectors(image, text, k_top=1, k_bottom=48)
        >>> trimmed.shape == image.shape, torch.linalg.matrix_rank(trimmed).item()
        (True, 79)
        ```
    """
    spectrum, band = _spectrum_and_band(image_projector, text_projector, k_top, k_bottom, spectrum)
    return (
        _trim(image_projector, spectrum.U[:, band]),
        _trim(text_projector, spectrum.V[:, band]),
    )


def compact_projectors(
    image_projector: Tensor, text_projector: Tensor, k_top: int, k_bottom: int, spectrum: Spectrum | None = None
) -> tuple[Tensor, Tensor]:
    """The trimmed projectors with k = r - k_top - k_bottom outputs: the same cosines from shorter vectors.

    Cosines of `W_i' f` depend only on `U_S^T f` and the Gram matrix of `W_i U_S`. With `W_i U_S = Q R`,
    `B_i = R U_S^T` has that Gram matrix and k rows. Image and text compact spaces are not comparable to each other.

    Args:
        image_projector (`Tensor [d, d_v]`), text_projector (`Tensor [d, d_t]`): the trained projectors.
        k_top (`int`), k_bottom (`int`): as in `trim_projectors`.
        spectrum (`Spectrum`, *optional*): the decomposition, if it is at hand.

    Returns:
        `tuple[Tensor [k, d_v], Tensor [k, d_t]]`.

    Raises:
        `ClipAlignError`: as `trim_projectors`.

    Example:
        ```python
        >>> from hf_clipalign.isoclip import compact_projectors
        >>> compact, _ = compact_projectors(model.visual_projection.weight, model.text_projection.weight, 1, 48)
        >>> compact.shape
        torch.Size([79, 128])
        ```
    """
    spectrum, band = _spectrum_and_band(image_projector, text_projector, k_top, k_bottom, spectrum)
    return (
        _compact(image_projector, spectrum.U[:, band]),
        _compact(text_projector, spectrum.V[:, band]),
    )


def band_slice(rank: int, k_top: int, k_bottom: int) -> slice:
    """Which of `rank` singular directions a band keeps.

    Raises:
        `ClipAlignError`: a count is negative, or nothing would be left.
    """
    if k_top < 0 or k_bottom < 0:
        raise ClipAlignError(f"the band ({k_top}, {k_bottom}) has a negative count: give two counts of 0 or more.")
    if k_top + k_bottom >= rank:
        raise ClipAlignError(
            f"the band ({k_top}, {k_bottom}) removes all {rank} singular directions: "
            f"k_top + k_bottom must be below {rank}."
        )
    return slice(k_top, rank - k_bottom)


def _spectrum_and_band(
    image_projector: Tensor, text_projector: Tensor, k_top: int, k_bottom: int, spectrum: Spectrum | None
) -> tuple[Spectrum, slice]:
    spectrum = decompose(image_projector, text_projector) if spectrum is None else spectrum
    return spectrum, band_slice(len(spectrum.S), k_top, k_bottom)


def as_float64(matrix: Tensor) -> Tensor:
    """A float64 copy, on the CPU for devices that have no float64."""
    return matrix.detach().to("cpu" if matrix.device.type == "mps" else matrix.device, torch.float64)


def _trim(projector: Tensor, directions: Tensor) -> Tensor:
    weight = projector.detach().to(directions.dtype)
    return ((weight @ directions) @ directions.T).to(projector.dtype)


def _compact(projector: Tensor, directions: Tensor) -> Tensor:
    weight, basis = as_float64(projector), as_float64(directions)
    upper = torch.linalg.qr(weight @ basis, mode="r").R
    upper = upper * torch.sign(upper.diagonal())[:, None]
    return (upper @ basis.T).to(projector.device, projector.dtype)


def _svd_of_wide_projectors(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `_thin_svd` of `image^T text` when both have more columns than rows: from the `d x d` core of thin QRs."""
    image_basis, image_upper = torch.linalg.qr(image.T)
    text_basis, text_upper = torch.linalg.qr(text.T)
    left, values, right = _thin_svd(image_upper @ text_upper.T)
    return image_basis @ left, values, text_basis @ right


def _thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left vectors, values, right vectors (as columns) of a small float64 matrix."""
    if matrix.shape[0] < matrix.shape[1]:
        right, values, left = _thin_svd(matrix.T)
        return left, values, right
    squares, right = torch.linalg.eigh(matrix.T @ matrix)
    values, right = squares.clamp(min=0).sqrt().flip(0), right.flip(1)
    if values[-1] > _SAFE_TO_SQUARE * values[0]:
        return matrix @ right / values, values, right
    left, values, right_rows = torch.linalg.svd(matrix, full_matrices=False)
    return left, values, right_rows.T


def _check_projectors(image_projector: Tensor, text_projector: Tensor) -> None:
    for name, projector in (("image", image_projector), ("text", text_projector)):
        if projector.ndim != 2:
            raise ClipAlignError(f"the {name} projector has shape {tuple(projector.shape)}: give a matrix [d, width].")
        if not torch.isfinite(projector).all():
            raise ClipAlignError(
                f"the {name} projector holds NaN or infinite weights: the checkpoint is broken, load it again."
            )
    if image_projector.shape[0] != text_projector.shape[0]:
        raise ClipAlignError(
            f"the projectors do not share one space: the image projector has {image_projector.shape[0]} outputs, "
            f"the text projector {text_projector.shape[0]}. Take both from one checkpoint."
        )
