"""The data sets of the papers, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.benchmarks.entries import Benchmark, read_family

_FAMILIES = Path(__file__).parent / "families"


def _read_all() -> dict[str, Benchmark]:
    found: dict[str, Benchmark] = {}
    for path in sorted(_FAMILIES.glob("*.json")):
        for entry in read_family(path):
            if entry.name in found:
                raise ClipAlignError(f"{path}: {entry.name} is in another file of the registry too")
            found[entry.name] = entry
    return found


BENCHMARKS: Mapping[str, Benchmark] = _read_all()
"""Every data set of the papers by its name; the facts are in `hf_clipalign/benchmarks/families/*.json`."""


def benchmark(name: str) -> Benchmark:
    """Looks up a data set by its name, another common name, or its usual folder, in any spelling.

    Args:
        name (`str`): such as "CUB", "oxford pets" or "roxford5k".

    Raises:
        `ClipAlignError`: if the name is unknown; the nearest one is suggested.

    Example:
        ```python
        >>> benchmark("oxford pets").name, benchmark("CUB_200_2011").name
        ('OxfordPets', 'CUB')
        ```
    """
    wanted = _key(name)
    for matches in (lambda entry: [entry.name], lambda entry: entry.spellings):
        for entry in BENCHMARKS.values():
            if wanted in map(_key, matches(entry)):
                return entry
    raise unknown_name("benchmark", name, BENCHMARKS)


def _key(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
