"""Which data sets lie in a folder, and what of them is missing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from hf_clipalign._checks.quoting import quoted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.benchmarks.opening import Located, locate, open_located
from hf_clipalign.benchmarks.registry import BENCHMARKS


@dataclass(frozen=True)
class Checked:
    """What was found of one data set.

    Attributes:
        located (`Located`): its folder and form, and which files are missing.
        counts (`Mapping[str, int]`): images or captions by part, if it could be read.
        problem (`str`): why it could not be read, in one line; "" if it could.

    Example:
        ```python
        >>> checked = check_benchmarks("benchmarks")[0]
        >>> checked.located.entry.name, checked.is_readable, checked.differences()
        ('OxfordPets', True, ['train: 2, published 2,944', 'val: 0, published 736', 'test: 2, published 3,669'])
        ```
    """

    located: Located
    counts: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""

    @property
    def is_readable(self) -> bool:
        """Whether every image that its annotations list is there."""
        return not self.problem

    def differences(self) -> list[str]:
        """Where the numbers of images are not the published ones."""
        published = self.located.layout.counts
        return [
            f"{part}: {self.counts.get(part, 0):,}, published {count:,}"
            for part, count in published.items()
            if self.counts.get(part, 0) != count
        ]


def check_benchmarks(path: str | os.PathLike[str]) -> list[Checked]:
    """Which data sets of the registry lie in a folder, and what is missing.

    The annotations are read, and every image that they list has to be there; images are not opened.

    Args:
        path (`str` or `os.PathLike`): the folder of all data sets, or that of one.

    Returns:
        `list[Checked]`: one for each data set of which something is there, in the order of the registry.

    Raises:
        `ClipAlignError`: no such folder.

    Example:
        ```python
        >>> [checked.counts for checked in check_benchmarks("benchmarks")]
        [{'train': 2, 'test': 2}]
        ```
    """
    return [_check(located) for name in BENCHMARKS if (located := locate(name, path)) is not None]


def _check(located: Located) -> Checked:
    if located.missing:
        return Checked(located, problem=f"lacks {quoted(located.missing)}")
    try:
        parts = open_located(located).parts
    except ClipAlignError as error:
        return Checked(located, problem=str(error))
    return Checked(located, {name: len(part) for name, part in parts.items()})
