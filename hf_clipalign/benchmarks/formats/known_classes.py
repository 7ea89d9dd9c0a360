"""The Semantic Shift Benchmark's lists of known classes, `*_osr_splits.pkl`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.benchmarks.formats.plain_values import read_plain_values


def read_known_classes(path: Path, class_names: Sequence[str]) -> list[str]:
    """Names of the known classes, whose numbers a list of the Semantic Shift Benchmark (arXiv 2110.06207) holds.

    Args:
        path (`Path`): a file with a dictionary, whose `known_classes` are numbers from 0.
        class_names (`Sequence[str]`): names of all classes, in the published order.

    Raises:
        `ClipAlignError`: it is no such file, or a number has no name.

    Example:
        ```python
        >>> from pathlib import Path
        >>> _ = Path("cub_osr_splits.pkl").write_text("(dVknown_classes\\n(lI1\\nas.")
        >>> read_known_classes(Path("cub_osr_splits.pkl"), ["Laysan Albatross", "Crested Auklet"])
        ['Crested Auklet']
        ```
    """
    content = read_plain_values(path)
    numbers = content.get("known_classes") if isinstance(content, dict) else None
    if type(numbers) is not list or not numbers:
        raise ClipAlignError(f"{path}: holds no list known_classes: take the file of the Semantic Shift Benchmark")
    for number in numbers:
        if type(number) is not int or not 0 <= number < len(class_names):
            raise ClipAlignError(f"{path}: {short(number)} is no class from 0 to {len(class_names) - 1}")
    if len(set(numbers)) < len(numbers):
        raise ClipAlignError(f"{path}: a class is listed twice: replace the file")
    return [class_names[number] for number in numbers]
