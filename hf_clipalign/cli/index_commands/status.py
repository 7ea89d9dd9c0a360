"""`clipalign status`: what an index holds, and how it is searched."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import printable
from hf_clipalign._tables import NumberTable
from hf_clipalign.cli.index_commands.shared import IndexArgument, JsonOption, counted, open_index, skipped_line
from hf_clipalign.cli.options import console, next_step, warn


def status(
    index: IndexArgument,
    skipped: Annotated[int, typer.Option(help="How many of the files that cannot be read are listed.", min=0)] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show what an index holds: files, model, heads, how it is searched and how much of the exact answer that finds.

    Example: [bold]clipalign status photos.index[/]
    """
    from hf_clipalign.search.sidecars.choice import sidecar_states

    opened = open_index(index)
    found, levels = opened.status(), sidecar_states(opened)
    if as_json:
        typer.echo(json.dumps({**asdict(found), "levels": levels}, indent=1))
        return
    console.print(NumberTable(["index", str(index)], _rows(found), texts=(0, 1)))
    if levels:
        console.print(_levels(levels))
    else:
        console.print("searched exactly: every image is compared", soft_wrap=True)
    for path, reason in found.skipped[:skipped]:
        warn("skipped:", skipped_line(path, reason))
    for root in found.missing_roots:
        warn("not there:", printable(root))
    next_step("clipalign", "index", index)


def _rows(found: Any) -> list[list[str]]:
    band = "" if found.band is None else f" (band {found.band[0]},{found.band[1]})"
    rows = [
        ["model", printable(str(found.model))],
        *(["folder", printable(root)] for root in found.roots),
        ["files", f"{found.files:,}"],
        ["images", f"{found.images:,}, distinct in content"],
        ["features", f"{found.bytes / 1e6:,.1f} MB in {counted(found.shards, 'file')}"],
        ["heads", ", ".join(found.heads) + band],
    ]
    if found.deleted:
        rows.append(["deleted", f"{found.deleted:,} images that no file has any more"])
    if found.skipped:
        rows.append(["skipped", f"{len(found.skipped):,} that cannot be read"])
    return rows


def _levels(levels: list[dict[str, Any]]) -> NumberTable:
    rows = [
        [
            one["head"],
            one["level"],
            one["state"],
            "" if one["recall"] is None else f"{one['recall']:.4f}",
            f"{one['bytes'] / 1e6:,.1f}",
        ]
        for one in levels
    ]
    caption = (
        "recall@10: of the ten nearest images of a sample of the index's own, how many a level finds; all scores are "
        "exact"
    )
    return NumberTable(["head", "level", "state", "recall@10", "MB"], rows, caption=caption, texts=(0, 1, 2))
