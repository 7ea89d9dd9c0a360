"""A collection behind any band: the features stay, a band only changes which of their directions count.

With `Psi = W_i^T W_t = U S V^T` and `G = U^T W_i^T W_i U`, the trimmed embedding of features x has the squared length
`z^T G z` over the kept directions, `z = U^T x`. From one band to the next only the products with the directions that
come or go change, so that moving a slider costs a fraction of projecting everything anew.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_clipalign.isoclip.spectrum import band_slice, decompose
from hf_clipalign.search.heads import Heads
from hf_clipalign.search.rows import ArrayRows, Rows, block_ranges

Band = tuple[int, int]

_HELD_BYTES = 512 * 2**20
"""Up to this size the coordinates of all images along the directions are kept in memory."""
_KEPT_BANDS = 16
_TINY = 1e-30
_MOST_STEPS = 8
"""So many bands are computed one from another before rounding is cleared by computing one from nothing."""


class _Lengths(NamedTuple):
    """Squared lengths `[N]` of one band, float64, and how many bands lie between them and a fresh computation."""

    squares: NDArray[np.float64]
    steps: int


class Bands:
    """Cosines of a query with all images of a collection, for any band.

    Args:
        features (`Rows` `[N, w]`): before the projector.
        heads (`Heads`): the projectors of the model.
    """

    def __init__(self, features: Rows, heads: Heads) -> None:
        import torch

        image, text = (torch.from_numpy(np.array(heads.matrices[name])) for name in ("image", "text"))
        spectrum = decompose(image, text)
        directions = spectrum.U.double().numpy()  # [d_v, r]
        projected = image.double().numpy() @ directions
        self.singular_values: NDArray[np.float64] = spectrum.S.double().numpy()
        self._gram: NDArray[np.float64] = projected.T @ projected
        self._to_coordinates = np.zeros((features.width, directions.shape[1]))
        self._to_coordinates[: len(directions)] = directions
        self._rows, self._basis = self._coordinates(features)
        self._known: OrderedDict[Band, _Lengths] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rank(self) -> int:
        """How many directions there are."""
        return len(self.singular_values)

    def scores(self, images: Sequence[tuple[float, NDArray[np.float32]]], band: Band) -> NDArray[np.float32]:
        """Cosines `[N]` of all images with a weighted sum of images.

        Args:
            images (`Sequence[tuple[float, np.ndarray [w]]]`): weights and features before the projector.
            band (`(k_top, k_bottom)`): what is trimmed.

        Raises:
            `ClipAlignError`: the band keeps nothing.
        """
        kept = band_slice(self.rank, *band)
        gram = self._gram[kept, kept]
        total = np.zeros(len(gram))
        for weight, features in images:
            z = (np.asarray(features, np.float64) @ self._to_coordinates)[kept]
            total += weight * z / _length(z, gram)
        total /= _length(total, gram)
        vector = (self._basis[:, kept] @ (gram @ total)).astype(np.float32)
        scores = np.empty(len(self._rows), np.float32)
        for start, stop in block_ranges(self._rows):
            scores[start:stop] = self._rows.read(start, stop) @ vector
        scores /= self.lengths(band)
        return scores

    def lengths(self, band: Band) -> NDArray[np.float32]:
        """Lengths `[N]` of the trimmed embeddings; 1 for an image of which the band keeps nothing."""
        with self._lock:
            known = self._known.pop(band, None)
            if known is None:
                known = self._computed(band)
            self._known[band] = known
            while len(self._known) > _KEPT_BANDS:
                self._known.popitem(last=False)
        squares = known.squares
        return np.sqrt(np.where(squares > 0, squares, 1.0)).astype(np.float32)

    def _coordinates(self, features: Rows) -> tuple[Rows, NDArray[np.float64]]:
        """What is read for a search, and the directions in its terms: coordinates, or the features themselves."""
        if 4 * len(features) * self.rank > _HELD_BYTES:
            return features, self._to_coordinates
        values = np.empty((len(features), self.rank), np.float32)
        to_coordinates = self._to_coordinates.astype(np.float32)
        for start, stop in block_ranges(features):
            values[start:stop] = features.read(start, stop) @ to_coordinates
        return ArrayRows(values), np.eye(self.rank)

    def _computed(self, band: Band) -> _Lengths:
        """From the nearest band at hand, or from nothing where that is no dearer."""
        kept = _indices(self.rank, band)
        near = [other for other, lengths in self._known.items() if lengths.steps < _MOST_STEPS]
        if near:
            other = min(near, key=lambda one: len(np.setxor1d(_indices(self.rank, one), kept)))
            before = _indices(self.rank, other)
            if len(np.setxor1d(before, kept)) < len(kept):
                known = self._known[other]
                common = np.intersect1d(before, kept)
                squares = known.squares - self._share(np.setdiff1d(before, kept), common)
                squares += self._share(np.setdiff1d(kept, before), common)
                return _Lengths(np.maximum(squares, 0.0), known.steps + 1)
        return _Lengths(self._from_nothing(kept), 0)

    def _from_nothing(self, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        """Squared lengths `[N]`: `z^T G z` is the square of `L^T z` with `G = L L^T`, one product instead of two."""
        factors = (self._basis[:, kept] @ _root(self._gram[np.ix_(kept, kept)])).astype(np.float32)
        squares = np.zeros(len(self._rows))
        for start, stop in block_ranges(self._rows, self._rows.width + len(kept)):
            products = self._rows.read(start, stop) @ factors
            squares[start:stop] = np.einsum("nm,nm->n", products, products)
        return squares

    def _share(self, moved: NDArray[np.int64], common: NDArray[np.int64]) -> NDArray[np.float64]:
        """What directions add to the squared lengths `[N]` of those that they have in common with another band."""
        squares = np.zeros(len(self._rows))
        if not len(moved):
            return squares
        left = self._basis[:, moved]
        right = left @ self._gram[np.ix_(moved, moved)]
        right += 2 * self._basis[:, common] @ self._gram[np.ix_(common, moved)]
        factors = np.concatenate([left, right], axis=1).astype(np.float32)
        for start, stop in block_ranges(self._rows, self._rows.width + 2 * len(moved)):
            products = self._rows.read(start, stop) @ factors
            squares[start:stop] = np.einsum("nm,nm->n", products[:, : len(moved)], products[:, len(moved) :])
        return squares


def _length(vector: NDArray[np.float64], gram: NDArray[np.float64]) -> float:
    """The length of a vector under a Gram matrix, above 0."""
    return math.sqrt(max(float(vector @ gram @ vector), _TINY))


def _root(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """A matrix L with `L L^T` the given one; of one without full rank by its eigenvectors."""
    try:
        return np.asarray(np.linalg.cholesky(gram), np.float64)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(gram)
        return vectors * np.sqrt(np.maximum(values, 0.0))


def _indices(rank: int, band: Band) -> NDArray[np.int64]:
    kept = band_slice(rank, *band)
    return np.arange(kept.start, kept.stop)
