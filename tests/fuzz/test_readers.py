"""Damaged and hostile files for every reader: one clear error, or a sound result; the same each time.

The inputs are those of hypothesis without a random seed, so two runs try the same ones. `FUZZ_SECONDS` (300) bounds
all readers together: one that is slower than its share tries fewer inputs. What failed once is kept in `regressions/`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.fuzz.interchange_readers import INTERCHANGE_READERS
from tests.fuzz.model_readers import MODEL_READERS
from tests.fuzz.mutations import damage, mutations
from tests.fuzz.readers import DATA_READERS
from tests.fuzz.trial import Bench, message_problem, quiet_and_bounded

pytestmark = pytest.mark.fuzz

READERS = DATA_READERS | MODEL_READERS | INTERCHANGE_READERS
REGRESSIONS = Path(__file__).parent / "regressions"
SECONDS = float(os.environ.get("FUZZ_SECONDS", "300"))
FEWEST = 5000
TRIED: dict[str, int] = {}
LEFT_OUT: dict[str, int] = {}
"""Inputs that the time did not allow, by reader."""
PROFILE = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate,),  # the changes are few already, and shrinking would take the time of other readers
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    import torch
    from transformers.utils import logging

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    with quiet_and_bounded():
        yield
    logging.enable_progress_bar()
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", READERS)
def test_damage_is_named_or_does_no_harm(name, tmp_path):
    bench = Bench(name, READERS[name], tmp_path / "input")
    share = READERS[name].share
    # a slow reader may take twice its share, since most take less
    last = time.monotonic() + 2 * SECONDS * share / sum(reader.share for reader in READERS.values())
    TRIED[name], found = 0, {}

    @settings(PROFILE, max_examples=share)
    @given(st.data())
    def attempt(data):
        # drawn and never failed whatever the clock says: hypothesis takes everything else for a flaky test
        file, kinds = data.draw(st.sampled_from(bench.files))
        changes = data.draw(mutations(kinds))
        content = damage(bench.content[file], changes)
        assume(content != bench.content[file])
        if time.monotonic() > last:
            LEFT_OUT[name] = LEFT_OUT.get(name, 0) + 1
            return
        problem = bench.problem(file, content)
        TRIED[name] += 1
        if problem is not None:
            found.setdefault(problem, f"{file.name} {changes}: {problem}")

    attempt()
    assert not found, "\n".join(found.values())


def regressions():
    return sorted(path for path in REGRESSIONS.glob("*/*/*") if path.is_file())


@pytest.mark.parametrize("path", regressions(), ids=lambda path: path.relative_to(REGRESSIONS).as_posix())
def test_what_failed_once(path, tmp_path):
    """`regressions/READER/FILE/n`: that file's content, which once ended in something else than a clear error."""
    name, damaged = path.relative_to(REGRESSIONS).parts[:2]
    (reader,) = (reader for reader in READERS if reader.replace(" ", "-") == name)
    bench = Bench(reader, READERS[reader], tmp_path / "input")
    stem, suffix = Path(damaged).stem, Path(damaged).suffix  # names may go on with a hash of the sound input
    (file,) = (file for file, _ in bench.files if file.name.startswith(stem) and file.suffix == suffix)
    assert bench.problem(file, path.read_bytes()) is None


@pytest.mark.parametrize("message", ["", " ", "one\ntwo", "x" * 401])
def test_what_is_no_message_for_a_user(message):
    assert message_problem(message)


def test_how_many_inputs_were_tried():
    """Only a run whose time was too short for all inputs may try fewer; it says so."""
    summary = f"{sum(TRIED.values())} damaged inputs: " + ", ".join(f"{name} {n}" for name, n in TRIED.items())
    print(f"\n{summary}")
    if LEFT_OUT:
        left = ", ".join(f"{name} {n}" for name, n in LEFT_OUT.items())
        pytest.skip(f"FUZZ_SECONDS={SECONDS:g} were too few for {sum(LEFT_OUT.values())} inputs ({left}); {summary}")
    if set(TRIED) == set(READERS):
        assert sum(TRIED.values()) >= FEWEST
