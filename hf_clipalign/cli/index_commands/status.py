"""`clipalign status`: what an index holds, and how it is searched."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import counted, printable
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._tables import NumberTable
from hf_clipalign.cli.index_commands.shared import IndexArgument, JsonOption, open_index, skipped_line
from hf_clipalign.cli.options import console, next_step, warn

_SHOWN_SKIPPED = 20


def status(
    index: IndexArgument,
    skipped: Annotated[
        int | None,
        typer.Option(
            help="How many of the files that cannot be read are listed. Default: 20, with --json all.",
            min=0,
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an index holds: files, model, heads, how it is searched, and what is known of its scores.

    Exit code 1 if a file of it is missing or cut off; `clipalign verify` reads all.

    Example: [bold]clipalign status photos.index[/]
    """
    opened = open_index(index)
    found = opened.status()
    if found.damage:
        raise ClipAlignError(found.damage[0])
    if as_json:
        shown = {**asdict(found), "skipped": found.skipped[:skipped], "skipped_reasons": found.skipped_reasons}
        typer.echo(json.dumps(shown, indent=1))
        return
    console.print(NumberTable(["index", str(index)], _rows(found), texts=(0, 1)))
    console.print(_confidence(found))
    if found.levels:
        console.print(_levels(found.levels))
    else:
        console.print("searched exactly: every image is compared", soft_wrap=True)
    listed = _SHOWN_SKIPPED if skipped is None else skipped
    for path, reason in found.skipped[:listed]:
        warn("skipped:", skipped_line(path, reason))
    if listed < len(found.skipped):
        console.print(f"and {len(found.skipped) - listed:,} more: --skipped {len(found.skipped)}", soft_wrap=True)
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
    if found.head_choice:
        rows.append(["chosen", found.head_choice])
    if found.deleted:
        rows.append(["deleted", f"{counted(found.deleted, 'image')} that no file has any more"])
    if found.skipped:
        rows.append(["skipped", f"{counted(len(found.skipped), 'file')} that cannot be read"])
        rows += [["", f"{count:,}: {printable(reason)}"] for reason, count in found.skipped_reasons.items()]
    return rows


def _confidence(found: Any) -> NumberTable:
    """What was measured of the scores of each head, and of words."""
    rows = []
    for one in found.confidence:
        of = "" if one["of"] is None else f"{one['images']:,} of {one['of']:,}"
        cut = "" if one["of"] is None else "none" if one["threshold"] is None else f"{one['threshold']:.3f}"
        share = "" if one["found"] is None else f"{100 * one['found']:.0f} %"
        rows.append([f"images, {one['head']}", one["state"], of, cut, share])
    words = found.words
    of = f"{words['texts']:,} texts on {words['of']:,}" if words["texts"] else ""
    rows.append(["words, raw", words["state"], of, "", ""])
    caption = (
        "at 5 %: the score alone from which on at most 5 % of hits are expected to be false, and how many changed "
        "copies of the sampled images are found then; see `clipalign search --min-confidence`"
    )
    columns = ["confidence", "state", "measured on", "score at 5 %", "found"]
    return NumberTable(columns, rows, caption=caption, texts=(0, 1))


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
