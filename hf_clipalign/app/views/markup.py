"""Results as HTML: every name, query and message is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._checks.quoting import printable
from hf_clipalign._io.data_address import data_address
from hf_clipalign.app.answers import Answered, Column, answer_csv
from hf_clipalign.app.bands import Band
from hf_clipalign.app.rankings import Ranked
from hf_clipalign.app.view import View
from hf_clipalign.search.heads import RAW

_WIDTH, _HEIGHT, _MARGIN = 320.0, 120.0, 6.0


@dataclass(frozen=True)
class ShownFile:
    """A file as a tile names it: its number, its name, and others with the same bytes."""

    number: int
    name: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tile:
    """An image with what stands below it; `change` is its class, `mark` the words of that class."""

    file: ShownFile
    lines: Sequence[str] = ()
    change: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Group:
    """Images under a heading; `share` in % is drawn as a bar."""

    title: str
    tiles: list[Tile] = field(default_factory=list)
    text: str = ""
    share: float | None = None


def results(view: View, answered: Answered, top_k: int) -> str:
    """An answer: one or two columns of tiles, what moved, and the hits as CSV."""
    columns = [
        {
            "title": _title(column, answered),
            "note": column.note,
            "is_calibrated": column.is_calibrated,
            "hits": [hit_tile(view, hit, column.head, top_k) for hit in column.hits],
        }
        for column in answered.columns
    ]
    return _render(
        "results",
        query=answered.query,
        moved=answered.moved,
        is_visual=answered.is_visual,
        is_single=answered.is_single,
        columns=columns,
        least=answered.least,
        generation=view.generation,
        csv=csv_address(answer_csv(view, answered)),
    )


def hit_tile(view: View, hit: Ranked, head: str, top_k: int) -> Tile:
    """A hit with its rank, its score, its confidence, and how it moved."""
    lines = [f"#{hit.rank} · {hit.score:.3f}"]
    if hit.confidence is not None:
        lines.append(f"{100 * hit.confidence:.0f} % sure")
    change = hit.change(top_k, head != RAW)
    return Tile(shown_file(view, view.files_of(hit.row)), lines, change, _mark(hit, change))


def groups(
    view: View, title: str, shown: Sequence[Group], notes: Sequence[str] = (), csv: str = "", csv_name: str = ""
) -> str:
    """Groups of tiles below each other."""
    address = csv_address(csv) if csv else ""
    content = {"title": title, "groups": shown, "notes": notes, "csv": address, "csv_name": csv_name}
    return _render("groups", generation=view.generation, **content)


def spectrum(singular_values: NDArray[np.float64], band: Band) -> str:
    """The singular values on a logarithmic scale, with the kept ones on a coloured ground."""
    rank = len(singular_values)
    top, bottom = min(band[0], rank), min(band[1], rank)
    heights = np.log(np.maximum(singular_values, singular_values.max() * 1e-6))
    low, span = float(heights.min()), max(float(np.ptp(heights)), 1e-9)
    xs = (np.arange(rank) + 0.5) * _WIDTH / rank
    ys = _HEIGHT - _MARGIN - (heights - low) / span * (_HEIGHT - 2 * _MARGIN)
    chosen = np.unique(np.linspace(0, rank - 1, min(rank, 300)).round().astype(int))
    points = " ".join(f"{xs[i]:.1f},{ys[i]:.1f}" for i in chosen)
    kept = max(0, rank - top - bottom)
    text = (
        f"{kept} of {rank} directions are kept: the {top} strongest and the {bottom} weakest are trimmed. "
        f"Singular values from {singular_values.max():.3g} to {singular_values.min():.2g}, logarithmic."
    )
    left, right = top * _WIDTH / rank, max(top, rank - bottom) * _WIDTH / rank
    return _render("spectrum", text=text, points=points, left=left, right=right)


def message(text: str, kind: str = "note", share: float | None = None) -> str:
    """One line: a note, an error, or with a share in % how far something is."""
    return _render("message", text=printable(text), kind=kind, share=None if share is None else math.floor(share))


def drop_zone(max_bytes: int) -> str:
    """Where an image of at most so many bytes is given."""
    return _render("drop", max_bytes=max_bytes)


def shown_file(view: View, numbers: Sequence[int]) -> ShownFile:
    """Files with the same bytes as one tile names them."""
    first, *others = numbers
    names = view.files.names
    return ShownFile(first, printable(names[first]), tuple(printable(names[number]) for number in others))


def csv_address(text: str) -> str:
    """A table as an address that holds it."""
    return data_address(text.encode("utf-8"), "text/csv;charset=utf-8")


def _title(column: Column, answered: Answered) -> str:
    if column.head == RAW:
        return "Plain CLIP"
    return f"Aligned head, band {answered.band[0]},{answered.band[1]}"


def _mark(hit: Ranked, change: str) -> str:
    if change == "same":
        return ""
    words = {
        "new": f"▲ new, was {hit.other_rank:,}" if hit.other_rank else "",
        "gone": f"▼ falls to {hit.other_rank:,}" if hit.other_rank else "",
        "up": f"▲ {abs(hit.moved)}",
        "down": f"▼ {abs(hit.moved)}",
    }
    return words[change]


def _render(name: str, **values: Any) -> str:
    return _environment().get_template(f"{name}.html.jinja").render(**values)


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("hf_clipalign.app", "templates")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
