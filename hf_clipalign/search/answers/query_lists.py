"""Many queries at once: read from a list or a folder of images, and their answers in one result."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_clipalign._checks.quoting import counted, printable, short
from hf_clipalign._checks.texts import TextTooLong
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_content, explained_read
from hf_clipalign.data.texts.delimited import csv_rows
from hf_clipalign.search.answers.collection import Collection, Files
from hf_clipalign.search.answers.hits import CSV_COLUMNS, Answer, as_csv, csv_cells
from hf_clipalign.search.answers.pages import TileGroup, answer_group
from hf_clipalign.search.answers.vectors import ask
from hf_clipalign.search.engine import search
from hf_clipalign.search.query import Part, Query

STANDARD_INPUT = "-"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_COLUMNS = ("query", "image", "not")
_MOST_TABLES = 50


@dataclass(frozen=True)
class ListedQuery:
    """A query of a list.

    Attributes:
        text (`str`): as it is written there.
        query (`Query`): what it means.
        line (`int`, *optional*): where it stands; None for an image of a folder.
    """

    text: str
    query: Query
    line: int | None = None


def read_queries(path: str, files: Files | None = None) -> list[ListedQuery]:
    """The queries of a list.

    Args:
        path (`str`): a text file with one query a line, each as `Query.parse` reads it; a CSV or TSV with a column
            `query` (the same), `image` (a file) or `not` (what hits should be unlike), which a row may combine;
            a folder, each of whose images is a query; or `-`, which reads lines from the standard input. Blank lines
            are left out.
        files (`Files`, *optional*): of the collection, see `Query.parse`.

    Returns:
        `list[ListedQuery]`: in order.

    Raises:
        `ClipAlignError`: it cannot be read or holds no queries, or one of them cannot be understood, with its line.
    """
    if os.path.isdir(path):
        found = list(_of_folder(path))
    else:
        content = _content(path)
        delimiter = _DELIMITERS.get(os.path.splitext(path)[1].lower())
        found = list(_of_lines(content, files) if delimiter is None else _of_table(content, path, delimiter, files))
    if not found:
        what = "images" if os.path.isdir(path) else "queries"
        raise ClipAlignError(f"{printable(path)!r} holds no {what}: give one query a line, or a folder of images.")
    return found


def _content(path: str) -> str:
    if path == STANDARD_INPUT:
        with explained_content("the standard input"):
            return sys.stdin.read()
    if not os.path.exists(path):
        raise ClipAlignError(f"no file {short(path)} with queries: give a text file, a CSV, or a folder of images.")
    with explained_read(path), explained_content(path), open(path, encoding="utf-8-sig", newline="") as file:
        return file.read()


def _of_folder(path: str) -> Iterator[ListedQuery]:
    from hf_clipalign.search.collection.scanning import scan

    scanned = scan(path)
    if scanned.is_missing:
        raise ClipAlignError(scanned.reasons[0])
    for found in scanned.files:
        file = os.path.join(path, os.fsdecode(found.name))
        yield ListedQuery(file, Query.of(image=file))


def _of_lines(content: str, files: Files | None) -> Iterator[ListedQuery]:
    for number, line in enumerate(io.StringIO(content, newline=None), start=1):
        if line.strip():
            with _in_line(number):
                yield ListedQuery(line.strip(), Query.parse(line, files), number)


def _of_table(content: str, path: str, delimiter: str, files: Files | None) -> Iterator[ListedQuery]:
    rows = csv_rows(io.StringIO(content, newline=""), printable(path), delimiter=delimiter)
    columns = [name.strip().lower() for name in next(rows, (0, []))[1]]
    known = [name for name in _COLUMNS if name in columns]
    if not {"query", "image"} & set(known):
        raise ClipAlignError(f"{printable(path)!r} has no column 'query' or 'image': name one so in its first line.")
    for number, row in rows:
        cells = dict(zip(columns, map(str.strip, row), strict=False))
        given = {name: cells[name] for name in known if cells.get(name)}
        if not any(row):
            continue
        with _in_line(number):
            query = Query(
                (
                    *(Query.parse(given["query"], files).parts if "query" in given else ()),
                    *((Part("image", Path(given["image"])),) if "image" in given else ()),
                    *(Query.of(unlike=given["not"]).parts if "not" in given else ()),
                )
            )
        yield ListedQuery(next(iter(given.values())) if len(given) == 1 else str(query), query, number)


@contextmanager
def _in_line(number: int) -> Iterator[None]:
    """Names the line in what is said about a query."""
    try:
        yield
    except ClipAlignError as error:
        raise ClipAlignError(f"line {number}: {error}") from error


def answer_list(
    collection: Collection, listed: Sequence[ListedQuery], unlike: Sequence[Part] = (), **wishes: Any
) -> list[Answer]:
    """Answers all queries of a list; one whose image cannot be read has a note instead of hits.

    Args:
        collection (`Collection`): where to look.
        listed (`Sequence[ListedQuery]`): what for.
        unlike (`Sequence[Part]`, *optional*): what hits of all queries should be unlike.
        **wishes: of `search`.

    Returns:
        `list[Answer]`: one for each.

    Raises:
        `ClipAlignError`: a text is longer than the model reads, with its line; an image of `unlike` cannot be read.
    """
    if images := tuple(part for part in unlike if part.kind == "image"):
        ask(collection, [Query(images)])
    queries = [Query((*one.query.parts, *unlike)) for one in listed]
    try:
        return search(collection, queries, strict=False, **wishes)
    except TextTooLong as error:
        for one in listed:
            if one.line is not None and any(part.value == error.text for part in one.query.parts):
                raise ClipAlignError(f"line {one.line}: {error}") from error
        raise


def answers_as_json(listed: Sequence[ListedQuery], answers: Sequence[Answer]) -> str:
    """A list of `{query, head, hits}` in the order of the queries, and a `note` where there is something to say."""
    return json.dumps(
        [
            {"query": one.text, "head": answer.head, "hits": [hit.to_dict() for hit in answer]}
            | ({"note": answer.note} if answer.note else {})
            for one, answer in zip(listed, answers, strict=True)
        ],
        indent=1,
    )


def answers_as_csv(listed: Sequence[ListedQuery], answers: Sequence[Answer]) -> str:
    """One line a hit, with number (from 1) and text of its query; a query without hits has one line with a note."""
    rows: list[Sequence[object]] = []
    for number, (one, answer) in enumerate(zip(listed, answers, strict=True), start=1):
        found = [(rank, *csv_cells(hit), answer.note) for rank, hit in enumerate(answer, start=1)]
        rows += [(number, one.text, *cells) for cells in found or [("", *[""] * len(CSV_COLUMNS), answer.note)]]
    return as_csv(("number", "query", "rank", *CSV_COLUMNS, "note"), rows)


def answers_as_tables(answers: Sequence[Answer]) -> Any:
    """The answers for a terminal, no more than 50 of them."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for answer in answers[:_MOST_TABLES]:
        parts.append(answer.table() if answer else Text(f"{answer.summary()}\n{answer.note}\n"))
    if (more := len(answers) - _MOST_TABLES) > 0:
        parts.append(Text(f"and {counted(more, 'answer')} more: --json, --csv and --html have all"))
    return Group(*parts)


def answers_as_groups(listed: Sequence[ListedQuery], answers: Sequence[Answer]) -> list[TileGroup]:
    """The answers for a page."""
    return [replace(answer_group(answer), title=one.text) for one, answer in zip(listed, answers, strict=True)]
