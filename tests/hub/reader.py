"""The process that loads: `python reader.py FOLDER with|without` loads what `author.py` pushed, from the Hub alone.

`with` uses this package, and has no token. `without` cannot import this package.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


def images() -> torch.Tensor:
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def run_snippets(repo_id: str, chosen: slice) -> list[int]:
    """Runs the Python blocks of a card one after the other, as a reader of the card would: shape of the features."""
    from huggingface_hub import ModelCard

    scope: dict[str, Any] = {
        "images": [Image.new("RGB", (50, 50), colour) for colour in ("red", "green", "blue")],
        "texts": ["an emoji of cat", "an emoji of red heart"],
    }
    for block in re.findall(r"```python\n(.*?)```", ModelCard.load(repo_id).text, flags=re.DOTALL)[chosen]:
        exec(block, scope)
    features = scope.get("features", scope.get("image_features"))
    return [0] if features is None else list(features.shape)


@torch.no_grad()
def read_with_package(tokens: dict[str, torch.Tensor]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from transformers import AutoModel, AutoProcessor

    import hf_clipalign
    from hf_clipalign.backbones import load_model

    model = AutoModel.from_pretrained("tester/isoclip").eval()
    by_lfs = AutoModel.from_pretrained("tester/isoclip-lfs").eval()
    processor = AutoProcessor.from_pretrained("tester/isoclip", backend="pil")
    report = {
        "snippets": run_snippets("tester/isoclip", slice(None)),
        "snippets of the adapter": run_snippets("tester/lora", slice(None)),
        "snippets of the export": run_snippets("tester/stock", slice(None)),
        "class": type(model).__name__,
        "processor": type(processor).__name__,
        "bands of the revision": AutoModel.from_pretrained("tester/isoclip", revision="narrow").config.image_band,
        "bands of main": model.config.image_band,
    }
    found = AutoModel.from_pretrained("tester/gcd").predict([Image.new("RGB", (50, 50), "red")])
    report["name of a found class"] = found[0].name
    # without a token first: what a token has brought into the cache may be read again
    try:
        load_model("tester/secret")
    except hf_clipalign.ClipAlignError as error:
        report["private without token"] = str(error)
    report["private with token"] = type(AutoModel.from_pretrained("tester/secret", token="hf_writer")).__name__
    features = {
        "image": model.get_image_features(images()).pooler_output,
        "text": model.get_text_features(**tokens).pooler_output,
        "logits": model(pixel_values=images(), **tokens).logits_per_image,
        "found classes": AutoModel.from_pretrained("tester/gcd").eval()(images()).logits,
        "image by lfs": by_lfs.get_image_features(images()).pooler_output,
    }
    return report, features


@torch.no_grad()
def read_without_package(tokens: dict[str, torch.Tensor]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    sys.modules["hf_clipalign"] = None  # type: ignore[assignment]
    from peft import PeftModel
    from transformers import AutoModel, AutoProcessor, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    image = CLIPVisionModelWithProjection.from_pretrained("tester/stock").eval()
    text = CLIPTextModelWithProjection.from_pretrained("tester/stock-text").eval()
    base = AutoModel.from_pretrained("tester/mini-student")
    adapted = PeftModel.from_pretrained(base, "tester/lora").eval()
    report = {
        "snippet of the image tower": run_snippets("tester/stock", slice(1)),
        "snippet of the text tower": run_snippets("tester/stock-text", slice(1)),
        "snippet of the adapter": run_snippets("tester/lora", slice(1)),
        "processor": type(AutoProcessor.from_pretrained("tester/stock", backend="pil")).__name__,
        "facts": image.config.hf_clipalign,
        "modules of the package": [name for name in sys.modules if name.startswith("hf_clipalign.")],
    }
    features = {
        "image": image(images()).image_embeds,
        "text": text(**tokens).text_embeds,
        "adapter": adapted(pixel_values=images(), **tokens).logits_per_image,
    }
    return report, features


if __name__ == "__main__":
    folder, side = Path(sys.argv[1]), sys.argv[2]
    (folder / side).mkdir()
    os.chdir(folder / side)
    expected = np.load(folder / "expected.npz")
    ids = {name: torch.from_numpy(expected[name]) for name in ("input_ids", "attention_mask")}
    report, features = (read_with_package if side == "with" else read_without_package)(ids)
    np.savez(folder / f"{side}.npz", **{name: tensor.numpy() for name, tensor in features.items()})
    (folder / f"{side}.json").write_text(json.dumps(report, indent=1))
