"""Which gallery items are relevant to which query: by equal labels, or judged pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._checks.sequences import as_array, as_list
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.metrics._inputs import as_floats, as_labels, encode_labels


class Relevance(NamedTuple):
    """Which gallery items are relevant to a query: `order[start : start + size]`."""

    order: Tensor
    start: Tensor
    size: Tensor
    exclude_self: bool
    n_gallery: int
    grades: Tensor | None = None
    """As `order`, for judged pairs; ascending within a query."""
    excluded: Tensor | None = None
    """Position that is left out, -1 for none; with `exclude_self` it is the query's own."""

    @property
    def n_relevant(self) -> Tensor:
        return self.size - int(self.exclude_self)


def match_labels(
    query_labels: Any, gallery_labels: Any, n_queries: int, n_gallery: int, exclude_self: bool, device: torch.device
) -> Relevance:
    query, gallery = encode_labels(
        as_labels(query_labels, "query_labels", n_queries), as_labels(gallery_labels, "gallery_labels", n_gallery)
    )
    if exclude_self:
        _check_same_items(query, gallery)
    order = np.argsort(gallery, kind="stable")
    start = np.searchsorted(gallery[order], query, side="left")
    end = np.searchsorted(gallery[order], query, side="right")
    on_device = [torch.as_tensor(array, device=device) for array in (order, start, end - start)]
    return Relevance(on_device[0], on_device[1], on_device[2], exclude_self, n_gallery)


def match_pairs(
    relevant: Sequence[Any],
    grades: Sequence[Any] | None,
    excluded: Any,
    n_queries: int,
    n_gallery: int,
    device: torch.device,
) -> Relevance:
    positions = [gallery_positions(row, "relevant") for row in as_list(relevant, "relevant")]
    weights = (
        [np.ones(len(row)) for row in positions]
        if grades is None
        else [as_floats(row, "grades") for row in as_list(grades, "grades")]
    )
    left_out = np.full(n_queries, -1) if excluded is None else gallery_positions(excluded, "excluded")
    _check_pairs(positions, weights, left_out, n_queries, n_gallery)
    order = [np.argsort(row, kind="stable") for row in weights]
    size = np.array([len(row) for row in positions])
    arrays = (
        np.concatenate([row[index] for row, index in zip(positions, order, strict=True)]),
        np.cumsum(size) - size,
        size,
        np.concatenate([row[index] for row, index in zip(weights, order, strict=True)]).astype(np.float32),
        left_out,
    )
    items, start, sizes, gains, own = (torch.as_tensor(array, device=device) for array in arrays)
    return Relevance(items, start, sizes, False, n_gallery, gains, own)


def gallery_positions(values: Any, name: str) -> np.ndarray:
    """Positions in the gallery as an array of integers, or an error that names them."""
    array = as_array(values, name)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise ClipAlignError(f"{name} must be positions in the gallery, got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _check_pairs(
    relevant: list[np.ndarray], grades: list[np.ndarray], excluded: np.ndarray, n_queries: int, n_gallery: int
) -> None:
    for name, values in (("relevant", relevant), ("grades", grades), ("excluded", excluded)):
        if len(values) != n_queries:
            raise ClipAlignError(f"{name} has {len(values)} entries for {n_queries} queries")
    for row, (items, gains) in enumerate(zip(relevant, grades, strict=True)):
        problem = None
        if len(items) and (items.min() < 0 or items.max() >= n_gallery):
            problem = f"positions outside the gallery of {n_gallery}"
        elif len(np.unique(items)) != len(items):
            problem = "an item that is named twice"
        elif excluded[row] in items:
            problem = f"the item {excluded[row]}, which is excluded"
        elif len(gains) != len(items) or not (np.isfinite(gains) & (gains > 0)).all():
            problem = "grades that are not one number above 0 for each item"
        if problem:
            raise ClipAlignError(f"query {row} has {problem}; repair its entry in relevant or grades")


def _check_same_items(query: np.ndarray, gallery: np.ndarray) -> None:
    if len(query) != len(gallery):
        raise ClipAlignError(
            f"exclude_self needs the same items on both sides, got {len(query)} queries and "
            f"{len(gallery)} gallery items; pass exclude_self=False for two different sets"
        )
    different = np.flatnonzero(query != gallery)
    if len(different):
        raise ClipAlignError(
            f"exclude_self takes query i for gallery item i, but their labels differ at {len(different)} places, "
            f"first at {different[0]}; put both sides in the same order"
        )
