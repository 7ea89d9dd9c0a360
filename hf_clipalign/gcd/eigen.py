"""Symmetric float64 matrices: sums of outer products, all eigenvalues, and only those eigenvectors that are used."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LAPACK_BLOCK = 64


def add_outer_products(matrix: Tensor, rows: Tensor, scale: float = 1.0) -> None:
    """`matrix += scale * rows^T rows`, in place; on the CPU the upper triangle only, at half the cost.

    Args:
        matrix (`Tensor [n, n]`): float64, contiguous.
        rows (`Tensor [b, n]`): float64, contiguous.
        scale (`float`): default 1.
    """
    if not _has_lapack(matrix):
        matrix.addmm_(rows.T, rows, alpha=scale)
        return
    from scipy.linalg.blas import dsyrk

    # transposed views: BLAS counts by columns, so that its lower triangle is the upper one here
    dsyrk(scale, rows.numpy().T, beta=1.0, c=matrix.numpy().T, lower=1, overwrite_c=1)


class SymmetricEigen:
    """The eigendecomposition of a symmetric matrix, in two steps.

    All eigenvalues are known at once and cheaply: on the CPU the matrix is brought to tridiagonal form (LAPACK
    `sytrd`), whose eigenvalues cost next to nothing (`sterf`). Eigenvectors are computed when asked for, as many as
    are asked for (`stemr`, `ormqr`). On other devices `torch.linalg.eigh` gives both.

    Args:
        matrix (`Tensor [n, n]`): float64; on the CPU only the upper triangle is read. It is overwritten.

    Attributes:
        values (`NDArray[float64] [n]`): eigenvalues, descending.
    """

    def __init__(self, matrix: Tensor) -> None:
        self._vectors: Tensor | None = None
        if _has_lapack(matrix):
            self._reduce(matrix.numpy().T)
        else:
            values, vectors = torch.linalg.eigh(matrix)
            self.values, self._vectors = values.flip(0).cpu().numpy(), vectors.flip(1)

    def vectors(self, start: int, stop: int) -> Tensor:
        """Unit eigenvectors `[n, stop - start]` of the eigenvalues from place `start` to before `stop`."""
        if self._vectors is not None:
            return self._vectors[:, start:stop]
        if stop <= start:
            return torch.empty(len(self.values), 0, dtype=torch.float64)
        from scipy.linalg import eigh_tridiagonal

        last = len(self.values) - 1 - start
        first = len(self.values) - stop
        own = eigh_tridiagonal(
            self._diagonal, self._off_diagonal, select="i", select_range=(first, last), lapack_driver="stemr"
        )[1]
        return torch.from_numpy(self._turn_back(own)[:, ::-1].copy())

    def _reduce(self, matrix: NDArray[np.float64]) -> None:
        """Tridiagonal form of the matrix; `matrix` counts by columns, and holds the lower triangle."""
        from scipy.linalg import eigvalsh_tridiagonal
        from scipy.linalg.lapack import dsytrd

        n = len(matrix)
        self._reflectors, self._diagonal, self._off_diagonal, self._scales, _ = dsytrd(
            matrix, lower=1, lwork=_LAPACK_BLOCK * n, overwrite_a=1
        )
        values = eigvalsh_tridiagonal(self._diagonal, self._off_diagonal, lapack_driver="sterf")
        self.values = values[::-1].copy()

    def _turn_back(self, own: NDArray[np.float64]) -> NDArray[np.float64]:
        """Eigenvectors of the tridiagonal form as those of the matrix."""
        from scipy.linalg.lapack import dormqr

        n, k = own.shape
        # the reflectors lie below the diagonal: the same memory, begun one number later, is the n x (n - 1) array
        # (of which the last row is not read) that LAPACK's routine takes, so that nothing is copied
        below = self._reflectors.reshape(-1, order="F")[1 : 1 + n * (n - 1)].reshape((n, n - 1), order="F")
        turned = np.asfortranarray(own)
        turned[1:] = dormqr(
            "L", "N", below, self._scales, np.asfortranarray(own[1:]), lwork=_LAPACK_BLOCK * k, overwrite_c=1
        )[0]
        return turned


def _has_lapack(matrix: Tensor) -> bool:
    return matrix.device.type == "cpu"
