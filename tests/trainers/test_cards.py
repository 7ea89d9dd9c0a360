"""What every trainer writes and pushes: no secret and no path of this machine, and only what is meant to go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign._io.staging import staging_path
from hf_clipalign.evaluation import ReportTable, ResultTable
from hf_clipalign.hub import CardEvaluation, ModelCardInfo, check_card
from hf_clipalign.hub.published import published
from hf_clipalign.papers import paper
from hf_clipalign.trainers import pushing
from hf_clipalign.trainers.cards import card_info
from tests.trainers.contrastive import runs as contrastive_runs
from tests.trainers.gcd import runs as gcd_runs
from tests.trainers.prompts import runs as prompt_runs
from tests.trainers.retune import runs as retune_runs

TOKEN = "hf_" + "AbCdEf0123456789" * 2
BUILD: dict[str, Callable[..., Any]] = {
    "contrastive": contrastive_runs.build,
    "gcd": gcd_runs.build,
    "prompts": lambda folder, **settings: prompt_runs.build("supervised", folder, **settings),
    "kdpl": lambda folder, **settings: prompt_runs.build("kdpl", folder, **settings),
    "retune": retune_runs.build,
}
PAPER = {"contrastive": "clip", "gcd": "spectralgcd", "prompts": "coop", "kdpl": "kdpl", "retune": "retune"}
COMMAND = (
    f"HF_TOKEN={TOKEN} python /opt/mrn123/train.py --hub_token {TOKEN} --token={TOKEN} --data ../data/mrn123 "
    rf"--labels file:///srv/mrn123.csv --cache C:\mrn123 --url https://me:{TOKEN}@hf.co/x --teacher me/clip"
)
ROWS = ("trained parameters", "learning rate", "epochs", "batch", "seed", "versions")


@pytest.fixture(scope="module", params=BUILD)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    folder = tmp_path_factory.mktemp("mrn-home") / "run"
    trainer = BUILD[request.param](folder, hub_token=TOKEN, hub_model_id="me/model")
    if request.param != "retune":
        trainer.args.max_steps = 1
        trainer.args.save_strategy = "steps"
    trainer.train()
    trainer.save_model()
    note = ResultTable(f"From ~/mrn123 with {TOKEN}", note=f"`{COMMAND}`.")
    note.add(f"row {TOKEN}", {"test": 0.5})
    trainer.create_model_card(results=note, command=COMMAND)
    return request.param, trainer, folder


def test_no_secret_in_any_byte_and_no_path_on_the_card(saved: tuple[str, Any, Path]) -> None:
    _, _, folder = saved
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        assert TOKEN.encode() not in path.read_bytes(), path
    card = (folder / "README.md").read_text(encoding="utf-8")
    check_card(card)
    for private in ("mrn123", "mrn-home", str(folder.parent), "patient0", "synthetic"):
        assert private not in card
    assert "HF_TOKEN=… python train.py --hub_token … --token=… --data … " in card


def test_every_card_has_the_settings_and_its_paper(saved: tuple[str, Any, Path]) -> None:
    kind, _, folder = saved
    card = (folder / "README.md").read_text(encoding="utf-8")
    for row in ROWS:
        assert f"\n| {row} | " in card
    assert paper(PAPER[kind]).bibtex in card


def test_a_push_takes_what_the_trainer_writes_and_tells_no_local_base(
    saved: tuple[str, Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, trainer, folder = saved
    (folder / "patients.csv").write_text("mrn123")
    (folder / "features.safetensors").write_text("mrn123")
    pushed: dict[str, Any] = {}

    def push_folder(staged: Path, repo_id: str, info: ModelCardInfo, **settings: Any) -> str:
        pushed.update(repo_id=repo_id, info=info, settings=settings, folder=staged)
        (tmp_path / "copies").mkdir()
        files = {path.name: published(path.name, path, tmp_path / "copies") for path in Path(staged).rglob("*.*")}
        pushed["files"] = {
            name: part if isinstance(part, bytes) else part.read_bytes() for name, part in files.items()
        }
        (tmp_path / "copies").rmdir()
        return "done"

    monkeypatch.setattr(pushing, "push_folder", push_folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    own = staging_path(tmp_path / "clipalign-push").name
    (tmp_path / own.replace(f"~{os.getpid()}~", f"~{killed.pid}~")).mkdir()
    base = {"base_model": "me/base"} if kind == "retune" else {}
    assert trainer.push_to_hub(**base) == "done"
    assert (pushed["repo_id"], pushed["info"].load_from) == ("me/model", "me/model")
    assert pushed["settings"]["token"] == TOKEN
    assert not {"patients.csv", "features.safetensors", "training_args.json"} & set(pushed["files"])
    assert any(name.endswith("model.safetensors") for name in pushed["files"])
    for name, content in pushed["files"].items():
        for private in (TOKEN, "mrn123", "mrn-home", "/assets/mini/", str(Path.cwd())):
            assert private.encode() not in content, (name, private)
    if "adapter_config.json" in pushed["files"]:
        config = json.loads(pushed["files"]["adapter_config.json"])
        assert config["base_model_name_or_path"] == base.get("base_model")
    assert pushed["folder"].parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_a_push_without_a_name_is_refused(saved: tuple[str, Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, trainer, _ = saved
    monkeypatch.setattr(trainer.args, "hub_model_id", None)
    with pytest.raises(ClipAlignError, match="repo_id='owner/name'"):
        trainer.push_to_hub()


def test_settings_of_a_checkpoint_are_not_uploaded(
    saved: tuple[str, Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, trainer, folder = saved
    committed: dict[str, Any] = {}

    def commit(api: Any, repo_id: str, files: dict[str, Any], message: str, revision: str | None) -> None:
        committed.update(repo=repo_id, message=message, token=api.token, files=sorted(files))

    monkeypatch.setattr(pushing, "commit", commit)
    monkeypatch.setattr(trainer, "hub_model_id", "me/model", raising=False)
    checkpoint = folder / "checkpoint-1"
    (checkpoint / "deep").mkdir(parents=True, exist_ok=True)
    for name in ("training_args.json", "deep/adapter_config.json", "adapter_config.json", "trainer_state.json"):
        (checkpoint / name).write_text("{}")
    pushing.push_checkpoint(trainer, checkpoint, "last-checkpoint", "step 1").result()
    left_out = {"training_args.json", "adapter_config.json"}
    kept = [file.relative_to(checkpoint).as_posix() for file in checkpoint.rglob("*.*") if file.name not in left_out]
    assert committed == {
        "repo": "me/model",
        "message": "step 1, checkpoint",
        "token": TOKEN,
        "files": sorted(f"last-checkpoint/{name}" for name in kept),
    }


def test_test_labels_are_told_by_their_number(tmp_path: Path) -> None:
    trainer = retune_runs.build(tmp_path, num_train_epochs=1)
    object.__setattr__(trainer.eval_dataset.labels, "name", "/srv/hospital/mrn123.csv")
    trainer.train()
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "test labels: 80 studies, after every task" in card
    assert "mrn123" not in card
    assert {result.dataset_name for result in check_card(card).eval_results} == {"test labels: 80 studies"}


def test_results_of_every_kind(tmp_path: Path) -> None:
    trainer = BUILD["prompts"](tmp_path)
    table = ReportTable(["a", "b"], [["x", "1"]])
    for results in (table, [CardEvaluation("Results", [], table)]):
        trainer.create_model_card(results=results)
        assert "| x | 1 |" in (tmp_path / "README.md").read_text(encoding="utf-8")
    trainer.create_model_card(evaluations=[CardEvaluation("Other", [], table)])
    assert "### Other" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card_info(trainer, tmp_path).method == "coop"


def test_names_of_classes_and_findings_are_not_interpreted(tmp_path: Path) -> None:
    """On the card of a run whose findings carry Markdown, HTML and a new line."""
    name = "x](javascript:alert(1)) <script>|`\n# Owned"
    trainer = retune_runs.build(tmp_path, num_train_epochs=1)
    trainer.state_folder.content["tasks"] = [{"name": name, "findings": [name], "n_rows": 3}]
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text(encoding="utf-8").split("\n---\n", 1)[1]
    for active in ("<script", "](javascript:", "javascript:alert", "\n# Owned"):
        assert active not in card
