"""A small incremental run, also as a script for several processes and for a push in a process of its own."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model

from hf_clipalign.data import FindingLabels, FindingPrompts, class_incremental, data_incremental
from hf_clipalign.features import LabelledEmbeddings, backbone_hash
from hf_clipalign.trainers import RETuneTrainer, RETuneTrainingArguments
from hf_clipalign.tuners import RETuneConfig
from tests.processes import report_what_is_left
from tests.tiny_models import tiny_clip, tiny_tokenizer

FINDINGS = ["cat", "dog", "bird"]
PROMPTS = FindingPrompts.from_templates(
    FINDINGS, ["a {}", "a photo of a {}"], ["no {}", "the image of the old house {}"]
)


def embeddings(n: int = 96, seed: int = 0, findings: list[str] = FINDINGS) -> LabelledEmbeddings:
    """Embeddings that lean towards one direction for each finding."""
    rng = np.random.default_rng(seed)
    values = (rng.random((n, len(findings))) < 0.4).astype(float)
    directions = 2 * np.random.default_rng(99).standard_normal((5, 24))[: len(findings)]
    embeds = rng.standard_normal((n, 24)) + (2 * values - 1) @ directions
    ids = [f"patient{row // 2:03d}/{seed}-{row}.png" for row in range(n)]
    labels = FindingLabels(ids, list(findings), values, [name.split("/")[0] for name in ids], "synthetic")
    return LabelledEmbeddings(torch.from_numpy(embeds).float(), labels, model_hash())


@functools.cache
def model_hash() -> str:
    """The hash of the tiny model's weights."""
    return backbone_hash(tiny_clip())


def build(folder: str | Path, **changes: Any) -> RETuneTrainer:
    """A trainer with fresh adapters; arguments of the trainer go by name, all others are settings."""
    settings: dict[str, Any] = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
        "logging_strategy": "no",
    }
    own: dict[str, Any] = {
        "prompts": PROMPTS,
        "train_dataset": embeddings(),
        "eval_dataset": embeddings(80, seed=1),
        "processing_class": tiny_tokenizer("clip"),
        "scenario": "class-incremental",
    }
    config = changes.pop("config", None) or RETuneConfig()
    base = changes.pop("base", None) or tiny_clip()
    for name in (*own, "tasks", "encoder", "encode_prompts"):
        if name in changes:
            own[name] = changes.pop(name)
    if own["train_dataset"] is not None and "tasks" not in own:
        own["tasks"] = class_incremental(own["train_dataset"].labels)
    torch.manual_seed(0)
    model = changes.pop("model", None) or get_peft_model(base, config)
    return RETuneTrainer(model, RETuneTrainingArguments(str(folder), **{**settings, **changes}), **own)


def weights(trainer: RETuneTrainer) -> dict[str, torch.Tensor]:
    """The adapter's parameters."""
    return {name: p.detach().clone() for name, p in trainer.learner.named_parameters() if p.requires_grad}


def run_processes(batch: str, folder: str) -> None:
    """Trains data-incrementally and prints what came out: by each process its share of the batch.

    One process is late, and must not take its own run for one of before.
    """
    torch.set_num_threads(1)
    report_what_is_left()
    data = embeddings()
    data.labels.values[::3, 1] = np.nan  # unknown labels fall unevenly on the processes
    settings = {
        "train_dataset": data,
        "tasks": data_incremental(data.labels, 3),
        "per_device_train_batch_size": int(batch),
        "learning_rate": 1e-3,
        "ddp_backend": "gloo" if "WORLD_SIZE" in os.environ else None,
    }
    trainer = build(folder, **settings)
    load = trainer._load_adapter
    trainer._load_adapter = lambda folder: sys.exit(f"{folder} was loaded in a run that begins")
    time.sleep(3 * int(os.environ.get("RANK", 0)))
    trainer.train()
    trainer._load_adapter = load
    resumed = build(folder, **settings)
    resumed.train(resume_from_checkpoint=True)
    for name, value in weights(resumed).items():
        assert torch.equal(value, weights(trainer)[name]), name
    if trainer.is_world_process_zero():
        found = {name: value.flatten()[:50].tolist() for name, value in weights(trainer).items()}
        result = {"processes": trainer.args.world_size, "weights": found, "means": trainer.result.means}
        print("RESULT " + json.dumps(result), flush=True)


def run_push(repo_id: str, folder: str) -> None:
    """Trains and pushes, by the trainer and by the command, with private things lying in the output folder."""
    from hf_clipalign.cli.app import app

    torch.set_num_threads(1)
    trainer = build(folder, hub_model_id=repo_id)
    trainer.train()
    trainer.data.save(Path(folder) / "features.safetensors")
    (Path(folder) / "patients.csv").write_text("patient,finding\n")
    trainer.create_model_card(command=f"python /opt/train.py --features {folder}/patient0815 --labels=x.csv --lr 1e-3")
    trainer.push_to_hub(base_model="tester/tiny-clip", private=True)
    for name, pushed in (("run", folder), ("task", f"{folder}/tasks/002")):
        app(["push", pushed, f"{repo_id}-{name}"], standalone_mode=False)


if __name__ == "__main__":
    {"processes": run_processes, "push": run_push}[sys.argv[1]](*sys.argv[2:])
