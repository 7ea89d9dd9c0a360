"""Tables that list or hold images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hf_clipalign._checks.quoting import quoted, short, short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_content
from hf_clipalign.data.images.containers.parquet_images import ParquetImages, holds_images, parquet_files
from hf_clipalign.data.images.file_kinds import KNOWN_EXTENSIONS
from hf_clipalign.data.images.source import ImageSource, digest, file_state
from hf_clipalign.data.labels.columns import (
    first_column,
    is_missing,
    numbers_of_texts,
    read_labels,
    read_texts,
    require_column,
)
from hf_clipalign.data.texts.delimited import read_frame

if TYPE_CHECKING:
    import pandas as pd

_IMG2DATASET = {"key", "status"}

TABLE_EXTENSIONS = (".csv", ".tsv", ".parquet")
"""File name endings that `from_table` reads."""

_IMAGE_COLUMNS = (
    *("image", "image_path", "path", "file_path", "filepath", "file_name", "filename", "file", "img"),
    *("jpg", "jpeg", "png", "webp"),  # with the bytes: img2dataset, and tables that were made of WebDataset
)


def from_table(
    path_or_frame: str | os.PathLike[str] | pd.DataFrame,
    image_column: str | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
    root: str | os.PathLike[str] | None = None,
) -> ImageSource:
    """Opens a table that lists images: CSV, TSV, parquet or a pandas frame.

    Image paths are relative to `root`, else to the folder of the table (for a frame: the working folder). Parquet
    tables and frames may hold the images themselves, as bytes or `{"bytes", "path"}`; those of Parquet stay on the
    disk, and one row group is read at a time. With `text_column`, rows of the same path are captions of one image and
    become one entry.

    Args:
        path_or_frame (`str`, `os.PathLike` or `pandas.DataFrame`): the table, or a folder of Parquet tables, which are
            read one after the other, in the order of their numbers.
        image_column (`str`, *optional*): column with images; by default "image", "path", "file_name" or the like.
        label_column (`str`, *optional*): column of integers or strings. Strings are numbered in sorted order.
        text_column (`str`, *optional*): column of captions, a string or a list of strings per row.
        root (`str` or `os.PathLike`, *optional*): folder of the images. No path may then be absolute.

    Returns:
        `ImageSource`: ids are the paths as listed, or row numbers for images inside the table and for paths that
        are listed twice.

    Raises:
        `ClipAlignError`: if the table or a column is missing, the table is empty, a path leaves the folder by "..",
            a cell of the image or label column is empty, or rows of one image differ in their label.

    Example:
        ```python
        >>> from hf_clipalign.data import from_table
        >>> source = from_table("table.csv", label_column="kind")
        >>> source.labels, source.class_names
        (array([0, 0, 1]), ['pet', 'wild'])
        ```
    """
    table = _open_table(path_or_frame)
    name, base, columns, read, read_numbers, files = table
    image_column = image_column or first_column(columns, _IMAGE_COLUMNS)
    if image_column is None:
        raise ClipAlignError(f"{name}: which column holds the images? Pass image_column, one of {quoted(columns)}")
    for column in (image_column, label_column, text_column):
        if column is not None:
            require_column(column, columns, name)
    if files and holds_images(files[0], image_column):
        return _from_images_inside(table, image_column, label_column, text_column)
    cells = read(image_column)
    if not cells:
        raise ClipAlignError(f"{name}: the table has no rows")
    items = [_table_item(cell, row, name, base, root) for row, cell in enumerate(cells)]
    labels, class_names = None, None
    if label_column is not None:
        labels, class_names = read_labels(read_numbers(label_column), label_column, name)
    texts = None if text_column is None else read_texts(read(text_column), text_column, name)
    if texts is not None and all(isinstance(item, str) for item in items):
        rows, texts, labels = _merge_rows(items, texts, labels, name)
        items, cells = [items[row] for row in rows], [cells[row] for row in rows]
    paths = [os.fspath(c) if isinstance(c, (str, os.PathLike)) else str(row) for row, c in enumerate(cells)]
    ids = paths if len(set(paths)) == len(paths) else [str(row) for row in range(len(paths))]
    return ImageSource(items, ids=ids, labels=labels, class_names=class_names, texts=texts, name=name)


def _from_images_inside(
    table: _Table, image_column: str, label_column: str | None, text_column: str | None
) -> ImageSource:
    """Parquet tables that hold the images themselves, which stay where they are."""
    name, items = table.name, ParquetImages(table.files, image_column)
    if not len(items):
        raise ClipAlignError(f"{name}: the table has no rows")
    labels, class_names, ids = None, None, [str(row) for row in range(len(items))]
    if label_column is not None:
        labels, class_names = read_labels(table.read_numbers(label_column), label_column, name)
    texts = None if text_column is None else read_texts(table.read(text_column), text_column, name)
    if set(table.columns) >= _IMG2DATASET:
        keys = [str(key) for key in table.read("key")]
        ids = keys if len(set(keys)) == len(keys) else ids
    states = [f"{file.name} {file_state(str(file))}" for file in table.files]
    chosen = [image_column, str(label_column), str(text_column)]
    return ImageSource(
        items,
        ids=ids,
        labels=labels,
        class_names=class_names,
        texts=texts,
        name=name,
        fingerprint=partial(digest, chosen, states),
    )


class _Table(NamedTuple):
    """Name for errors, folder of relative paths, columns, and what reads one column, and labels, as a list.

    Of Parquet also the files.
    """

    name: str
    base: Path | None
    columns: list[str]
    read: Callable[[str], list[Any]]
    read_numbers: Callable[[str], list[Any]]
    files: Sequence[Path] = ()


def _open_table(source: Any) -> _Table:
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        if twice := [column for column, count in Counter(source.columns).items() if count > 1]:
            raise ClipAlignError(f"table: several columns are called {quoted(twice)}; rename them")
        cells = partial(_frame_column, source)
        return _Table("table", None, list(source.columns), cells, cells)
    path = Path(source).expanduser()
    if path.is_dir() and (files := parquet_files(path)):
        return _open_parquet(str(path), files)
    if not path.is_file():
        raise ClipAlignError(f"{path}: no such table; pass a {', '.join(TABLE_EXTENSIONS)} file")
    suffix = path.suffix.lower()
    if suffix not in TABLE_EXTENSIONS:
        hint = "; for images pass their folder" if suffix in KNOWN_EXTENSIONS else ""
        raise ClipAlignError(f"{path}: not a table; known endings are {', '.join(TABLE_EXTENSIONS)}{hint}")
    if suffix == ".parquet":
        return _open_parquet(str(path), [path])
    with _readable(path):
        columns, read = _read_csv(path, suffix)
    return _Table(str(path), path.parent, columns, read, lambda c: numbers_of_texts(read(c)))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except ClipAlignError:
        raise
    except Exception as error:
        raise ClipAlignError(f"{path}: the table cannot be read ({short_reason(error)})") from error


def _open_parquet(name: str, files: Sequence[Path]) -> _Table:
    """One table, or several with the columns of the first one."""
    import pyarrow.parquet as pq

    names = []
    for file in files:
        with _readable(file):
            names.append(pq.read_schema(file).names)

    def read(column: str) -> list[Any]:
        cells: list[Any] = []
        for file, present in zip(files, names, strict=True):
            require_column(column, present, str(file))
            with explained_content(file):
                cells += pq.read_table(file, columns=[column])[column].to_pylist()
        return cells

    return _Table(name, files[0].parent, names[0], read, read, files)


def _read_csv(path: Path, suffix: str) -> tuple[list[str], Callable[[str], list[Any]]]:
    """Text stays text, and only empty cells are missing: "007", "True", "None" can be names of classes and files."""
    separator = "\t" if suffix == ".tsv" else ","
    frame = read_frame(path, sep=separator, keep_default_na=False, na_values=[""], dtype=str)
    return list(frame.columns), partial(_frame_column, frame)


def _frame_column(frame: pd.DataFrame, column: str) -> list[Any]:
    return frame[column].tolist()


def _table_item(
    cell: Any, row: int, name: str, base: Path | None, root: str | os.PathLike[str] | None
) -> str | bytes | dict[str, Any]:
    """Turns a cell into what `read_image` takes, with paths made absolute and held inside their folder."""
    if isinstance(cell, dict) and cell.get("bytes") is None:
        cell = cell.get("path")
    if isinstance(cell, (bytes, dict)):
        return cell
    if is_missing(cell):
        raise ClipAlignError(f"{name}: row {row} (from 0) has no image; fill the cell or drop the row")
    if not isinstance(cell, (str, os.PathLike)):
        raise ClipAlignError(f"{name}: row {row} (from 0) holds a {type(cell).__name__}, not a path or an image")
    path = os.fspath(cell)
    folder = os.path.abspath(Path(root).expanduser() if root is not None else base or ".")
    if os.path.isabs(path):
        if root is None:
            return path
        raise ClipAlignError(
            f"{name}: row {row} (from 0) has the absolute path {short(path)}; with root, paths are relative"
        )
    full = os.path.normpath(os.path.join(folder, path))
    if (base is not None or root is not None) and os.path.commonpath([folder, full]) != folder:
        raise ClipAlignError(f"{name}: row {row} (from 0): {short(path)} leads out of {folder}; pass the right root")
    return full


def _merge_rows(
    items: list[Any], texts: list[list[str]], labels: np.ndarray | None, name: str
) -> tuple[list[int], list[list[str]], np.ndarray | None]:
    """One entry per path, with the captions of all its rows."""
    first: dict[str, int] = {}
    merged: dict[str, list[str]] = {}
    for row, (item, group) in enumerate(zip(items, texts, strict=True)):
        start = first.setdefault(item, row)
        merged.setdefault(item, []).extend(group)
        if labels is not None and labels[row] != labels[start]:
            raise ClipAlignError(f"{name}: rows {start} and {row} (from 0) are the same image with different labels")
    rows = list(first.values())
    return rows, list(merged.values()), None if labels is None else labels[rows]
