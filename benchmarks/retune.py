"""RE-tune on stored embeddings: the time of a whole run, and a step against the textbook's.

    python benchmarks/retune.py                  # both parts, on a quiet machine
    python benchmarks/retune.py --parts run      # 190,000 embeddings x 5 findings x 10 epochs alone
    python benchmarks/retune.py --dim 128        # the size of BioViL's shared space, which the paper has

run: five tasks of 38,000 embeddings each (class-incremental, as published), d = 512 unless --dim says otherwise, batch
6,144, ten epochs per task, with everything that the trainer does.

step: the trainer's work against a loop that encodes all prompts (eight per finding) anew at every step, padded to 77
tokens, with a text tower of ViT-B/32's size, and collates its batch row by row; random weights, no gradient through
the tower. The losses of both sides are compared on the same batches; the trainer is timed over 20 steps, what it does
before and after them included. The processor's time is given too: it suffers less from what else the machine does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers import CLIPConfig, CLIPModel

from hf_clipalign.data import CHEXPERT_COMPETITION, FindingLabels, FindingPrompts, class_incremental, joint
from hf_clipalign.features import LabelledEmbeddings
from hf_clipalign.trainers import RETuneTrainer, RETuneTrainingArguments
from hf_clipalign.trainers.retune.data import Shuffled
from hf_clipalign.tuners import RETuneConfig

BATCH = 6144
N_PROMPTS = 4
ALL_FINDINGS = (
    *CHEXPERT_COMPETITION,
    *("No Finding", "Enlarged Cardiomediastinum", "Lung Opacity", "Lung Lesion", "Pneumonia", "Pneumothorax"),
    *("Pleural Other", "Fracture", "Support Devices"),
)
START, END = 49406, 49407


class WordTokenizer:
    """Ids of prompts without a vocabulary file: the benchmark needs lengths, not meaning."""

    def __call__(self, texts: list[str], **kwargs: Any) -> dict[str, Tensor]:
        ids = torch.full((len(texts), 77), END)
        for row, text in enumerate(texts):
            words = text.split()
            ids[row, 0] = START
            ids[row, 1 : len(words) + 1] = torch.tensor([sum(word.encode()) for word in words])
        return {"input_ids": ids, "attention_mask": (ids != END).long()}


def clock() -> np.ndarray:
    """Seconds of the wall and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def embeddings(n: int, n_findings: int, dim: int) -> LabelledEmbeddings:
    """Random embeddings with random labels."""
    rng = np.random.default_rng(0)
    values = (rng.random((n, n_findings)) < 0.3).astype(float)
    labels = FindingLabels([str(row) for row in range(n)], list(ALL_FINDINGS[:n_findings]), values)
    return LabelledEmbeddings(torch.randn(n, dim, generator=torch.Generator().manual_seed(0)), labels)


def build(
    data: LabelledEmbeddings, incremental: bool, adapter: str, folder: str, clip: nn.Module, **settings: Any
) -> RETuneTrainer:
    """The trainer with its published settings."""
    torch.manual_seed(0)
    quiet = {"report_to": "none", "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True}
    return RETuneTrainer(
        get_peft_model(clip, RETuneConfig(adapter=adapter)),
        RETuneTrainingArguments(folder, **{**quiet, **settings}),
        prompts=FindingPrompts.published(data.labels.findings),
        train_dataset=data,
        tasks=class_incremental(data.labels) if incremental else joint(data.labels),
        processing_class=WordTokenizer(),
    )


def text_tower(full_size: bool, dim: int) -> CLIPModel:
    """ViT-B/32's text tower, or a small one where only the trainer is timed; the image tower is never run."""
    torch.manual_seed(1)
    vision = {"num_hidden_layers": 1}
    text = {} if full_size else {"num_hidden_layers": 1}
    config = CLIPConfig(vision_config=vision, text_config=text, projection_dim=dim)
    return CLIPModel(config).eval().requires_grad_(False)


def time_run(n: int, dim: int, epochs: int, adapter: str, **settings: Any) -> np.ndarray:
    """Seconds of a whole class-incremental run."""
    data = embeddings(n, len(CHEXPERT_COMPETITION), dim)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(data, True, adapter, folder, text_tower(False, dim), num_train_epochs=epochs, **settings)
        start = clock()
        trainer.train()
        return clock() - start


class Textbook(nn.Module):
    """The same model as a plain loop would have it."""

    def __init__(self, clip: CLIPModel, adapter: str, n_findings: int):
        super().__init__()
        self.clip = clip
        self.image, self.text = (self._adapter(adapter, clip.config.projection_dim) for _ in range(2))
        prompts = FindingPrompts.published(ALL_FINDINGS[:n_findings])
        texts = [text for kind in (prompts.positive, prompts.negative) for name in kind for text in kind[name]]
        self.ids = WordTokenizer()(texts)["input_ids"]

    def _adapter(self, adapter: str, dim: int) -> nn.Module:
        if adapter == "linear":
            return nn.Linear(dim, dim)
        return nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            texts = self.clip.get_text_features(input_ids=self.ids).pooler_output
        means = self.text(texts).unflatten(0, (2, -1, N_PROMPTS)).mean(dim=2)
        adapted = self.image(images)
        positive, negative = (F.cosine_similarity(adapted[:, None], mean, dim=-1) for mean in means)
        return positive - negative


def our_steps(
    data: LabelledEmbeddings, adapter: str, clip: nn.Module, **settings: Any
) -> tuple[np.ndarray, float, list[Tensor]]:
    """Seconds per step, the mean loss, and the weights that it starts from."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(data, False, adapter, folder, clip, num_train_epochs=1, **settings)
        weights = [p.detach().clone() for p in trainer.learner.parameters() if p.requires_grad]
        start = clock()
        loss = trainer.train().training_loss
        seconds = (clock() - start) * BATCH / len(data)
        trainer.peft_model.unload()
    return seconds, loss, weights


def textbook_steps(
    data: LabelledEmbeddings, adapter: str, clip: CLIPModel, weights: list[Tensor]
) -> tuple[np.ndarray, float]:
    """Seconds per step and the mean loss of the plain loop."""
    model = Textbook(clip, adapter, len(data.labels.findings))
    trained = [*model.image.parameters(), *model.text.parameters()]
    with torch.no_grad():
        for parameter, value in zip(trained, weights, strict=True):
            parameter.copy_(value)
    rows = TensorDataset(data.embeds, torch.from_numpy(data.labels.targets()))
    order = Shuffled(len(data), RETuneTrainingArguments("unused", use_cpu=True).seed * 1_000_003)
    optimizer = torch.optim.Adam(trained, lr=1e-4)
    losses = []
    start = clock()
    for images, targets in DataLoader(rows, batch_size=BATCH, sampler=order):
        loss = F.binary_cross_entropy_with_logits(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return (clock() - start) * BATCH / len(data), float(np.mean(losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["run", "step"], choices=["run", "step"])
    parser.add_argument("--embeddings", type=int, default=190_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batches", type=int, default=3, help="steps that are measured on each side")
    parser.add_argument("--dim", type=int, default=512, help="size of the shared space")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table(title=f"RE-tune, d = {args.dim}, batch {BATCH:,}, {args.threads} threads")
    for column in ("what", "textbook", "ours", "ratio", "of processor time"):
        table.add_column(column, justify="left" if column == "what" else "right")
    modes: dict[str, dict[str, Any]] = {"float32": {}, "bfloat16": {"bf16": True}}
    if "run" in args.parts:
        for adapter in ("mlp", "linear"):
            for mode, settings in modes.items():
                seconds = time_run(args.embeddings, args.dim, args.epochs, adapter, **settings)
                what = f"{args.embeddings:,} x 5 findings x {args.epochs} epochs, {adapter}, {mode}"
                table.add_row(what, "", f"{seconds[0]:.1f} s ({seconds[1]:.0f} s of processor)", "", "")
    if "step" in args.parts:
        clip = text_tower(True, args.dim)
        for adapter, n_findings in (("mlp", 5), ("linear", 5), ("mlp", 14), ("linear", 14)):
            data, more = (embeddings(n * BATCH, n_findings, args.dim) for n in (args.batches, 20))
            ours = {mode: our_steps(data, adapter, clip, **settings) for mode, settings in modes.items()}
            theirs, their_loss = textbook_steps(data, adapter, clip, ours["float32"][2])
            for mode, (_, loss, _) in ours.items():
                seconds, _, _ = our_steps(more, adapter, clip, **modes[mode])
                wall, processor = theirs / seconds
                what = (
                    f"a step, {n_findings} findings, {adapter}, {mode} (loss differs by {abs(loss - their_loss):.0e})"
                )
                table.add_row(what, f"{theirs[0]:.2f} s", f"{seconds[0]:.3f} s", f"{wall:.1f}x", f"{processor:.1f}x")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
