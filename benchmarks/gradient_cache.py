"""Memory and time of one training step with and without gradient caching, each in a process of its own.

    python benchmarks/gradient_cache.py                           # batch 1024, whole and in chunks of 256 and 64

One step of `ContrastiveLearner` at the sizes of the built-in student: forward, InfoNCE over the whole batch, backward.
The memory is the process's peak minus what it held before the step, the inputs included in the latter.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch
from rich.console import Console
from rich.table import Table

from hf_clipalign.data import load_mini
from hf_clipalign.losses import contrastive_loss
from hf_clipalign.trainers.contrastive.learner import ContrastiveLearner


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--chunks", nargs="+", type=int, default=[0, 256, 64], help="0 is the whole batch at once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", type=int, help="measure one chunk size in this process")
    return parser.parse_args()


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def step(batch: int, chunk: int) -> None:
    """One step; prints megabytes, seconds and the norm of the gradient."""
    learner = ContrastiveLearner(load_mini().student, chunk_size=chunk or None)
    generator = torch.Generator().manual_seed(0)
    images = {"pixel_values": torch.randn(batch, 3, 48, 48, generator=generator)}
    texts = {"input_ids": torch.randint(6000, (batch, 12), generator=generator)}
    texts["input_ids"][:, -1] = 6096
    before, start = megabytes(), time.perf_counter()
    outputs = learner(images, texts)
    contrastive_loss(outputs["image_embeds"], outputs["text_embeds"], outputs["logit_scale"]).backward()
    seconds = time.perf_counter() - start
    norm = torch.stack([p.grad.norm() for p in learner.parameters() if p.grad is not None]).norm()
    print(megabytes() - before, seconds, norm.item())


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    if options.one is not None:
        step(options.batch, options.one)
        return
    table = Table("chunk", "MB", "s", "gradient norm", title=f"one step, batch {options.batch}")
    for chunk in options.chunks:
        command = [sys.executable, __file__, "--batch", str(options.batch), "--one", str(chunk)]
        done = subprocess.run(
            [*command, "--threads", str(options.threads)], capture_output=True, text=True, check=True
        )
        memory, seconds, norm = map(float, done.stdout.split()[-3:])
        table.add_row(str(chunk or "whole"), f"{memory:,.0f}", f"{seconds:.1f}", f"{norm:.5f}")
    Console().print(table)


if __name__ == "__main__":
    main()
