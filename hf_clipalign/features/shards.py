"""The files of a feature store: shards of fixed rows, and a manifest. Reading and writing, nothing else.

A shard is a safetensors file with `values [k, w]` (float32), `rows [k]` (position in the source, int64), `labels [k]`
(int64, where there are labels), and the names as UTF-8 text in one piece: `id_text` (uint8) cut at `id_ends [k]`. Its
metadata hold one JSON string: the key of the run, the number of the shard, what could not be read, and the SHA-256 of
the tensors, so that a shard proves itself before there is a manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._files import atomic_file, exclusive_lock

FORMAT = 1
MANIFEST_FILE = "features.json"
_LOCK_FILE = ".features.lock"
_METADATA_KEY = "hf_clipalign"
_DTYPES: dict[str, Any] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8"), "U8": np.dtype("u1")}


class DamagedShard(Exception):
    """A shard that is missing, cut off or changed, or belongs to another run. The message says which, without name."""


@dataclass
class Shard:
    """Features of some consecutive rows of a source, without the rows that could not be read.

    Attributes:
        values (`np.ndarray [k, w]`): float32.
        rows (`np.ndarray [k]`): int64, positions in the source.
        ids (`list[str]`): k names.
        labels (`np.ndarray [k]`, *optional*): int64.
        skipped (`list[tuple[str, str]]`): name and reason of what could not be read.
    """

    values: np.ndarray
    rows: np.ndarray
    ids: list[str]
    labels: np.ndarray | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)


def shard_name(index: int) -> str:
    """File name of a shard."""
    return f"features-{index:05d}.safetensors"


def shard_files(folder: Path) -> dict[int, Path]:
    """The shards in a folder, by number."""
    files = (file for file in folder.glob("features-*.safetensors") if file.stem.split("-")[1].isdigit())
    return {int(file.stem.split("-")[1]): file for file in files}


def write_shard(folder: Path, index: int, shard: Shard, key: str) -> None:
    """Writes a shard atomically; the same content always gives the same bytes."""
    names = [name.encode("utf-8", "surrogatepass") for name in shard.ids]
    tensors = {
        "values": np.ascontiguousarray(shard.values, dtype="<f4"),
        "rows": np.ascontiguousarray(shard.rows, dtype="<i8"),
        "id_text": np.frombuffer(b"".join(names), dtype=np.uint8),
        "id_ends": np.cumsum([len(name) for name in names], dtype="<i8"),
    }
    if shard.labels is not None:
        tensors["labels"] = np.ascontiguousarray(shard.labels, dtype="<i8")
    about = {"key": key, "shard": index, "sha256": _content_hash(tensors), "skipped": shard.skipped}
    with atomic_file(folder / shard_name(index)) as staging:
        save_file(tensors, staging, {_METADATA_KEY: json.dumps(about)})


def open_shard(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors as memory-mapped arrays, and what the metadata say; nothing but the header is read yet.

    Raises:
        `DamagedShard`: the file is missing or cut off, or is no shard.
    """
    try:
        data = np.memmap(file, dtype=np.uint8, mode="r")
        end = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:end].tobytes())
        about = json.loads(header.pop("__metadata__")[_METADATA_KEY])
        size = end + max(entry["data_offsets"][1] for entry in header.values())
    except FileNotFoundError:
        raise DamagedShard("it is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedShard("its header is unreadable") from error
    if size != len(data):
        raise DamagedShard(f"it has {len(data):,} bytes, its header says {size:,}")
    return {name: _tensor(data, end, entry) for name, entry in header.items()}, about


def check_shard(file: Path, index: int, key: str) -> None:
    """Reads a whole shard to see that it is the one that this run would write.

    Raises:
        `DamagedShard`: it is not.
    """
    tensors, about = open_shard(file)
    if about.get("key") != key or about.get("shard") != index:
        raise DamagedShard("it belongs to another run")
    if about.get("sha256") != _content_hash(tensors):
        raise DamagedShard("its content has changed")


def read_shard(file: Path) -> Shard:
    """A shard whose arrays stay on the disk until they are used; errors as `open_shard`."""
    tensors, about = open_shard(file)
    try:
        skipped = [(name, reason) for name, reason in about["skipped"]]
        return Shard(tensors["values"], tensors["rows"], _names(tensors), tensors.get("labels"), skipped)
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedShard("its header is unreadable") from error


def file_hash(file: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it."""
    with open(file, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest atomically."""
    with atomic_file(folder / MANIFEST_FILE) as staging:
        staging.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, None if it has none.

    Raises:
        `ClipAlignError`: it is damaged, or of another version of the format.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        version = manifest["format"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClipAlignError(
            f"the features in {str(folder)!r} are damaged ({MANIFEST_FILE} cannot be read): make them again in a "
            "new folder, or with --overwrite."
        ) from error
    if version != FORMAT:
        raise ClipAlignError(
            f"the features in {str(folder)!r} have format {version}, this version of hf_clipalign reads {FORMAT}: "
            "update it, or make them again with --overwrite."
        )
    return manifest


@contextmanager
def store_lock(folder: Path) -> Iterator[None]:
    """Holds a folder for writing, until the block or the process ends.

    Raises:
        `ClipAlignError`: another process is writing there, or the folder cannot be written to.
    """
    with exclusive_lock(
        folder / _LOCK_FILE, f"another run is writing features to {str(folder)!r}: wait for it, or use another folder."
    ):
        yield


def remove_strays(folder: Path) -> None:
    """Removes the unfinished files of a killed run. Only while the folder is held."""
    for pattern in (".features-*.safetensors", f".{MANIFEST_FILE}-*"):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)


def remove_store(folder: Path) -> None:
    """Removes manifest and shards. Only while the folder is held."""
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    for file in shard_files(folder).values():
        file.unlink(missing_ok=True)


def _tensor(data: np.ndarray, start: int, entry: dict[str, Any]) -> np.ndarray:
    first, last = entry["data_offsets"]
    try:
        return data[start + first : start + last].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    except (KeyError, ValueError) as error:
        raise DamagedShard("its header is unreadable") from error


def _names(tensors: dict[str, np.ndarray]) -> list[str]:
    text, ends = tensors["id_text"].tobytes(), tensors["id_ends"].tolist()
    return [
        text[start:end].decode("utf-8", "surrogatepass") for start, end in zip([0, *ends[:-1]], ends, strict=False)
    ]


def _content_hash(tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape} ".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()
