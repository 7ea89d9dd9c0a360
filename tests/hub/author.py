"""The process that pushes: `python author.py FOLDER` does every push of the tests and writes what came of it.

Run by `test_round_trip.py` with the local Hub's address in the environment. `FOLDER/report.json` holds the outcome of
each step by name: the address of a commit, or the message of a `ClipAlignError`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_clipalign import ClipAlignError, IsoCLIPModel
from hf_clipalign.backbones import load_processor
from hf_clipalign.cli import main
from hf_clipalign.hub import push_adapter, push_folder, push_stock

BASE = "tester/mini-student"
TEXTS = ["an emoji of cat", "an emoji of red heart"]


def images() -> torch.Tensor:
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


class Author:
    """Models, and the report."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.report: dict[str, Any] = {}
        self.processor = load_processor(BASE)
        self.model = IsoCLIPModel.from_clip_pretrained(BASE, image_band=(1, 48), text_band=(1, 64))
        self.plain, self.own = folder / "plain", folder / "own-card"
        self.tokens = dict(self.processor(text=TEXTS, padding=True, return_tensors="pt"))

    def save(self) -> None:
        """`plain` is as `save_pretrained` writes it; `own` has a card by hand, and what nobody should publish."""
        for folder in (self.plain, self.own):
            self.model.save_pretrained(folder)
        (self.own / "README.md").write_text("---\nlicense: mit\n---\nA card by hand.\n")
        (self.own / ".env").write_text("secret")
        (self.own / "optimizer.pt").write_bytes(b"pickle")

    def step(self, name: str, action: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        try:
            self.report[name] = str(action(*args, **kwargs))
        except ClipAlignError as error:
            self.report[name] = f"refused: {error}"

    def command(self, name: str, *arguments: str) -> None:
        sys.argv = ["clipalign", *arguments]
        output, code = io.StringIO(), 0
        with contextlib.redirect_stderr(output):
            try:
                main()
            except SystemExit as leaving:
                code = int(leaving.code or 0)
        self.report[name] = [code, output.getvalue()]

    @torch.no_grad()
    def expected(self) -> dict[str, np.ndarray]:
        return {
            "image": self.model.get_image_features(images()).pooler_output.numpy(),
            "text": self.model.get_text_features(**self.tokens).pooler_output.numpy(),
            "logits": self.model(pixel_values=images(), **self.tokens).logits_per_image.numpy(),
            **{name: ids.numpy() for name, ids in self.tokens.items()},
        }


def push_models(author: Author) -> None:
    author.step("isoclip", author.model.push_to_hub, "tester/isoclip")
    other = IsoCLIPModel.from_clip_pretrained(BASE, image_band=(2, 20))
    author.step("revision", other.push_to_hub, "tester/isoclip", revision="narrow")
    author.step("short name", push_folder, author.plain, "short", commit_message="A title")
    author.step("private", author.model.push_to_hub, "tester/secret", private=True)
    author.step("private onto public", push_folder, author.plain, "tester/isoclip", private=True)
    author.step("stock", push_stock, author.model, "tester/stock", compact=True)
    author.step("stock text", push_stock, author.model, "tester/stock-text", "text", processor=author.processor)
    author.step("lfs", push_folder, author.own, "tester/isoclip-lfs")


def push_found_classes(author: Author) -> None:
    from hf_clipalign.gcd import SpectralGCDModel

    sizes = {"hidden_size": 8, "mlp_hidden_size": 8, "bottleneck_size": 4}
    model = SpectralGCDModel.from_student(
        BASE, ["cat", "heart", "sun"], ["animal"], 2, processor=author.processor, template="an emoji of {}.", **sizes
    )
    author.step("found classes", model.push_to_hub, "tester/gcd")
    np.save(author.folder / "found.npy", model(images()).logits.detach().numpy())


def push_cards(author: Author) -> None:
    author.step("card kept", push_folder, author.plain, "tester/kept")
    author.step("card replaced", push_folder, author.plain, "tester/replaced", overwrite_card=True)
    author.step("card by hand", push_folder, author.own, "tester/by-hand")
    author.step("save and push", author.model.save_pretrained, author.plain, push_to_hub=True, repo_id="tester/saved")


def push_adapters(author: Author) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    base = AutoModel.from_pretrained(BASE)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    author.step("adapter", push_adapter, adapted, "tester/lora", method="kdpl", description="A test.")
    with torch.no_grad():
        logits = adapted(pixel_values=images(), **author.tokens).logits_per_image
    np.save(author.folder / "adapter.npy", logits.numpy())
    adapted.peft_config["default"].base_model_name_or_path = str(author.folder)
    author.step("adapter of a folder", push_adapter, adapted, "tester/lora-of-folder")
    author.step("adapter with base", push_adapter, adapted, "tester/lora-with-base", base_model=BASE)


def push_into_faults(author: Author) -> None:
    for name in ("commit-500", "commit-cut", "info-500", "object-cut-lfs"):
        author.step(name, push_folder, author.own, f"tester/{name}")
        author.step(f"{name} again", push_folder, author.own, f"tester/{name}")


def push_without_rights(author: Author) -> None:
    token = os.environ.pop("HF_TOKEN")
    author.step("no token", push_folder, author.own, "tester/no-token")
    os.environ["HF_TOKEN"] = token
    author.step("wrong token", push_folder, author.own, "tester/wrong-token", token="hf_wrong")
    author.step("reading token", push_folder, author.own, "tester/isoclip", token="hf_reader")
    author.step("not ours", push_folder, author.own, "someone/else")
    author.step("no name", push_folder, author.own, "a/b/c")
    author.step("no folder", push_folder, author.folder / "nowhere", "tester/nowhere")
    author.step("no model", push_folder, author.folder, "tester/nothing")


@contextlib.contextmanager
def small_disk() -> Iterator[None]:
    """No file can grow beyond 100 kB: the system refuses the write as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def push_from_full_disk(author: Author) -> None:
    target = author.folder / "full"
    with small_disk():
        author.step("full disk", author.model.push_to_hub, "tester/full", processor=author.processor)
        author.step("full disk, saving", author.model.save_pretrained, target)
        author.step("full disk, stock", author.model.save_stock, target)
    author.report["left behind"] = sorted(
        path.name for folder in (author.folder, Path(os.environ["TMPDIR"])) for path in folder.glob("*full*")
    ) + sorted(path.name for path in Path(os.environ["TMPDIR"]).glob("*clipalign-*"))
    author.step("full disk again", author.model.push_to_hub, "tester/full", processor=author.processor)


def push_by_command(author: Author) -> None:
    bands = ("--image-band", "1,48", "--text-band", "1,64")
    out = author.folder / "trimmed"
    target = ("--push-to-hub", "tester/by-trim", "--private", "--revision", "dev")
    author.command("trim", "trim", "--model", BASE, *bands, "--out", str(out), *target)
    stock = author.folder / "trimmed-stock"
    flags = ("--stock", "image", "--push-to-hub", "tester/by-trim-stock")
    author.command("trim stock", "trim", "--model", BASE, *bands, "--out", str(stock), *flags)
    author.command("trim without target", "trim", "--model", BASE, *bands, "--out", str(out), "--private")
    author.report["trimmed files"] = sorted(path.name for path in out.iterdir())
    results = ("--results", str(author.folder / "evaluation.json"))
    author.command("push", "push", str(out), "tester/by-push", *results)
    author.command("push results onto a kept card", "push", str(out), "tester/kept", *results)
    author.command("push results beside a card", "push", str(author.own), "tester/by-hand", *results)
    author.command("push wrong results", "push", str(stock), "tester/by-push", "--results", str(out / "config.json"))
    author.command("push nothing", "push", str(author.folder / "nowhere"), "tester/by-push")


if __name__ == "__main__":
    author = Author(Path(sys.argv[1]))
    author.save()
    np.savez(author.folder / "expected.npz", **author.expected())
    for part in (push_models, push_found_classes, push_cards, push_adapters, push_into_faults):
        part(author)
    push_without_rights(author)
    push_from_full_disk(author)
    push_by_command(author)
    (author.folder / "report.json").write_text(json.dumps(author.report, indent=1))
