"""Folders as `clip-retrieval inference` writes them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SIZES = (5, 0, 4, *([1] * 8))
WIDTH = 6


def unit(n: int, seed: int, dtype: str = "float16") -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)
    return (values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)).astype(dtype)


def write_folder(folder: Path, sizes: tuple[int, ...] = SIZES, texts: bool = True, dtype: str = "float16") -> Path:
    """A partition a size; empty ones leave no file, so that numbers are missing."""
    digits = len(str(len(sizes)))
    for name in ("img_emb", "text_emb", "metadata") if texts else ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, n in enumerate(sizes):
        if n == 0:
            continue
        label = str(number).zfill(digits)
        for seed, name in enumerate(("img_emb", "text_emb") if texts else ("img_emb",)):
            buffer = io.BytesIO()
            np.save(buffer, unit(n, 100 * seed + number, dtype))
            (folder / name / f"{name}_{label}.npy").write_bytes(buffer.getvalue())
        table = {
            "image_path": [f"{number:05d}{row:04d}" for row in range(n)],
            "caption": [f"caption {number} {row}" for row in range(n)],
            "kind": [("cat", "dog")[(number + row) % 2] for row in range(n)],
            "NSFW": ["UNLIKELY"] * n,
        }
        pq.write_table(pa.table(table), folder / "metadata" / f"metadata_{label}.parquet")
    return folder
