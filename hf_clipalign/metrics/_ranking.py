"""Ranks of the positives of many queries, without sorting the gallery.

The metrics need only the ranks of the positives, and a rank is a count: how many gallery items score at least as high.
The row of similarities is cut into chunks, each chunk is sorted on its own, and binary search counts in each chunk.
Sorting chunks of 512 numbers takes a small fraction of the time that sorting a row of thousands takes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError

BLOCK_BYTES = 192 * 2**20
SHORTEST_CHUNK = 512


class PositiveRanks(NamedTuple):
    """The positives of B queries in descending order of similarity, each row padded at its end; all arrays [B, n]."""

    valid: Tensor
    """Whether the entry is a positive (False: padding)."""
    position: Tensor
    """1, 2, … n: the place among the positives."""
    rank: Tensor
    """Place in the whole list, from 1; ties count against the positive."""
    positives_seen: Tensor
    """Positives that score at least as high, itself included."""
    items_seen: Tensor
    """Items that score at least as high, itself included."""


def query_blocks(n_positive: Tensor, n_gallery: int, block_size: int | None) -> list[Tensor]:
    """The queries that have a positive, in blocks of indices; those with equally many share a block (less padding).

    A block has `block_size` queries, or as many as keep its buffers near 200 MB.
    """
    if block_size is not None and block_size < 1:
        raise ClipAlignError(f"block_size must be at least 1 (or None for automatic), got {block_size}")
    order = n_positive.argsort(descending=True, stable=True)[: int((n_positive > 0).sum())]
    counts = n_positive[order].tolist()
    blocks, first = [], 0
    while first < len(order):
        n_rows = block_size or max(1, BLOCK_BYTES // (6 * n_gallery + 80 * counts[first]))
        blocks.append(order[first : first + n_rows])
        first += n_rows
    return blocks


def chunk_shape(n_gallery: int, n_positive: int) -> tuple[int, int]:
    """(number of chunks, chunk length) for rows of `n_gallery` numbers in which `n_positive` are searched.

    Longer chunks where there are many positives keep the number of searches at a quarter of the row.
    """
    n_chunks = -(-n_gallery // max(SHORTEST_CHUNK, 4 * n_positive))
    return n_chunks, -(-n_gallery // n_chunks)


class BlockBuffer:
    """One piece of memory for the similarities of a block, reused from block to block.

    The rows are as long as the chunks need; what lies beyond the gallery is -inf, which no positive ever counts.
    """

    def __init__(self, n_gallery: int, device: torch.device) -> None:
        self.n_gallery = n_gallery
        self._memory = torch.empty(0, device=device)

    def rows(self, n_rows: int, n_positive: int) -> tuple[Tensor, Tensor]:
        """(chunks [B, n_chunks, length], the part of the same memory that the gallery fills [B, N])."""
        n_chunks, length = chunk_shape(self.n_gallery, n_positive)
        size = n_rows * n_chunks * length
        if self._memory.numel() < size:
            self._memory = self._memory.new_empty(size)
        table = self._memory[:size].view(n_rows, n_chunks * length)
        table[:, self.n_gallery :] = -torch.inf
        return table.view(n_rows, n_chunks, length), table[:, : self.n_gallery]


def rank_positives(chunks: Tensor, positives: Tensor) -> PositiveRanks:
    """Ranks of `positives` [B, n] (padded with -inf) among `chunks` [B, n_chunks, length], which end up sorted.

    The chunks hold every gallery item including the positives; items to leave out are -inf there.
    """
    n_rows, n_chunks, length = chunks.shape
    ascending = positives.sort(dim=1).values
    queries = ascending[:, None].expand(n_rows, n_chunks, -1).contiguous()
    lower = torch.searchsorted(_sort_last_axis(chunks), queries, out_int32=True).sum(1, dtype=torch.int32).flip(1)
    positives_seen = positives.shape[1] - torch.searchsorted(ascending, ascending).flip(1)
    items_seen = n_chunks * length - lower
    position = torch.arange(1, positives.shape[1] + 1, device=positives.device).expand_as(items_seen)
    rank = position + items_seen - positives_seen
    return PositiveRanks(ascending.flip(1) > -torch.inf, position, rank, positives_seen, items_seen)


def _sort_last_axis(values: Tensor) -> Tensor:
    """Sorts along the last axis: on the CPU in place with NumPy, which is vectorised and lets threads run together."""
    if values.device.type != "cpu":
        return values.sort(dim=-1).values
    parts = np.array_split(values.numpy(), min(torch.get_num_threads(), len(values)))
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(lambda part: part.sort(axis=-1), parts))
    return values
