"""Checks of single numbers among the settings: one clear line instead of an error from the depths."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from hf_clipalign._errors import ClipAlignError


def check_integer(name: str, value: Any, least: int = 1) -> int:
    """The value as an `int`.

    Raises:
        `ClipAlignError`: no integer, or one below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ClipAlignError(f"{name} is {value!r}: give an integer of {least} or more.")
    return int(value)


def check_number(
    name: str,
    value: Any,
    wanted: str,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> float:
    """The value as a `float`.

    Args:
        name (`str`), value: of the setting.
        wanted (`str`): what the error asks for, such as "a number above 0".
        above (`float`), below (`float`): bounds that the value may not reach.
        least (`float`), most (`float`): bounds that it may reach.

    Raises:
        `ClipAlignError`: no finite number, or one out of bounds.
    """
    finite = not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    if not finite or not (above < value < below and least <= value <= most):
        raise ClipAlignError(f"{name} is {value!r}: give {wanted}.")
    return float(value)
