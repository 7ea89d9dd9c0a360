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
STANDS_OUT = "stands out"
_MEANINGS = {STANDS_OUT: "stands out: share of unrelated words whose best image stands out less"}
CSV_COLUMNS = (*_COLUMNS, "also")


@dataclass(frozen=True)
class Hit:
    """One image that was found.

    Args:
        path (`str`): the file, absolute.
        score (`float`): cosine of query and image in the space of the head.
        confidence (`float` or None): for one image as the query the probability that the match is a true one; for
            words the share of unrelated texts whose best image stands out less. None for sums, and where the
            collection was not measured.
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
        measure (`str`, *optional*, defaults to `"confidence"`): what confidences are called where people read them;
            those of words are called `"stands out"`.

    Example:
        ```python
        >>> from hf_clipalign.search import Answer, Hit
        >>> print(Answer([Hit("/photos/a.jpg", 0.5, None, "raw")], '"a red car"').to_csv())
        path,score,confidence,head,also
        /photos/a.jpg,0.5,,raw,
        ```
    """

    def __init__(
        self,
        hits: Iterable[Hit],
        query: str = "",
        head: str = "raw",
        method: str = "exact",
        note: str = "",
        measure: str = "confidence",
    ) -> None:
        super().__init__(hits)
        self.query, self.head, self.method, self.note, self.measure = query, head, method, note, measure

    def to_json(self) -> str:
        """A list of `{path, score, confidence, head}`; `also` where there are further files with the same bytes."""
        return json.dumps([hit.to_dict() for hit in self], indent=1)

    def to_csv(self) -> str:
        """One line a hit; further files with the same bytes stand in the last column, as a JSON list. See `as_csv`."""
        return as_csv(CSV_COLUMNS, map(csv_cells, self))

    def table(self) -> NumberTable:
        """The hits for a terminal; a file with the same bytes has a line of its own below."""
        calibrated = any(hit.confidence is not None for hit in self)
        rows: list[list[str]] = []
        for hit in self:
            score = [f"{hit.score:.3f}", *([_percent(hit.confidence)] if calibrated else [])]
            rows.append([shown_path(hit.path), *score])
            rows += [[f"= {shown_path(path)}", *[""] * len(score)] for path in hit.also]
        columns = ["image", "score", *([self.measure] if calibrated else [])]
        lines = [self.summary(), _MEANINGS.get(self.measure, "") if calibrated else "", self.note]
        return NumberTable(columns, rows, caption="\n".join(filter(None, lines)))

    def summary(self) -> str:
        """One line: the query as it was understood, the head, the way of comparison."""
        return f"{self.query}; head: {self.head}; {self.method}" if self.query else f"head: {self.head}"


def csv_cells(hit: Hit) -> tuple[object, ...]:
    """The cells of a hit below `CSV_COLUMNS`."""
    return hit.path, f"{hit.score:.6g}", _plain(hit.confidence), hit.head, hit.also


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV, one line a row, without a line end behind the last one.

    Whatever a text holds can be read back: one with control characters or broken bytes of a file name is written as a
    JSON string, in quotation marks; so is one that could be taken for such a string. A list is written as a JSON list,
    an empty one and None as nothing.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue().rstrip("\n")


def _cell(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return _json(list(value)) if value else ""
    text = "" if value is None else str(value)
    return text if text.isprintable() and not _is_json_string(text) else _json(text)


def _is_json_string(text: str) -> bool:
    """Whether a text would be taken for a JSON string."""
    if not text.startswith('"'):
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _json(value: object) -> str:
    """JSON on one line, with escapes only where something cannot be printed."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


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
