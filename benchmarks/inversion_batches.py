"""How much the batch size and the packing of OTI matter, which decide about the rounding only: the built-in student.

    python benchmarks/inversion_batches.py

902 images of 303 novel emoji, image-image retrieval. Every line is one inversion of all queries, compared with the
first: the largest difference of unit features and the mAP after so many steps.
"""

from __future__ import annotations

import argparse

import torch
from inversion_stopping import TEMPLATE, images
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from hf_clipalign.data import load_mini
from hf_clipalign.inversion import oti
from hf_clipalign.metrics import retrieval_metrics

STEPS = (25, 50, 100, 150)
RUNS = ((64, "packed"), (7, "packed"), (256, "packed"), (64, "cut"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    mini, (embeds, labels) = load_mini(), images()
    gallery = F.normalize(embeds, dim=-1)
    table = Table("batch, packing", *(f"after {step}" for step in STEPS), title="largest difference | mAP")
    first: dict[int, torch.Tensor] = {}
    for batch_size, strategy in RUNS:
        output = oti(
            mini.student, embeds, processor=mini.student_processor, template=TEMPLATE, steps=STEPS[-1],
            evaluate_at=STEPS, batch_size=batch_size, strategy=strategy, progress=False,
        )  # fmt: skip
        queries = {step: F.normalize(features, dim=-1) for step, features in output.snapshots.items()}
        first = first or queries
        cells = []
        for step in STEPS:
            score = retrieval_metrics(queries[step], gallery, labels, labels, exclude_self=True)["map"]
            cells.append(f"{(queries[step] - first[step]).abs().max():.0e} | {100 * score:.2f}")
        table.add_row(f"{batch_size}, {strategy}", *cells)
    Console(width=119).print(table)


if __name__ == "__main__":
    main()
