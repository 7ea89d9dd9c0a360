"""Hashes of images and texts, by which equal content is known again."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np

HASH_BYTES = 16
"""Length of the hash of a row's image or text."""

NO_HASH = bytes(HASH_BYTES)
"""Of an image whose content is not known before it is decoded."""

_PIECE = 2**20


def content_hash(content: Any) -> bytes:
    """BLAKE2b of encoded bytes or of an array; zeros for anything else."""
    if isinstance(content, dict):
        content = content.get("bytes")
    if isinstance(content, np.ndarray) and content.dtype != object:
        return _digest(f"{content.dtype} {content.shape}", np.ascontiguousarray(content).tobytes())
    return _digest("bytes", bytes(content)) if isinstance(content, (bytes, bytearray, memoryview)) else NO_HASH


def file_content_hash(path: str | os.PathLike[str]) -> bytes:
    """`content_hash` of a file's bytes, read piece by piece; `OSError` passes through."""
    digest = _begun("bytes")
    with open(path, "rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.digest()


def text_hash(text: str) -> bytes:
    """BLAKE2b of a text."""
    return _digest("text", text.encode("utf-8", "surrogatepass"))


def _begun(form: str) -> hashlib.blake2b:
    return hashlib.blake2b(f"{form}: ".encode(), digest_size=HASH_BYTES)


def _digest(form: str, content: bytes) -> bytes:
    digest = _begun(form)
    digest.update(content)
    return digest.digest()
