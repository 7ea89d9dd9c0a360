"""Images per second of `extract_to_store` against the plain loop, and where the time goes.

    python benchmarks/extraction.py                  # ViT-B/32 sizes with random weights, 500 x 400 JPEGs
    python benchmarks/extraction.py --images 256
    python benchmarks/extraction.py --memory         # a million items of a stream with a cheap encoder: memory
    python benchmarks/extraction.py --dtypes         # the mini student in other types: time, and what the cosines lose

The plain loop is `processor(images)` and `model.get_image_features` batch by batch in one process. Every side runs in
a process of its own with the same cores; the sides take turns for `--repeats` rounds and the medians are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

BATCH = 32


def make_images(folder: Path, n: int) -> None:
    """Smooth random JPEGs, 500 x 400, about as large as photographs of that size."""
    generator = np.random.default_rng(0)
    for row in range(n):
        coarse = Image.fromarray(generator.integers(0, 256, (50, 63, 3), dtype=np.uint8))
        coarse.resize((500, 400), Image.Resampling.BICUBIC).save(folder / f"{row:05}.jpg", quality=90)


def make_model(dtype: str = "float32", attention: str = "sdpa") -> tuple[Any, Any]:
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    config = CLIPConfig(attn_implementation=attention)  # its defaults are ViT-B/32
    model = CLIPModel(config).eval().to(getattr(torch, dtype))
    if torch.cuda.is_available():
        model = model.to("cuda")
    return model, CLIPImageProcessorPil()


def plain_loop(folder: Path, model: Any, processor: Any) -> None:
    files = sorted(folder.glob("*.jpg"))
    for start in range(0, len(files), BATCH):
        images = [Image.open(file).convert("RGB") for file in files[start : start + BATCH]]
        inputs = processor(images=images, return_tensors="pt").to(model.device, model.dtype)
        with torch.no_grad():
            model.get_image_features(**inputs)


def store(folder: Path, model: Any, processor: Any) -> None:
    from hf_clipalign.data import image_folder
    from hf_clipalign.features import extract_to_store

    with tempfile.TemporaryDirectory() as out:
        target = folder / "store" if torch.distributed.is_torchelastic_launched() else Path(out)
        extract_to_store(
            model, image_folder(folder), processor, target, batch_size=BATCH, shard_size=BATCH, progress=False
        )


def parts(folder: Path, model: Any, processor: Any) -> dict[str, float]:
    """Milliseconds per image of each step, one after the other, all threads for the tower."""
    from hf_clipalign.data import read_image

    files = [str(file) for file in sorted(folder.glob("*.jpg"))[:BATCH]]
    times = {}
    times["decode"], images = timed(lambda: [np.asarray(read_image(file)) for file in files])
    times["resize, crop, normalise"], inputs = timed(
        lambda: processor(images=images, input_data_format="channels_last", return_tensors="pt")
    )
    pixels = inputs["pixel_values"].to(model.device, model.dtype)
    with torch.no_grad():
        times["tower"], _ = timed(lambda: model.vision_model(pixel_values=pixels).pooler_output.float().cpu())
    return times


def timed(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    result, seconds = work(), []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds) / BATCH, result


def dtypes(n: int, repeats: int) -> None:
    """`extract_to_store(dtype=…)` of the mini student: seconds, and the largest change of a cosine of two images."""
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.data import from_dataset, load_mini
    from hf_clipalign.features import extract_to_store

    mini = load_mini()
    source, projector = from_dataset(mini.emoji.select(range(n))), as_dual_encoder(mini.student).image_projector
    seconds: dict[str, list[float]] = {"float32": [], "bfloat16": [], "float16": []}
    cosines = {}
    for _ in range(repeats):
        for dtype, runs in seconds.items():
            with tempfile.TemporaryDirectory() as out:
                start = time.perf_counter()
                done = extract_to_store(
                    mini.student, source, mini.student_processor, out, dtype=dtype, num_workers=0, progress=False
                )
                runs.append(time.perf_counter() - start)
                embeds = torch.nn.functional.normalize(done.values() @ projector.matrix.detach().T, dim=-1)
                cosines[dtype] = embeds @ embeds.T
    for dtype, runs in seconds.items():
        change = (cosines[dtype] - cosines["float32"]).abs().max()
        print(f"{dtype:>8}: {statistics.median(runs):.2f} s for {n} images, cosines change by {change:.1e} at most")


def memory(n: int, width: int = 16) -> None:
    """A stream of n tiny images through an encoder that averages them: resident memory as it goes."""
    from hf_clipalign.data import ImageStream, StreamRecord
    from hf_clipalign.features import extract_to_store
    from tests.features.cheap_encoder import CheapEncoder, cheap_processor

    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    marks: list[tuple[int, float]] = []

    def records(first: int) -> Iterator[StreamRecord]:
        for row in range(first, n):
            if row % (n // 10) == n // 20:
                marks.append((row, resident_mb()))
            yield StreamRecord(f"item-{row}", image, row % 10)

    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        stream = ImageStream(records, fingerprint=lambda: "synthetic")
        done = extract_to_store(
            CheapEncoder(width), stream, cheap_processor, out, batch_size=1024, num_workers=0, progress=False
        )
        seconds = time.perf_counter() - start
        table = done.to_dataset()
    for row, resident in marks:
        print(f"{row:>9,} items: {resident:,.0f} MB resident")
    print(f"{len(done):,} items in {seconds:.0f} s; as a data set of {len(table):,} rows: {resident_mb():,.0f} MB")


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


SIDES: dict[str, Callable[[Path, Any, Any], None]] = {"plain": plain_loop, "store": store, "store-two": store}


def run_side(args: argparse.Namespace) -> None:
    """What the child process does: prints one line of JSON."""
    if args.threads:
        torch.set_num_threads(args.threads)
    folder = Path(args.folder)
    model, processor = make_model(args.dtype, args.attention)
    if args.side == "parts":
        print(json.dumps(parts(folder, model, processor)))
        return
    with torch.no_grad():
        model.vision_model(torch.zeros(2, 3, 224, 224, device=model.device, dtype=model.dtype))
    start = time.perf_counter()
    SIDES[args.side](folder, model, processor)
    seconds = time.perf_counter() - start
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    print(json.dumps({"seconds": seconds}))


def start_side(side: str, folder: Path, *options: str, threads: int = 2) -> dict[str, float]:
    command = [sys.executable]
    if side == "store-two":
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        threads = max(1, threads // 2)
    command += [__file__, "--side", side, "--folder", str(folder), "--threads", str(threads), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for file in (folder / "store").glob("*"):
        file.unlink()
    return json.loads(done.stdout.strip().splitlines()[-1])


def report(folder: Path, args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    rounds = [{side: start_side(side, folder)["seconds"] for side in SIDES} for _ in range(args.repeats)]
    speed = {side: args.images / statistics.median(one[side] for one in rounds) for side in SIDES}
    table = Table("side", "images/s (median)", "against plain", "every run", title=f"{args.images} images")
    for side in SIDES:
        runs = " ".join(f"{args.images / one[side]:.1f}" for one in rounds)
        table.add_row(side, f"{speed[side]:.1f}", f"{speed[side] / speed['plain']:.2f}", runs)
    console.print(table)
    steps = Table(
        "weights", "attention", "decode", "resize, crop, normalise", "tower", title="ms per image, 2 threads"
    )
    for dtype in ("float32", "bfloat16"):
        for attention in ("eager", "sdpa"):
            times = start_side("parts", folder, "--dtype", dtype, "--attention", attention)
            steps.add_row(dtype, attention, *(f"{value:.1f}" for value in times.values()))
    console.print(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="memory of a long stream instead of speed")
    parser.add_argument("--dtypes", action="store_true", help="the mini student in other types instead")
    parser.add_argument("--items", type=int, default=1_000_000, help="length of that stream")
    for name in ("--side", "--folder"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=2, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    parser.add_argument("--attention", default="sdpa", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run_side(args)
    elif args.memory:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        memory(args.items)
    elif args.dtypes:
        dtypes(args.images, args.repeats)
    else:
        with tempfile.TemporaryDirectory() as folder:
            make_images(Path(folder), args.images)
            report(Path(folder), args)


if __name__ == "__main__":
    main()
