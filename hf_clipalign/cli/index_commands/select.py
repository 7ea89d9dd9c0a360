"""`clipalign select`: images that cover a collection, and images that lie apart."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import counted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._tables import NumberTable
from hf_clipalign.cli.index_commands.shared import (
    CsvOption,
    HeadOption,
    HtmlOption,
    IndexArgument,
    JsonOption,
    open_index,
    show,
)


def select(
    index: IndexArgument,
    diverse: Annotated[
        int | None, typer.Option(metavar="N", help="N images that cover the collection.", min=1)
    ] = None,
    outliers: Annotated[
        int | None, typer.Option(metavar="N", help="The N images that lie farthest from their neighbours.", min=1)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="--diverse: seed of the first image. Default: 0.", min=0, show_default=False),
    ] = None,
    head: HeadOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    html: HtmlOption = None,
) -> None:
    """List images that cover a collection (greedy k-centre), or its outliers.

    Any beginning of a diverse selection covers the collection as well as so few images can: at most twice as far from
    its farthest image as the best choice. The score of an outlier is one minus the mean cosine of its five nearest.

    Examples:

    [bold]clipalign select photos.index --diverse 50 --csv > to-label.csv[/]

    [bold]clipalign select photos.index --outliers 20 --html outliers.html[/]
    """
    if (diverse is None) == (outliers is None):
        raise ClipAlignError("what to select? Give either --diverse N or --outliers N.")
    if outliers is not None and seed is not None:
        raise ClipAlignError("--seed is for --diverse: leave it out, outliers do not depend on chance.")
    opened = open_index(index)
    name = head or opened.heads[-1]
    rows, scores = _chosen(opened.embeddings(name), diverse, outliers, seed or 0)
    paths = [opened.files.path(opened.files.of_image(row)[0]) for row in rows]
    found = [{"path": path, "score": score, "head": name} for path, score in zip(paths, scores, strict=True)]
    show(
        as_json,
        as_csv,
        html,
        json_text=lambda: json.dumps(found, indent=1),
        csv_text=lambda: _csv(found),
        table=lambda: _table(found),
        title=f"{len(found)} {'diverse images' if outliers is None else 'outliers'}",
        groups=lambda: _groups(found),
    )


def _chosen(embeddings: Any, diverse: int | None, outliers: int | None, seed: int) -> tuple[list[int], list[Any]]:
    """Rows, and for outliers their scores."""
    import numpy as np

    from hf_clipalign.search.selection import outlier_scores, select_diverse

    n = len(embeddings)
    held = f"the index holds {counted(n, 'image')}"
    if diverse is not None and diverse > n > 0:
        raise ClipAlignError(f"--diverse is {diverse:,}, but {held}: give at most {n:,}.")
    if diverse is not None:
        chosen = select_diverse(embeddings, diverse, seed=seed).tolist() if n else []
        return chosen, [None] * len(chosen)
    if n < 2:
        raise ClipAlignError(f"{held}: an outlier needs others to lie apart from.")
    scores = outlier_scores(embeddings)
    rows = np.argsort(-scores, kind="stable")[:outliers].tolist()
    return rows, [round(float(scores[row]), 6) for row in rows]


def _csv(found: list[dict[str, Any]]) -> str:
    from hf_clipalign.search.answers.hits import as_csv

    return as_csv(("path", "score", "head"), [["" if v is None else v for v in one.values()] for one in found])


def _table(found: list[dict[str, Any]]) -> NumberTable:
    from hf_clipalign.search.answers.hits import shown_path

    has_scores = any(one["score"] is not None for one in found)
    rows = [[shown_path(one["path"]), *([f"{one['score']:.3f}"] if has_scores else [])] for one in found]
    caption = f"head: {found[0]['head']}" if found else "the index holds no images"
    return NumberTable(["image", *(["score"] if has_scores else [])], rows, caption=caption)


def _groups(found: list[dict[str, Any]]) -> list[Any]:
    from hf_clipalign.search.answers.pages import Tile, TileGroup

    tiles = [Tile(one["path"], [] if one["score"] is None else [f"{one['score']:.3f}"]) for one in found]
    return [TileGroup("", f"head: {found[0]['head']}" if found else "", tiles)]
