"""Batches that are spread over processes, put together for losses that compare all pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def gather_rows(rows: Tensor, accelerator: Any) -> Tensor:
    """The rows of all processes, `[W · n, …]`, with the gradient that the whole batch gives to this process's rows.

    Every process computes the same loss of the whole batch, so the gradient of its own rows is known without
    communication. `DistributedDataParallel` then takes the mean over the W processes where the sum is due: the
    gradient is multiplied by W.

    Args:
        rows (`Tensor [n, …]`): the same number in every process.
        accelerator (`accelerate.Accelerator`): the processes.
    """
    n_processes = accelerator.num_processes
    if n_processes == 1:
        return rows
    fixed = rows.detach()
    everywhere = accelerator.gather(fixed.contiguous())
    if not rows.requires_grad:
        return everywhere
    start = accelerator.process_index * len(rows)
    own = fixed + n_processes * (rows - fixed)
    return torch.cat([everywhere[:start], own, everywhere[start + len(rows) :]])


def gather_views(views: Tensor, accelerator: Any) -> Tensor:
    """`gather_rows` for two views, `[2n, …]`: first views of all processes, then second views of all processes."""
    pairs = views.unflatten(0, (2, -1)).transpose(0, 1)
    return gather_rows(pairs, accelerator).transpose(0, 1).flatten(0, 1)
