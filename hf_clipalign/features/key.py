"""What a feature store was made from, and where two such descriptions differ."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from hf_clipalign.backbones import DualEncoder, weights_hash

# what decides about the features, and how messages call it; other entries of a manifest are for people
_IDENTITY = {
    ("modality",): "modality",
    ("model", "class"): "model class",
    ("model", "weights"): "model weights",
    ("model", "dtype"): "dtype",
    ("processor",): "processor",
    ("data", "fingerprint"): "data",
}
LAYOUT = ("shard_size", "batch_size")
"""What decides about the bytes of the files, but not about the meaning of the features."""


def describe_model(encoder: DualEncoder, name: str | None, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Name and revision for people; class, type computed in (default: its own), hash of all weights to compare."""
    return {
        "name": name or getattr(encoder.config, "_name_or_path", None) or None,
        "revision": getattr(encoder.config, "_commit_hash", None),
        "class": type(encoder.model).__name__,
        "dtype": str(dtype or encoder.dtype).removeprefix("torch."),
        "weights": weights_hash(encoder.model, before_projector=True),
    }


def describe_image_processor(processor: Any) -> dict[str, Any]:
    """The settings of an image processor as plain JSON."""
    processor = getattr(processor, "image_processor", processor)
    settings = processor.to_dict() if hasattr(processor, "to_dict") else {"repr": repr(processor)}
    return json.loads(json.dumps(settings, sort_keys=True, default=str))


def describe_tokenizer(tokenizer: Any, truncate: bool) -> dict[str, Any]:
    """Class and hash of a tokenizer, and what happens to long texts."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = [repr(tokenizer), sorted(tokenizer.get_vocab().items())]
    else:  # padding and truncation are the state of the last call
        content = {
            name: v for name, v in json.loads(backend.to_str()).items() if name not in ("padding", "truncation")
        }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {"tokenizer_class": type(tokenizer).__name__, "tokenizer": digest, "truncate": truncate}


def run_key(manifest: dict[str, Any]) -> str:
    """Hash of all that decides about the bytes of the shards."""
    content = [_get(manifest, path) for path in _IDENTITY] + [manifest[name] for name in LAYOUT]
    return hashlib.sha256(json.dumps([manifest["format"], content], sort_keys=True).encode()).hexdigest()


def differences(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What decides about the features and is not the same, in words."""
    return [
        _difference(title, _get(stored, path), _get(wanted, path), stored, wanted)
        for path, title in _IDENTITY.items()
        if _get(stored, path) != _get(wanted, path)
    ]


def _difference(title: str, old: Any, new: Any, stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        return f"{title} ({', '.join(f'{name}: {old.get(name)} there, {new.get(name)} here' for name in names[:3])})"
    if title in ("model weights", "data"):
        section = "model" if title == "model weights" else "data"
        return f"{title} ({_get(stored, (section, 'name'))} there, {_get(wanted, (section, 'name'))} here)"
    return f"{title} ({old} there, {new} here)"


def _get(manifest: dict[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = manifest
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
