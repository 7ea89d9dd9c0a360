"""A store of one shard in a file that the user names: its manifest is in its own metadata."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import exclusive_lock, explained_read
from hf_clipalign._io.staging import remove_stale
from hf_clipalign.features.storage.headers import DamagedShard, ForeignFile, check_place
from hf_clipalign.features.storage.manifest import FORMAT, Kind, differences, plain
from hf_clipalign.features.storage.shards import (
    Shard,
    check_seal,
    open_shard,
    own_copies,
    write_shard,
)

logger = logging.getLogger(__name__)

_PATIENCE = 60.0  # seconds: the other processes of a run write the same file


class OtherContent(Exception):
    """A sound file whose description is another one. The message says what differs."""


def cached_tensors(
    path: Path,
    kind: Kind,
    description: Mapping[str, Any],
    compute: Callable[[], Mapping[str, Tensor]] | None,
    *,
    replace: bool = False,
    rows: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """The tensors that a file holds; made and written if there is no file, or it is damaged.

    Args:
        path (`Path`): the file.
        kind (`Kind`): what it holds.
        description (`Mapping`): what the tensors are made from. Entries of the kind's identity that it lacks are not
            compared.
        compute (`Callable`, *optional*): makes the tensors. None: the file must be there, and sound.
        replace (`bool`, *optional*, defaults to `False`): a file of this kind that is made from something else is made
            again, with a warning that says what differs, instead of an error.
        rows (`Mapping[str, int]`, *optional*): how many rows the tensors must have.

    Raises:
        `ClipAlignError`: the file is damaged or of something else and cannot be made again; it is no such file; or the
            disk refuses to read or to write.
    """
    try:
        shard = read_file(path, kind, description, rows)
        if shard is not None:
            return shard.tensors
    except ForeignFile as problem:
        raise ClipAlignError(
            f"{str(path)!r} holds no {kind.noun} of this version, or is damaged: delete it, or name another file "
            f"({problem})."
        ) from None
    except DamagedShard as damage:
        if compute is None:
            raise ClipAlignError(
                f"{str(path)!r} is damaged: delete it, it is made again ({kind.noun}: {damage})."
            ) from None
        logger.warning("%s is damaged, and its %s are made again: %s", path, kind.noun, damage)
    except OtherContent as other:
        if compute is None or not replace:
            raise ClipAlignError(
                f"{str(path)!r} was made with {other}: delete it, or name another file. {kind.remedy}."
            ) from None
        logger.warning("%s was made with %s: its %s are made again", path, other, kind.noun)
    if compute is None:
        raise ClipAlignError(f"{str(path)!r}: no such file. {kind.remedy}.")
    return write_file(path, kind, description, compute())


def write_file(
    path: Path, kind: Kind, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Writes the file atomically, and removes what killed runs left of it; gives the tensors back, on the CPU.

    Raises:
        `ClipAlignError`: the disk refuses.
    """
    described = plain({"format": FORMAT, **description})
    content = own_copies(tensors)
    busy = f"another run is writing {str(path)!r}: try again when it has ended."
    with exclusive_lock(path.parent / f".{kind.name}.lock", busy, patience=_PATIENCE):
        remove_stale(path.parent)
        write_shard(path, kind.name, kind.key(described), 0, content, {"description": described})
    return content


def read_file(
    path: Path, kind: Kind, description: Mapping[str, Any], rows: Mapping[str, int] | None = None
) -> Shard | None:
    """The proven content of a file; None if there is none.

    Raises:
        `OtherContent`: it is sound, but made from something else than `description` says.
        `ForeignFile`: it is no shard, or one of another kind.
        `DamagedShard`: it is not as it was written.
        `ClipAlignError`: the disk refuses to read it.
    """
    with explained_read(path):
        try:
            shard = open_shard(path)
        except FileNotFoundError:
            if path.parent.is_dir() and path.name in os.listdir(path.parent):
                raise  # the disk is to blame
            return None
        if (found := shard.about.get("kind")) != kind.name:
            raise ForeignFile(f"it is of the kind {found!r}")
        check_seal(shard)
    stored = shard.meta.get("description")
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ForeignFile("its format is another one")
    check_place(shard.about, kind.name, kind.key(stored), 0)
    if found := differences(kind, stored, _completed(kind, stored, plain(description))):
        raise OtherContent(" and ".join(found.values()))
    kind.check_columns(shard.tensors)
    for name, count in (rows or {}).items():
        if len(shard.tensors[name]) != count:
            raise DamagedShard(f"its {name!r} have {len(shard.tensors[name])} rows instead of {count}")
    return shard


def _completed(kind: Kind, stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The description, with the stored entries where it says nothing."""
    return {name: given.get(name, stored.get(name)) for name in {path.partition(".")[0] for path in kind.identity}}
