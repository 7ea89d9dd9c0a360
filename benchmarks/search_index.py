"""How long an index of 50,000 files takes to see that nothing has changed, and what a renaming of every tenth costs.

    python benchmarks/search_index.py                 # 50,000 files of 10 x 10 pixels, about 200 MB on the disk
    python benchmarks/search_index.py --files 5000

The images are made for the purpose and the model is tiny: what is measured is the scan, the comparison and the
database. Each update runs in a process of its own, as `clipalign index` does; its imports are reported beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LONG_AGO = 1_000_000_000
TARGET = 5.0

_UPDATE = """
import json, sys, time
begin = time.perf_counter()
from hf_clipalign.search import ImageIndex
index = ImageIndex.open(sys.argv[1])
imported = time.perf_counter() - begin
begin = time.perf_counter()
report = index.update(progress=False)
took = time.perf_counter() - begin
torch = "torch" in sys.modules
begin = time.perf_counter()
ImageIndex.open(sys.argv[1]).files
print(json.dumps({"import": imported, "update": took, "report": str(report), "embedded": report.embedded,
    "torch": torch, "open": time.perf_counter() - begin}))
"""


def write_images(folder: Path, n: int) -> None:
    """Bitmaps in folders of a thousand, each another one."""
    sizes = struct.pack("<IHHI IiiHHIIiiII", 374, 0, 0, 54, 40, 10, 10, 1, 24, 0, 320, 0, 0, 0, 0)
    for number in range(n):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"BM" + sizes + number.to_bytes(4, "little") * 80)
        os.utime(path, (LONG_AGO, LONG_AGO))


def tiny_model(folder: Path) -> str:
    """A CLIP of one small layer, with random weights."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {**tower, "image_size": 10, "patch_size": 10}
    CLIPModel(CLIPConfig(text_config=tower, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    size = {"shortest_edge": 10}
    CLIPImageProcessor(size=size, crop_size={"height": 10, "width": 10}).save_pretrained(folder)
    return str(folder)


def update(path: Path) -> dict:
    """One update in a process of its own."""
    output = subprocess.run([sys.executable, "-c", _UPDATE, str(path)], check=True, capture_output=True, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def rename_every_tenth(folder: Path) -> int:
    """Moves them to another folder under another name."""
    (folder / "moved").mkdir()
    paths = sorted(folder.glob("[0-9]*/*.bmp"))[::10]
    for path in paths:
        path.rename(folder / "moved" / f"was-{path.name}")
    return len(paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=50_000, help="number of images")
    parser.add_argument("--folder", type=Path, help="where to make them (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        measure(Path(place), options.files)


def measure(place: Path, n: int) -> None:
    from hf_clipalign.search import ImageIndex

    write_images(place / "images", n)
    index = ImageIndex.create(place / "images", tiny_model(place / "model"), place / "index", shard_size=4096)
    begin = time.perf_counter()
    print(f"build: {index.update(batch_size=256)} in {time.perf_counter() - begin:.1f} s")
    for _ in range(3):
        found = update(place / "index")
        verdict = "ok" if found["update"] < TARGET and not found["torch"] else "MISSED"
        print(
            f"unchanged: {found['report']} in {found['update']:.2f} s (target {TARGET} s: {verdict}), "
            f"imports {found['import']:.2f} s, opening it {found['open']:.2f} s"
        )
    renamed = rename_every_tenth(place / "images")
    found = update(place / "index")
    verdict = "ok" if found["embedded"] == 0 and f"{renamed} renamed" in found["report"] else "MISSED"
    print(f"{renamed} renamed: {found['report']}, {found['embedded']} embedded ({verdict}) in {found['update']:.2f} s")


if __name__ == "__main__":
    main()
