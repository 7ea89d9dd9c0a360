"""Which files may be found: by path, folder, size and date."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import short
from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._errors import ClipAlignError

_UNITS = {"": 1, "b": 1} | {
    f"{letter}{binary}b": (1024 if binary else 1000) ** power
    for power, letter in enumerate("kmgt", start=1)
    for binary in ("", "i")
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_WILDCARDS = re.compile(r"[*?\[]")
_OTHER_NAMES = {"class": "class_name"}
_DATE_HINT = "write 2024, 2024-05, 2024-05-31 or 2024-05-31T18:30"


class FileTable(Protocol):
    """The live files of a collection, column by column."""

    @property
    def names(self) -> list[str]: ...

    @property
    def sizes(self) -> NDArray[np.int64]: ...

    @property
    def modified(self) -> NDArray[np.float64]: ...

    def path(self, i: int) -> str:
        """Where file i lies on the disk."""
        ...


@dataclass(frozen=True)
class Filter:
    """Conditions that a file must meet, all of them.

    Args:
        path (`str` or list of `str`, *optional*): the beginning of its name below the indexed folder, or a pattern
            with `*`, `?` or `[…]`, where `*` stands for slashes too; of several one is enough. An absolute path counts
            from the root of the disk.
        class_name (`str` or list of `str`, *optional*): its first folder; of several one is enough.
        min_size, max_size (`int` or `str`, *optional*): bytes, or `"200kB"`, `"1.5MB"`, `"2MiB"`.
        since, until (`str`, `date`, `datetime` or `float`, *optional*): when it was last modified: ISO dates in local
            time, or seconds since the epoch. `until` includes the year, month or day that it names.

    Raises:
        `ClipAlignError`: a size or a date that cannot be read.

    Example:
        ```python
        >>> from hf_clipalign.search import Filter
        >>> Filter(path="holidays/*.jpg", since="2024-05", min_size="200kB").min_size
        200000
        ```
    """

    path: Any = ()
    class_name: Any = ()
    min_size: Any = None
    max_size: Any = None
    since: Any = None
    until: Any = None

    def __post_init__(self) -> None:
        for name in ("path", "class_name"):
            object.__setattr__(self, name, _names(getattr(self, name), name))
        for name in ("min_size", "max_size"):
            object.__setattr__(self, name, _bytes(getattr(self, name), name))
        for name in ("since", "until"):
            object.__setattr__(self, name, _seconds(getattr(self, name), name))

    @classmethod
    def of(cls, where: Any) -> Filter:
        """A filter from a filter, a mapping of its arguments, or None; `class` may stand for `class_name`.

        Raises:
            `ClipAlignError`: an unknown name in the mapping.
        """
        if where is None:
            return cls()
        if isinstance(where, cls):
            return where
        if not isinstance(where, Mapping):
            raise ClipAlignError(f'where is {short(where)}: give a dictionary, such as {{"path": "holidays/*"}}.')
        known = [field.name for field in fields(cls)]
        named: dict[str, Any] = {str(_OTHER_NAMES.get(name, name)): values for name, values in where.items()}
        for name in named:
            if name not in known:
                raise unknown_name("condition", str(name), known)
        if len(named) < len(where):
            raise ClipAlignError("where holds class and class_name, which are one condition: give one of them.")
        return cls(**named)

    @property
    def is_empty(self) -> bool:
        """Whether every file meets it."""
        return self == Filter()

    def mask(self, files: FileTable) -> NDArray[np.bool_]:
        """Which files meet all conditions, `[F]`."""
        kept = np.ones(len(files.names), bool)
        if self.path:
            kept &= _matching(self.path, files)
        if self.class_name:
            wanted = set(self.class_name)
            kept &= np.fromiter((class_of(name) in wanted for name in files.names), bool, len(files.names))
        for bound, values, is_least in (
            (self.min_size, files.sizes, True),
            (self.max_size, files.sizes, False),
            (self.since, files.modified, True),
        ):
            if bound is not None:
                kept &= values >= bound if is_least else values <= bound
        return kept if self.until is None else kept & (files.modified < self.until)


def class_of(name: str) -> str:
    """The first folder of a file's name; empty if it lies in none."""
    return name.partition("/")[0] if "/" in name else ""


def parse_conditions(conditions: Iterable[str]) -> dict[str, Any]:
    """`["path=holidays/*", "since=2024"]` as the mapping that `Filter.of` takes; a repeated name collects a list.

    Raises:
        `ClipAlignError`: no condition, an unknown one, or a value that cannot be read, in the words of such a line.
    """
    names = {field.name: field.name.replace("_", "-") for field in fields(Filter)} | {"class_name": "class"}
    where: dict[str, Any] = {}
    for condition in conditions:
        written, equals, value = condition.partition("=")
        name = written.strip().replace("-", "_")
        name = _OTHER_NAMES.get(name, name)
        if not equals or not value.strip():
            raise ClipAlignError(f"{short(condition)} is no condition: write NAME=VALUE, such as path=holidays/*.")
        if name not in names:
            raise unknown_name("condition", written.strip(), names.values())
        where[name] = [*where[name], value.strip()] if name in where else [value.strip()]
    where = {name: values if name in ("path", "class_name") else values[-1] for name, values in where.items()}
    try:
        Filter(**where)
    except ClipAlignError as error:
        raise ClipAlignError(re.sub(r"^\w+", lambda name: names.get(name[0], name[0]), str(error))) from error
    return where


def _names(given: Any, name: str) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    names = () if given is None else names
    if not all(isinstance(one, str) and one for one in names):
        raise ClipAlignError(f"{name} is {short(given)}: give a text or a list of texts.")
    return names


def _matching(patterns: tuple[str, ...], files: FileTable) -> NDArray[np.bool_]:
    n = len(files.names)
    kept = np.zeros(n, bool)
    for pattern in patterns:
        pattern = pattern.removeprefix("./")
        names = map(files.path, range(n)) if pattern.startswith("/") else files.names
        test = re.compile(fnmatch.translate(pattern)).match if _WILDCARDS.search(pattern) else None
        kept |= np.fromiter(
            (name.startswith(pattern) if test is None else test(name) is not None for name in names), bool, n
        )
    return kept


def _bytes(given: Any, name: str) -> int | None:
    if given is None or (isinstance(given, int) and not isinstance(given, bool) and given >= 0):
        return given
    parts = _SIZE.fullmatch(given) if isinstance(given, str) else None
    if parts is None or parts[2].lower() not in _UNITS:
        raise ClipAlignError(f"{name} is {short(given)}: give bytes, or a size such as 200kB or 1.5MB.")
    return round(float(parts[1]) * _UNITS[parts[2].lower()])


def _seconds(given: Any, name: str) -> float | None:
    if given is None or (isinstance(given, (int, float)) and not isinstance(given, bool)):
        return given
    if isinstance(given, datetime):
        return given.timestamp()
    if isinstance(given, date):
        given = given.isoformat()
    try:
        start, end = _period(str(given).strip())
        return (end if name == "until" else start).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ClipAlignError(f"{name} is {short(given)}, which is no date: {_DATE_HINT}.") from error


def _period(text: str) -> tuple[datetime, datetime]:
    """The first moment of a year, month, day or minute, and the first one after it."""
    numbers = [int(part) for part in text.split("-")] if re.fullmatch(r"\d{4}(-\d\d?){0,2}", text) else []
    if len(numbers) == 1:
        return datetime(numbers[0], 1, 1), datetime(numbers[0] + 1, 1, 1)
    if len(numbers) == 2:
        year, month = numbers
        return datetime(year, month, 1), datetime(year + month // 12, month % 12 + 1, 1)
    if len(numbers) == 3:
        start = datetime(*numbers)  # type: ignore[arg-type]
        return start, start + timedelta(days=1)
    moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
    return moment, moment + timedelta(microseconds=1)
