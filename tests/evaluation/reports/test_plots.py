"""What figures show: values in percent, panels, frames, names as they are, and images in the size of the page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from hf_clipalign.evaluation import (
    Match,
    MatchRow,
    Section,
    plot_band_grid,
    plot_image_rows,
    plot_intra_modal,
    plot_match_rows,
    plot_similarities,
    plot_snapshots,
    plot_spectrum,
    write_report,
)
from hf_clipalign.evaluation.clinical.plots import plot_reliability
from hf_clipalign.evaluation.reports.plots import plot_task_matrix

NAME = "costs_$5_and_$6"  # with formulas on, this is one, and a wrong one
GREEN, GREY, DARK, ORANGE = "#2e7d4f", "#c9ced6", "#1d2430", "#ff7f0e"


def labels_of(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def is_written_as_it_is(figure: Figure, name: str = NAME) -> bool:
    texts = [text for text in figure.findobj(Text) if text.get_text() == name]  # type: ignore[attr-defined]
    return bool(texts) and not any(text.get_parse_math() for text in texts)


def test_the_spectrum_is_relative_to_its_largest_value() -> None:
    axes = plot_spectrum([4.0, 2.0, 1.0]).axes
    assert [one.get_title() for one in axes] == ["spectrum"]
    assert axes[0].lines[0].get_ydata().tolist() == [1, 0.5, 0.25]  # type: ignore[union-attr]
    assert axes[0].get_yscale() == "log"
    assert labels_of(axes[0]) == ["middle (3)"]


def test_the_spectrum_has_a_panel_for_each_band() -> None:
    axes = plot_spectrum([4.0, 2.0, 1.0, 0.5], {"image": (1, 2), "text": (0, 1)}).axes
    assert [one.get_title() for one in axes] == ["image: keeps 1 of 4", "text: keeps 3 of 4"]
    assert [labels_of(one) for one in axes] == [["top (1)", "middle (1)", "bottom (2)"], ["middle (3)", "bottom (1)"]]


@pytest.mark.parametrize(("n_heads", "hidden"), [(1, 0), (3, 0), (4, 2)])
def test_similarities_have_a_panel_for_each_head_up_to_a_cosine_of_1(n_heads: int, hidden: int) -> None:
    pairs = {f"head {number}": ([0.5, 0.75], [-0.5, 0.0]) for number in range(n_heads)}
    axes = plot_similarities(pairs, bins=10).axes
    assert [one.get_title() for one in axes if one.get_visible()] == [f"{name}: overlap 0.00" for name in pairs]
    assert sum(not one.get_visible() for one in axes) == hidden
    bars = axes[0].patches
    assert len(bars) == 2 * 10
    ends = min(bar.get_x() for bar in bars), max(bar.get_x() + bar.get_width() for bar in bars)  # type: ignore[attr-defined]
    assert ends == pytest.approx((-0.5, 1.0))
    assert sum(bar.get_width() * bar.get_height() for bar in bars) == pytest.approx(2)  # type: ignore[attr-defined]


def test_equal_cosines_and_those_a_rounding_above_1_are_drawn() -> None:
    bars = plot_similarities({"raw": ([1.0, 1.0], [1.0, 1.0])}, bins=4).axes[0].patches
    assert min(bar.get_x() for bar in bars) == pytest.approx(1 - 1e-3)  # type: ignore[attr-defined]
    bars = plot_similarities({"raw": ([1.25, 1.0], [0.0, 0.5])}, bins=4).axes[0].patches
    assert max(bar.get_x() + bar.get_width() for bar in bars) == pytest.approx(1.25)  # type: ignore[attr-defined]


def test_kinds_of_pairs_share_an_axis() -> None:
    part = {"histogram": np.array([0.25, 0.75]), "mean": 0.0}
    report = {kind: {"bin_edges": [-1, 0, 1], "negative": part, "positive": part, "iou": 1.0} for kind in "ab"}
    axes = plot_intra_modal(report).axes
    assert [one.get_title() for one in axes] == ["a: overlap 1.00", "b: overlap 1.00"]
    assert [one.get_xlabel() for one in axes] == ["", "cosine"]
    steps = axes[0].patches[0].get_data()  # type: ignore[attr-defined]
    assert (steps.values.tolist(), steps.edges.tolist()) == ([0.25, 0.75], [-1, 0, 1])
    assert labels_of(axes[0]) == ["other", "same"]


def test_snapshots_are_percentages_in_the_order_of_the_steps() -> None:
    axes = plot_snapshots({"oti": {25: 0.5, 0: 0.25}}, baseline=0.75).axes[0]
    curve, line = axes.lines
    assert curve.get_xydata().tolist() == [[0, 25], [25, 50]]  # type: ignore[attr-defined]
    assert line.get_ydata() == [75, 75]
    assert labels_of(axes) == ["oti", "without inversion"]


def test_cells_of_a_grid_hold_their_score_in_the_middle() -> None:
    axes = plot_band_grid({(0, 0): 0.5, (8, 0): 0.25, (8, 4): 0.75}).axes[0]
    cells = {text.get_position(): text for text in axes.texts}
    assert {place: text.get_text() for place, text in cells.items()} == {
        (0, 0): "50.0",
        (1, 0): "25.0",
        (1, 1): "75.0",
    }
    assert {(text.get_ha(), text.get_va()) for text in cells.values()} == {("center", "center")}
    assert [text.get_color() for text in cells.values()] == ["white", "white", "black"]
    frame = axes.patches[0]
    assert isinstance(frame, Rectangle)
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((0.5, 0.5), 1, 1)
    assert not frame.get_fill()
    ticks = [[label.get_text() for label in one.get_ticklabels()] for one in (axes.xaxis, axes.yaxis)]
    assert ticks == [["0", "8"], ["0", "4"]]


def test_cells_of_a_task_matrix() -> None:
    figure = plot_task_matrix(
        [[0.5, np.nan], [0.25, 0.75]],
        ["first", NAME],
        [NAME, "b"],
        [[NAME], [NAME, "b"]],
        spread=[[0.02, 0], [np.nan, 0.01]],
    )
    axes = figure.axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "50.0\n± 2.0", (1, 0): "–\n± 0.0", (0, 1): "25.0", (1, 1): "75.0\n± 1.0"}
    assert {(text.get_ha(), text.get_va()) for text in axes.texts} == {("center", "center")}
    assert [patch.get_xy() for patch in axes.patches] == [(-0.5, -0.5)]  # type: ignore[attr-defined]
    assert axes.images[0].get_clim() == (0, 100)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["after first", f"after {NAME}"]
    assert is_written_as_it_is(figure)
    assert is_written_as_it_is(figure, f"after {NAME}")


@pytest.mark.parametrize(("n_findings", "without"), [(1, 0), (3, 0), (4, 2)])
def test_reliability_has_a_panel_for_each_finding(n_findings: int, without: int) -> None:
    bins = {"predicted": [0.25, 0.75], "observed": [0.5, 1.0], "n": [10, 12], "ece": 0.05}
    names = [NAME, "a", "b", "c"][:n_findings]
    figure = plot_reliability({name: {"adapter": bins} for name in names})
    drawn = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in drawn] == names
    assert len(figure.axes) - len(drawn) == without
    assert drawn[0].lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]  # type: ignore[attr-defined]
    assert drawn[0].lines[1].get_xydata().tolist() == [[0.25, 0.5], [0.75, 1.0]]  # type: ignore[attr-defined]
    assert labels_of(drawn[0]) == ["adapter, ECE 5.0 %"]
    assert is_written_as_it_is(figure)


def match_rows() -> Figure:
    wide, small = Image.new("RGB", (400, 200), "red"), Image.new("RGB", (10, 10), "blue")
    query = Match(wide, "query")
    found = [Match(wide, "found", True), Match(small, "wrong", False)]
    return plot_match_rows([MatchRow(NAME, query, found), MatchRow("raw", query, found[:1])])


def test_matches_stand_beside_their_query() -> None:
    figure = match_rows()
    assert len(figure.axes) == 5
    frames = [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes]
    assert frames == [DARK, GREEN, GREY, DARK, GREEN]
    widths = [axes.spines["left"].get_linewidth() for axes in figure.axes]
    assert widths[1] == widths[4] > widths[0] == widths[2] == widths[3]
    assert [axes.images[0].get_array().shape[:2] for axes in figure.axes[:3]] == [(48, 96), (48, 96), (10, 10)]  # type: ignore[union-attr]
    assert not any(len(axes.get_xticks()) or len(axes.get_yticks()) for axes in figure.axes)


@pytest.mark.parametrize("kind", ["matches", "rows"])
def test_names_stand_at_the_left_in_the_middle(kind: str) -> None:
    image = Image.new("RGB", (300, 300), "red")
    figure = match_rows() if kind == "matches" else plot_image_rows({NAME: [image], "raw": [image]})
    heads = [text for axes in figure.axes for text in axes.texts]
    assert [text.get_text() for text in heads] == [NAME, "raw"]
    for text in heads:
        assert text.get_position()[0] < 0
        assert text.get_position()[1] == 0.5
        assert (text.get_ha(), text.get_va()) == ("right", "center")
        assert text.get_transform() == text.axes.transAxes  # type: ignore[union-attr]
    assert is_written_as_it_is(figure)
    assert max(max(axes.images[0].get_array().shape) for axes in figure.axes) <= 128  # type: ignore[union-attr]


def test_images_of_a_page_are_thumbnails_of_twice_their_size(tmp_path: Path) -> None:
    row = MatchRow(
        "raw", Match(Image.new("RGB", (400, 200)), "query"), [Match(Image.new("RGB", (9, 5)), "found", True)]
    )
    page = write_report(tmp_path / "index.html", "A report", [Section("Found", match_rows=[row])]).read_text()
    images = re.findall(r"data:image/png;base64,([\w+/=]+)", page)
    assert [Image.open(io.BytesIO(base64.b64decode(data))).size for data in images] == [(128, 64), (9, 5)]
