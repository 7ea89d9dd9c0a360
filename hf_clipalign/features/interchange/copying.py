"""A store from a disk to a place behind a URL: shards under their names, the manifest last."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_read
from hf_clipalign._io.urls import RemoteFolder, is_url, local_path
from hf_clipalign.features.rows import EMBEDDINGS, FEATURES, opened_rows
from hf_clipalign.features.storage.folder import ShardFolder
from hf_clipalign.features.storage.manifest import Kind
from hf_clipalign.features.storage.remote import RemoteShards

KINDS = (FEATURES, EMBEDDINGS)


def copy_store(folder: str | Path, url: str, *, overwrite: bool = False) -> str:
    """Copies a complete store of features or embeddings to where fsspec can write: `s3://…`, `gs://…`, `memory://…`.

    Every shard is compared with its checksum, put under its name, and read back; the manifest follows last, so that a
    reader never finds a store that is not complete. After an interruption the same call puts what is missing. Two
    copies of one store at a time do no harm, as they write the same bytes.

    Args:
        folder (`str` or `Path`): the store, on a disk.
        url (`str`): where it goes; credentials come from the environment.
        overwrite (`bool`, *optional*, defaults to `False`): replace another store there. Its readers find none
            meanwhile.

    Returns:
        `str`: the URL, for `FeatureStore.open` or `EmbeddingStore.open`.

    Raises:
        `ClipAlignError`: a shard is damaged, another store is there, or the place refuses.

    Example:
        ```python
        >>> from hf_clipalign.features import FeatureStore, copy_store, extract_to_store
        >>> store = extract_to_store(model, "photos", processor, "features", shard_size=8, progress=False)
        >>> len(FeatureStore.open(copy_store("features", "memory://shop/features")))
        12
        ```
    """
    if not is_url(url) or local_path(url) is not None:
        raise ClipAlignError(f"{url!r} is on a disk: copy the folder {str(folder)!r} with the system's own means.")
    shards, remote = _complete(Path(folder)), RemoteFolder(url)
    _make_room(shards, remote, overwrite)
    sizes = remote.names()
    for index, entry in enumerate(shards.shards):
        name = entry["file"]
        if sizes.get(name) == entry["bytes"] and _is_there(remote, entry):
            continue
        file = shards.file(index)
        with explained_read(file):
            content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise shards.damage(name, "its content has changed")
        remote.write(name, content)
        if not _is_there(remote, entry):
            raise ClipAlignError(f"{name} in {str(remote)!r} is not as it was written: run the same again.")
    remote.write(shards.kind.manifest_file, (shards.path / shards.kind.manifest_file).read_bytes())
    return url


def _complete(folder: Path) -> ShardFolder:
    for kind in KINDS:
        if (shards := ShardFolder.open(folder, kind)) is not None:
            return opened_rows(shards, "complete it first")
    raise ClipAlignError(f"{str(folder)!r} holds no store: give a folder of `clipalign embed` or `clipalign import`.")


def _make_room(shards: ShardFolder, remote: RemoteFolder, overwrite: bool) -> None:
    """Refuses a place with another store; with `overwrite` its manifest goes first, then its shards."""
    for kind in KINDS:
        other = _stored(remote, kind, overwrite)
        if other is None or (kind is shards.kind and other.get("shards") == shards.shards):
            continue
        if not overwrite:
            raise ClipAlignError(
                f"{str(remote)!r} holds other {kind.noun}: give another place, or replace them with overwrite=True."
            )
        remote.remove(kind.manifest_file)
        for entry in other.get("shards", []):
            remote.remove(entry["file"])


def _stored(remote: RemoteFolder, kind: Kind, overwrite: bool) -> dict[str, Any] | None:
    try:
        found = RemoteShards.at(remote, kind)
    except ClipAlignError:
        if not overwrite:
            raise
        return {}  # a damaged manifest is replaced, too
    return None if found is None else found.manifest


def _is_there(remote: RemoteFolder, entry: dict[str, Any]) -> bool:
    try:
        return hashlib.sha256(remote.read(entry["file"])).hexdigest() == entry["sha256"]
    except FileNotFoundError:
        return False
