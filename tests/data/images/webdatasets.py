"""Folders as img2dataset writes them: tars, a table and counts beside each."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def jpeg(level: int) -> bytes:
    """An image of one grey level."""
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (level, level, level)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def row(key: str, shard: int, error: str | None = None, status: str = "failed_to_download") -> dict[str, Any]:
    """What img2dataset says about one link."""
    failed = error is not None
    return {
        "caption": f"caption {key}",
        "url": f"https://example.org/{key}.jpg",
        "key": key,
        "status": status if failed else "success",
        "error_message": error,
        "width": None if failed else 40,
        "height": None if failed else 30,
        "shard_id": shard,
    }


def write_shard(
    folder: Path, number: int, n_images: int = 3, failed: dict[int, str] | None = None, digits: int = 5, **files: bool
) -> list[str]:
    """`00001.tar` with `n_images` links of which some failed; the keys of the images in it.

    Args:
        files: `table=False` and `counts=False` leave out what lies beside the tar.
    """
    failed = failed or {}
    folder.mkdir(parents=True, exist_ok=True)
    name, keys, rows = str(number).zfill(digits), [], []
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for index in range(n_images):
            key = f"{number:05d}{index:04d}"
            about = row(key, number, failed.get(index))
            rows.append(about)
            if index not in failed:
                keys.append(key)
                add(tar, f"{key}.jpg", jpeg(20 * number + index))
                add(tar, f"{key}.json", json.dumps(about, indent=4).encode())
                add(tar, f"{key}.txt", about["caption"].encode())
    if files.get("table", True):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    if files.get("counts", True):
        counts = {"count": n_images, "successes": len(keys), "failed_to_download": len(failed), "failed_to_resize": 0}
        (folder / f"{name}_stats.json").write_text(json.dumps({**counts, "duration": 1.5, "status_dict": {}}))
    return keys
