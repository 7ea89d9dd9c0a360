"""Checks of tensors and their types at the doors: one clear line instead of an error from the depths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError


def check_tensors(**values: Any) -> None:
    """Refuses arrays and lists where the maths takes tensors.

    Args:
        **values: what was given, by the names of the arguments.

    Raises:
        `ClipAlignError`: the first that is no `Tensor`, by its name.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise ClipAlignError(f"{name} is of type {type(value).__name__}: give a tensor (torch.as_tensor).")


def parse_dtype(dtype: str | torch.dtype, *allowed: str) -> torch.dtype:
    """A type by its name (`"float16"`) or as torch has it (`torch.float16`).

    Args:
        dtype (`str` or `torch.dtype`): the type.
        *allowed (`str`): the names of those that can be used.

    Raises:
        `ClipAlignError`: another one.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in allowed:
        raise ClipAlignError(f"unknown dtype {name!r}: choose from {', '.join(allowed)}.")
    return getattr(torch, name)
