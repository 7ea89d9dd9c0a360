"""Cards of learned prompts: the facts of the run, and which numbers go into the metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCardData

from hf_clipalign import ClipAlignError
from hf_clipalign.evaluation import ResultTable
from hf_clipalign.hub import check_card
from hf_clipalign.papers import paper
from hf_clipalign.trainers.prompts.presets import METHODS
from tests.trainers.prompts.runs import build, images


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build("kdpl", tmp_path_factory.mktemp("cards") / "my-prompt")


def table() -> ResultTable:
    results = ResultTable("Accuracy on emoji", note="Seen styles.")
    results.add("zero-shot student", {"seen": 0.1, "un|seen words": 0.2})
    results.add("CoOp + KDPL", {"seen": 0.7123, "un|seen words": 0.5})
    return results


def written(trainer: Any, folder: Path, **given: Any) -> tuple[str, ModelCardData]:
    trainer.args.output_dir = str(folder)
    trainer.create_model_card(**given)
    text = (folder / "README.md").read_text(encoding="utf-8")
    return text, check_card(text)


def scores(data: ModelCardData) -> dict[str, float]:
    return {result.dataset_name: result.metric_value for result in data.eval_results or []}


def test_facts_of_the_run(trainer: Any, tmp_path: Path) -> None:
    text, data = written(trainer, tmp_path, results=table(), command="python train.py --seed 1", row="CoOp + KDPL")
    rows = {
        "classes": 12,
        "fingerprint of the data": images().fingerprint(),
        "teacher": 'teacher, 3.0 M parameters, prompt "an emoji of {}."',
        "trained parameters": 384,
        "prompt template": "an emoji of {}.",
        "learning rate": 0.01,
        "epochs": 2,
        "batch": 12,
        "seed": 42,
    }
    for name, value in rows.items():
        assert f"| {name} | {value} |" in text
    for part in ("python train.py --seed 1", "| CoOp + KDPL | 71.2 | 50.0 |", "Seen styles.", "transformers "):
        assert part in text
    assert paper("coop").bibtex in text
    assert paper("kdpl").bibtex in text
    assert {"coop", "kdpl", "prompt-learning"} <= set(data.tags)
    assert scores(data) == {"seen": 71.23, "un|seen words": 50.0}
    assert data.base_model is None


def test_which_row_is_the_adapter_is_never_guessed(trainer: Any, tmp_path: Path) -> None:
    text, data = written(trainer, tmp_path, results=table())
    assert "| CoOp + KDPL | 71.2 | 50.0 |" in text
    assert scores(data) == {}
    only = ResultTable()
    only.add("CoOp + KDPL", {"seen": 0.25})
    assert scores(written(trainer, tmp_path, results=only)[1]) == {"seen": 25.0}
    with pytest.raises(ClipAlignError, match="have no row 'CoOp', only 'zero-shot student', 'CoOp"):
        written(trainer, tmp_path, results=table(), row="CoOp")


def test_means_over_seeds_and_missing_numbers_stay_in_the_table(trainer: Any, tmp_path: Path) -> None:
    results = ResultTable("Accuracy")
    results.add("CoOp", {"seen": 0.7, "unseen": float("nan"), "domain": 0.3})
    results.add("CoOp", {"seen": 0.8}, seed=1)
    text, data = written(trainer, tmp_path, results=results)
    assert "| CoOp | 75.0 ± 7.1 | – | 30.0 |" in text
    assert scores(data) == {"domain": 30.0}


def test_card_is_written_again_with_what_was_given_last(trainer: Any, tmp_path: Path) -> None:
    first, _ = written(trainer, tmp_path, results=table(), command="python train.py", row="CoOp + KDPL")
    assert written(trainer, tmp_path, model_name="ignored")[0] == first


@pytest.mark.parametrize("method", METHODS)
def test_labels_cite_the_method_alone(tmp_path: Path, method: str) -> None:
    text, data = written(build("supervised", tmp_path, method), tmp_path)
    assert paper(method).bibtex in text
    assert "2407.03056" not in text
    assert "kdpl" not in data.tags
    assert "learned from labelled images" in text
    assert ("first tokens" in text) == (method != "vpt")
