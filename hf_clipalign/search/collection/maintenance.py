"""Verifying, mending and compacting an index as a whole: database, shards and heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.features.storage.headers import DamagedShard
from hf_clipalign.search.collection.compaction import compact, is_due
from hf_clipalign.search.collection.manifest import Manifest, repair_of
from hf_clipalign.search.collection.models import INDEXED, LoadedModel
from hf_clipalign.search.collection.verification import inspect, mend
from hf_clipalign.search.heads import FILE, Heads


def problems(manifest: Manifest, description: Mapping[str, Any]) -> list[str]:
    """What is wrong with an index, one line each.

    Raises:
        `ClipAlignError`: it is of a newer format, or the disk refuses to read.
    """
    damage = _damage_of_heads(manifest)
    return [*([damage] if damage else []), *inspect(manifest, description, INDEXED.key(description)).problems]


def repaired(manifest: Manifest, description: Mapping[str, Any], load: Callable[[], LoadedModel]) -> list[str]:
    """Mends an index as far as that goes without its images; an update does the rest.

    Args:
        manifest (`Manifest`): the database; the folder is locked.
        description (`dict`): what the index is made from.
        load (`Callable`): gives the checked model, if its heads have to be made anew.

    Returns:
        `list[str]`: what was wrong.
    """
    key, damage = INDEXED.key(description), _damage_of_heads(manifest)
    found = mend(manifest, description, key)
    if damage is None:
        return found
    band = description.get("band")
    Heads.of(load().encoder, description, None if band is None else (band[0], band[1])).save(manifest.folder, key)
    return [damage, *found]


def compacted(manifest: Manifest, description: Mapping[str, Any], when_due: bool = False) -> int:
    """Compacts an index; how many deleted rows are gone.

    Args:
        manifest (`Manifest`): the database; the folder is locked.
        description (`dict`): what the index is made from.
        when_due (`bool`, *optional*, defaults to `False`): only if it is worth its time.

    Raises:
        `ClipAlignError`: a shard is damaged, or the disk refuses.
    """
    size = description["shard_size"]
    if when_due:
        with manifest.reading() as connection:
            if not is_due(connection, size):
                return 0
    try:
        return compact(manifest, INDEXED.key(description), description["width"], size)
    except DamagedShard as damage:
        message = f"the index {str(manifest.folder)!r} is damaged ({damage}): {repair_of(manifest.folder)}."
        raise ClipAlignError(message) from None


def _damage_of_heads(manifest: Manifest) -> str | None:
    try:
        Heads.load(manifest.folder)
    except DamagedShard as damage:
        return f"{FILE}: {damage}"
    except FileNotFoundError:
        return f"{FILE}: it is missing"
    return None
