"""Images of which two cannot be read, the ways to embed them, and what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_clipalign.data import image_folder
from hf_clipalign.features import FeatureStore, extract_share, extract_to_store
from tests.tiny_models import tiny_clip, tiny_image_processor

SIZES = {"shard_size": 4, "batch_size": 3}
OPTIONS: dict[str, Any] = {**SIZES, "num_workers": 0, "progress": False}


def make_images(folder: Path, n: int = 18) -> Path:
    """Images in two classes; the third and the eleventh cannot be read."""
    generator = np.random.default_rng(0)
    for number in range(n):
        file = folder / ("cat" if number < n // 2 else "dog") / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file)
        if number in (2, 10):
            file.write_bytes(b"no image")
    return folder


def plain(images: Path, out: Path, model: Any = None, **options: Any) -> FeatureStore:
    return extract_to_store(
        model or tiny_clip(), image_folder(images), tiny_image_processor(), out, **OPTIONS | options
    )


def share(images: Path, out: Path, index: int, count: int, model: Any = None, **options: Any) -> FeatureStore | None:
    model, processor = model or tiny_clip(), tiny_image_processor()
    return extract_share(model, image_folder(images), processor, out, share=(index, count), **OPTIONS | options)


def store_files(folder: Path) -> dict[str, bytes]:
    """The files of a store by name; a lock or what is left half-written is no part of it."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if not file.name.startswith(".")}


def shard_names(folder: Path) -> list[str]:
    return sorted(file.name[:14] for file in folder.glob("features-*.safetensors"))
