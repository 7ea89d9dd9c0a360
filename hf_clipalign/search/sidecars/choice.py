"""How a collection is searched: by its size, by what lies beside it, and by how much of the exact answer it finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from hf_clipalign.search.answers.collection import Collection
from hf_clipalign.search.exact import Neighbours, exact_neighbours, rescored
from hf_clipalign.search.folded import FoldedRows
from hf_clipalign.search.levels import BitLevel, ByteLevel
from hf_clipalign.search.rows import Rows
from hf_clipalign.search.sidecars.approximate import GraphLevel, is_installed
from hf_clipalign.search.sidecars.storage import EXACT, Sidecar, SidecarLevel, UnusableSidecar

FEW_ROWS = 2_000
"""Up to so many images, projecting all of them takes no longer than a look at the disk for what lies beside them."""
EXACT_ROWS = 200_000
"""Up to so many images, every stored feature is compared."""
GRAPH_ROWS = 1_000_000
"""Beyond so many, a graph is walked where usearch is installed."""

ALL_LEVELS = (EXACT, ByteLevel.name, BitLevel.name, GraphLevel.name)

_LEAST_RECALL = 0.95
_SAMPLE = 256
_DEPTH = 10
_MIN_SHARE = 1 / 16
"""Below this share of images that may be found, those are compared one by one."""
_HINT = "run `clipalign index` on it to make it, or hf_clipalign.search.prepare(index)"


class Found(NamedTuple):
    """Neighbours, how they were found, and what a reader should know about that."""

    neighbours: Neighbours
    method: str
    note: str


def wanted_levels(n: int) -> list[str]:
    """The levels for a collection of n images, the most wanted first."""
    if n <= FEW_ROWS:
        return []
    if n <= EXACT_ROWS:
        return [EXACT]
    if n <= GRAPH_ROWS:
        return [ByteLevel.name, EXACT]
    graph = [GraphLevel.name] if is_installed() else []
    return [*graph, BitLevel.name, ByteLevel.name, EXACT]


def neighbours(
    collection: Collection,
    head: str,
    queries: NDArray[np.float32],
    top_k: int,
    allowed: NDArray[np.bool_] | None = None,
) -> Found:
    """The nearest images of queries in the space of a head, by exact scores.

    A level that is missing, damaged or out of date is not used, and the note says so; the images are then compared
    one by one.

    Args:
        collection (`Collection`): where to look.
        head (`str`): in whose space.
        queries (`np.ndarray [Q, k]`): float32, of unit length.
        top_k (`int`): how many.
        allowed (`np.ndarray [N]`, *optional*): of bool: which images may be found.

    Returns:
        `Found`.
    """
    embeddings = collection.embeddings(head)
    wanted = wanted_levels(len(embeddings))
    if not wanted or (allowed is not None and allowed.sum() < _MIN_SHARE * len(embeddings)):
        return Found(exact_neighbours(embeddings, queries, top_k, allowed), "exact", "")
    if allowed is not None:
        wanted = [name for name in wanted if name != GraphLevel.name]
    _, level, note = _usable(collection, head, wanted)
    found = _by_level(level, embeddings, queries, top_k, allowed)
    if isinstance(level, FoldedRows):
        return Found(found, "exact", note)
    return Found(found, f"{level.name}, then exact scores", note)


def prepare(collection: Collection) -> list[str]:
    """Makes what a collection of this size is searched with, where it is not up to date, and measures it.

    The recall of a compressed level is that of the ten nearest images of a sample of the collection's own; one that
    finds less than 95 % of them is not used, and the next one is made. Beside a graph there is another level, for
    queries with conditions.

    Args:
        collection (`Collection`): an index that can be written to.

    Returns:
        `list[str]`: a line for each level that was made, or given up.

    Raises:
        `ClipAlignError`: the disk refuses.

    Example:
        ```python
        >>> from hf_clipalign.search import ImageIndex, prepare
        >>> prepare(ImageIndex.open("photos.index"))  # few images are compared as they are
        []
        ```
    """
    lines: list[str] = []
    wanted = wanted_levels(len(collection.features()))
    for head in collection.heads:
        tried: set[str] = set()
        for name in wanted:
            tried.add(name)
            sidecar = Sidecar(collection, head, name)
            try:
                recall = sidecar.load()[1]
            except UnusableSidecar:
                recall = _make(sidecar)
                lines.append(_line(sidecar, recall))
            if _is_good(recall) and name != GraphLevel.name:
                break
        for name in ALL_LEVELS:
            if name not in tried:
                Sidecar(collection, head, name).remove()
    return lines


def sidecar_states(collection: Collection) -> list[dict[str, Any]]:
    """What lies beside a collection: head, level, bytes, recall and state of every level that is wanted."""
    states = []
    for head in collection.heads:
        for name in wanted_levels(len(collection.features())):
            state: dict[str, Any] = {"head": head, "level": name, "bytes": 0, "recall": None, "state": "up to date"}
            try:
                facts = Sidecar(collection, head, name).facts()
                state |= {"bytes": facts["bytes"], "recall": facts["recall"]}
                if not _is_good(facts["recall"]):
                    state["state"] = "not used: its recall is too low"
            except UnusableSidecar as problem:
                state["state"] = str(problem)
            states.append(state)
            if state["state"] == "up to date" and name != GraphLevel.name:
                break
    return states


def damaged_sidecars(collection: Collection) -> list[str]:
    """A line for each level whose content is not as it was written; the others are read in full, too."""
    problems = []
    for head in collection.heads:
        for name in ALL_LEVELS:
            sidecar = Sidecar(collection, head, name)
            try:
                sidecar.load()
            except UnusableSidecar as problem:
                if str(problem).startswith("damaged"):
                    problems.append(f"{sidecar.path}: {problem}")
    return problems


def measured_recall(level: SidecarLevel, embeddings: Rows) -> float:
    """The share of the ten nearest images of a sample that a level finds; an image does not count as its own."""
    n = len(embeddings)
    sample = np.sort(np.random.default_rng(0).permutation(n)[:_SAMPLE])
    queries = embeddings.take(sample)
    depth = min(_DEPTH, n - 1)
    exact = exact_neighbours(embeddings, queries, depth + 1).rows
    found = _by_level(level, embeddings, queries, depth + 1, None).rows
    shares = []
    for row, true, seen in zip(sample, exact, found, strict=True):
        others = [one for one in true if one != row][:depth]
        shares.append(len(set(others) & set(seen.tolist())) / depth)
    return float(np.mean(shares))


def _by_level(
    level: SidecarLevel,
    embeddings: Rows,
    queries: NDArray[np.float32],
    top_k: int,
    allowed: NDArray[np.bool_] | None,
) -> Neighbours:
    if isinstance(level, FoldedRows):
        return exact_neighbours(level, queries, top_k, allowed)
    candidates = level.candidates(queries, level.oversampling * top_k, allowed)
    return rescored(embeddings, queries, candidates, min(top_k, len(embeddings)))


class _Opened(NamedTuple):
    """A level in use, the state of the collection and of the most wanted file, and why it is not the wanted one."""

    state: tuple[str, int]
    level: SidecarLevel
    note: str


_OPEN: WeakKeyDictionary[Any, dict[str, _Opened]] = WeakKeyDictionary()
"""Levels in use by collection, most wanted level and head."""


def _usable(collection: Collection, head: str, wanted: Sequence[str]) -> _Opened:
    """The level to search with, and why it is not the wanted one."""
    first = Sidecar(collection, head, wanted[0])
    state = (first.key, first.stamp())
    opened = _OPEN.setdefault(collection, {})
    if (place := f"{wanted[0]} {head}") in opened and opened[place].state == state:
        return opened[place]
    note = ""
    for name in wanted:
        try:
            level, recall = Sidecar(collection, head, name).load()
        except UnusableSidecar as problem:
            if name != EXACT or "damaged" in str(problem):
                note = note or f"the level {name!r} of this index is {problem}: {_HINT}."
            continue
        if _is_good(recall):
            break
    else:
        level = FoldedRows(collection.features(), collection.projector(head, "image"))
    opened[place] = _Opened(state, level, note)
    return opened[place]


def _make(sidecar: Sidecar) -> float | None:
    """Builds and stores a level; its recall, None for the exact one."""
    collection, head = sidecar.collection, sidecar.head
    embeddings = collection.embeddings(head)
    if sidecar.level == EXACT:
        sidecar.save(FoldedRows(collection.features(), collection.projector(head, "image")), None)
        return None
    kinds: dict[str, Any] = {kind.name: kind for kind in (ByteLevel, BitLevel, GraphLevel)}
    level = kinds[sidecar.level].build(embeddings)
    recall = measured_recall(level, embeddings)
    sidecar.save(level, recall)
    return recall


def _is_good(recall: float | None) -> bool:
    """Whether a level of this recall is searched with; None is the exact one's."""
    return recall is None or recall >= _LEAST_RECALL


def _line(sidecar: Sidecar, recall: float | None) -> str:
    if recall is None:
        return f"head {sidecar.head}: lengths for exact search"
    verdict = "" if _is_good(recall) else ", too low: not used"
    return f"head {sidecar.head}: level {sidecar.level}, recall@{_DEPTH} {recall:.4f}{verdict}"
