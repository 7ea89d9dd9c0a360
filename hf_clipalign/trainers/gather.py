"""Rows of all processes in every process, with gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, `[ΣN_r, …]` from `[N_r, …]`, in the order of the processes; N_r may differ.

    Made for a loss that every process computes alike on the same gathered rows. A process's own slice of that loss's
    gradient is then all that there is, and nothing has to be sent back. It is multiplied by the number of processes,
    since distributed training takes the MEAN of the parameters' gradients where the sum over the slices is due.
    With one process the rows are returned as they are.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    return _GatherRows.apply(rows)


def gather_views(views: Tensor) -> Tensor:
    """`gather_rows` for two views, `[2N_r, …]`: first views of all processes, then second views of all processes."""
    pairs = views.unflatten(0, (2, -1)).transpose(0, 1)
    return gather_rows(pairs).transpose(0, 1).flatten(0, 1)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = torch.empty(dist.get_world_size(), dtype=torch.long, device=rows.device)
        dist.all_gather(list(counts.split(1)), torch.tensor([len(rows)], device=rows.device))
        lengths = counts.tolist()
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        rank = dist.get_rank()
        ctx.own = slice(sum(lengths[:rank]), sum(lengths[: rank + 1]))
        ctx.n_processes = len(lengths)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient[ctx.own] * ctx.n_processes
