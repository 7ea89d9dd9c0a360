"""Settings of every test process: set before torch and huggingface_hub are imported."""

import gc
import os

# two workers with one thread each are faster on two cores than two with two; also for the processes that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")
# a test that needs the Hub starts a server of its own and says so
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_finish() -> None:
    """`Trainer.train` collects garbage, and would look through all modules and tests again each time."""
    gc.collect()
    gc.freeze()
