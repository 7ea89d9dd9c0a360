"""Runs `extract_to_store` on a folder of images with the tiny CLIP: what tests start in processes of their own.

python store_run.py IMAGES OUT                    one run; under torchrun one of several
python store_run.py IMAGES OUT --kill-before N    killed (SIGKILL) just before the N-th file is put in its place
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from hf_clipalign.data import image_folder
from hf_clipalign.features import extract_to_store
from tests.processes import report_what_is_left
from tests.tiny_models import tiny_clip, tiny_image_processor

SIZES = {"shard_size": 4, "batch_size": 3}


def kill_before(n: int) -> None:
    replace, calls = os.replace, 0

    def replace_or_die(source: str, target: str) -> None:
        nonlocal calls
        calls += 1
        if calls == n:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die


def run(images: str, out: str, n_workers: int = 0) -> None:
    source, processor = image_folder(images), tiny_image_processor()
    extract_to_store(tiny_clip(), source, processor, out, num_workers=n_workers, progress=False, **SIZES)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("images")
    parser.add_argument("out")
    parser.add_argument("--kill-before", type=int, nargs="*", default=[])
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for n in args.kill_before:
        child = os.fork()
        if child == 0:
            kill_before(n)
            run(args.images, f"{args.out}-{n}", args.workers)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, flush=True)
    if not args.kill_before:
        report_what_is_left()
        run(args.images, args.out, args.workers)


if __name__ == "__main__":
    main()
