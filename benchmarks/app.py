"""How long the app takes to answer for 50,000 images, and to follow a slider.

    python benchmarks/app.py

Features and projectors have the sizes of a ViT-B/32 and random values. Seconds are those of the clock, and of all
processors together (which other programs on the machine change less).
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from hf_clipalign.app.bands import Bands
from hf_clipalign.app.rankings import compared
from hf_clipalign.search import FoldedRows, as_rows

N, WIDTH, D = 50_000, 768, 512
BANDS = [(0, 0), (1, 0), (2, 0), (8, 0), (16, 0), (32, 0), (64, 16), (64, 64), (200, 64), (10, 100), (0, 0)]


def main() -> None:
    """Prints a line for each step."""
    random = np.random.default_rng(0)
    features = as_rows(random.standard_normal((N, WIDTH), dtype=np.float32))
    matrices = {"image": random.standard_normal((D, WIDTH)), "text": random.standard_normal((D, D))}
    matrices = {name: matrix.astype(np.float32) / 25 for name, matrix in matrices.items()}
    allowed = np.ones(N, bool)
    bands = timed("coordinates, once", lambda: Bands(features, SimpleNamespace(matrices=matrices)))
    plain = timed("lengths of plain CLIP, once", lambda: FoldedRows(features, matrices["image"]))
    timed("lengths without trimming, once", lambda: bands.lengths((0, 0)))
    given = features.read(7, 8)

    def answer(band: tuple[int, int]) -> Any:
        scores = np.empty(N, np.float32)
        for start in range(0, N, 10_000):
            scores[start : start + 10_000] = plain.scores(given @ matrices["image"].T, start, start + 10_000)[0]
        return compared(scores, bands.scores([(1.0, given[0])], band), 12, allowed)

    for band in BANDS:
        timed(f"slider to {band}", lambda band=band: answer(band))
        timed("another query", lambda band=band: answer(band))


def timed(what: str, function: Any) -> Any:
    """Runs a function and prints how long it took."""
    clock, processors = time.perf_counter(), time.process_time()
    result = function()
    print(f"{what:32} {time.perf_counter() - clock:7.3f} s   {time.process_time() - processors:7.3f} processor s")
    return result


if __name__ == "__main__":
    main()
