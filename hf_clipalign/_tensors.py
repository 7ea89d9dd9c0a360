"""The check at the doors of the maths: tensors, or one clear line."""

from __future__ import annotations

from typing import Any

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
