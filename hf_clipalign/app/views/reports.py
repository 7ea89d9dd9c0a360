"""The pages of duplicates and of what is in a folder."""

from __future__ import annotations

from typing import Any, cast

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.app.folder_report import Concepts, Report
from hf_clipalign.app.views.markup import Group, Tile, groups, message, shown_file
from hf_clipalign.app.workspace import View
from hf_clipalign.search.answers.groups import find_duplicates, groups_as_csv, groups_as_tiles
from hf_clipalign.search.answers.hits import as_csv

_MOST_GROUPS = 60
_MOST_FILES = 12
_SHOWN_CONCEPTS = 20
_PER_ROW = 6
_MOST_WORDS = 20_000


def duplicates_page(view: View, threshold: float) -> str:
    """Groups of duplicates, the first of them with images, all of them as CSV.

    Raises:
        `ClipAlignError`: a threshold out of range.
    """
    found = find_duplicates(cast(Any, view.index), threshold)
    if not found:
        return message(f"No duplicates: no two images have a cosine of {threshold:g} or more.")
    shown = []
    for tiles in groups_as_tiles(found[:_MOST_GROUPS]):
        kept = [_tile(view, tile) for tile in tiles.tiles[:_MOST_FILES]]
        more = len(tiles.tiles) - len(kept)
        shown.append(Group(tiles.title, kept, tiles.text + (f"; {more} more files" if more else "")))
    notes = ["No file is changed or deleted."]
    if len(found) > _MOST_GROUPS:
        notes.append(f"The first {_MOST_GROUPS} groups are shown; the CSV has all of them.")
    title = f"{len(found):,} groups of duplicates" if len(found) > 1 else "One group of duplicates"
    return groups(view, title, shown, notes, groups_as_csv(found), "duplicates.csv")


def folder_page(view: View, concepts: Concepts, words: str, size: int, n_clusters: int, say: Report) -> str:
    """The concepts that tell the images of a folder apart, and groups that they name.

    Raises:
        `ClipAlignError`: too few or too many words or images.
    """
    report = concepts.report(_names(words, size), n_clusters, _SHOWN_CONCEPTS, _PER_ROW, say)
    if report.note:
        return message(report.note, "error")
    largest = max(concept.share for concept in report.concepts)
    shown = [
        Group(
            concept.name,
            _tiles(view, concept.rows),
            f"{100 * concept.share:.1f} % of the differences",
            round(100 * concept.share / largest, 1),
        )
        for concept in report.concepts
    ]
    grouped = [
        Group(", ".join(cluster.names), _tiles(view, cluster.rows), f"{cluster.size:,} images")
        for cluster in report.clusters
    ]
    rows = [(concept.name, f"{concept.share:.6g}") for concept in report.concepts]
    page = groups(
        view, "What tells the images apart", shown, [], as_csv(("concept", "importance"), rows), "concepts.csv"
    )
    return page + (groups(view, "Groups of images", grouped) if grouped else "")


def _names(words: str, size: int) -> list[str]:
    from hf_clipalign.data import check_names, load_dictionary

    given = [word.strip() for word in words.replace("\n", ",").split(",") if word.strip()]
    if not given:
        return load_dictionary()[:size]
    if not 2 <= len(given) <= _MOST_WORDS:
        raise ClipAlignError(f"{len(given):,} words are given: give 2 to {_MOST_WORDS:,}, or none.")
    return check_names(given, "words")


def _tile(view: View, tile: Any) -> Tile:
    number = view.files.find(tile.path)
    change, mark = ("up", "worth keeping") if tile.is_marked else ("", "")
    lines = [line for line in tile.lines if line != mark]
    return Tile(shown_file(view, [0 if number is None else number]), lines, change, mark)


def _tiles(view: View, rows: list[int]) -> list[Tile]:
    return [Tile(shown_file(view, view.files_of(row)[:1])) for row in rows]
