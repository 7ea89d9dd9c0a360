"""Speed of OTI and OVI against the textbook loops, both sides in one run, at the sizes of ViT-B/32 (random weights).

    python benchmarks/inversion.py                      # both, batch 64, two threads
    python benchmarks/inversion.py --parts oti --steps 5

The textbook pads every prompt to 77 tokens, tokenises it anew at each step, overwrites the placeholder's embedding and
steps one AdamW over the batch; its weights are frozen as ours are. All ways make the same few steps and one last
forward pass, and the time is given per step. Each way is run once to warm up, then in turns and in random order; the
smallest of `--repeats` runs counts. The features of all ways after the same steps from the same start are compared.

The loss is summed over the batch on both sides. The published mean costs the same, but it divides the gradients by the
batch size, and random weights give gradients so small that AdamW's eps is then felt.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_clipalign.inversion import oti, ovi

START, A, PHOTO, OF, PLACEHOLDER, END = 49406, 320, 1125, 539, 1950, 49407


class TemplateTokenizer:
    """Stands in for CLIP's tokenizer, which random weights do not ship: "a photo of £" with n placeholders."""

    def __call__(self, text: str | list[str], **padding: object) -> dict:
        texts = [text] if isinstance(text, str) else text
        rows = [[START, A, PHOTO, OF, *[PLACEHOLDER] * row.count("£"), END] for row in texts]
        if isinstance(text, str):
            return {"input_ids": rows[0]}
        return {"input_ids": torch.tensor([row + [END] * (77 - len(row)) for row in rows])}


@dataclass
class Line:
    """One line of the table: a way of doing the same steps."""

    part: str
    way: str
    seconds: float
    features: Tensor


def textbook_oti(model: CLIPModel, targets: Tensor, init: Tensor, steps: int) -> Tensor:
    """Full-length rows, tokenised at each step."""
    tokenizer, text = TemplateTokenizer(), ["a photo of  £ "] * len(targets)
    tower = model.text_model

    def encode(tokens: Tensor) -> Tensor:
        ids = tokenizer(text)["input_ids"]
        embeds = tower.embeddings.token_embedding(ids)
        embeds = torch.where((ids == PLACEHOLDER)[:, :, None], tokens.expand(-1, 77, -1), embeds)
        handle = tower.embeddings.token_embedding.register_forward_hook(lambda *_: embeds)
        try:
            output: BaseModelOutputWithPooling = tower(input_ids=ids)
        finally:
            handle.remove()
        return model.text_projection(output.pooler_output)

    return textbook(encode, targets, init, steps)


def textbook_ovi(model: CLIPModel, targets: Tensor, init: Tensor, steps: int) -> Tensor:
    """Pseudo-patches repeated by nearest interpolation, written out on the tower's public parts."""
    tower, n_patches = model.vision_model, model.vision_model.embeddings.num_patches

    def encode(tokens: Tensor) -> Tensor:
        patches = F.interpolate(tokens.transpose(1, 2), size=n_patches, mode="nearest").transpose(1, 2)
        start = tower.embeddings.class_embedding.expand(len(tokens), 1, -1)
        hidden = torch.cat([start, patches], dim=1) + tower.embeddings.position_embedding.weight
        hidden = tower.encoder(inputs_embeds=tower.pre_layrnorm(hidden)).last_hidden_state
        return model.visual_projection(tower.post_layernorm(hidden[:, 0]))

    return textbook(encode, targets, init, steps)


def textbook(encode: Callable[[Tensor], Tensor], targets: Tensor, init: Tensor, steps: int) -> Tensor:
    """The optimisation, one batch."""
    tokens = init.clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([tokens], lr=2e-2, weight_decay=0.01)
    for _ in range(steps):
        loss = (1 - F.cosine_similarity(encode(tokens), targets)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return encode(tokens)


def measure(ways: dict[str, Callable[[int], Tensor]], part: str, steps: int, repeats: int) -> list[Line]:
    """Seconds per step of every way, and its features."""
    lines = {name: Line(part, name, float("inf"), run(steps)) for name, run in ways.items()}  # the warm-up
    for _ in range(repeats):
        for name, run in random.sample(list(ways.items()), len(ways)):
            start = time.perf_counter()
            run(steps)
            lines[name].seconds = min(lines[name].seconds, (time.perf_counter() - start) / steps)
    return list(lines.values())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["oti", "ovi"], choices=["oti", "ovi"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="also OVI in bfloat16")
    parser.add_argument("--compile", action="store_true", help="also OVI with torch.compile (needs a C++ compiler)")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig()).eval().requires_grad_(False)
    targets = torch.randn(options.batch, 512)
    text_init, image_init = 0.02 * torch.randn(options.batch, 1, 512), 0.02 * torch.randn(options.batch, 1, 768)
    common = {"batch_size": options.batch, "progress": False}

    def our_oti(strategy: str) -> Callable[[int], Tensor]:
        return lambda steps: (
            oti(
                model, targets, processor=TemplateTokenizer(), steps=steps, init=text_init, strategy=strategy, **common
            ).features
        )

    def our_ovi(model: CLIPModel) -> Callable[[int], Tensor]:
        return lambda steps: ovi(model, targets, n_tokens=1, steps=steps, init=image_init, **common).features

    if "oti" in options.parts:
        ways = {
            "textbook, 77 tokens": lambda steps: textbook_oti(model, targets, text_init, steps),
            "cut": our_oti("cut"),
            "packed": our_oti("packed"),
        }
        show(measure(ways, "OTI", options.steps, options.repeats), options)
    if "ovi" in options.parts:
        ways = {
            "textbook": lambda steps: textbook_ovi(model, targets, image_init, steps),
            "ours": our_ovi(model),
        }
        if options.bf16:
            ways["ours, bfloat16"] = our_ovi(copy.deepcopy(model).to(torch.bfloat16))
        if options.compile:
            compiled = copy.deepcopy(model)
            compiled.vision_model.encoder.compile()
            ways["ours, compiled"] = our_ovi(compiled)
        show(measure(ways, "OVI", options.steps, options.repeats), options)


def show(lines: list[Line], options: argparse.Namespace) -> None:
    """The table of a part; ratios and differences are against its textbook, which comes first."""
    title = f"ViT-B/32 sizes, float32, batch {options.batch}, {options.threads} threads"
    table = Table("part", "way", "s per step", "textbook / way", "largest difference of unit features", title=title)
    reference = lines[0]
    for line in lines:
        unit = [F.normalize(features, dim=-1) for features in (line.features, reference.features)]
        difference = (unit[0] - unit[1]).abs().max().item()
        ratio = reference.seconds / line.seconds
        table.add_row(line.part, line.way, f"{line.seconds:.3f}", f"{ratio:.1f}", f"{difference:.1e}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
