"""Fills a store; torchrun starts it in several processes.

torchrun --standalone --nproc_per_node 2 tests/inversion/store_run.py /tmp/store
"""

from __future__ import annotations

import sys

import torch

from tests.inversion.test_store import invert
from tests.processes import report_what_is_left

if __name__ == "__main__":
    torch.set_num_threads(1)
    report_what_is_left()
    invert(sys.argv[1])
