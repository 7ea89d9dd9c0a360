"""Two processes with half of the batch each do what one process does: negatives, gradients, chunks, evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_clipalign.metrics import retrieval_metrics
from tests.processes import run_script
from tests.trainers.contrastive.runs import build, evaluated, losses, weights

SCRIPT = Path(__file__).parent / "runs.py"


SIGMOID_AND_UNEVEN_NUMBERS_OF_CAPTIONS = {"loss": "sigmoid", "captions": "all"}
IMAGE_TERM_AND_CHUNKS = {"image_term_weight": 0.5, "augment": True, "cache_chunk_size": 4}
PLAIN: dict[str, Any] = {}
PROJECTORS = {"positives": "label", "trainable": "projectors"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "runs",
    [
        pytest.param([SIGMOID_AND_UNEVEN_NUMBERS_OF_CAPTIONS, IMAGE_TERM_AND_CHUNKS], id="sigmoid, image term"),
        pytest.param([PLAIN, PROJECTORS], id="plain, projectors"),
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
    compare_evaluations(two, evaluated(one))


def compare_evaluations(two: dict[str, Any], one: dict[str, Any]) -> None:
    """Embeddings and cosines are equal but for rounding; the scores are those of the embeddings.

    Scores of both runs are not compared: that of 20 pairs moves by 0.04 when rounding turns two cosines round.
    """
    assert two["groups"] == one["groups"]
    cosines = []
    for run in (two, one):
        images, texts = (torch.tensor(part) for part in run["embeds"])
        assert len(images) == len(texts) == 20
        cosines.append(F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T)
        for name, query, gallery in (("image_to_text", images, texts), ("text_to_image", texts, images)):
            found = retrieval_metrics(query, gallery, run["groups"], run["groups"], ks=(1, 5))
            for metric in ("map", "recall_at_1", "recall_at_5"):
                assert run["scores"][f"eval_{name}_{metric}"] == pytest.approx(found[metric], abs=1e-6)
    torch.testing.assert_close(cosines[0], cosines[1], atol=1e-3, rtol=0)
    assert cosines[0].std() > 0.02
