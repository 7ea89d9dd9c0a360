"""Time and memory of `spectral_filter` against the textbook: dense C x C covariance, full eigendecomposition.

    python benchmarks/spectral_filter.py              # 1,500 images, 5,000 concepts: both sides; minutes
    python benchmarks/spectral_filter.py --full       # 6,000 images, 20,000 concepts: ours alone, a minute
    python benchmarks/spectral_filter.py --solvers    # ways to the eigenvectors of a 3,000 x 3,000 Gram matrix

Features are random, so that the spectrum is flat and most components are kept: the hardest case. With `--rank` images
are mixtures of so many prototypes and noise, and few components are kept, as with real images.
The textbook is measured in float64, as exact as ours, and in float32. Every side runs in a process of its own, so that
its peak memory can be read from the operating system; the sides take turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

BETA_E, BETA_C = 0.95, 0.99
SIDES = ("textbook float64", "textbook float32", "ours")


def make_data(n_images: int, n_concepts: int, dim: int, rank: int) -> tuple[Tensor, Tensor]:
    """Random image and concept features; with a rank, images lie around mixtures of concepts."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(n, dim, generator=generator) for n in (n_images, n_concepts))
    if rank:
        chosen = torch.randint(rank, (n_images,), generator=generator)
        images = 0.5 * images + texts[chosen]
    return images, texts


def textbook(images: Tensor, texts: Tensor, dtype: torch.dtype) -> tuple[int, int, np.ndarray, np.ndarray]:
    images, texts = (normalize(part.to(dtype), dim=1) for part in (images, texts))
    p = torch.softmax(images @ texts.T / 0.01, dim=1)
    centred = p - p.mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(p) - 1))
    values, vectors = values.flip(0), vectors.flip(1)
    count = int(torch.searchsorted(values.cumsum(0), BETA_E * values.sum())) + 1
    importance = (values[:count] * vectors[:, :count] ** 2).sum(dim=1)
    order = torch.argsort(importance, descending=True, stable=True)
    cumulative = importance[order].cumsum(0)
    retained = int(torch.searchsorted(cumulative, BETA_C * cumulative[-1])) + 1
    return count, retained, importance.double().numpy(), order.numpy()


def ours(images: Tensor, texts: Tensor, dtype: torch.dtype) -> tuple[int, int, np.ndarray, np.ndarray]:
    from hf_clipalign.gcd import spectral_filter

    names = [f"concept {index}" for index in range(len(texts))]
    result = spectral_filter(images, texts, names, beta_e=BETA_E, beta_c=BETA_C)
    return result.n_components, result.n_retained, result.importance, result.order


def run_side(side: str, args: argparse.Namespace) -> None:
    """What the child process does: prints one line of JSON, and leaves the results in a file."""
    torch.set_num_threads(args.threads)
    function = ours if side == "ours" else textbook
    dtype = torch.float32 if side.endswith("32") else torch.float64
    function(*make_data(20, 30, args.dim, 0), dtype)
    images, texts = make_data(args.images, args.concepts, args.dim, args.rank)
    start, busy = time.perf_counter(), time.process_time()
    n_components, n_retained, importance, order = function(images, texts, dtype)
    seconds, processor = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
    np.savez(args.result, importance=importance, order=order)
    counts = {"n_components": n_components, "n_retained": n_retained}
    print(json.dumps({"seconds": seconds, "processor": processor, "peak_gb": peak, **counts}))


def start_side(side: str, args: argparse.Namespace, folder: str) -> dict:
    sizes = {name: getattr(args, name) for name in ("images", "concepts", "dim", "rank", "threads")}
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    file = Path(folder) / f"{side}.npz"
    command = [sys.executable, __file__, "--side", side, "--result", str(file), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1]) | dict(np.load(file))


def report(rounds: list[dict[str, dict]], args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{args.images:,} images, {args.concepts:,} concepts, d={args.dim}, {args.threads} threads"
    columns = ("side", "seconds", "every run", "processor s", "peak", "components", "concepts", "times ours")
    table = Table(*columns, title=title)
    medians = {side: statistics.median(one[side]["seconds"] for one in rounds) for side in rounds[0]}
    for side, result in rounds[0].items():
        table.add_row(
            side,
            f"{medians[side]:.2f}",
            " ".join(f"{one[side]['seconds']:.2f}" for one in rounds),
            f"{statistics.median(one[side]['processor'] for one in rounds):.1f}",
            f"{max(one[side]['peak_gb'] for one in rounds):.2f} GB",
            str(result["n_components"]),
            str(result["n_retained"]),
            f"{medians[side] / medians['ours']:.1f}",
        )
    console = Console(width=120)
    console.print(table)
    exact = rounds[0].get("textbook float64")
    for side in rounds[0] if exact else ():
        console.print(compare(side, rounds[0][side], exact))


def compare(side: str, found: dict, exact: dict) -> str:
    """How far a side is from the textbook in float64."""
    apart = np.abs(found["importance"] - exact["importance"]).max() / exact["importance"].max()
    n = exact["n_retained"]
    same = int((found["order"][:n] == exact["order"][:n]).sum())
    return f"{side}: importance within {apart:.1e} of the largest; {same:,} of {n:,} kept concepts in the same place"


def compare_solvers(args: argparse.Namespace) -> None:
    """Leading eigenvectors of one Gram matrix that carry beta_e, by ways that know their number and by ours."""
    import scipy.linalg
    from scipy.sparse.linalg import eigsh

    from hf_clipalign.gcd.eigen import SymmetricEigen

    torch.set_num_threads(args.threads)
    images, texts = (normalize(part.double(), dim=1) for part in make_data(3000, 8000, 256, args.rank))
    p = torch.softmax(images @ texts.T / 0.01, dim=1)
    p -= p.mean(dim=0)
    gram = (p @ p.T / (len(p) - 1)).numpy()
    values = np.linalg.eigvalsh(gram)[::-1]
    n, count = len(gram), int(np.searchsorted(values.cumsum(), BETA_E * values.sum())) + 1
    print(f"n = {n}, {count} components carry {BETA_E}")

    def two_steps() -> None:
        eigen = SymmetricEigen(torch.from_numpy(gram.copy()))
        eigen.vectors(0, count) if count <= n - count else eigen.vectors(count, n)

    start = np.ones(n)
    ways: dict[str, Callable[[], object]] = {
        "ours: sytrd, sterf, then stemr and ormqr of the fewer": two_steps,
        "torch.linalg.eigh, all": lambda: torch.linalg.eigh(torch.from_numpy(gram)),
        "numpy.linalg.eigh, all": lambda: np.linalg.eigh(gram),
        "scipy.linalg.eigh (evr), number known": lambda: scipy.linalg.eigh(gram, subset_by_index=[n - count, n - 1]),
    }
    if count < n // 4:
        ways["scipy eigsh (Lanczos), number known"] = lambda: eigsh(gram, count, v0=start)
    for name, way in ways.items():
        begin, busy = time.perf_counter(), time.process_time()
        way()
        busy_s = time.process_time() - busy
        print(f"{time.perf_counter() - begin:8.2f} s, {busy_s:.2f} s of processor: {name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--concepts", type=int, default=5000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=0, help="prototypes of the images; 0: random images (default)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (set OMP_NUM_THREADS for NumPy, SciPy)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="ours alone, 6,000 images and 20,000 concepts, once")
    parser.add_argument("--solvers", action="store_true", help="compare ways to the eigenvectors instead")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run_side(args.side, args)
        return
    if args.solvers:
        compare_solvers(args)
        return
    sides = SIDES
    if args.full:
        args.images, args.concepts, args.repeats, sides = 6000, 20_000, 1, ("ours",)
    with tempfile.TemporaryDirectory() as folder:
        report([{side: start_side(side, args, folder) for side in sides} for _ in range(args.repeats)], args)


if __name__ == "__main__":
    main()
