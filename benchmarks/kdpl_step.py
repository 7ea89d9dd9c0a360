"""One whole step of CoOp + KDPL at ViT-B sizes: time and peak memory against the textbook way.

    python benchmarks/kdpl_step.py                          # batch 32, 1,000 classes: many minutes
    python benchmarks/kdpl_step.py --measured_classes 200   # the textbook's text pass for 200 classes, time times 5

Student ViT-B/32, teacher ViT-B/16, random weights, float32; the teacher's text features are cached on both sides. The
textbook pads every class prompt to 77 tokens. Its activations for 1,000 classes fit few machines' memory, so it
runs the text pass in parts of 100 classes with the gradient of the loss to the text features given from outside: less
work than any textbook code has to do, so the ratio is a lower bound. Every side runs in its own process, whose peak
memory the operating system reports; both give loss and gradient, which are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from prompt_learning import CONTEXT, N_CTX, class_prompts, vit_b32
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.losses import kdpl_loss
from hf_clipalign.tuners import CoOpConfig, class_text_features, plan_prompts

SIDES = ("packed", "packed, image features cached", "textbook")
_CHUNK = 100
_TEACHER_DIM = 512


def clock() -> np.ndarray:
    """Seconds of the wall and of the processor: the second suffers less from what else the machine does."""
    return np.array([time.perf_counter(), time.process_time()])


def vit_b16() -> CLIPModel:
    """The teacher: ViT-B/16; its text tower is not used, so it is small."""
    vision = {"patch_size": 16}
    return (
        CLIPModel(CLIPConfig(vision_config=vision, text_config={"num_hidden_layers": 1})).eval().requires_grad_(False)
    )


class Step:
    """One step on fixed data: the same seed gives the same models, images and teacher text features."""

    def __init__(self, batch: int, n_classes: int, cached_images: bool):
        torch.manual_seed(0)
        self.model = get_peft_model(vit_b32().requires_grad_(False), CoOpConfig(n_ctx=N_CTX, ctx_init_ids=CONTEXT))
        self.encoder = as_dual_encoder(self.model)
        self.context = next(p for p in self.model.parameters() if p.requires_grad)
        self.teacher = as_dual_encoder(vit_b16())
        self.pixels = torch.randn(batch, 3, 224, 224)
        self.teacher_text = F.normalize(torch.randn(n_classes, _TEACHER_DIM), dim=-1)
        self.prompts = class_prompts(n_classes)
        self.plan = plan_prompts(self.model, self.prompts)
        self.teacher_images = self.teacher_features() if cached_images else None

    def teacher_features(self) -> Tensor:
        with torch.no_grad():
            return self.teacher.encode_image(self.pixels, normalize=True)

    def loss(self, text: Tensor) -> Tensor:
        with torch.no_grad():
            images = self.encoder.encode_image(self.pixels, normalize=True)
        scale = self.encoder.logit_scale
        teacher = self.teacher_images if self.teacher_images is not None else self.teacher_features()
        return kdpl_loss(scale * images @ text.T, scale * teacher @ self.teacher_text.T)["loss"]

    def packed(self) -> Tensor:
        """What the trainer does."""
        loss = self.loss(class_text_features(self.model, self.plan))
        loss.backward()
        return loss.detach()

    def textbook(self, text_gradient: Tensor, n_measured: int) -> tuple[Tensor, np.ndarray]:
        """77 tokens per class; text features and their gradient in parts. Gives the loss and the seconds of a step."""
        features = []
        begin = clock()
        for start in range(0, n_measured, _CHUNK):
            rows = slice(start, min(start + _CHUNK, n_measured))
            pooled = self.encoder.model.text_model(input_ids=self.prompts[rows]).pooler_output
            part = F.normalize(F.linear(pooled, self.encoder.text_projector.weight), dim=-1)
            part.backward(text_gradient[rows])
            features.append(part.detach())
        text_seconds = (clock() - begin) * len(self.prompts) / n_measured
        begin = clock()
        with torch.no_grad():
            rest = range(n_measured, len(self.prompts))  # not measured here: scaled above
            features += [class_text_features(self.model, self.plan.select(rest))] if rest else []
            missing_seconds = clock() - begin
            loss = self.loss(torch.cat(features))
        return loss, text_seconds + clock() - begin - missing_seconds

    def text_gradient(self) -> Tensor:
        """Gradient of the loss to the text features, for the textbook's parts."""
        with torch.no_grad():
            text = class_text_features(self.model, self.plan)
        text.requires_grad_(True)
        return torch.autograd.grad(self.loss(text), text)[0]


def run_side(side: str, args: argparse.Namespace) -> None:
    """What the child process does: prints one line of JSON, leaves the context's gradient in a file."""
    torch.set_num_threads(args.threads)
    step = Step(args.batch, args.classes, cached_images="cached" in side)
    gradient_file = Path(args.folder) / "text_gradient.safetensors"
    gradient = load_file(gradient_file)["gradient"] if side == "textbook" else None
    seconds = []
    for _ in range(1 if side == "textbook" else args.repeats):
        step.context.grad = None
        start = clock()
        if gradient is not None:
            loss, elapsed = step.textbook(gradient, args.measured_classes)
        else:
            loss = step.packed()
            elapsed = clock() - start
        seconds.append(elapsed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if gradient is None and not gradient_file.exists():
        save_file({"gradient": step.text_gradient()}, gradient_file)
    save_file({"context": step.context.grad}, Path(args.folder) / f"{side.replace(' ', '_')}.safetensors")
    tokens = step.prompts.numel() if side == "textbook" else step.plan.n_tokens
    print(
        "RESULT "
        + json.dumps(
            {"seconds": np.min(seconds, axis=0).tolist(), "peak": peak, "loss": float(loss), "tokens": tokens}
        )
    )


def measure(side: str, args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Runs a side in a process of its own."""
    names = ("batch", "classes", "measured_classes", "threads", "repeats")
    settings = {name: getattr(args, name) for name in names}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, __file__, "--side", side, "--folder", folder, *flags]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="images (default 32)")
    parser.add_argument("--classes", type=int, default=1000, help="classes (default 1000)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of every side (default 2)")
    parser.add_argument("--repeats", type=int, default=3, help="our side: best of this many steps (default 3)")
    parser.add_argument(
        "--measured_classes",
        type=int,
        help="classes of the textbook's text pass; its time is scaled up (default: all)",
    )
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.measured_classes = args.measured_classes or args.classes
    if args.side:
        run_side(args.side, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        results = {side: measure(side, args, folder) for side in SIDES}
        gradients = {
            side: load_file(Path(folder) / f"{side.replace(' ', '_')}.safetensors")["context"] for side in SIDES
        }
    table = Table(title=f"CoOp + KDPL step, batch {args.batch}, {args.classes:,} classes, {args.threads} threads")
    for column in ("side", "seconds", "ratio", "CPU s", "ratio", "peak GiB", "text tokens", "loss", "gradient error"):
        table.add_column(column, justify="left" if column == "side" else "right")
    reference = gradients["textbook"]
    for side, result in results.items():
        error = ((gradients[side] - reference).abs().max() / reference.abs().max()).item()
        shown_error = f"{error:.1e}" if args.measured_classes == args.classes else "–"
        pairs = zip(results["textbook"]["seconds"], result["seconds"], strict=True)
        times = [cell for theirs, ours in pairs for cell in (f"{ours:.1f}", f"{theirs / ours:.1f}×")]
        sizes = f"{result['peak']:.2f}", f"{result['tokens']:,}"
        table.add_row(side, *times, *sizes, f"{result['loss']:.6f}", shown_error)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
