"""The harmonic mean, by which base and novel accuracies are summed up."""

from __future__ import annotations

from math import isfinite

from hf_clipalign._errors import ClipAlignError


def harmonic_mean(*values: float) -> float:
    """Harmonic mean `n / (1/v_1 + ... + 1/v_n)`: close to the smallest value, 0 where one is 0.

    Args:
        *values (`float`): one number or more, all fractions or all percent; of at least 0.

    Returns:
        In the unit of the values.

    Raises:
        `ClipAlignError`: No value, or one that is no number, negative, NaN or infinite.

    Example:
        ```python
        >>> harmonic_mean(80, 60)
        68.57142857142857
        ```
    """
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ClipAlignError("a harmonic mean is of numbers: give harmonic_mean(80, 60), or (*values)") from error
    if not numbers:
        raise ClipAlignError("the harmonic mean of nothing is not defined: give at least one value")
    for place, number in enumerate(numbers):
        if not (isfinite(number) and number >= 0):
            raise ClipAlignError(f"value {place} is {number}: a harmonic mean needs finite values of at least 0")
    if 0 in numbers:
        return 0.0
    return len(numbers) / sum(1 / number for number in numbers)
