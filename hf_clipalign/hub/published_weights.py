"""Weights as they are published: what their files say beside the tensors loses paths and secrets of this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from hf_clipalign._io.limited_json import BadJson, checked_json, entries
from hf_clipalign._io.masking import mask, without_paths
from hf_clipalign._io.staging import staging_path

_ABOUT = "__metadata__"
_LENGTH_BYTES = 8
_ALIGNMENT = 8
_LARGEST_HEADER = 100_000_000  # of the safetensors format


def published_safetensors(file: Path, staging: Path) -> Path:
    """The file, or a copy in `staging` whose metadata are masked; the tensors are the same bytes.

    Args:
        file (`Path`): of safetensors; what cannot be read as such is given back as it is.
        staging (`Path`): a folder for copies.
    """
    with file.open("rb") as source:
        header = _header(source)
        about = None if header is None else header.get(_ABOUT)
        masked = None if about is None else {mask(name): _masked(value) for name, value in about.items()}
        if header is None or masked == about:
            return file
        text = json.dumps({_ABOUT: masked, **{name: entry for name, entry in header.items() if name != _ABOUT}})
        content = text.encode() + b" " * (-len(text) % _ALIGNMENT)
        copy = staging_path(staging / file.name)
        with copy.open("wb") as target:
            target.write(len(content).to_bytes(_LENGTH_BYTES, "little") + content)
            shutil.copyfileobj(source, target)
    return copy


def _header(source: BinaryIO) -> dict[str, Any] | None:
    """The header, read; the tensors follow in the stream."""
    size = int.from_bytes(source.read(_LENGTH_BYTES), "little")
    if size > _LARGEST_HEADER:
        return None
    try:
        return checked_json(source.read(size), {f"{_ABOUT}?": entries(str)})
    except BadJson:
        return None


def published_onnx(file: Path, staging: Path) -> Path:
    """The file, or a copy in `staging` without traces of the code that wrote it, and with masked metadata.

    Args:
        file (`Path`): of ONNX; without the package `onnx`, and where it cannot be read, it is given back as it is.
        staging (`Path`): a folder for copies.
    """
    try:
        import onnx
    except ImportError:
        return file
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception:  # protobuf's errors have no common class that onnx documents
        return file
    before = model.SerializeToString()
    _forget_traces(model.graph)
    for function in model.functions:
        _forget_traces(function)
    for part in (model, model.graph):
        part.doc_string = mask(part.doc_string)
        for entry in part.metadata_props:
            entry.value = _masked(entry.value)
    if model.SerializeToString() == before:
        return file
    copy = staging_path(staging / file.name)
    copy.write_bytes(model.SerializeToString())
    return copy


def _masked(text: str) -> str:
    """A text of the metadata; one that holds JSON stays JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        return mask(text)
    cleaned = without_paths(value)
    return text if cleaned == value else json.dumps(cleaned, ensure_ascii=False)


def _forget_traces(graph: Any) -> None:
    """Removes what the exporter notes at each node: the lines of code that it comes from, with their files."""
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _forget_traces(inner)
