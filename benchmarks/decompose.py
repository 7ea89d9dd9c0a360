"""Time and exactness of `decompose` + `trim_projectors` against the full singular value decomposition.

    python benchmarks/decompose.py    # ViT-L/14 sizes, all sides in one run, well under a minute

The textbook side multiplies the projectors to the 1024 x 768 operator, takes its full SVD, and applies U_S U_S^T
and V_S V_S^T. It is measured with torch and NumPy in float32 and in float64; the error of every side is that of the
trimmed projectors against the float64 SVD.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hf_clipalign.isoclip import trim_projectors

SHARED, VISION, TEXT = 768, 1024, 768
K_TOP, K_BOTTOM = 250, 200

Side = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def make_projectors(decay: float) -> tuple[Tensor, Tensor]:
    """Random projectors; the operator's singular values fall by `exp(decay)`, steeper at both ends (0: Gaussian)."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(SHARED, VISION, generator=generator) * VISION**-0.5
    text = torch.randn(SHARED, TEXT, generator=generator) * TEXT**-0.5
    if decay:
        place = torch.linspace(0, 1, SHARED)
        values = torch.exp(-decay * (place + 2 * (place - 0.5) ** 3) / 2)
        image, text = (torch.linalg.svd(weight, full_matrices=False) for weight in (image, text))
        return image.U @ (values.sqrt()[:, None] * image.Vh), image.U @ (values.sqrt()[:, None] * text.Vh)
    return image, text


def full_svd_torch(dtype: torch.dtype) -> Side:
    def side(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        image, text = image.to(dtype), text.to(dtype)
        left, _, right = torch.linalg.svd(image.T @ text)
        kept = slice(K_TOP, min(image.shape[1], text.shape[1]) - K_BOTTOM)
        left, right = left[:, kept], right[kept].T
        return image @ left @ left.T, text @ right @ right.T

    return side


def full_svd_numpy(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    weights = image.numpy(), text.numpy()
    left, _, right = np.linalg.svd(weights[0].T @ weights[1])
    kept = slice(K_TOP, min(VISION, TEXT) - K_BOTTOM)
    left, right = left[:, kept], right[kept].T
    trimmed = weights[0] @ left @ left.T, weights[1] @ right @ right.T
    return torch.from_numpy(trimmed[0]), torch.from_numpy(trimmed[1])


def ours(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    return trim_projectors(image, text, K_TOP, K_BOTTOM)


SIDES: dict[str, Side] = {
    "ours": ours,
    "full SVD, torch float32": full_svd_torch(torch.float32),
    "full SVD, NumPy float32": full_svd_numpy,
    "full SVD, torch float64": full_svd_torch(torch.float64),
}


def measure(projectors: tuple[Tensor, Tensor], repeats: int) -> dict[str, float]:
    """Median milliseconds of every side; the sides take turns."""
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(repeats + 1):
        for name, side in SIDES.items():
            start = time.perf_counter()
            side(*projectors)
            if turn:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def error(side: Side, projectors: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> float:
    pairs = zip(side(*projectors), exact, strict=True)
    return max(float((found.double() - truth).norm() / truth.norm()) for found, truth in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="rounds; medians are shown (default 9)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for title, decay in (("spectrum falling by e^6", 6.0), ("Gaussian projectors", 0.0)):
        projectors = make_projectors(decay)
        exact = full_svd_torch(torch.float64)(*projectors)
        medians = measure(projectors, args.repeats)
        table = Table(title=f"decompose + trim, {VISION} x {TEXT} through {SHARED}, {title}")
        for column in ("side", "ms", "times ours", "relative error"):
            table.add_column(column, justify="left" if column == "side" else "right")
        for name, milliseconds in medians.items():
            ratio = f"{milliseconds / medians['ours']:.2f}"
            table.add_row(name, f"{milliseconds:.0f}", ratio, f"{error(SIDES[name], projectors, exact):.1e}")
        Console().print(table)


if __name__ == "__main__":
    main()
