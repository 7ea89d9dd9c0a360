"""The sweep: what it skips, what it resumes, and what it writes."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.evaluation import ResultTable

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = ["--num_train_epochs", "1", "--warmup_epochs", "0", "--per_device_train_batch_size", "6"]
QUIET = ["--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "true", "--save_strategy", "no"]


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("sweep_prompts")
    monkeypatch.setattr(module.train_kdpl, "MINI_CLASSES", 12)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


def flags(folder: Path, *own: str) -> list[str]:
    return ["--methods", "vpt", "--modes", "labels", "--output", str(folder), *own, "--", *QUICK, *QUIET]


def test_rows_tables_and_what_is_done(sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sweep.main(flags(tmp_path, "--seeds", "1"))["mini"]
    learned = []
    learn = sweep.learn
    monkeypatch.setattr(sweep, "learn", lambda *given: learned.append(given[:4]) or learn(*given))
    table = sweep.main(flags(tmp_path, "--seeds", "1", "2", "--per_class", "--confusion"))["mini"]
    assert learned == [("mini", "vpt", "labels", 2)]
    assert table.seeds == [1, 2]
    assert list(table.scores) == ["zero-shot student", "zero-shot teacher", "vpt (labels)"]
    row = "vpt (labels)"
    assert all(table.scores[row][test][1] == first.scores[row][test][1] for test in first.tests)
    assert ResultTable.from_json((tmp_path / "mini.json").read_text()).scores == table.scores
    assert "mean ± std over 2 seeds" in (tmp_path / "mini.md").read_text()

    rows = [json.loads((tmp_path / "rows" / f"mini-vpt-labels-{seed}.json").read_text()) for seed in (1, 2)]
    said = [row["tests"]["unseen classes"] for row in rows]
    right = sum(a == b for part in said for a, b in zip(part["labels"], part["predictions"], strict=True))
    total = sum(len(part["labels"]) for part in said)
    assert right / total == pytest.approx(table.mean(row, "unseen classes"))
    intervals = (tmp_path / "mini-intervals.md").read_text()
    assert f"| {row} | unseen classes | {100 * right / total:.1f} | " in intervals

    classes = list(csv.DictReader((tmp_path / "mini-classes.csv").open()))
    assert sum(int(line["right"]) for line in classes if line["test"] == "unseen classes") == right
    confusion = list(csv.DictReader((tmp_path / "mini-confusion.csv").open()))
    counted = [line for line in confusion if line["test"] == "unseen classes"]
    assert sum(int(line["images"]) for line in counted) == total
    assert sum(int(line["images"]) for line in counted if line["class"] == line["taken for"]) == right
    assert not list(tmp_path.rglob("*.part"))


def test_rows_of_other_flags_are_not_mixed(sweep: Any, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    row = {"flags": ["--shots", "4"], "row": "vpt (labels)", "scores": {}, "tests": {}}
    (tmp_path / "rows" / "mini-vpt-labels-1.json").write_text(json.dumps(row))
    with pytest.raises(ClipAlignError, match=r"was made with other flags \(--shots 4\)"):
        sweep.main(flags(tmp_path, "--seeds", "1"))
    with pytest.raises(ClipAlignError, match="sets --seed itself"):
        sweep.parse([*flags(tmp_path), "--seed", "3"])


def test_a_stopped_run_is_resumed(sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "runs" / "mini-vpt-labels-1" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    given = []
    monkeypatch.setattr(sweep.train_kdpl, "run", lambda argv: given.append(argv))
    with pytest.raises(AttributeError):
        sweep.main(flags(tmp_path, "--seeds", "1"))
    assert given[0][-2:] == ["--resume_from_checkpoint", "true"]
