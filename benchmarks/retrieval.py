"""Time and memory of `retrieval_metrics` against the loop over queries that most code bases write.

    python benchmarks/retrieval.py            # 10,000 x 10,000, both sides, a minute or two
    python benchmarks/retrieval.py --large    # 100,000 x 100,000, ours only, minutes

Every side runs in a process of its own, so that its peak memory can be read from the operating system. The sides take
turns for `--repeats` rounds and the medians are compared, since one run says little on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

SCORES = ("map", "map_at_r", "r_precision", "recall_at_1", "recall_at_5", "recall_at_10")


def make_data(n: int, dim: int, n_labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit features [n, dim] around class centres, and labels [n]; every class has about n / n_labels items."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(n) % n_labels)[torch.randperm(n, generator=generator)]
    centres = torch.randn(n_labels, dim, generator=generator)
    features = 0.2 * centres[labels] + torch.randn(n, dim, generator=generator)
    return torch.nn.functional.normalize(features, dim=1), labels


def ours(features: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    from hf_clipalign.metrics import retrieval_metrics

    return retrieval_metrics(features, features, labels, labels, exclude_self=True)


def textbook(features: torch.Tensor, labels: torch.Tensor, block: int = 1000) -> dict[str, float]:
    """Similarities in blocks, then one argsort per query."""
    rows = []
    positions = torch.arange(1, len(features))
    for first in range(0, len(features), block):
        for i, similarities in enumerate(features[first : first + block] @ features.T, first):
            order = torch.argsort(similarities, descending=True)
            order = order[order != i]
            hits = (labels[order] == labels[i]).float()
            n = int(hits.sum())
            precision = hits.cumsum(0) / positions
            scores = [(precision * hits).sum() / n, (precision[:n] * hits[:n]).sum() / n, hits[:n].mean()]
            rows.append(torch.stack([*scores, *(hits[:k].max() for k in (1, 5, 10))]))
    return dict(zip(SCORES, torch.stack(rows).double().mean(0).tolist(), strict=True))


def run_side(side: str, args: argparse.Namespace) -> None:
    """What the child process does: prints one line of JSON."""
    torch.set_num_threads(args.threads)
    function = {"ours": ours, "textbook": textbook}[side]
    function(*make_data(200, args.dim, 20))
    features, labels = make_data(args.n, args.dim, args.labels)
    start = time.perf_counter()
    result = function(features, labels)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
    print(json.dumps({"seconds": seconds, "peak_gb": peak, "scores": {name: result[name] for name in SCORES}}))


def start_side(side: str, args: argparse.Namespace) -> dict:
    sizes = {"n": args.n, "dim": args.dim, "labels": args.labels, "threads": args.threads}
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, __file__, "--side", side, *options], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def report(rounds: list[dict[str, dict]], args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{args.n:,} x {args.n:,}, d={args.dim}, {args.labels:,} labels, {args.threads} threads"
    table = Table("side", "seconds (median)", "every run", "peak memory", "mAP", "mAP@R", "recall@1", title=title)
    medians = {}
    for side, result in rounds[0].items():
        seconds = [one[side]["seconds"] for one in rounds]
        medians[side] = statistics.median(seconds)
        peak = max(one[side]["peak_gb"] for one in rounds)
        scores = [f"{result['scores'][name]:.6f}" for name in ("map", "map_at_r", "recall_at_1")]
        runs = " ".join(f"{value:.2f}" for value in seconds)
        table.add_row(side, f"{medians[side]:.2f}", runs, f"{peak:.2f} GB", *scores)
    console = Console()
    console.print(table)
    if len(medians) == 2:
        first, second = (rounds[0][side]["scores"] for side in medians)
        apart = max(abs(first[name] - second[name]) for name in SCORES)
        ratio = medians["textbook"] / medians["ours"]
        console.print(f"{ratio:.1f} times faster (medians); largest difference of a metric {apart:.1e}")
        if not apart < 1e-5:
            raise SystemExit("the two sides disagree")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=None, help="items, both queries and gallery (10,000; large: 100,000)")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--labels", type=int, default=None, help="classes (200; large: 2,000)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=None, help="rounds in which every side runs once (5; large: 1)")
    parser.add_argument("--large", action="store_true", help="100,000 x 100,000, without the textbook loop")
    parser.add_argument("--side", choices=("ours", "textbook"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.n = args.n or (100_000 if args.large else 10_000)
    args.labels = args.labels or (2_000 if args.large else 200)
    if args.side:
        run_side(args.side, args)
    else:
        sides = ["ours"] if args.large else ["textbook", "ours"]
        repeats = args.repeats or (1 if args.large else 5)
        report([{side: start_side(side, args) for side in sides} for _ in range(repeats)], args)


if __name__ == "__main__":
    main()
