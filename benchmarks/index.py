"""Size and search time of compact vectors (dimension 312) against full ones (512) in an exact index.

    python benchmarks/index.py                # one million vectors, about 5 GB of memory
    python benchmarks/index.py --n 100000

Uses faiss (`IndexFlatIP`) where it is installed, else a blockwise product with `torch.topk`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

BLOCK = 65_536


def torch_search(vectors: torch.Tensor, k: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def search(queries: torch.Tensor) -> torch.Tensor:
        best = torch.full((len(queries), k), -torch.inf)
        where = torch.zeros(len(queries), k, dtype=torch.long)
        for first in range(0, len(vectors), BLOCK):
            scores = queries @ vectors[first : first + BLOCK].T
            top = scores.topk(min(k, scores.shape[1]), dim=1)
            best, kept = torch.cat([best, top.values], 1).topk(k, dim=1)
            where = torch.cat([where, top.indices + first], 1).gather(1, kept)
        return where

    return search


def faiss_search(vectors: torch.Tensor, k: int) -> Callable[[torch.Tensor], torch.Tensor]:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors.numpy())
    return lambda queries: torch.from_numpy(index.search(queries.numpy(), k)[1])


def engine() -> tuple[str, Callable]:
    try:
        import faiss  # noqa: F401
    except ImportError:
        return "torch", torch_search
    return "faiss", faiss_search


def unit_vectors(n: int, dim: int, seed: int) -> torch.Tensor:
    vectors = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    return vectors.div_(vectors.norm(dim=1, keepdim=True))


def measure(n: int, dim: int, n_queries: int, k: int, build: Callable) -> dict[str, float]:
    """Megabytes of the vectors and milliseconds per query, for all queries at once and one after the other."""
    queries, vectors = unit_vectors(n_queries, dim, 1), unit_vectors(n, dim, 0)
    search = build(vectors, k)
    search(queries[:2])
    start = time.perf_counter()
    search(queries)
    together = time.perf_counter() - start
    single = queries[: min(20, n_queries)]
    start = time.perf_counter()
    for query in single:
        search(query[None])
    apart = time.perf_counter() - start
    return {
        "MB": n * dim * 4 / 1e6,
        "ms/query, batch": 1e3 * together / n_queries,
        "ms/query, single": 1e3 * apart / len(single),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="vectors in the index")
    parser.add_argument("--full", type=int, default=512, help="length of a full vector")
    parser.add_argument("--compact", type=int, default=312, help="length of a compact vector")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--k", type=int, default=10, help="neighbours per query")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    name, build = engine()
    if name == "faiss":
        import faiss

        faiss.omp_set_num_threads(args.threads)
    results = {dim: measure(args.n, dim, args.queries, args.k, build) for dim in (args.full, args.compact)}

    from rich.console import Console
    from rich.table import Table

    full, compact = results[args.full], results[args.compact]
    title = f"{args.n:,} vectors, {args.queries} queries, {name}, {args.threads} threads"
    table = Table("", f"full ({args.full})", f"compact ({args.compact})", "compact / full", title=title)
    for row in full:
        table.add_row(row, f"{full[row]:,.2f}", f"{compact[row]:,.2f}", f"{compact[row] / full[row]:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
