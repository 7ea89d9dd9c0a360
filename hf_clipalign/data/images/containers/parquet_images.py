"""Images inside Parquet files, of which a part at a time is in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign._checks.quoting import printable, short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_content
from hf_clipalign.data.images.containers.layouts import REASON, STATE, SUCCESS, failure, is_folder_of, numbered_files
from hf_clipalign.data.labels.columns import require_column


class ParquetImages(Sequence):
    """The cells of an image column: encoded bytes, or `{"bytes", "path"}`; one row group is held at a time.

    In the order of the rows each row group is read once. A cell without an image raises when it is asked for, with
    what img2dataset says about it where the table is one of its.

    Args:
        files (`Sequence[Path]`): Parquet files, one after the other.
        column (`str`): their column.
    """

    def __init__(self, files: Sequence[Path], column: str) -> None:
        self.files, self.column = [str(file) for file in files], column
        self.groups: list[tuple[int, int]] = []
        sizes = []
        for number, file in enumerate(files):
            require_column(column, opened(file).schema_arrow.names, str(file))
            if not holds_images(file, column):
                raise ClipAlignError(
                    f"{printable(str(file))}: its column {short(column)} holds no images; name another one"
                )
            metadata = opened(file).metadata
            for group in range(metadata.num_row_groups):
                self.groups.append((number, group))
                sizes.append(metadata.row_group(group).num_rows)
        self.ends = np.cumsum(sizes, dtype=np.int64)
        self._held: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}

    def __getitem__(self, row: Any) -> Any:
        group = int(np.searchsorted(self.ends, row, side="right"))
        first = int(self.ends[group - 1]) if group else 0
        table, place = self._group(group), int(row) - first
        cell = table[self.column][place].as_py()
        if isinstance(cell, dict):
            if cell.get("bytes") is not None:
                return cell["bytes"]
            return self._path(group, cell["path"]) if cell.get("path") else self._missing(group, table, place, row)
        return self._missing(group, table, place, row) if cell is None else cell

    def _group(self, group: int) -> Any:
        if self._held is None or self._held[0] != group:
            number, part = self.groups[group]
            file = opened(Path(self.files[number]))
            present = [name for name in (self.column, STATE, REASON) if name in file.schema_arrow.names]
            with explained_content(self.files[number]):
                self._held = group, file.read_row_group(part, columns=present)
        return self._held[1]

    def _path(self, group: int, path: str) -> str:
        folder = os.path.dirname(os.path.abspath(self.files[self.groups[group][0]]))
        full = os.path.normpath(os.path.join(folder, path))
        if os.path.isabs(path) or os.path.commonpath([folder, full]) != folder:
            raise ClipAlignError(
                f"{printable(path)!r} leads out of {printable(folder)}: put the images beside the table"
            )
        return full

    def _missing(self, group: int, table: Any, place: int, row: Any) -> Any:
        state, reason = (
            table[name][place].as_py() if name in table.column_names else None for name in (STATE, REASON)
        )
        is_well = state in (None, SUCCESS)
        why = "has no image; fill the cell or drop the row" if is_well else failure(state, reason)
        raise ClipAlignError(f"{printable(self.files[self.groups[group][0]])}: row {row} (from 0) {why}")


def opened(file: Path) -> Any:
    """A Parquet file whose metadata are read; a damaged one is an error that names it."""
    import pyarrow.parquet as pq

    with explained_content(file):
        return pq.ParquetFile(file)


def holds_images(file: Path, column: str) -> bool:
    """Whether a column holds encoded images, not paths: bytes, or the `{"bytes", "path"}` of the datasets library."""
    import pyarrow as pa

    kind = opened(file).schema_arrow.field(column).type
    is_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    return is_struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a folder in the order of their numbers."""
    return numbered_files(path, ".parquet")


def is_parquet_folder(path: Path) -> bool:
    """Whether a folder holds Parquet files, and neither images, tars nor other folders that could be meant instead."""
    return is_folder_of(path, ".parquet", ".tar")
