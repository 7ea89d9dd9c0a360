"""What extraction past one machine costs: planning, Ray's overhead per worker, and one image through every step.

    python benchmarks/scale.py planning                # list and plan 1,000,000 files: seconds and memory
    python benchmarks/scale.py efficiency              # a fake tower on 1, 2, 4 and 8 actors of Ray
    python benchmarks/scale.py mini                    # the mini student on two actors with one thread each
    python benchmarks/scale.py status                  # `clipalign embed --status` of 25,000 shards

A fake tower takes a fixed time per image and computes nothing, so that more actors than cores can be looked at. Rates
are those between the first and the last shard: without the start of Ray and of its processes, which is printed beside.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

BATCH = 16


def planning(n: int) -> None:
    """Makes n empty files, and lists and plans them in a process of its own."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        start = time.perf_counter()
        for number in range(n):
            file = Path(folder, f"class{number % 1000:04}", f"image-{number:08}.jpg")
            if number < 1000:
                file.parent.mkdir()
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY))
        print(f"{n:,} files made in {time.perf_counter() - start:.0f} s")
        subprocess.run([sys.executable, __file__, "planning-side", "--folder", folder], check=True)


def planning_side(folder: str) -> None:
    from hf_clipalign.data import image_folder
    from hf_clipalign.features.engines.plan import Plan

    base, spent, marks = peak_mb(), time.process_time(), [("import", time.perf_counter())]
    source = image_folder(folder)
    marks.append(("listing", time.perf_counter()))
    key = source.fingerprint()
    marks.append(("fingerprint", time.perf_counter()))
    plan = Plan.of(source, key, 4096)
    with tempfile.TemporaryDirectory() as out:
        plan.write(Path(out))
        size = (Path(out) / "plan.json").stat().st_size
        marks.append(("plan", time.perf_counter()))
        assert Plan.read(Path(out)) == plan
    marks.append(("reading it", time.perf_counter()))
    for (_, before), (name, after) in itertools.pairwise(marks):
        print(f"{name:>12}: {after - before:.1f} s")
    seconds = marks[-1][1] - marks[0][1]
    print(f"{seconds:.1f} s, {time.process_time() - spent:.1f} s of them the processor's")
    print(f"{peak_mb():,.0f} MB at most ({base:,.0f} MB of it the imports), {size:,} bytes of plan")


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_images(folder: Path, n: int, size: int = 48) -> Path:
    generator = np.random.default_rng(0)
    for number in range(n):
        Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{number:05}.png")
    return folder


def rate(folder: Path, skipped: int) -> float:
    """Images per second between the first written shards and the last one."""
    shards = json.loads((folder / "features.json").read_text())["shards"]
    times = sorted((os.stat(folder / shard["file"]).st_mtime, shard["rows"]) for shard in shards)[skipped:]
    return sum(rows for _, rows in times[1:]) / (times[-1][0] - times[0][0])


def compared(run: Callable[[int, Path], Any], workers: int) -> tuple[float, float]:
    """Rate and seconds of the whole, for 0 workers of one process."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        run(workers, Path(out, "store"))
        return rate(Path(out, "store"), max(workers, 1)), time.perf_counter() - start


def report(run: Callable[[int, Path], Any], counts: list[int]) -> None:
    alone, seconds = compared(run, 0)
    print(f"one process: {alone:.1f} images/s, {seconds:.1f} s in all")
    for workers in counts:
        speed, seconds = compared(run, workers)
        each = speed / workers / alone
        print(
            f"{workers} workers: {speed:.1f} images/s, {100 * each:.0f} % per worker, {seconds:.1f} s in all",
            flush=True,
        )


def efficiency(per_image: float, seconds: float, counts: list[int]) -> None:
    from hf_clipalign.data import image_folder
    from hf_clipalign.features import extract_to_store, extract_with_ray
    from tests.features.cheap_encoder import cheap_processor
    from tests.ray.towers import NotingEncoder

    with tempfile.TemporaryDirectory() as folder:
        encoder = NotingEncoder(os.devnull, per_image)
        n = int(seconds / per_image)
        images = write_images(Path(folder), n * max(counts), size=8)

        def run(workers: int, out: Path) -> None:
            source = image_folder(images)
            source = source if workers == max(counts) else first_images(source, n * max(workers, 1))
            sizes = {"shard_size": 2 * BATCH, "batch_size": BATCH, "progress": False}
            if workers == 0:
                extract_to_store(encoder, source, cheap_processor, out, num_workers=0, **sizes)
            else:
                extract_with_ray(encoder, source, cheap_processor, out, num_workers=workers, num_readers=1, **sizes)

        report(run, counts)


def first_images(source: Any, n: int) -> Any:
    from hf_clipalign.data import ImageSource

    return ImageSource(source.items[:n], ids=source.ids[:n], name=source.name)


def mini(n: int) -> None:
    from hf_clipalign.data import image_folder, load_mini
    from hf_clipalign.features import extract_to_store, extract_with_ray

    torch.set_num_threads(1)
    tiny = load_mini()
    with tempfile.TemporaryDirectory() as folder:
        source = image_folder(write_images(Path(folder), n))
        sizes = {"shard_size": 8 * BATCH, "batch_size": 4 * BATCH, "progress": False}

        def run(workers: int, out: Path) -> None:
            if workers == 0:
                extract_to_store(tiny.student, source, tiny.student_processor, out, num_workers=0, **sizes)
            else:
                extract_with_ray(tiny.student, source, tiny.student_processor, out, num_workers=workers, **sizes)

        report(run, [1, 2])


def status(n_shards: int) -> None:
    from hf_clipalign.data import ImageSource
    from hf_clipalign.features.engines.plan import Plan
    from hf_clipalign.features.engines.status import extraction_status
    from hf_clipalign.features.rows import FEATURES, Rows, write_rows
    from hf_clipalign.features.storage.folder import ShardFolder

    with tempfile.TemporaryDirectory() as out:
        source = ImageSource(["x"] * n_shards, ids=[str(row) for row in range(n_shards)], fingerprint=str)
        model, data = {"name": None, "weights": None}, {"name": "images", "fingerprint": "0"}
        about = {"modality": "image", "width": 8, "model": model, "data": data, "class_names": None}
        folder = ShardFolder.create(Path(out), FEATURES, {**about, "shard_size": 1, "batch_size": 1})
        Plan.of(source, folder.key, 1).write(Path(out))
        for index in range(n_shards):
            write_rows(folder, index, Rows(torch.zeros(1, 8), torch.tensor([index]), [str(index)]))
        start = time.perf_counter()
        found = extraction_status(out)
        print(f"{len(found.done):,} shards: {time.perf_counter() - start:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["planning", "planning-side", "efficiency", "mini", "status"])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=6_000, help="of `mini`")
    parser.add_argument("--shards", type=int, default=25_000, help="of `status`")
    parser.add_argument("--per-image", type=float, default=0.01, help="seconds that the fake tower takes")
    parser.add_argument("--seconds", type=float, default=20.0, help="that one worker has to do")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--folder", default="")
    args = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {
        "planning": lambda: planning(args.files),
        "planning-side": lambda: planning_side(args.folder),
        "efficiency": lambda: efficiency(args.per_image, args.seconds, args.workers),
        "mini": lambda: mini(args.images),
        "status": lambda: status(args.shards),
    }
    parts[args.part]()


if __name__ == "__main__":
    main()
