"""Figures. Each function returns a matplotlib figure and touches no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hf_clipalign.metrics import histogram_iou

_BAND_COLOURS = {"top": "#d1495b", "middle": "#2e7d4f", "bottom": "#8d99ae"}
_NARROWEST = 1e-3
_POSITIVE, _NEGATIVE = "#2e7d4f", "#d1495b"


def plot_spectrum(singular_values: Any, bands: Mapping[str, tuple[int, int]] | None = None) -> Figure:
    """The spectrum of the inter-modal operator, normalised by its largest value, with the three bands.

    Args:
        singular_values (`[r]`): descending.
        bands (`Mapping[str, (k_top, k_bottom)]`, *optional*): one panel for each, titled by its key.

    Returns:
        `matplotlib.figure.Figure`.

    Example:
        ```python
        >>> figure = plot_spectrum([5.0, 1.0, 0.9, 0.1], {"image": (1, 1)})
        >>> figure.axes[0].get_title()
        'image: keeps 2 of 4'
        ```
    """
    values = np.asarray(singular_values, dtype=np.float64)
    values = values / values[0]
    panels = dict(bands or {"": (0, 0)})
    figure = Figure(figsize=(6.5 * len(panels), 3.6), layout="constrained")
    axes_row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, (k_top, k_bottom)) in zip(axes_row, panels.items(), strict=True):
        _draw_spectrum(axes, values, k_top, k_bottom)
        axes.set_title(f"{title}: keeps {len(values) - k_top - k_bottom} of {len(values)}" if title else "spectrum")
    return figure


def plot_similarities(pairs: Mapping[str, tuple[Any, Any]], bins: int = 80) -> Figure:
    """Histograms of the cosines of positive and negative pairs, one panel for each head.

    The title of a panel gives the overlap (IoU) of the two histograms: smaller is better separated.

    Args:
        pairs (`Mapping[str, (positive, negative)]`): cosines by head.
        bins (`int`, *optional*, defaults to `80`): over the range of the panel.

    Returns:
        `matplotlib.figure.Figure`.

    Example:
        ```python
        >>> figure = plot_similarities({"raw": ([0.9, 0.8], [0.1, 0.2])})
        >>> figure.axes[0].get_title()
        'raw: overlap 0.00'
        ```
    """
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(4.4 * columns, 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, (positive, negative)) in zip(panels, pairs.items(), strict=False):
        edges = _cosine_edges(positive, negative, bins)
        axes.hist(negative, edges, density=True, alpha=0.6, color=_NEGATIVE, label="other")
        axes.hist(positive, edges, density=True, alpha=0.6, color=_POSITIVE, label="same")
        axes.set_title(f"{name}: overlap {histogram_iou(positive, negative):.2f}", fontsize=10)
        axes.set_xlabel("cosine")
        axes.set_yticks([])
    panels[0].legend(frameon=False)
    for axes in panels[len(pairs) :]:
        axes.set_visible(False)
    return figure


def plot_intra_modal(report: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Histograms of `intra_modal_report`: one panel for each kind of pair, all on the same axis of cosines.

    Args:
        report (`Mapping[str, dict]`): as `hf_clipalign.metrics.intra_modal_report` returns it.

    Returns:
        `matplotlib.figure.Figure`.

    Example:
        ```python
        >>> from hf_clipalign.metrics import intra_modal_report
        >>> embeds = features.values @ encoder.image_projector.matrix.T
        >>> report = intra_modal_report(embeds, features.labels, embeds, features.labels)
        >>> len(plot_intra_modal(report).axes) == len(report)
        True
        ```
    """
    figure = Figure(figsize=(6.5, 1.9 * len(report)), layout="constrained")
    panels = figure.subplots(len(report), 1, squeeze=False, sharex=True).ravel()
    for axes, (kind, part) in zip(panels, report.items(), strict=True):
        edges = np.asarray(part["bin_edges"])
        for name, colour, label in (("negative", _NEGATIVE, "other"), ("positive", _POSITIVE, "same")):
            axes.stairs(part[name]["histogram"], edges, fill=True, alpha=0.6, color=colour, label=label)
        axes.set_title(f"{kind}: overlap {part['iou']:.2f}", fontsize=10)
        axes.set_yticks([])
    panels[0].legend(frameon=False)
    panels[-1].set_xlabel("cosine")
    return figure


def plot_snapshots(curves: Mapping[str, Mapping[int, float]], baseline: float, metric: str = "mAP") -> Figure:
    """A score over inversion steps, with the score without inversion as a line, in percent.

    Args:
        curves (`Mapping[str, Mapping[int, float]]`): by name: score after so many steps.
        baseline (`float`): the score without inversion.
        metric (`str`, *optional*, defaults to `"mAP"`): what the axis means.

    Returns:
        `matplotlib.figure.Figure`.

    Example:
        ```python
        >>> plot_snapshots({"oti": {0: 0.02, 25: 0.53}}, baseline=0.54).savefig("steps.png")
        ```
    """
    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        steps = sorted(curve)
        axes.plot(steps, [100 * curve[step] for step in steps], marker="o", markersize=3, label=name)
    axes.axhline(100 * baseline, color="#222222", linestyle="--", linewidth=1, label="without inversion")
    axes.set_xlabel("steps")
    axes.set_ylabel(f"{metric}, %")
    axes.legend(frameon=False)
    return figure


def plot_band_grid(grid: Mapping[tuple[int, int], float], metric: str = "mAP") -> Figure:
    """Score of every band that a search tried, in percent; the best cell is framed.

    Args:
        grid (`Mapping[(k_top, k_bottom), float]`): as `BandSearch.grid`.
        metric (`str`, *optional*, defaults to `"mAP"`): what the colour means.

    Returns:
        `matplotlib.figure.Figure`.

    Example:
        ```python
        >>> plot_band_grid({(0, 0): 0.41, (1, 0): 0.44}).savefig("bands.png")
        ```
    """
    tops, bottoms = sorted({top for top, _ in grid}), sorted({bottom for _, bottom in grid})
    table = np.array([[100 * grid.get((top, bottom), np.nan) for top in tops] for bottom in bottoms])
    figure = Figure(figsize=(1.6 + 0.62 * len(tops), 1.4 + 0.5 * len(bottoms)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, origin="lower", cmap="viridis", aspect="auto")
    bright = np.nanmin(table) + 0.6 * (np.nanmax(table) - np.nanmin(table))
    for row, column in np.argwhere(~np.isnan(table)):
        value = table[row, column]
        colour = "black" if value > bright else "white"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=colour)
    best_row, best_column = np.unravel_index(np.nanargmax(table), table.shape)
    axes.add_patch(_frame(int(best_column), int(best_row)))
    _label_ticks(axes, tops, bottoms)
    axes.set_xlabel("k_top (leading directions removed)")
    axes.set_ylabel("k_bottom")
    figure.colorbar(image, ax=axes, label=f"{metric}, %")
    return figure


def plot_task_matrix(
    matrix: Any,
    tasks: Sequence[str],
    findings: Sequence[str],
    taught: Sequence[Sequence[str]],
    metric: str = "AUROC",
    spread: Any = None,
    row_names: Sequence[str] | None = None,
) -> Figure:
    """Scores after every task (rows) on every finding (columns), in percent; what a task taught is framed.

    Args:
        matrix (`[T, F]`): fractions, NaN where a score is undefined.
        tasks (`Sequence[str]`): T names.
        findings (`Sequence[str]`): F names.
        taught (`Sequence[Sequence[str]]`): for each task the findings whose labels it saw.
        metric (`str`, *optional*, defaults to `"AUROC"`): what the colour means.
        spread (`[T, F]`, *optional*): standard deviations, as fractions, written below the scores unless NaN.
        row_names (`Sequence[str]`, *optional*): of the rows. Default: "after" and the task.

    Returns:
        `matplotlib.figure.Figure`.

    Example:
        ```python
        >>> matrix = [[0.9, 0.5], [0.8, 0.9]]
        >>> figure = plot_task_matrix(matrix, ["first", "second"], ["cough", "fever"], [["cough"], ["fever"]])
        >>> len(figure.axes)
        2
        ```
    """
    table = 100 * np.asarray(matrix, dtype=np.float64)
    row_height = 0.42 if spread is None else 0.6
    names = [f"after {task}" for task in tasks] if row_names is None else row_names
    figure = Figure(figsize=(3.0 + 0.95 * len(findings), 1.8 + row_height * len(names)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for row, column in np.ndindex(*table.shape):
        value = table[row, column]
        text = "–" if np.isnan(value) else f"{value:.1f}"
        if spread is not None and not np.isnan(spread[row][column]):
            text += f"\n± {100 * spread[row][column]:.1f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color="black" if value > 60 else "white")
        if findings[column] in taught[row] and len(taught[row]) < len(findings):
            axes.add_patch(_frame(column, row))
    axes.set_xticks(range(len(findings)), findings, rotation=30, ha="right", parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    figure.colorbar(image, ax=axes, label=f"{metric}, %")
    return figure


def _cosine_edges(positive: Any, negative: Any, bins: int) -> np.ndarray:
    """Edges `[bins + 1]` from the smallest cosine to 1, never closer than the rounding of equal items is wide."""
    low, high = min(np.min(positive), np.min(negative)), max(1.0, np.max(positive), np.max(negative))
    return np.linspace(min(low, high - _NARROWEST), high, bins + 1)


def _draw_spectrum(axes: Any, values: np.ndarray, k_top: int, k_bottom: int) -> None:
    edges = {
        "top": (0, k_top),
        "middle": (k_top, len(values) - k_bottom),
        "bottom": (len(values) - k_bottom, len(values)),
    }
    positions = np.arange(len(values))
    for name, (start, stop) in edges.items():
        if stop > start:
            axes.fill_between(
                positions[start:stop], values[start:stop], color=_BAND_COLOURS[name], alpha=0.35, step="mid",
                label=f"{name} ({stop - start})",
            )  # fmt: skip
    axes.plot(positions, values, color="#222222", linewidth=1.2)
    axes.set_yscale("log")
    axes.set_xlabel("singular direction")
    axes.set_ylabel("singular value / largest")
    axes.legend(frameon=False)


def _label_ticks(axes: Any, tops: Sequence[int], bottoms: Sequence[int]) -> None:
    axes.set_xticks(range(len(tops)), [str(top) for top in tops])
    axes.set_yticks(range(len(bottoms)), [str(bottom) for bottom in bottoms])


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#ff7f0e", linewidth=2.5)
