"""Two processes with half of the batch each do what one process does: negatives, gradients, chunks, evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.processes import run_script
from tests.trainers.contrastive_runs import build, few, losses, weights

SCRIPT = Path(__file__).parent / "contrastive_runs.py"


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"loss": "sigmoid", "captions": "all"}, id="sigmoid, uneven numbers of captions"),
        pytest.param({"image_term_weight": 0.5, "augment": True, "cache_chunk_size": 4}, id="image term, chunks"),
        pytest.param({}, marks=pytest.mark.slow, id="plain"),
        pytest.param({"positives": "label", "trainable": "projectors"}, marks=pytest.mark.slow, id="projectors"),
    ],
)
def test_two_processes_are_one_with_the_doubled_batch(settings: dict, tmp_path: Path) -> None:
    one = build(tmp_path / "one", **settings)
    start = weights(one)
    one.train()
    two = run_script(SCRIPT, 6, tmp_path / "two", json.dumps(settings), processes=2)
    assert len(losses(one)) == 6
    assert two["losses"] == pytest.approx(losses(one), abs=1e-4)
    assert two["weights"].keys() == start.keys()
    for name, value in weights(one).items():
        assert np.abs(value.flatten().numpy() - np.array(two["weights"][name])).max() < 1e-4, name
    assert any((value - start[name]).abs().max() > 3e-4 for name, value in weights(one).items())
    scores = one.evaluate(few(20))
    for metric in ("image_to_text_map", "text_to_image_map"):
        assert two["scores"][f"eval_{metric}"] == pytest.approx(scores[f"eval_{metric}"], abs=0.02)
