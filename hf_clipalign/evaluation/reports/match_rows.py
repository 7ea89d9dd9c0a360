"""Queries and what heads find for them, as one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from hf_clipalign.evaluation.reports.pages import Match, MatchRow

_COLOURS = {True: "#2e7d4f", False: "#c9ced6", None: "#1d2430"}
_THUMBNAIL = 96


def plot_match_rows(rows: Sequence[MatchRow]) -> Figure:
    """Rows of a query and its matches, best first; the frame of a relevant match is green.

    Args:
        rows (`Sequence[MatchRow]`): At least one row.

    Returns:
        `matplotlib.figure.Figure`.

    Example:
        ```python
        >>> from PIL import Image
        >>> from hf_clipalign.evaluation import Match, MatchRow, plot_match_rows
        >>> image = Image.new("RGB", (8, 8), "red")
        >>> figure = plot_match_rows([MatchRow("raw", Match(image, "query"), [Match(image, "found", True)])])
        >>> len(figure.axes)
        2
        ```
    """
    columns = 1 + max(len(row.matches) for row in rows)
    figure = Figure(figsize=(1.6 + 0.75 * columns, 0.78 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, row in zip(panels, rows, strict=True):
        for axes in axes_row[1 + len(row.matches) :]:
            axes.remove()
        for axes, match in zip(axes_row, [row.query, *row.matches], strict=False):
            _draw(axes, match)
        place = {"transform": axes_row[0].transAxes, "ha": "right", "va": "center"}
        axes_row[0].text(-0.15, 0.5, row.head, **place, fontsize=9, parse_math=False)
    return figure


def _draw(axes: Any, match: Match) -> None:
    thumbnail = match.image.copy()
    thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
    axes.imshow(thumbnail)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_edgecolor(_COLOURS[match.relevant])
        spine.set_linewidth(2.5 if match.relevant else 1)
