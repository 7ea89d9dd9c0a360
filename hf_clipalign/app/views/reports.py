"""The pages of duplicates and of what is in a folder."""

from __future__ import annotations

from typing import Any, cast

from hf_clipalign._checks.quoting import counted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.app.clusters import Cluster, Report
from hf_clipalign.app.folder_report import Concept, Concepts
from hf_clipalign.app.view import View
from hf_clipalign.app.views.markup import Group, Tile, groups, message, shown_file
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
    report = concepts.report(_names(words, size), n_clusters, _SHOWN_CONCEPTS, _PER_ROW, say, view)
    parts = [message(report.note, "error") if report.note else _concepts(view, report.concepts)]
    if report.clusters:
        parts.append(_clusters(view, report.clusters))
    return "".join(parts)


def _concepts(view: View, concepts: list[Concept]) -> str:
    largest = max(concept.share for concept in concepts)
    shown = [
        Group(
            concept.name,
            _tiles(view, concept.rows),
            f"{100 * concept.share:.1f} % of the differences",
            round(100 * concept.share / largest, 1),
        )
        for concept in concepts
    ]
    csv = as_csv(("concept", "importance"), [(concept.name, f"{concept.share:.6g}") for concept in concepts])
    return groups(view, "What tells the images apart", shown, [], csv, "concepts.csv")


def _clusters(view: View, clusters: list[Cluster]) -> str:
    """Groups of images: of each the most typical ones, and all files as CSV."""
    shown = []
    for cluster in clusters:
        size = counted(cluster.size, "image")
        text = f"{size}; {cluster.kind}" if cluster.kind else size
        shown.append(Group(", ".join(cluster.names), _tiles(view, cluster.rows[:_PER_ROW].tolist()), text))
    lines = [
        (view.files.path(number), ", ".join(cluster.names), probability)
        for cluster in clusters
        for row, probability in zip(cluster.rows.tolist(), _probabilities(cluster), strict=True)
        for number in view.files_of(row)
    ]
    return groups(view, "Groups of images", shown, [], as_csv(("path", "group", "probability"), lines), "groups.csv")


def _probabilities(cluster: Cluster) -> list[str]:
    """How sure a model is of each image; empty where the groups are no classes of a model."""
    if cluster.probabilities is None:
        return [""] * cluster.size
    return [f"{probability:.4g}" for probability in cluster.probabilities]


def _names(words: str, size: int) -> list[str]:
    from hf_clipalign.data import check_names, load_dictionary

    given = [word.strip() for word in words.replace("\n", ",").split(",") if word.strip()]
    if not given:
        return load_dictionary()[:size]
    if not 2 <= len(given) <= _MOST_WORDS:
        raise ClipAlignError(f"{len(given):,} words are given: give 2 to {_MOST_WORDS:,}, or none.")
    return check_names(given, "words")


def _tile(view: View, tile: Any) -> Tile:
    number: Any = view.files.find(tile.path)
    change, mark = ("up", "worth keeping") if tile.is_marked else ("", "")
    lines = [line for line in tile.lines if line != mark]
    return Tile(shown_file(view, [number]), lines, change, mark)


def _tiles(view: View, rows: list[int]) -> list[Tile]:
    return [Tile(shown_file(view, view.files_of(row)[:1])) for row in rows]
