"""A run that dies while it writes a checkpoint goes on from the one before; no run writes a pickle of its settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hf_clipalign import ClipAlignError
from hf_clipalign.trainers import PromptLearningTrainingArguments
from hf_clipalign.trainers.checkpoints import checkpoint_to_resume, last_good_checkpoint, whole_checkpoints
from tests.trainers.contrastive import runs as contrastive_runs
from tests.trainers.gcd import runs as gcd_runs
from tests.trainers.prompts import runs as prompt_runs

TRAINERS: dict[str, Callable[..., Any]] = {
    "contrastive": contrastive_runs.build,
    "gcd": gcd_runs.build,
    "prompts": lambda folder, **settings: prompt_runs.build("supervised", folder, **settings),
    "kdpl": lambda folder, **settings: prompt_runs.build("kdpl", folder, **settings),
}
STEPS = {"save_strategy": "steps", "save_steps": 2}


class Killed(BaseException):
    """What nothing catches."""


def dies_at_the_second(trainer: Any, name: str) -> None:
    """Half of the work of a method is done when it is called for the second checkpoint: a file without its end."""
    method, calls = getattr(trainer, name), []

    def dying(folder: str | Path, *args: Any) -> None:
        method(folder, *args)
        calls.append(folder)
        if len(calls) == 2:
            file = max(Path(folder).iterdir(), key=lambda file: file.stat().st_mtime_ns)
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            raise Killed

    setattr(trainer, name, dying)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAINERS)
def test_killed_while_a_checkpoint_is_written(kind: str, tmp_path: Path) -> None:
    build = TRAINERS[kind]
    whole = build(tmp_path / "whole", **STEPS)
    whole.train()
    for name in ("_write_model", "_save_optimizer_and_scheduler", "_save_rng_state"):
        killed = build(tmp_path / name, **STEPS)
        dies_at_the_second(killed, name)
        with pytest.raises(Killed):
            killed.train()
        assert (tmp_path / name / "checkpoint-4").is_dir()
        assert checkpoint_to_resume(True, tmp_path / name) == str(tmp_path / name / "checkpoint-2")
    resumed = build(tmp_path / "_write_model", **STEPS)
    resumed.train(resume_from_checkpoint=True)
    assert prompt_runs.losses(resumed) == prompt_runs.losses(whole)
    assert whole_checkpoints(tmp_path / "_write_model")[0].name == whole_checkpoints(tmp_path / "whole")[0].name
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_checkpoint_that_is_written_over_is_not_whole_meanwhile(tmp_path: Path) -> None:
    first = contrastive_runs.build(tmp_path, **STEPS, save_total_limit=None)
    first.train()
    again = contrastive_runs.build(tmp_path, **STEPS, save_total_limit=None)
    dies_at_the_second(again, "_write_model")
    with pytest.raises(Killed):
        again.train()
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-2"]


def test_half_a_state_is_no_whole_checkpoint(tmp_path: Path) -> None:
    trainer = contrastive_runs.build(tmp_path, **STEPS, max_steps=4)
    trainer.train()
    state = tmp_path / "checkpoint-4" / "trainer_state.json"
    state.write_text(state.read_text()[:-20])
    assert checkpoint_to_resume("True", tmp_path) == str(tmp_path / "checkpoint-2")
    assert checkpoint_to_resume(False, tmp_path) is None
    with pytest.raises(ClipAlignError, match=r"checkpoint-4' is an incomplete checkpoint: .*trainer_state.json"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    shutil.rmtree(tmp_path / "checkpoint-2")
    with pytest.raises(ClipAlignError, match="no complete checkpoint to resume from in"):
        trainer.train(resume_from_checkpoint=True)


def test_no_checkpoint_is_said_before_the_teacher_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("kdpl", "gcd"):
        trainer = TRAINERS[kind](tmp_path)
        monkeypatch.setattr(trainer, "teacher", None)
        with pytest.raises(ClipAlignError, match="no complete checkpoint to resume from in"):
            trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("kind", TRAINERS)
def test_no_pickle_of_the_settings_is_written_or_uploaded(kind: str, tmp_path: Path) -> None:
    trainer = TRAINERS[kind](tmp_path, **STEPS, num_train_epochs=1, save_total_limit=None)
    uploads: list[set[str]] = []

    def push(message: str, blocking: bool) -> Future:
        trainer.save_model(_internal_call=True)
        uploads.append({path.name for path in tmp_path.iterdir() if path.is_file()})
        done: Future = Future()
        done.set_result(None)
        return done

    trainer.push_to_hub, trainer.push_in_progress, trainer.args.push_to_hub = push, None, True
    trainer.train()
    trainer.args.push_to_hub = False
    trainer.save_model(str(tmp_path / "final"))
    assert uploads
    assert any("model.safetensors" in name for name in uploads[-1])
    assert not list(tmp_path.rglob("training_args.bin"))
    assert not list((tmp_path / "final").glob("training_args*"))
    settings = json.loads((tmp_path / "checkpoint-2" / "training_args.json").read_text())
    assert settings["save_steps"] == 2


def test_only_the_process_that_should_save_writes_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = TRAINERS["prompts"](tmp_path)
    monkeypatch.setattr(PromptLearningTrainingArguments, "should_save", False)
    trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final").exists()


def test_a_checkpoint_whose_weights_cannot_be_read_is_not_a_good_one(tmp_path: Path) -> None:
    for step, numbers in ((2, [1.0]), (4, [1.0]), (6, [float("nan")])):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        save_file({"a": torch.tensor(numbers)}, folder / "model.safetensors")
    assert last_good_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    weights = tmp_path / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert last_good_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_the_newest_checkpoint_is_that_of_the_highest_step(tmp_path, monkeypatch):
    from hf_clipalign.trainers import checkpoints

    for step in (9, 100, 10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    monkeypatch.setattr(checkpoints, "is_checkpoint", lambda path: True)
    monkeypatch.setattr(checkpoints, "is_whole", lambda path: not path.name.endswith("-20"))
    assert [path.name for path in checkpoints.whole_checkpoints(tmp_path)] == [
        "checkpoint-100",
        "checkpoint-10",
        "checkpoint-9",
    ]
