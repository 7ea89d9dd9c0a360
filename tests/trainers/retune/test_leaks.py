"""Test data that were seen, tasks without negatives, an adapter that came with findings; what page and card say."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from peft import PeftModel

from hf_clipalign import ClipAlignError
from hf_clipalign.data import FindingLabels, IncrementalTask, class_incremental
from hf_clipalign.features import LabelledEmbeddings
from hf_clipalign.trainers.retune.findings_report import measure_findings, write_findings
from tests.tiny_models import tiny_clip
from tests.trainers.retune.runs import FINDINGS, build, embeddings


def renamed(data: LabelledEmbeddings, patients: str) -> LabelledEmbeddings:
    """The same rows under names and patients of their own."""
    ids = [f"{patients}{row}.png" for row in range(len(data))]
    labels = FindingLabels(
        ids, data.labels.findings, data.labels.values, [f"{patients}{row // 2}" for row in range(len(data))]
    )
    return LabelledEmbeddings(data.embeds, labels, data.model)


def test_forgetting_from_the_adapter_alone(tmp_path: Path) -> None:
    tasks = class_incremental(embeddings().labels)
    first = build(tmp_path / "first", tasks=tasks[:2], score="difference", num_train_epochs=8)
    first.train()
    loaded = PeftModel.from_pretrained(tiny_clip(), tmp_path / "first", is_trainable=True)
    later = build(tmp_path / "second", tasks=tasks[2:], model=loaded, score="difference", num_train_epochs=8)
    later.train()
    assert later.result.matrix()[0].tolist() == first.result.matrix()[-1].tolist()
    summary = later.result.forgetting()
    assert summary["compared"] == FINDINGS[:2]
    lost = [later.result.matrix()[0, column] - later.result.matrix()[1, column] for column in (0, 1)]
    assert summary["forgetting"] == pytest.approx(np.mean(lost))
    assert "| before |" in (tmp_path / "second" / "README.md").read_text()


def test_a_test_image_that_any_task_saw_is_an_error(tmp_path: Path) -> None:
    data, test = embeddings(), embeddings(80, seed=1)
    tasks = class_incremental(data.labels)
    build(tmp_path, tasks=tasks[:1]).train()
    seen = data.select(tasks[0].rows)
    with pytest.raises(
        ClipAlignError, match=r"32 of 32 test images were seen in training, first 'patient000/0-0.png'"
    ):
        build(tmp_path, tasks=tasks[1:], eval_dataset=seen)  # it was learned a month ago
    with pytest.raises(ClipAlignError, match="test images were seen in training"):
        build(tmp_path / "new", tasks=tasks[:1], eval_dataset=seen)
    build(tmp_path / "new", tasks=tasks[1:], eval_dataset=seen)  # in the data, but in no task
    build(tmp_path, tasks=tasks[1:], eval_dataset=test)


def test_patients_in_both_are_a_warning_on_the_card(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder, test, told in (
        ("shared", embeddings(80, seed=1), True),
        ("apart", renamed(embeddings(80, 1), "q"), False),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            trainer = build(tmp_path / folder, eval_dataset=test)
        assert ("40 of 40 patients of the test data were seen" in caplog.text) == told
        trainer.train()
        assert ("40 of 40 patients" in (tmp_path / folder / "README.md").read_text()) == told
        assert bool(json.loads((tmp_path / folder / "metrics.json").read_text())["leak"]) == told


def test_a_task_without_negatives_names_the_way_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = embeddings()
    data.labels.values[data.labels.values == 0] = np.nan
    task = [IncrementalTask("pets", np.arange(96), ("cat", "dog"))]
    with caplog.at_level(logging.WARNING):
        trainer = build(tmp_path / "a", train_dataset=data, tasks=task)
    (line,) = [line for line in caplog.messages if "no negative example" in line]
    assert "'pets' has no negative example of 'cat', 'dog'" in line
    assert 'missing="zeros"' in line
    trainer.train()
    assert trainer.result.warnings == [line]
    assert "no negative example of" in (tmp_path / "a" / "README.md").read_text()
    caplog.clear()
    build(tmp_path / "b", train_dataset=data, tasks=task, missing="zeros")
    assert "no negative example" not in caplog.text


def test_the_clinical_table_is_on_page_and_card(tmp_path: Path) -> None:
    trainer = build(tmp_path / "run", eval_dataset=renamed(embeddings(80, 1), "q"))
    trainer.train()
    validation = renamed(embeddings(60, 2), "v")
    table = measure_findings(trainer, trainer.eval_dataset, validation, 30)
    assert [row["model"] for row in table.rows[:3]] == ["RE-tune", "zero-shot", "linear probe"]
    page = write_findings(trainer, tmp_path / "page").read_text(encoding="utf-8")
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    for text in ("linear probe", table.verdict.split(" by ")[0]):
        assert text in page
        assert text in card
    assert page.index("Each finding, beside plain baselines") < page.index("class-incremental")


def test_learned_findings_that_are_not_tested_are_on_the_card(tmp_path: Path) -> None:
    trainer = build(tmp_path, eval_dataset=renamed(embeddings(80, 1), "q").select(findings=["dog"]))
    trainer.train()
    card = (tmp_path / "README.md").read_text()
    assert "Learned but not in this test: cat, bird (1 of 3 findings were tested)." in card
