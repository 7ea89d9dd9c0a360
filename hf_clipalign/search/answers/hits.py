"""The images that a query found, and their forms: JSON, CSV, a table."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hf_clipalign._checks.quoting import printable
from hf_clipalign._tables import NumberTable

NO_MATCH = "no good match"
_COLUMNS = ("path", "score", "confidence", "head")


@dataclass(frozen=True)
class Hit:
    """One image that was found.

    Args:
        path (`str`): the file, absolute.
        score (`float`): cosine of query and image in the space of the head.
        confidence (`float` or None): probability that the match is a true one, where the collection is calibrated for
            this kind of query.
        head (`str`): which head answered: `"raw"` is the base model's, `"aligned"` the trimmed one for images.
        also (`tuple[str, ...]`, *optional*): further files with the same bytes.

    Example:
        ```python
        >>> from hf_clipalign.search import Hit
        >>> Hit("/photos/a.jpg", 0.5, None, "raw").to_dict()
        {'path': '/photos/a.jpg', 'score': 0.5, 'confidence': None, 'head': 'raw'}
        ```
    """

    path: str
    score: float
    confidence: float | None
    head: str
    also: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The hit as JSON has it; `also` is there only where there are further files."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _COLUMNS}
        return values | ({"also": list(self.also)} if self.also else {})


class Answer(list[Hit]):
    """The hits of one query, best first: a list that records where it comes from.

    Args:
        hits (`Iterable[Hit]`): best first.
        query (`str`, *optional*, defaults to `""`): the query as it was understood.
        head (`str`, *optional*, defaults to `"raw"`): which head answered.
        method (`str`, *optional*, defaults to `"exact"`): how the images were compared.
        note (`str`, *optional*, defaults to `""`): what a reader should know, such as why there is no hit.

    Example:
        ```python
        >>> from hf_clipalign.search import Answer, Hit
        >>> print(Answer([Hit("/photos/a.jpg", 0.5, None, "raw")], '"a red car"').to_csv())
        path,score,confidence,head,also
        /photos/a.jpg,0.5,,raw,
        ```
    """

    def __init__(
        self, hits: Iterable[Hit], query: str = "", head: str = "raw", method: str = "exact", note: str = ""
    ) -> None:
        super().__init__(hits)
        self.query, self.head, self.method, self.note = query, head, method, note

    def to_json(self) -> str:
        """A list of `{path, score, confidence, head}`; `also` where there are further files with the same bytes."""
        return json.dumps([hit.to_dict() for hit in self], indent=1)

    def to_csv(self) -> str:
        """One line a hit; further files with the same bytes stand in the last column, separated by `|`."""
        rows = [(hit.path, f"{hit.score:.6g}", _plain(hit.confidence), hit.head, "|".join(hit.also)) for hit in self]
        return as_csv((*_COLUMNS, "also"), rows)

    def table(self) -> NumberTable:
        """The hits for a terminal; a file with the same bytes has a line of its own below."""
        calibrated = any(hit.confidence is not None for hit in self)
        rows: list[list[str]] = []
        for hit in self:
            score = [f"{hit.score:.3f}", *([_percent(hit.confidence)] if calibrated else [])]
            rows.append([shown_path(hit.path), *score])
            rows += [[f"= {shown_path(path)}", *[""] * len(score)] for path in hit.also]
        columns = ["image", "score", *(["confidence"] if calibrated else [])]
        return NumberTable(columns, rows, caption="\n".join(filter(None, [self.summary(), self.note])))

    def summary(self) -> str:
        """One line: the query as it was understood, the head, the way of comparison."""
        return f"{self.query}; head: {self.head}; {self.method}" if self.query else f"head: {self.head}"


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV, without a line end behind the last row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[printable(str(cell)) for cell in row] for row in rows])
    return text.getvalue().rstrip("\n")


def shown_path(path: str) -> str:
    """A path for people: relative where it lies below the current folder, and printable."""
    return printable(near_path(path))


def near_path(path: str) -> str:
    """A path, relative where it lies below the current folder."""
    inside = os.path.relpath(path) if os.path.isabs(path) else path
    return path if inside.startswith("..") else inside


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"
