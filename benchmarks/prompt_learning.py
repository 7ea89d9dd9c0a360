"""Speed of prompt learning against the textbook way, both sides in one run.

    python benchmarks/prompt_learning.py                # everything, at the sizes of ViT-B/32, random weights
    python benchmarks/prompt_learning.py --parts text   # one part

The textbook pads every class prompt to 77 tokens and gives it a row of its own; here prompts share rows and their
common beginning (`hf_clipalign.backbones.packing`). Parts: `text`, the class-prompt pass forward and backward to a
learned context, and a dictionary forward; `methods`, a whole step of CoCoOp and of MaPLe; `step`, a whole step of
CoOp + KDPL with its memory (`kdpl_step.py`, which can be run alone).
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from hf_clipalign.backbones import as_dual_encoder, encode_prompts, pack_prompts
from hf_clipalign.backbones.packing import PackedPrompts
from hf_clipalign.tuners import CoCoOpConfig, CoOpConfig, MaPLeConfig, plan_prompts, prompted_outputs

CONTEXT = [320, 1125, 539, 320]  # "a photo of a"
FULL_STOP, START, END = 269, 49406, 49407
N_CTX = 4
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
_clock = [CLOCKS["wall"]]


@dataclass
class Result:
    """One line of the table: the same work in two ways."""

    what: str
    textbook: float
    ours: float
    tokens: str
    error: str
    note: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="What to measure. Default: all."
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both sides. Default: 2.")
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000], help="Class counts of the text pass.")
    parser.add_argument("--dictionary", type=int, default=20_000, help="Size of the dictionary. Default: 20,000.")
    parser.add_argument(
        "--slice",
        type=int,
        default=100,
        help="Prompts that the textbook side reads at most, then scaled. Default: 100.",
    )
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="wall: seconds that pass. cpu: processor time, for a busy machine, with --threads 1. Default: wall.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of weights and class names. Default: 0.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    _clock.append(CLOCKS[arguments.clock])
    torch.manual_seed(arguments.seed)
    console, results = Console(width=170), []
    model = vit_b32().requires_grad_(False)
    for part in arguments.parts:
        for result in PARTS[part](model, arguments):
            console.print(f"{result.what}: {result.textbook:.2f} s / {result.ours:.3f} s", highlight=False)
            results.append(result)
    if results:
        console.print(table(results, f"{arguments.threads} threads, {arguments.clock} time"))


def measure_text(model: CLIPModel, arguments: argparse.Namespace) -> Iterator[Result]:
    """The class-prompt pass: features, and the gradient of the context; then a dictionary."""
    for n_classes in arguments.classes:
        peft_model = get_peft_model(model, CoOpConfig(n_ctx=N_CTX, ctx_init_ids=CONTEXT))
        yield from compare_text(peft_model, class_prompts(n_classes), arguments.slice)
        peft_model.unload()
    yield compare_dictionary(model, class_prompts(arguments.dictionary), arguments.slice)


def compare_text(model: Any, prompts: Tensor, n_slice: int) -> Iterator[Result]:
    """Both sides of the class-prompt pass; the textbook side reads the first `n_slice` prompts."""
    encoder, part = as_dual_encoder(model), prompts[:n_slice]
    packed, padded = plan_prompts(model, prompts), plan_prompts(model, part, strategy="full")
    weights = torch.randn(len(prompts), encoder.text_dim)
    in_part = weights * (torch.arange(len(prompts)) < len(part))[:, None]

    def step(plan: PackedPrompts, weights: Tensor) -> tuple[Tensor, Tensor]:
        context = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        context.grad = None
        features = encode_prompts(encoder, plan)
        (features * weights).sum().backward()
        return features.detach(), context.grad

    scale, note = len(prompts) / len(part), slice_note(len(part), len(prompts))
    tokens, name = f"{prompts.numel():,} / {packed.n_tokens:,}", f"{len(prompts):,} class prompts"
    with torch.no_grad():
        fast, found = timed(lambda: encode_prompts(encoder, packed), repeats=3)
        slow, expected = timed(lambda: encode_prompts(encoder, padded))
    yield Result(f"{name}, forward", slow * scale, fast, tokens, f"{error(found[: len(part)], expected):.1e}", note)
    fast, _ = timed(lambda: step(packed, weights), repeats=3)
    slow, (expected, expected_gradient) = timed(lambda: step(padded, weights[: len(part)]))
    found, gradient = step(packed, in_part)
    errors = f"{error(found[: len(part)], expected):.1e} / {error(gradient, expected_gradient):.1e}"
    yield Result(f"{name}, forward + backward to the context", slow * scale, fast, tokens, errors, note)


@torch.no_grad()
def compare_dictionary(model: CLIPModel, prompts: Tensor, n_slice: int) -> Result:
    """A dictionary forward, the packing included; the textbook side reads the first prompts only."""
    encoder, part = as_dual_encoder(model), prompts[:n_slice]
    slow, expected = timed(lambda: encode_prompts(encoder, pack_prompts(encoder, part, strategy="full")))
    fast, found = timed(lambda: encode_prompts(encoder, pack_prompts(encoder, prompts)))
    return Result(
        f"{len(prompts):,} dictionary prompts, forward",
        slow * len(prompts) / len(part),
        fast,
        f"{prompts.numel():,} / {pack_prompts(encoder, prompts).n_tokens:,}",
        f"{error(found[: len(part)], expected):.1e}",
        slice_note(len(part), len(prompts)),
    )


def slice_note(measured: int, whole: int) -> str:
    """Says when the textbook side was measured on some of the prompts."""
    return "" if measured == whole else f"textbook: {measured} prompts × {whole / measured:g}"


def measure_methods(model: CLIPModel, arguments: argparse.Namespace) -> Iterator[Result]:
    """A whole step (image pass, text pass, logits, loss, backward) of the two methods with the dearest text pass."""
    cases = [
        ("CoCoOp, 1 image", CoCoOpConfig(n_ctx=N_CTX, ctx_init_ids=CONTEXT), 1),
        ("MaPLe, 4 images", MaPLeConfig(n_ctx=2, ctx_init_ids=CONTEXT[:2], depth=9), 4),
    ]
    for case in cases:
        yield compare_method(model, *case)


def measure_step(model: CLIPModel, arguments: argparse.Namespace) -> list[Result]:
    """A whole CoOp + KDPL step, time and memory: `kdpl_step.py` runs every side in a process of its own and prints."""
    script = str(Path(__file__).with_name("kdpl_step.py"))
    flags = ["--threads", str(arguments.threads), "--measured_classes", "200"]
    subprocess.run([sys.executable, script, *flags], check=True)
    return []


def compare_method(base: CLIPModel, name: str, config: Any, n_images: int) -> Result:
    prompts, pixel_values = class_prompts(100), torch.randn(n_images, 3, 224, 224)
    model = get_peft_model(base, config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    labels = torch.arange(n_images)

    def step(strategy: Any) -> Callable[[], tuple[Tensor, Tensor]]:
        plan = plan_prompts(model, prompts, strategy=strategy)

        def run() -> tuple[Tensor, Tensor]:
            for parameter in trained:
                parameter.grad = None
            logits = prompted_outputs(model, pixel_values, plan).logits
            F.cross_entropy(logits, labels).backward()
            return logits.detach(), trained[0].grad

        return run

    fast, found = timed(step("packed"), repeats=3)
    slow, expected = timed(step("full"))
    tokens = plan_prompts(model, prompts).n_tokens
    model.unload()
    return Result(
        f"{name}, 100 classes, whole step",
        slow,
        fast,
        f"{prompts.numel():,} / {tokens:,}",
        " / ".join(f"{error(ours, theirs):.1e}" for ours, theirs in zip(found, expected, strict=True)),
    )


def vit_b32() -> CLIPModel:
    """CLIP ViT-B/32 with random weights at a scale where features differ."""
    text = {"vocab_size": 49408, "bos_token_id": START, "eos_token_id": END, "pad_token_id": END}
    return CLIPModel(CLIPConfig(text_config=text, initializer_factor=1.0)).eval()


def class_prompts(n: int) -> Tensor:
    """n prompts "a photo of a NAME." padded to 77, names of 1 to 4 tokens as in ImageNet (1.9 on average)."""
    draw = random.Random(n)
    prompts = torch.full((n, 77), END)
    for row in prompts:
        length = draw.choices([1, 2, 3, 4], [38, 40, 16, 6])[0]
        name = [draw.randrange(1000, 40_000) for _ in range(length)]
        ids = [START, *CONTEXT, *name, FULL_STOP, END]
        row[: len(ids)] = torch.tensor(ids)
    return prompts


def timed(run: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """The best time of several runs in seconds, and what the last one gave. Long runs need no repeats."""
    best = float("inf")
    for _ in range(repeats):
        start = _clock[-1]()
        given = run()
        best = min(best, _clock[-1]() - start)
    return best, given


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest entry."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def table(results: list[Result], how: str) -> Table:
    shown = Table(title=f"Prompt learning, ViT-B/32 sizes, float32, {how}")
    for column in ("what", "textbook s", "packed s", "ratio", "tokens", "relative error", "note"):
        shown.add_column(column, justify="left" if column in ("what", "note") else "right")
    for result in results:
        times = f"{result.textbook:.2f}", f"{result.ours:.3f}", f"{result.textbook / result.ours:.1f}×"
        shown.add_row(result.what, *times, result.tokens, result.error, result.note)
    return shown


PARTS: dict[str, Callable[[CLIPModel, argparse.Namespace], Iterator[Result]]] = {
    "text": measure_text,
    "methods": measure_methods,
    "step": measure_step,
}


if __name__ == "__main__":
    main()
