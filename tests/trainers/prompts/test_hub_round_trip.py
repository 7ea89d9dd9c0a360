"""A trained prompt goes to a Hub over HTTP and comes back in a fresh process with the same logits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_clipalign.data import load_mini
from hf_clipalign.hub import check_card
from tests.hub.local_hub import OWNER, serve
from tests.trainers.prompts.runs import images

HERE = Path(__file__).parent


@pytest.mark.slow
def test_pushed_prompt_gives_the_same_logits_elsewhere(tmp_path: Path) -> None:
    repo_id = f"{OWNER}/emoji-prompt"
    (tmp_path / "names.txt").write_text("\n".join(images().class_names), encoding="utf-8")
    base_model = f"{OWNER}/mini-student"
    with serve() as (hub, address):
        hub.add(base_model, {file.name: file.read_bytes() for file in Path(load_mini().student_path).iterdir()})
        environment = {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_TOKEN": "hf_writer",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(HERE.parents[2]),
        }

        def run(script: str, *arguments: str) -> str:
            command = [sys.executable, str(HERE / script), str(tmp_path), repo_id, *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            return done.stdout

        run("hub_author.py", base_model)
        files = hub.repos[repo_id].files()
        assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "tokenizer.json"} <= set(files)
        assert len(files["adapter_model.safetensors"]) < 5_000
        assert "last-checkpoint/trainer_state.json" in files
        assert not [name for name in files if name.endswith("training_args.bin")]
        card = files["README.md"].decode()
        assert f'pipeline("zero-shot-image-classification", model="{repo_id}")' in card
        assert str(tmp_path) not in card
        assert check_card(card).base_model == base_model
        assert not [name for name in files if name.endswith("training_args.json")]
        assert {"coop", "kdpl", "arxiv:2407.03056"} <= set(check_card(card).tags)
        lines = [line for line in run("hub_reader.py", str(tmp_path / "names.txt")).splitlines() if "DIFF" in line]
    assert len(lines) == 2
    assert all(float(line.split()[1]) < 1e-4 for line in lines)
