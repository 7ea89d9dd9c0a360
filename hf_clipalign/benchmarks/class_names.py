"""Names of classes as prompts need them, by the rules that the registry names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign.benchmarks.entries import Benchmark
from hf_clipalign.data import ImageSource, clean_class_names

_Part = TypeVar("_Part")


def _without_number(name: str) -> str:
    """`001.Black_footed_Albatross` as `Black_footed_Albatross`."""
    return re.sub(r"^[0-9]+\.", "", name)


def _year_first(name: str) -> str:
    """`Audi TTS Coupe 2012` as `2012 Audi TTS Coupe`."""
    return re.sub(r"^(.+) ([0-9]{4})$", r"\2 \1", name)


RULES: Mapping[str, Callable[[str], str]] = {
    "number before the name": _without_number,
    "year first": _year_first,
}
"""What can stand in an entry's `class_names`."""


def cleaned(part: _Part, entry: Benchmark) -> _Part:
    """A part with names of classes that fit into prompts; parts without names stay as they are.

    Args:
        part (`ImageSource`, `Captions` or `FindingLabels`): as a reader gives it.
        entry (`Benchmark`): whose rules apply, then those of `hf_clipalign.data.clean_class_names`.

    Raises:
        `ClipAlignError`: two names are the same after cleaning, or the registry names a rule that does not exist.
    """
    if not isinstance(part, ImageSource) or part.class_names is None:
        return part
    names = part.class_names
    for rule in entry.class_names:
        if rule not in RULES:
            raise unknown_name("rule for class names", rule, RULES, f" of {entry.name}")
        names = [RULES[rule](name) for name in names]
    part.class_names = clean_class_names(names, entry.name)
    return part
