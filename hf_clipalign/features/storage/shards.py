"""One shard: a safetensors file that proves itself. Reading and writing, nothing else.

Its metadata hold one JSON text: the kind of store, the key of the run, the number of the shard, what else belongs to
it, and a SHA-256 over all of that and over names, types, shapes and bytes of the tensors. A file that is not as it was
written, or not where it belongs, is a `DamagedShard`; what the disk refuses stays the `OSError` that it is.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from hf_clipalign._io.files import atomic_file
from hf_clipalign.features.storage.headers import (
    METADATA,
    DamagedShard,
    Header,
    check_place,
    header_in,
    read_header,
    seal,
)

_DTYPES: dict[str, torch.dtype] = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool},
}


@dataclass(frozen=True)
class Shard:
    """An open shard.

    Attributes:
        tensors (`dict[str, Tensor]`): mapped into memory, not to be changed.
        about (`dict`): its metadata: `kind`, `key`, `shard`, `meta`, `sha256`.
    """

    tensors: dict[str, Tensor]
    about: dict[str, Any]

    @property
    def meta(self) -> dict[str, Any]:
        """What belongs to the tensors; in format 1 it lay beside the key."""
        return self.about.get("meta", self.about)


def write_shard(path: Path, kind: str, key: str, index: int, tensors: Mapping[str, Tensor], meta: Any) -> None:
    """Writes a shard atomically; the same content always gives the same bytes."""
    content = own_copies(tensors)
    about = json.loads(json.dumps({"kind": kind, "key": key, "shard": index, "meta": meta}))
    about["sha256"] = _seal(content, about)
    with atomic_file(path) as staging:
        # save_file would write through a temporary file of its own, which a kill leaves behind
        staging.write_bytes(save(content, {METADATA: json.dumps(about)}))


def own_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, contiguous, none in the memory of another."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in content.items():
        place = tensor.untyped_storage().data_ptr()
        content[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return content


def open_shard(path: Path) -> Shard:
    """Opens a shard; only its header is read, and no file stays open.

    Raises:
        `DamagedShard`: it is cut off, or its header makes no sense.
        `OSError`: it cannot be read.
    """
    header = read_header(path)
    return _shard(_mapped(path, header.size), header)


def shard_in(content: bytes) -> Shard:
    """The shard that some bytes are; its tensors lie in them, and are not to be changed.

    Raises:
        `DamagedShard`: they are cut off, or their header makes no sense.
    """
    header = header_in(BytesIO(content))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        return _shard(torch.frombuffer(content, dtype=torch.uint8), header)


def proven_shard(path: Path, kind: str, key: str, index: int) -> Shard:
    """Opens a shard, reads all of it, and compares it with its seal and with where it should be.

    Raises:
        `DamagedShard`: it is changed, or is another shard, another run's or another kind's; or as `open_shard`.
        `OSError`: it cannot be read.
    """
    shard = open_shard(path)
    check_place(shard.about, kind, key, index)
    check_seal(shard)
    return shard


def check_seal(shard: Shard) -> None:
    """Reads the whole content and compares it with its checksum."""
    if _seal(shard.tensors, {name: v for name, v in shard.about.items() if name != "sha256"}) != shard.about["sha256"]:
        raise DamagedShard("its content has changed")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it."""
    with open(path, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _seal(tensors: Mapping[str, Tensor], about: dict[str, Any]) -> str:
    described = {
        name: (str(tensor.dtype)[6:], tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy().data)
        for name, tensor in tensors.items()
    }
    return seal(described, about)


def _mapped(path: Path, size: int) -> Tensor:
    """The bytes of a file, mapped and private; unlike `mmap`, torch keeps no descriptor for it."""
    try:
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except RuntimeError as error:
        code = re.search(r"\((\d+)\)", str(error))
        raise OSError(int(code[1]) if code else 0, str(error).splitlines()[0], str(path)) from error


def _shard(data: Tensor, header: Header) -> Shard:
    return Shard({name: _tensor(data, header.start, entry) for name, entry in header.entries.items()}, header.about)


def _tensor(data: Tensor, start: int, entry: dict[str, Any]) -> Tensor:
    dtype, (first, last) = _DTYPES[entry["dtype"]], entry["data_offsets"]
    if first == last:
        return torch.empty(entry["shape"], dtype=dtype)
    piece = data[start + first : start + last]
    aligned = piece if (start + first) % dtype.itemsize == 0 else piece.clone()
    return aligned.view(dtype).reshape(entry["shape"])
