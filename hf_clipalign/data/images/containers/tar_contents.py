"""What is in one tar file of a WebDataset, and what the files beside it say should be."""

from __future__ import annotations

import os
import posixpath
import tarfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_clipalign._checks.quoting import short, short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_content
from hf_clipalign._io.limited_json import natural, read_json
from hf_clipalign.data.images.containers.layouts import REASON, STATE, SUCCESS, failure
from hf_clipalign.data.images.file_kinds import is_skipped

Place = tuple[int, int]
"""Where a file of the tar begins, and its size, in bytes."""

_BLOCK = 512


@dataclass
class TarContent:
    """The samples of a tar, by their place in it.

    Args:
        path (`Path`): the file.
        samples (`dict[str, dict[str, Place]]`): place by ending, by name of the sample.
        size (`int`): of the file, in bytes.
        problem (`str`, *optional*): what is wrong with it.
        failed (`dict[str, str]`): samples that should be there and are not, and why.
        table (`dict[str, int]`): row in the table beside the tar, by name of the sample.
    """

    path: Path
    samples: dict[str, dict[str, Place]] = field(default_factory=dict)
    size: int = 0
    problem: str | None = None
    failed: dict[str, str] = field(default_factory=dict)
    table: dict[str, int] = field(default_factory=dict)

    def holds(self, place: Place) -> bool:
        """Whether a file of the tar is complete."""
        return sum(place) <= self.size

    def read(self, place: Place) -> bytes:
        """The bytes of a file of the tar."""
        with open(self.path, "rb") as stream:
            stream.seek(place[0])
            return stream.read(place[1])

    def cell(self, key: str, column: str) -> Any:
        """What the table beside the tar says about a sample, None if nothing."""
        row = self.table.get(key)
        if row is None:
            return None
        values = self._columns.get(column)
        if values is None:
            table = self.path.with_suffix(".parquet")
            with explained_content(table):
                values = self._columns[column] = _column(table, column)
        return values[row] if values else None

    @cached_property
    def _columns(self) -> dict[str, list[Any]]:
        return {}


def read_tar(path: Path) -> TarContent:
    """The headers of a tar, and the table and counts that img2dataset wrote beside it.

    Raises:
        `ClipAlignError`: the disk refuses to read it, or a name occurs twice in it.
    """
    content = TarContent(path)
    try:
        content.size = os.stat(path).st_size
        content.problem = _read_headers(content)
    except OSError as error:
        raise ClipAlignError(f"{path}: cannot be read ({error.strerror}); check its access rights") from error
    _compare_with_table(content)
    _compare_with_counts(content)
    return content


def _read_headers(content: TarContent) -> str | None:
    """Fills in the samples; what is wrong with the tar, None if nothing."""
    try:
        with tarfile.open(content.path, "r:") as tar:
            try:
                for member in tar:
                    _add(content, member)
            except tarfile.TarError:
                pass  # the end is looked at below
            end = tar.offset
    except tarfile.TarError as error:
        return f"it is no tar file ({short_reason(error)})"
    if not any(content.samples.values()):
        return "it is empty"
    if end >= content.size:
        return f"it is cut off after {content.size:,} bytes"
    with open(content.path, "rb") as stream:
        stream.seek(end)
        block = stream.read(_BLOCK)
    if len(block) < _BLOCK:
        return f"it is cut off after {content.size:,} bytes"
    return f"its header at byte {end:,} is damaged" if any(block) else None


def _add(content: TarContent, member: tarfile.TarInfo) -> None:
    folder, name = posixpath.split(member.name.removeprefix("./"))
    stem, _, ending = name.partition(".")
    if not member.isreg() or is_skipped(name) or not ending:
        return
    sample = content.samples.setdefault(posixpath.join(folder, stem), {})
    if ending in sample:
        raise ClipAlignError(f"{content.path}: holds {short(member.name)} twice; write the tar again")
    sample[ending] = member.offset_data, member.size


def _compare_with_table(content: TarContent) -> None:
    """Reads which samples the table lists, and why some have failed."""
    table = content.path.with_suffix(".parquet")
    if not table.is_file():
        return
    try:
        keys, status = _column(table, "key"), _column(table, STATE)
        reasons = _column(table, REASON) or [None] * len(keys)
    except Exception as error:  # pyarrow has many
        content.problem = content.problem or f"its table {table.name} cannot be read ({short_reason(error)})"
        return
    width = len(next(iter(content.samples), ""))
    names = [key if isinstance(key, str) else str(key).zfill(width) for key in keys]
    content.table = {name: row for row, name in enumerate(names)}
    for name, state, reason in zip(names, status or [SUCCESS] * len(names), reasons, strict=True):
        if state != SUCCESS:
            content.failed[name] = failure(state, reason)
        elif name not in content.samples:
            content.failed[name] = "lost: " + (content.problem or "the tar lacks it, though its table lists it")


def _compare_with_counts(content: TarContent) -> None:
    """Without a table, the number of images that img2dataset counted shows what is lost."""
    counts = content.path.with_name(f"{content.path.stem}_stats.json")
    if content.table or not counts.is_file():
        return
    expected, found = read_json(counts).get("successes"), len(content.samples)
    if natural(expected) and found < expected:
        content.problem = (content.problem or "samples are missing") + f", with {found:,} of {expected:,} samples"


def _column(table: Path, column: str) -> list[Any]:
    """A column of a Parquet file, empty if it has none of that name."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(table)
    return file.read(columns=[column])[column].to_pylist() if column in file.schema_arrow.names else []
