"""Two processes with half of the batch each do what one process does: negatives, gradients, chunks, evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.processes import run_script
from tests.trainers.contrastive.runs import build, few, losses, weights

SCRIPT = Path(__file__).parent / "runs.py"


SIGMOID_AND_UNEVEN_NUMBERS_OF_CAPTIONS = {"loss": "sigmoid", "captions": "all"}
IMAGE_TERM_AND_CHUNKS = {"image_term_weight": 0.5, "augment": True, "cache_chunk_size": 4}
PLAIN: dict[str, Any] = {}
PROJECTORS = {"positives": "label", "trainable": "projectors"}


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param([SIGMOID_AND_UNEVEN_NUMBERS_OF_CAPTIONS, IMAGE_TERM_AND_CHUNKS], id="sigmoid, image term"),
        pytest.param([PLAIN, PROJECTORS], marks=pytest.mark.slow, id="plain, projectors"),
    ],
)
def test_two_processes_are_one_with_the_doubled_batch(runs: list[dict[str, Any]], tmp_path: Path) -> None:
    results = run_script(SCRIPT, 6, tmp_path / "two", json.dumps(runs), processes=2)
    for settings, two in zip(runs, results, strict=True):
        compare(two, settings, tmp_path / "one")


def compare(two: dict[str, Any], settings: dict[str, Any], folder: Path) -> None:
    """What two processes found, beside a run of this process alone."""
    one = build(folder, **settings)
    start = weights(one)
    one.train()
    assert len(losses(one)) == 6
    assert two["losses"] == pytest.approx(losses(one), abs=1e-4)
    assert two["weights"].keys() == start.keys()
    for name, value in weights(one).items():
        assert np.abs(value.flatten().numpy() - np.array(two["weights"][name])).max() < 1e-4, name
    assert any((value - start[name]).abs().max() > 3e-4 for name, value in weights(one).items())
    scores = one.evaluate(few(20))
    for metric in ("image_to_text_map", "text_to_image_map"):
        assert two["scores"][f"eval_{metric}"] == pytest.approx(scores[f"eval_{metric}"], abs=0.02)
