"""Rows of all processes in every process, with gradients, and losses that the processes share."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Gathered(NamedTuple):
    """The rows of all processes, and which of them are this process's own."""

    rows: Tensor
    own: slice


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, `[ΣN_r, …]` from `[N_r, …]`, in the order of the processes; N_r may differ.

    The gradients that the processes find for a row are added up. Distributed training takes the MEAN of the
    parameters' gradients: a loss that every process computes alike on the same rows therefore needs no factor, and one
    that they share is made ready by `whole_loss`. With one process the rows are returned as they are.

    Args:
        rows (`Tensor [N_r, …]`): of this process.

    Returns:
        `Tensor [ΣN_r, …]`: of all processes.

    Example:
        ```python
        >>> from hf_clipalign.trainers import gather_rows
        >>> gather_rows(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
        ```
    """
    return gather_with_own(rows).rows


def gather_with_own(rows: Tensor) -> Gathered:
    """`gather_rows`, and where the rows of this process are."""
    if not _several():
        return Gathered(rows, slice(0, len(rows)))
    counts = torch.empty(dist.get_world_size(), dtype=torch.long, device=rows.device)
    dist.all_gather(list(counts.split(1)), torch.tensor([len(rows)], device=rows.device))
    lengths, rank = counts.tolist(), dist.get_rank()
    own = slice(sum(lengths[:rank]), sum(lengths[: rank + 1]))
    return Gathered(_GatherRows.apply(rows, lengths, own), own)


def gather_views(views: Tensor) -> Tensor:
    """`gather_rows` for two views, `[2N_r, …]`: first views of all processes, then second views of all processes."""
    pairs = views.unflatten(0, (2, -1)).transpose(0, 1)
    return gather_rows(pairs).transpose(0, 1).flatten(0, 1)


def whole_loss(share: Tensor) -> Tensor:
    """The loss whose shares the processes have computed, each from its own rows of what was gathered.

    The value is the sum of the shares, the same in every process. The gradient is that of the own share times the
    number of processes, since distributed training takes the mean of the gradients.
    """
    if not _several():
        return share
    total, scaled = share.detach().clone(), share * dist.get_world_size()
    dist.all_reduce(total)
    return scaled + (total - scaled.detach())


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, lengths: list[int], own: slice) -> Tensor:
        ctx.own = own
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[ctx.own], None, None
