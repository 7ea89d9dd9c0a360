"""Reliability plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

_COLUMNS = 3


def plot_reliability(curves: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Observed against predicted share of positives, one panel for each finding and a line for each model.

    Args:
        curves (`Mapping`): by finding and model, what `calibration` gives.

    Returns:
        `matplotlib.figure.Figure`.

    Example:
        ```python
        >>> bins = {"predicted": [0.2, 0.8], "observed": [0.25, 0.75], "n": [10, 12], "ece": 0.05}
        >>> len(plot_reliability({"cough": {"adapter": bins}}).axes)
        1
        ```
    """
    columns = min(_COLUMNS, len(curves))
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(3.1 * columns + 0.4, 3.1 * lines + 0.3), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, (finding, models) in zip(panels, curves.items(), strict=False):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
        for name, bins in models.items():
            label = f"{name}, ECE {100 * bins['ece']:.1f} %"
            axes.plot(bins["predicted"], bins["observed"], marker="o", markersize=3, linewidth=1.2, label=label)
        axes.set_title(finding, fontsize=10, parse_math=False)
        axes.legend(fontsize=7, loc="best", framealpha=0.7)
        axes.set_xlabel("predicted probability", fontsize=8)
        axes.set_ylabel("observed share", fontsize=8)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    return figure
