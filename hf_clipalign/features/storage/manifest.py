"""What a store is made from: its kind, its description, the key of its shards, and how two descriptions differ."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_file, explained_read
from hf_clipalign._io.limited_json import BadJson, checked_json, natural
from hf_clipalign.features.storage.headers import DamagedShard

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
_EARLIER = 1
_LONGEST = 40


@dataclass(frozen=True)
class Column:
    """What a tensor of every shard must be.

    Args:
        dtype (`str`): `"float"` for any floating point, else as torch calls it, such as `"int64"`.
        ndim (`int`): number of dimensions. The first is the row, unless `ndim` is 1 and `per_row` is False.
        optional (`bool`, *optional*, defaults to `False`): it may be absent.
        per_row (`bool`, *optional*, defaults to `True`): it has one entry a row.
    """

    dtype: str
    ndim: int
    optional: bool = False
    per_row: bool = True


@dataclass(frozen=True)
class Kind:
    """One kind of store: all in which features, inversions and the caches differ.

    Args:
        name (`str`): of the kind, its manifest (`NAME.json`) and its shards (`NAME-00000-….safetensors`).
        noun (`str`): what messages call the content.
        columns (`Mapping[str, Column]`): the tensors of a shard. Others are not looked at.
        identity (`tuple[str, ...]`): the entries of the description that decide about the content.
        description: the schema of the description, see `hf_clipalign._io.limited_json`.
        remedy (`str`): what to do about a damaged shard.
        content (`tuple[str, ...]`): the entries of `identity` that name the items and sizes, so that rows of stores
            which differ in them alone can be reused.
        titles (`Mapping[str, str]`): what messages call the entries of the description.
        counts (`tuple[str, ...]`): the integers that the manifest of a complete store has for each shard.
        restart (`str`): what to do about a manifest that cannot be used.
    """

    name: str
    noun: str
    columns: Mapping[str, Column]
    identity: tuple[str, ...]
    description: Any
    remedy: str
    content: tuple[str, ...] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    counts: tuple[str, ...] = ()
    restart: str = ""

    @property
    def manifest_file(self) -> str:
        """Name of the manifest."""
        return f"{self.name}.json"

    def key(self, description: Mapping[str, Any]) -> str:
        """Hash of all that decides about the shards."""
        return self._hash(description, self.identity)

    def family(self, description: Mapping[str, Any]) -> str:
        """Hash of all that decides about a single row."""
        return self._hash(description, tuple(path for path in self.identity if path not in self.content))

    def check_columns(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises `DamagedShard` at the first tensor that is not as this kind has them."""
        rows = set()
        for name, column in self.columns.items():
            tensor = tensors.get(name)
            if tensor is None and not column.optional:
                raise DamagedShard(f"it holds no {name!r}")
            if tensor is None:
                continue
            dtype = "float" if column.dtype == "float" and tensor.is_floating_point() else str(tensor.dtype)[6:]
            if (dtype, tensor.ndim) != (column.dtype, column.ndim):
                raise DamagedShard(f"its {name!r} are {tensor.dtype} {tuple(tensor.shape)}")
            rows |= {len(tensor)} if column.per_row else set()
        if len(rows) > 1:
            raise DamagedShard(f"its tensors have {' and '.join(map(str, sorted(rows)))} rows")

    def _hash(self, description: Mapping[str, Any], paths: tuple[str, ...]) -> str:
        content = [entry(description, path) for path in paths]
        return hashlib.sha256(json.dumps([FORMAT, self.name, content], sort_keys=True).encode()).hexdigest()


def plain(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description as it comes back from JSON; NumPy's numbers become Python's."""
    return json.loads(json.dumps(description, default=methodcaller("item")))


def write_manifest(folder: Path, kind: Kind, manifest: Mapping[str, Any]) -> None:
    """Writes a manifest atomically, with a checksum of its own."""
    with atomic_file(folder / kind.manifest_file) as staging:
        staging.write_text(json.dumps(sealed(manifest), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the checksum of all that it says."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return {**content, "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def read_manifest(folder: Path, kind: Kind) -> dict[str, Any] | None:
    """The manifest of a folder, None if it has none.

    Raises:
        `ClipAlignError`: it is damaged, or of another version of the format, or cannot be read.
    """
    file = folder / kind.manifest_file
    with explained_read(file):
        try:
            text = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
    return parsed_manifest(text, folder, kind)


def parsed_manifest(text: bytes, folder: Any, kind: Kind) -> dict[str, Any]:
    """A manifest from its text; the folder is for messages.

    Raises:
        `ClipAlignError`: it is damaged, or of another version of the format.
    """
    name = f"{folder}/{kind.manifest_file}"
    try:
        version = checked_json(text, {"format": natural})["format"]
        if version in (_EARLIER, FORMAT):
            shard = {"file": _file_name, "bytes": natural, "sha256": str, **dict.fromkeys(kind.counts, natural)}
            return _consistent(checked_json(text, {**kind.description, "shards?": [shard], "complete?": bool}))
    except BadJson as error:
        raise ClipAlignError(
            f"{name!r} is damaged, so that the {kind.noun} in {str(folder)!r} cannot be used: it {error}. "
            f"{kind.restart}."
        ) from None
    raise ClipAlignError(
        f"the {kind.noun} in {str(folder)!r} have format {version}, this version of hf_clipalign reads {FORMAT}: "
        f"update it. {kind.restart}."
    )


def _file_name(value: Any) -> bool:
    """Whether a value is the name of a file in the folder itself."""
    return isinstance(value, str) and re.fullmatch(r"[\w-]+\.safetensors", value) is not None


def _consistent(manifest: dict[str, Any]) -> dict[str, Any]:
    if not is_earlier(manifest) and sealed(manifest) != manifest:
        raise BadJson("is not as it was written")
    if manifest.get("complete") and "shards" not in manifest:
        raise BadJson("is complete but lists no shards")
    return manifest


def is_earlier(manifest: Mapping[str, Any]) -> bool:
    """Whether a store is of format 1: its shards are proven by the manifest only."""
    return manifest["format"] == _EARLIER


def differences(kind: Kind, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    """What decides about the content and is not the same: by entry, in words with both values."""
    found: dict[str, str] = {}
    for path in kind.identity:
        old, new = entry(stored, path), entry(wanted, path)
        if old != new:
            found[path] = _told(kind, path, old, new, stored, wanted)
    return found


def entry(description: Mapping[str, Any], path: str) -> Any:
    """An entry of a nested description by its dotted path, None if there is none."""
    value: Any = description
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _told(kind: Kind, path: str, old: Any, new: Any, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    title = kind.titles.get(path, path)
    if isinstance(old, dict) and isinstance(new, dict):
        changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        parts = [f"{name}: {_short(old.get(name))} there, {_short(new.get(name))} here" for name in changed[:3]]
        return f"{title} ({', '.join(parts)}{', …' if len(changed) > 3 else ''})"
    name = f"{path.rpartition('.')[0]}.name"
    names = entry(stored, name), entry(wanted, name)
    if path in kind.titles and path.rpartition(".")[2] in ("weights", "fingerprint"):
        if names[0] != names[1]:
            return f"{title} ({names[0]} there, {names[1]} here)"
        called = "" if names[0] is None else f" under the name {names[0]!r}"
        return f"{title} (other content{called}: {_short(old)} there, {_short(new)} here)"
    return f"{title} ({_short(old)} there, {_short(new)} here)"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:12]}…"
