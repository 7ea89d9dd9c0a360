"""Trains a prompt and pushes it: run by the round-trip test in a process of its own, which knows the test server."""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file

from tests.trainers.prompts.runs import build, images


def main(folder: str, repo_id: str, base_model: str) -> None:
    torch.set_num_threads(1)
    hub = {"push_to_hub": True, "hub_model_id": repo_id, "hub_strategy": "checkpoint"}
    trainer = build("kdpl", f"{folder}/run", num_train_epochs=1, save_strategy="epoch", **hub)
    trainer.train()
    trainer.create_model_card(command="python train.py")
    trainer.push_to_hub(base_model=base_model)
    pixels = torch.stack([trainer._images(images(), trainer.args, False)[row]["pixel_values"] for row in range(4)])
    with torch.no_grad(), trainer._classes_of(None):
        logits = trainer.learner.eval()(pixels)["logits"]
    save_file({"pixels": pixels, "logits": logits.contiguous()}, f"{folder}/expected.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
