"""What stopping by the loss saves, at which retrieval quality: OTI and OVI on the built-in student.

    python benchmarks/inversion_stopping.py                   # both
    python benchmarks/inversion_stopping.py --parts oti

OTI: 902 images of 303 novel emoji, image-image retrieval. OVI: a name and two keywords of novel emoji, text-text
retrieval. Every line is one inversion of all queries. The steps are the mean over the items: what does not depend on
how busy the machine is; the milliseconds are the inversion alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import from_dataset, load_mini
from hf_clipalign.features import extract_image_features, extract_text_features
from hf_clipalign.inversion import InversionOutput, oti, ovi
from hf_clipalign.metrics import retrieval_metrics

TEMPLATE = "an emoji of {}"
TEXTS_PER_EMOJI = 3


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["oti", "ovi"], choices=["oti", "ovi"])
    parser.add_argument("--tolerances", nargs="+", type=float, default=[0.001, 0.003, 0.01, 0.03])
    parser.add_argument("--oti-steps", type=int, default=150)
    parser.add_argument("--ovi-steps", type=int, default=200)
    parser.add_argument("--emoji", type=int, default=40, help="emoji of the text-text task")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def images() -> tuple[Tensor, np.ndarray]:
    """Projected features of the novel emoji's images, and their names."""
    mini = load_mini()
    source = from_dataset(mini.emoji_subset(novel=True), label_column="name")
    features = extract_image_features(mini.student, source, mini.student_processor, progress=False)
    with torch.no_grad():
        return as_dual_encoder(mini.student).project_image(features.values), source.labels


def texts(n_emoji: int) -> tuple[Tensor, np.ndarray]:
    """Projected features of a name and two keywords of some novel emoji, and which emoji each is of."""
    mini = load_mini()
    rows = mini.emoji_subset(styles="noto", novel=True).remove_columns("image").to_list()
    groups = [list(dict.fromkeys([row["name"], *row["keywords"]]))[:TEXTS_PER_EMOJI] for row in rows]
    groups = [group for group in groups if len(group) == TEXTS_PER_EMOJI][:n_emoji]
    prompts = [TEMPLATE.format(word) for group in groups for word in group]
    features = extract_text_features(mini.student, prompts, mini.student_processor, truncate=True, progress=False)
    with torch.no_grad():
        projected = as_dual_encoder(mini.student).project_text(features.values)
    return projected, np.repeat(np.arange(len(groups)), TEXTS_PER_EMOJI)


def measure(
    title: str, invert: Callable[[float | None], InversionOutput], embeds: Tensor, labels: Any, tolerances: list[float]
) -> None:
    """One line for the plain cosine, one for all steps, one for each tolerance."""

    def score(queries: Tensor) -> str:
        query, gallery = F.normalize(queries, dim=-1), F.normalize(embeds, dim=-1)
        return f"{100 * retrieval_metrics(query, gallery, labels, labels, exclude_self=True)['map']:.1f}"

    table = Table("tolerance", "mAP", "steps", "ms per query", title=f"{title}, {len(embeds)} queries")
    table.add_row("plain cosine", score(embeds), "", "")
    for tolerance in (None, *tolerances):
        start = time.perf_counter()
        output = invert(tolerance)
        milliseconds = 1000 * (time.perf_counter() - start) / len(embeds)
        name = "none" if tolerance is None else f"{tolerance:g}"
        table.add_row(name, score(output.features), f"{output.steps_taken.float().mean():.0f}", f"{milliseconds:.1f}")
    Console().print(table)


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    mini = load_mini()
    if "oti" in options.parts:
        embeds, labels = images()
        common: dict[str, Any] = {"processor": mini.student_processor, "template": TEMPLATE, "progress": False}

        def run_oti(tolerance: float | None) -> InversionOutput:
            return oti(mini.student, embeds, steps=options.oti_steps, tolerance=tolerance, **common)

        measure("OTI", run_oti, embeds, labels, options.tolerances)
    if "ovi" in options.parts:
        prompts, emoji = texts(options.emoji)

        def run_ovi(tolerance: float | None) -> InversionOutput:
            return ovi(mini.student, prompts, n_tokens=1, steps=options.ovi_steps, tolerance=tolerance, progress=False)

        measure("OVI", run_ovi, prompts, emoji, options.tolerances)


if __name__ == "__main__":
    main()
