"""What a shard says about itself, and its tensors as NumPy arrays: reading without torch."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from hf_clipalign._io.limited_json import BadJson, checked_json, natural

METADATA = "hf_clipalign"
"""Name of the one entry of the metadata."""

_OURS = b'{"__metadata__":{"hf_clipalign":'
_MOST_HEADER = 100_000_000  # bytes, the limit of safetensors
_ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
_NAMES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"},
    **{"I64": "int64", "I32": "int32", "U8": "uint8", "BOOL": "bool"},
}
_ENTRY = {"dtype": str, "shape": [natural], "data_offsets": [natural]}
_ABOUT = {"kind": str, "key": str, "shard": natural, "meta": dict, "sha256": str}
_EARLIER = {"key": str, "shard": natural, "sha256": str}  # format 1


class DamagedShard(Exception):
    """A shard that is cut off or changed, or is another one. The message says which, without the file's name."""


class ForeignFile(DamagedShard):
    """A file that is no shard of ours, or is damaged beyond recognition."""


def size_problem(found: int | None, expected: int) -> str | None:
    """What the size of a file says against it, None if nothing; `found` is None where there is no file."""
    if found is None:
        return "it is missing"
    return None if found == expected else f"it has {found:,} bytes instead of {expected:,}"


class Header(NamedTuple):
    """What stands before the tensors of a shard.

    Attributes:
        entries (`dict`): type, shape and place of each tensor by its name, as safetensors has them.
        about (`dict`): the metadata: `kind`, `key`, `shard`, `meta`, `sha256`.
        start (`int`): where the tensors begin, in bytes.
        size (`int`): of the file, in bytes.
    """

    entries: dict[str, dict[str, Any]]
    about: dict[str, Any]
    start: int
    size: int


def read_header(path: Path) -> Header:
    """Reads the header of a shard; the tensors are not looked at, and no file stays open.

    Raises:
        `DamagedShard`: it is cut off, or its header makes no sense.
        `OSError`: it cannot be read.
    """
    with open(path, "rb") as stream:
        return header_in(stream)


def header_in(stream: BinaryIO) -> Header:
    """`read_header` of an open file, or of the bytes of one.

    Raises:
        `DamagedShard`, `OSError`: as `read_header`.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    text = stream.read(min(length, _MOST_HEADER)) if length <= size else stream.read(len(_OURS))
    problem: type[DamagedShard] = DamagedShard if text.startswith(_OURS) else ForeignFile
    if size < 8 or length > size - 8 or length > _MOST_HEADER:
        raise problem(f"it has {size:,} bytes, too few for its header")
    try:
        entries = checked_json(text, {"__metadata__": {METADATA: str}})
        about = checked_json(entries.pop("__metadata__")[METADATA].encode(), (_ABOUT, _EARLIER))
        checked_json(json.dumps(list(entries.values())).encode(), [_ENTRY])
        expected = 8 + length + _check_layout(entries)
    except (BadJson, UnicodeError) as error:
        raise problem(f"its header {error}") from None
    if size != expected:
        raise DamagedShard(f"it has {size:,} bytes, its header says {expected:,}")
    return Header(entries, about, 8 + length, size)


def mapped_arrays(path: Path, header: Header | None = None) -> dict[str, np.ndarray]:
    """The tensors of a shard, mapped into memory and not to be changed; bfloat16 ones as the bytes that they are.

    Raises:
        `DamagedShard`, `OSError`: as `read_header`.
    """
    header = header or read_header(path)
    with open(path, "rb") as stream:
        if header.size != stream.seek(0, 2):
            raise DamagedShard("it was changed while it was read")
        data = mmap.mmap(stream.fileno(), header.size, access=mmap.ACCESS_READ)
    return {name: _array(data, header.start, entry) for name, entry in header.entries.items()}


def check_sealed(path: Path) -> dict[str, Any]:
    """Reads a complete shard and compares it with its checksum; what it says about itself.

    Raises:
        `DamagedShard`: it is changed, or as `read_header`.
        `OSError`: it cannot be read.
    """
    header = read_header(path)
    arrays = mapped_arrays(path, header)
    about = {name: value for name, value in header.about.items() if name != "sha256"}
    described = {
        name: (_NAMES[entry["dtype"]], tuple(entry["shape"]), _bytes(arrays[name]))
        for name, entry in header.entries.items()
    }
    if seal(described, about) != header.about["sha256"]:
        raise DamagedShard("its content has changed")
    return header.about


def check_place(about: Mapping[str, Any], kind: str, key: str, index: int) -> None:
    """Compares what a shard says that it is with what it should be."""
    if (found := about.get("kind", kind)) != kind:
        raise DamagedShard(f"it is a shard of {found!r}, not of {kind!r}")
    if about["key"] != key:
        raise DamagedShard("it belongs to another run")
    if about["shard"] != index:
        raise DamagedShard(f"it is shard {about['shard']}, in the place of {index}")


def seal(tensors: Mapping[str, tuple[str, tuple[int, ...], Any]], about: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, and over what a shard says about itself."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        dtype, shape, data = tensors[name]
        digest.update(f"{name} torch.{dtype} {shape} ".encode("utf-8", "surrogatepass"))
        digest.update(data)
    return digest.hexdigest()


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _check_layout(entries: Mapping[str, Any]) -> int:
    """Whether the tensors fill the file without gaps, and how many bytes they have."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        item_size, count = _ITEM_SIZES.get(entry["dtype"]), math.prod(entry["shape"])
        if item_size is None or entry["data_offsets"] != [end, end + count * item_size]:
            raise BadJson(f"has an entry of {name[:40]!r} that does not fit")
        end += count * item_size
    return end


def _array(data: Any, start: int, entry: Mapping[str, Any]) -> np.ndarray:
    name = _NAMES[entry["dtype"]]
    dtype = np.dtype("uint8" if name == "bfloat16" else name)
    first, last = entry["data_offsets"]
    count = (last - first) // dtype.itemsize
    shape = (count,) if name == "bfloat16" else entry["shape"]
    return np.frombuffer(data, dtype, count, start + first).reshape(shape)
