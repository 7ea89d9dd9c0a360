"""Search, compressed levels and near duplicates: time, memory and recall, ours and faiss's in one run.

    python benchmarks/search.py                     # one million vectors of dimension 312, 4 GB of memory
    python benchmarks/search.py --n 100000
    python benchmarks/search.py --only duplicates

Recall is measured on features of the built-in images, aligned, without noise. Size is reached with copies of them in
`--dim` dimensions, each with noise of its own, a tenth to a half of its length: they are there for time and memory
only.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np

from hf_clipalign.search import (
    ArrayRows,
    BitLevel,
    ByteLevel,
    approximate_neighbours,
    exact_neighbours,
    iterate_near_duplicates,
)

NOISE = 0.1, 0.5
THRESHOLD = 0.95


def real_embeddings() -> np.ndarray:
    """Aligned embeddings of the built-in emoji and icons by the student, `[N, k]`."""
    from hf_clipalign import IsoCLIPModel
    from hf_clipalign.backbones import load_processor
    from hf_clipalign.data import from_dataset, load_mini
    from hf_clipalign.features import extract_image_features

    mini = load_mini()
    aligned = IsoCLIPModel.from_clip_pretrained(str(mini.student_path), image_band=(1, 48))
    processor = load_processor(str(mini.student_path))
    sources = [from_dataset(images, label_column="name") for images in (mini.emoji, mini.icons)]
    values = [extract_image_features(aligned.encoder, source, processor).values for source in sources]
    projector = aligned.aligned_projector("image", compact=True).matrix.detach().numpy()
    return unit(np.concatenate([block.numpy() for block in values]) @ projector.T)


def unit(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def filled(real: np.ndarray, n: int, dim: int, seed: int = 0) -> np.ndarray:
    """n unit vectors: real ones, rotated into `dim` dimensions, each with noise of its own."""
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.standard_normal((dim, min(dim, real.shape[1]))))[0].T.astype(np.float32)
    values = np.empty((n, dim), np.float32)
    for start in range(0, n, 50_000):
        block = values[start : start + 50_000]
        block[:] = real[random.integers(len(real), size=len(block))][:, : len(rotation)] @ rotation
        block += (
            random.standard_normal(block.shape, dtype=np.float32)
            * random.uniform(*NOISE, size=(len(block), 1)).astype(np.float32)
            / np.float32(dim**0.5)
        )
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return values


def timed(*calls: Callable[[], object], rounds: int = 5) -> list[float]:
    """Median seconds of each call; they take turns, so that a busy machine slows all of them."""
    seconds: list[list[float]] = [[] for _ in calls]
    for round_number in range(rounds + 1):
        for call, measured in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if round_number:
                measured.append(time.perf_counter() - start)
    return [statistics.median(measured) for measured in seconds]


def recall(level: ByteLevel | BitLevel, values: np.ndarray, queries: np.ndarray) -> float:
    """Share of the ten nearest rows that the compressed level and exact scores of its candidates find."""
    rows = ArrayRows(values)
    exact, found = exact_neighbours(rows, queries, 10), approximate_neighbours(level, rows, queries, 10)
    return float(
        np.mean([len({*a} & {*b}) / 10 for a, b in zip(exact.rows.tolist(), found.rows.tolist(), strict=True)])
    )


def measure_recall(real: np.ndarray) -> None:
    queries = real[np.random.default_rng(1).permutation(len(real))[:1000]]
    print(f"recall@10 on {len(real):,} real embeddings of dimension {real.shape[1]}, 1,000 of them as queries")
    for kind, bar in ((ByteLevel, 0.999), (BitLevel, 0.97)):
        level = kind.build(real)
        share = level.nbytes / real.nbytes
        print(
            f"  {kind.name:5} x{kind.oversampling:<3} {recall(level, real, queries):.4f} (bar {bar})"
            f"   {share:.1%} of the float32 bytes"
        )


def measure_search(values: np.ndarray) -> None:
    import faiss

    rows, random = ArrayRows(values), np.random.default_rng(2)
    queries = unit(values[random.integers(len(values), size=100)] + 0.02 * random.standard_normal((100, 1)))
    before = peak()
    exact_neighbours(rows, queries, 10)
    extra = peak() - before
    flat = faiss.IndexFlatIP(values.shape[1])
    flat.add(values)
    print(f"{len(values):,} x {values.shape[1]}, {values.nbytes / 2**20:,.0f} MiB; the search added {extra:.0f} MiB")
    levels = [ByteLevel.build(values), BitLevel.build(values)]
    for count in (1, 100):
        batch = queries[:count]
        calls: list[Callable[[], object]] = [
            lambda batch=batch: exact_neighbours(rows, batch, 10),
            lambda batch=batch: flat.search(batch, 10),
            *(lambda batch=batch, level=level: approximate_neighbours(level, rows, batch, 10) for level in levels),
        ]
        names = ["exact", "faiss flat", *(level.name for level in levels)]
        for name, seconds in zip(names, timed(*calls), strict=True):
            print(f"  {count:3} quer{'y' if count == 1 else 'ies'}  {name:10} {1e3 * seconds:9.1f} ms")


def measure_duplicates(values: np.ndarray, few: int) -> None:
    import faiss

    small = values[:few]
    flat = faiss.IndexFlatIP(values.shape[1])
    flat.add(small)

    def brute() -> set[tuple[int, int]]:
        found = set()
        for start in range(0, len(small), 4096):
            limits, _, other = flat.range_search(small[start : start + 4096], THRESHOLD)
            first = np.repeat(np.arange(len(limits) - 1) + start, np.diff(limits).astype(np.int64))
            found |= {(a, b) for a, b in zip(first.tolist(), other.tolist(), strict=True) if a < b}
        return found

    def ours(rows: np.ndarray) -> set[tuple[int, int]]:
        blocks = iterate_near_duplicates(ArrayRows(rows), THRESHOLD)
        return {pair for block in blocks for pair in zip(block.first.tolist(), block.second.tolist(), strict=True)}

    mine, theirs = ours(small), brute()
    scores = [float(small[a].astype(np.float64) @ small[b]) for a, b in mine ^ theirs]
    worst = max((abs(score - THRESHOLD) for score in scores), default=0.0)
    print(f"{few:,} rows: {len(mine):,} pairs, faiss {len(theirs):,}; others within {worst:.1e} of the threshold")
    seconds = timed(lambda: ours(small), brute, rounds=1)
    print(f"  ours {seconds[0]:.1f} s, faiss range_search {seconds[1]:.1f} s")
    before, start = peak(), time.perf_counter()
    n_pairs = sum(len(block.first) for block in iterate_near_duplicates(ArrayRows(values), THRESHOLD))
    took = time.perf_counter() - start
    print(f"{len(values):,} rows: {n_pairs:,} pairs, {took:.1f} s, {peak() - before:,.0f} MiB beside the embeddings")


def peak() -> float:
    """Most memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="embeddings in the collection")
    parser.add_argument("--dim", type=int, default=312, help="their dimension")
    parser.add_argument("--few", type=int, default=100_000, help="embeddings for the comparison with brute force")
    parser.add_argument("--only", choices=("recall", "search", "duplicates"))
    options = parser.parse_args()
    real = real_embeddings()
    if options.only in (None, "recall"):
        measure_recall(real)
    if options.only == "recall":
        return
    values = filled(real, options.n, options.dim)
    if options.only in (None, "duplicates"):
        measure_duplicates(values, min(options.few, options.n))
    if options.only in (None, "search"):
        measure_search(values)


if __name__ == "__main__":
    main()
