"""Settings of every test process: set before torch and huggingface_hub are imported."""

import contextlib
import gc
import os

# two workers with one thread each are faster on two cores than two with two; also for the processes that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")
# a test that needs the Hub starts a server of its own and says so
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

with contextlib.suppress(ImportError):  # one lane has no hypothesis
    from hypothesis import settings

    settings.register_profile("any machine", deadline=None)  # no test may fail because a machine is slow
    settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """`Trainer.train` collects garbage, and would look through all modules and tests again each time."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser):
    parser.addoption(
        "--must-pass-some",
        action="store_true",
        help="end with an error where no test passed: all skipped, or none found",
    )


def pytest_sessionfinish(session, exitstatus) -> None:
    """A lane whose tests are all skipped has shown nothing, and must not look like one that passed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--must-pass-some") and exitstatus == 0 and not reporter.stats.get("passed"):
        reporter.write_line("ERROR: no test of this lane ran and passed", red=True)
        session.exitstatus = 5
