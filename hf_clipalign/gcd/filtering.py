"""Spectral filtering: which concepts of a dictionary tell the images of a collection apart (SpectralGCD)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from hf_clipalign._checks.numbers import check_integer, check_number
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import check_names
from hf_clipalign.gcd.eigen import SymmetricEigen, add_outer_products
from hf_clipalign.gcd.filtering_result import SpectralFilterResult
from hf_clipalign.gcd.similarities import ConceptSimilarities, image_blocks, unit_texts

# Importances that follow each other by less than this share of the largest are equal but for rounding, and are ordered
# by index; a share of a sum is reached when no more than this is missing.
_TIE = 1e-12
# A variance below this share of the squared mean is rounding.
_NO_VARIANCE = 1e-24
# The similarities of fewer images than concepts are held up to this size, else computed anew for each of two passes.
_HELD_BYTES = 2**30


def spectral_filter(
    image_features: Any,
    text_features: Any,
    concept_names: Sequence[str],
    *,
    temperature: float = 0.01,
    beta_e: float = 0.95,
    beta_c: float = 0.99,
    apply_softmax: bool = True,
    keep_components: int = 16,
    block_size: int = 1024,
    progress: bool = False,
) -> SpectralFilterResult:
    """Keeps the concepts that explain how the images differ (SpectralGCD, arXiv 2602.17395, spectral filtering).

    Every image is described by its distribution over the dictionary, `p = softmax(cosine / temperature)`. The
    covariance of p over the images (divisor N - 1) is decomposed; the leading components that carry `beta_e` of the
    variance are kept; the importance of concept j is `sum_a lambda_a V_ja^2` over them; the most important concepts
    that carry `beta_c` of the importance are kept. Training-free; no labels.

    The result is that of the full eigendecomposition in float64, at a lower price. With fewer images than concepts the
    N x N Gram matrix takes the place of the C x C covariance, summed over blocks of concepts; otherwise the covariance
    is summed over blocks of images, in one pass. All eigenvalues come from one tridiagonal reduction, and eigenvectors
    are computed only of the leading components, or of the rest where these are fewer, since
    `importance = variance - what the rest explains`. Memory: 8 min(N, C)^2 bytes, twice that with many components,
    at most 1 GiB of similarities, and a few blocks.

    Args:
        image_features (`Tensor` or array `[N, d]`, or an iterable of blocks `[n, d]`): in the shared space, of any
            length. A generator is read once; a NumPy memory map is read block by block. With fewer images than
            concepts all are held, else one block.
        text_features (`Tensor` or array `[C, d]`): of one prompt per concept, in the same space. Computing happens on
            its device (on the CPU for one without float64).
        concept_names (`Sequence[str]`): C names, different also when case is ignored.
        temperature (`float`): default 0.01, the paper's.
        beta_e (`float`, *optional*, defaults to `0.95`): share of the variance that the components must carry, in (0,
            1].
        beta_c (`float`, *optional*, defaults to `0.99`): share of the importance that the concepts must carry, in (0,
            1].
        apply_softmax (`bool`, *optional*, defaults to `True`): False takes the similarities as they are.
        keep_components (`int`, *optional*, defaults to `16`): how many of the leading eigenvectors the result holds.
        block_size (`int`, *optional*, defaults to `1,024`): images or concepts at a time.
        progress (`bool`, *optional*, defaults to `False`): show progress bars.

    Returns:
        `SpectralFilterResult`: the same on every run; ties are broken by index.

    Raises:
        `ClipAlignError`: a threshold outside (0, 1]; widths that differ; a feature that is NaN, zero or constant
            (named); fewer than two images, or all alike; names that are blank, doubled, no text, or not one for each
            feature.

    Example:
        ```python
        >>> from hf_clipalign.backbones import encode_texts
        >>> from hf_clipalign.data import fill
        >>> from hf_clipalign.gcd import spectral_filter
        >>> texts = encode_texts(encoder, fill("an emoji of {}", mini.concepts.novel), processor)
        >>> result = spectral_filter(embeds, texts, mini.concepts.novel)
        >>> result.n_components, result.n_retained, result.concepts[:3]
        (15, 61, ["man's shoe", 'melon', 'screwdriver'])
        ```
    """
    check_filter_settings(temperature, beta_e, beta_c, keep_components, block_size)
    names = check_names(concept_names, "concept names")
    texts = unit_texts(text_features, names)
    similarities = ConceptSimilarities(texts, float(temperature), apply_softmax)
    blocks = image_blocks(image_features, texts, block_size)
    spectrum = _decompose(similarities, blocks, beta_e, keep_components, block_size, progress)
    order = _ranked(spectrum.importance)
    settings = {"temperature": float(temperature), "beta_e": float(beta_e), "beta_c": float(beta_c)}
    return SpectralFilterResult(
        concept_names=names,
        order=order,
        importance=spectrum.importance,
        n_components=len(spectrum.eigenvalues),
        n_retained=_smallest_count(spectrum.importance[order], beta_c),
        eigenvalues=spectrum.eigenvalues,
        components=spectrum.components,
        total_variance=spectrum.total_variance,
        n_images=spectrum.n_images,
        settings={**settings, "apply_softmax": apply_softmax},
    )


def check_filter_settings(
    temperature: float = 0.01,
    beta_e: float = 0.95,
    beta_c: float = 0.99,
    keep_components: int = 16,
    block_size: int = 1024,
) -> None:
    """Refuses what `spectral_filter` would refuse, before any feature is there.

    Raises:
        `ClipAlignError`: a threshold outside (0, 1], or another number that cannot be used.
    """
    for name, share in (("beta_e", beta_e), ("beta_c", beta_c)):
        check_number(name, share, "a share above 0, at most 1", above=0, most=1)
    check_number("temperature", temperature, "a number above 0; the paper's is 0.01", above=0)
    check_integer("keep_components", keep_components, 0)
    check_integer("block_size", block_size)


def _ranked(importance: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices by falling importance, those of runs of equal ones rising."""
    order = np.argsort(-importance)
    falls = -np.diff(importance[order]) >= _TIE * importance.max()
    runs = np.concatenate([[0], np.cumsum(falls)])
    return order[np.lexsort((order, runs))]


class _Spectrum(NamedTuple):
    importance: NDArray[np.float64]  # [C]
    eigenvalues: NDArray[np.float64]  # [q], of the kept components
    components: NDArray[np.float32]  # [m, C], the first of them
    total_variance: float
    n_images: int


class _Used(NamedTuple):
    """Which eigenvectors the importance is computed from: the leading ones, or the rest."""

    n_components: int
    vectors: Tensor
    leading: bool


def _decompose(
    similarities: ConceptSimilarities,
    blocks: Iterator[Tensor],
    beta_e: float,
    keep: int,
    block_size: int,
    progress: bool,
) -> _Spectrum:
    """By the smaller of the two matrices: that of the images, or that of the concepts."""
    head, count = _read_until(blocks, len(similarities.texts))
    if count < 2:
        raise ClipAlignError(f"image features: {count} given, but at least two are needed to see how images differ.")
    if count < len(similarities.texts):
        return _from_images(similarities, torch.cat(head), beta_e, keep, block_size, progress)
    return _from_concepts(similarities, head, blocks, beta_e, keep, progress)


def _from_images(
    similarities: ConceptSimilarities, images: Tensor, beta_e: float, keep: int, block_size: int, progress: bool
) -> _Spectrum:
    """Fewer images than concepts: eigenvectors u of the N x N Gram matrix; `V_a = Xc^T u_a / sqrt(lambda_a (N - 1))`.

    The columns `Xc` are centred block by block, with their exact means.
    """
    n, n_concepts = len(images), len(similarities.texts)
    by_concept = similarities.by_concept(images, block_size, _HELD_BYTES)

    def centred(what: str) -> Iterator[tuple[slice, Tensor]]:
        for start in tqdm(
            range(0, n_concepts, block_size), desc=what, unit="block", disable=None if progress else True
        ):
            rows = slice(start, min(start + block_size, n_concepts))
            block = by_concept(rows)
            mean[rows] = block.mean(dim=1)
            yield rows, block - mean[rows, None]

    gram, variance, mean = images.new_zeros(n, n), images.new_zeros(n_concepts), images.new_zeros(n_concepts)
    for rows, block in centred("Gram matrix"):
        add_outer_products(gram, block, 1 / (n - 1))
        variance[rows] = block.square().sum(dim=1) / (n - 1)
    _check_variance(variance, mean, n)
    eigen = SymmetricEigen(gram)
    del gram
    used = _used_vectors(eigen, beta_e)
    explained, scores = images.new_zeros(n_concepts), images.new_zeros(n_concepts, min(keep, used.n_components))
    leading = eigen.vectors(0, scores.shape[1])
    for rows, block in centred("importance"):
        explained[rows] = (block @ used.vectors).square().sum(dim=1) / (n - 1)
        scores[rows] = block @ leading
    return _spectrum(eigen, used, explained, variance, scores, n)


def _from_concepts(
    similarities: ConceptSimilarities,
    head: list[Tensor],
    rest: Iterator[Tensor],
    beta_e: float,
    keep: int,
    progress: bool,
) -> _Spectrum:
    """As many images as concepts or more: the C x C covariance, in one pass over the images.

    Similarities are taken relative to their mean over the first images, so that the correction by the true mean is
    small and costs no precision.
    """
    n_concepts = len(similarities.texts)
    origin = torch.stack([similarities.of_images(block).sum(dim=0) for block in head]).sum(dim=0)
    origin /= sum(map(len, head))
    covariance, offset, n = origin.new_zeros(n_concepts, n_concepts), torch.zeros_like(origin), 0
    for block in tqdm(chain(head, rest), desc="covariance", unit="block", disable=None if progress else True):
        rows = similarities.of_images(block).sub_(origin)
        add_outer_products(covariance, rows)
        offset += rows.sum(dim=0)
        n += len(rows)
    add_outer_products(covariance, (offset / n)[None], -float(n))
    covariance /= n - 1
    variance = covariance.diagonal().clone().clamp_(min=0)
    _check_variance(variance, origin, n)
    eigen = SymmetricEigen(covariance)
    del covariance
    used = _used_vectors(eigen, beta_e)
    start, stop = (0, used.n_components) if used.leading else (used.n_components, n_concepts)
    weights = torch.from_numpy(eigen.values[start:stop]).to(variance.device)
    explained = (used.vectors.square() * weights).sum(dim=1)
    return _spectrum(eigen, used, explained, variance, eigen.vectors(0, min(keep, used.n_components)), n)


def _used_vectors(eigen: SymmetricEigen, beta_e: float) -> _Used:
    eigen.values = eigen.values.clip(min=0)
    n, count = len(eigen.values), _smallest_count(eigen.values, beta_e)
    leading = count <= n - count
    return _Used(count, eigen.vectors(0, count) if leading else eigen.vectors(count, n), leading)


def _spectrum(
    eigen: SymmetricEigen, used: _Used, explained: Tensor, variance: Tensor, scores: Tensor, n_images: int
) -> _Spectrum:
    importance = explained if used.leading else (variance - explained).clamp_(min=0)
    components = torch.nn.functional.normalize(scores, dim=0).T
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return _Spectrum(
        importance.cpu().numpy(),
        eigen.values[: used.n_components].copy(),
        (components * largest.sign()).float().cpu().numpy(),
        float(eigen.values.sum()),
        n_images,
    )


def _smallest_count(descending: NDArray[np.float64], share: float) -> int:
    """How many of the first numbers are needed to reach a share of the sum of all."""
    cumulative = np.cumsum(descending)
    return min(int(np.searchsorted(cumulative, (share - _TIE) * cumulative[-1])) + 1, len(descending))


def _read_until(blocks: Iterator[Tensor], n_rows: int) -> tuple[list[Tensor], int]:
    """The first blocks, until they hold so many rows or there are no more; and how many rows they hold."""
    head: list[Tensor] = []
    count = 0
    for block in blocks:
        head.append(block)
        count += len(block)
        if count >= n_rows:
            break
    return head, count


def _check_variance(variance: Tensor, mean: Tensor, n: int) -> None:
    if float(variance.sum()) <= _NO_VARIANCE * float(mean.square().sum()):
        raise ClipAlignError(f"all {n} images look the same to these concepts: give images that differ.")
