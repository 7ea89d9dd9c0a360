"""Loads a pushed prompt in a fresh process, in the two ways of its card."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

import hf_clipalign.tuners  # noqa: F401
from hf_clipalign.data import load_mini


def main(folder: str, repo_id: str, names_file: str) -> None:
    expected = load_file(f"{folder}/expected.safetensors")
    names = Path(names_file).read_text(encoding="utf-8").splitlines()
    inputs = AutoProcessor.from_pretrained(repo_id)(
        text=[f"an emoji of {n}." for n in names], return_tensors="pt", padding=True
    )
    base = AutoModel.from_pretrained(load_mini().student_path)
    for model in (PeftModel.from_pretrained(base, repo_id), AutoModel.from_pretrained(repo_id)):
        with torch.no_grad():
            logits = model.eval()(pixel_values=expected["pixels"], **inputs).logits_per_image
        print("DIFFERENCE", (logits - expected["logits"]).abs().max().item())


if __name__ == "__main__":
    main(*sys.argv[1:])
