"""Runs an example of a small part of the built-in set; torchrun starts it in several processes.

torchrun --standalone --nproc_per_node 2 tests/examples/run_example.py train_retune --output_dir /tmp/run
"""

import importlib
import sys
from pathlib import Path

from tests.processes import report_what_is_left

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {"train_kdpl": {"MINI_CLASSES": 12}, "train_retune": {"MINI_ROWS": 300}}

if __name__ == "__main__":
    report_what_is_left()
    sys.path.insert(0, str(EXAMPLES))
    name, *flags = sys.argv[1:]
    module = importlib.import_module(name)
    for owner, values in SMALL.items():
        if owner in sys.modules:
            for attribute, value in values.items():
                setattr(sys.modules[owner], attribute, value)
    module.main(flags)
