"""The example on a small part of the built-in set: what it prints, saves and refuses."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from hf_clipalign import ClipAlignError
from hf_clipalign.data import take
from hf_clipalign.hub import check_card

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("finetune_contrastive")
    whole = module.mini_data

    def part() -> tuple:
        train, test = whole()
        return take(train, range(64)), test

    monkeypatch.setattr(module, "mini_data", part)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


def flags(folder: Path, *more: str) -> list[str]:
    settings = {
        "output_dir": folder,
        "max_steps": 2,
        "per_device_train_batch_size": 32,
        "steps": 4,
        "most_images": 60,
        "report_to": "none",
        "disable_tqdm": "true",
        "use_cpu": "true",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))] + list(more)


@pytest.mark.slow
def test_every_run_is_measured_and_saved(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = example.main(flags(tmp_path))
    assert list(rows) == ["before", *example.RUNS]
    shown = capsys.readouterr().out
    assert "tau-0.01-simclr" in shown
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == rows
    assert (tmp_path / "gap.png").stat().st_size > 10_000
    assert rows["tau-1"]["temperature"] == pytest.approx(1.0)
    assert rows["tau-0.01"]["temperature"] == pytest.approx(0.01)
    assert rows["tau-learned"]["temperature"] == pytest.approx(0.07, rel=0.02)
    assert rows["tau-1"]["centroid_distance"] != rows["before"]["centroid_distance"]
    for row in rows.values():
        assert row["gain"] == pytest.approx(row["map_oti"] - row["map"])
        assert list(row["curve"])[-1] == "4"

    for name in example.RUNS:
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        check_card(card)
        assert "--max_steps 2" in card
        assert f"| {name} |" in card
        assert ("SimCLR" in card) == (name == "tau-0.01-simclr")
        scale = AutoModel.from_pretrained(tmp_path / name).logit_scale.exp().item()
        assert 1 / scale == pytest.approx(rows[name]["temperature"], rel=1e-4)


def test_flags_of_the_trainer_replace_the_defaults(example: Any, tmp_path: Path) -> None:
    _, training = example.parse(["--output_dir", str(tmp_path)])
    assert (training.positives, training.num_train_epochs) == ("label", 2)
    _, training = example.parse(["--output_dir", str(tmp_path), "--num_train_epochs", "3", "--loss", "sigmoid"])
    assert (training.loss, training.num_train_epochs) == ("sigmoid", 3)
    _, training = example.parse(["--dataset", "owner/name", "--output_dir", str(tmp_path)])
    assert training.positives == "image"


def test_bad_flags(example: Any) -> None:
    with pytest.raises(ClipAlignError, match="no run 'tau-2': there are tau-1"):
        example.parse(["--runs", "tau-2"])
    with pytest.raises(ClipAlignError, match=r"temperature is 0\.0"):
        example.parse(["--temperature", "0"])
