"""Concept dictionaries: the names that take the place of class names where those are unknown."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from hf_clipalign._checks.quoting import short
from hf_clipalign._checks.sequences import as_list
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_content
from hf_clipalign.data.texts.delimited import csv_rows
from hf_clipalign.data.texts.templates import clean_class_name

CONCEPTS = Path(__file__).resolve().parents[2] / "assets" / "concepts"

_SHIPPED = "wordnet_physical"
_COLUMNS = ("name", "concept", "concepts", "tag", "word", "class_name", "class", "label")
_SHOWN = 3


def load_dictionary(path_or_name: str | os.PathLike[str] | None = None, column: str | None = None) -> list[str]:
    """Loads a list of concept names.

    The package ships one, "wordnet_physical": 20,000 names of physical things from Princeton WordNet 3.1, the most
    frequent first (licence and rule beside it in `hf_clipalign/assets/concepts/`).

    Args:
        path_or_name (`str` or `os.PathLike`, *optional*):
            A text file with one concept a line, a CSV or TSV with or without a header, either of them also gzipped, or
            the name of a shipped dictionary. By default the shipped one.
        column (`str`, *optional*):
            column of a CSV or TSV; by default "name", "concept" or the like, else the only or first column, which then
            has no header.

    Returns:
        `list[str]`: the names in the order of the file, through `clean_class_name`.

    Raises:
        `ClipAlignError`: if the file is missing or holds blank lines or duplicates (also such that differ in case
            only); the message gives the lines.

    Example:
        ```python
        >>> from hf_clipalign.data import load_dictionary
        >>> names = load_dictionary()
        >>> len(names), names[26:29]
        (20000, ['computer', 'fruit', 'house'])
        ```
    """
    file = CONCEPTS / f"{path_or_name or _SHIPPED}.txt"
    if not file.is_file():
        file = Path(str(path_or_name)).expanduser()
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else "no such file"
        raise ClipAlignError(
            f"dictionary {short(str(file))}: {problem}; give a file, or {short(_SHIPPED)}, which is shipped"
        )
    lines = _read_lines(file)
    rows = _read_table(file, lines, column) if _delimiter(file) else list(enumerate(lines, start=1))
    names = [clean_class_name(name) for _, name in rows]
    return check_names(names, f"dictionary {short(str(file))}", [line for line, _ in rows])


def check_names(names: Iterable[str], what: str = "class names", lines: Sequence[int] | None = None) -> list[str]:
    """Checks that names are there, not blank, and different from each other, also when case is ignored.

    Args:
        names (iterable of `str`): the names.
        what (`str`): what the names are called in errors.
        lines (`Sequence[int]`, *optional*): line of each name in its file; by default positions from 0 are named.

    Returns:
        `list[str]`: the names.

    Raises:
        `ClipAlignError`: none at all, a blank one, or duplicates.

    Example:
        ```python
        >>> from hf_clipalign.data import check_names
        >>> check_names(["cat", "dog"])
        ['cat', 'dog']
        ```
    """
    names = as_list(names, what)
    place = "position" if lines is None else "line"
    positions = range(len(names)) if lines is None else lines
    if not names:
        raise ClipAlignError(f"{what}: there are none; give at least one name")
    first: dict[str, int] = {}
    duplicates = []
    for position, name in zip(positions, names, strict=True):
        if not isinstance(name, str):
            raise ClipAlignError(f"{what}: {place} {position} is {short(name)}, not a text; write it as one")
        if not name.strip():
            raise ClipAlignError(f"{what}: {place} {position} is blank; fill or delete it")
        key = clean_class_name(name).casefold()
        if key in first:
            duplicates.append(f"{short(name)} ({place} {position}, before in {first[key]})")
        first.setdefault(key, position)
    if duplicates:
        more = f" and {len(duplicates) - _SHOWN} more" if len(duplicates) > _SHOWN else ""
        raise ClipAlignError(
            f"{what}: duplicates (case and underscores ignored): "
            f"{', '.join(duplicates[:_SHOWN])}{more}; keep one of each"
        )
    return names


def extend_dictionary(names: Iterable[str], more: Iterable[str]) -> list[str]:
    """Appends names that a dictionary does not have yet, case ignored, in their order (known class names, for one).

    Args:
        names (iterable of `str`): the dictionary.
        more (iterable of `str`): what it must also hold.

    Returns:
        `list[str]`: the dictionary and after it what was missing.

    Raises:
        `ClipAlignError`: as `check_names`, for either list.

    Example:
        ```python
        >>> from hf_clipalign.data import extend_dictionary
        >>> extend_dictionary(["dog", "cat"], ["Cat", "owl"])
        ['dog', 'cat', 'owl']
        ```
    """
    names, more = check_names(names, "dictionary"), check_names(more, "names to add")
    present = {clean_class_name(name).casefold() for name in names}
    return names + [name for name in more if clean_class_name(name).casefold() not in present]


def _read_lines(file: Path) -> list[str]:
    with explained_content(file):
        content = file.read_bytes()
        text = gzip.decompress(content) if file.suffix == ".gz" else content
        try:
            return text.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ClipAlignError(f"dictionary {short(str(file))} is no text in UTF-8: {error}.") from error


def _delimiter(file: Path) -> str | None:
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    return {".csv": ",", ".tsv": "\t"}.get(suffix.lower())


def _read_table(file: Path, lines: list[str], column: str | None) -> list[tuple[int, str]]:
    """Line number and name per row; the first row is a header if it holds the column, or one of the usual names."""
    rows = list(csv_rows(lines, f"dictionary {short(str(file))}", delimiter=str(_delimiter(file))))
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    if column is not None and column.lower() not in header:
        raise ClipAlignError(
            f"dictionary {short(str(file))}: no column {short(column)}; the columns are {', '.join(header)}"
        )
    chosen = next((name for name in (column, *_COLUMNS) if name and name.lower() in header), None)
    if chosen is None:
        return [(line, row[0] if row else "") for line, row in rows]
    index = header.index(chosen.lower())
    for line, row in rows[1:]:
        if any(cell.strip() for cell in row[len(header) :]):
            raise ClipAlignError(
                f"dictionary {short(str(file))}: line {line} has {len(row)} cells under {len(header)} headings; put a "
                "name with a separator in it into quotation marks"
            )
    return [(line, row[index] if index < len(row) else "") for line, row in rows[1:]]
