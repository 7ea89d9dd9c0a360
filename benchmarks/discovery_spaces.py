"""Where category discovery loses against k-means: what its head sees, and what the same head makes of image features.

    OMP_NUM_THREADS=1 python benchmarks/discovery_spaces.py                       # k-means in every space
    OMP_NUM_THREADS=1 python benchmarks/discovery_spaces.py --heads --sets icon-sets

The sets and draws are those of `discovery_table.py`. k-means and semi-supervised k-means cluster image features, the
centred similarities to the kept concepts (the input of SpectralGCD's head) and the concept distributions, of student
and teacher. `--heads` trains the head alone for 400 steps on views of the frozen student, without distillation: as
published but centred, and with one thing changed. All, Old and New in percent, means over the seeds.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from discovery_table import SETS, SMALL_HEAD, TEMPLATE
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import GCDSplit, hold_out_labels, load_mini
from hf_clipalign.evaluation import kmeans_classes, semi_supervised_kmeans
from hf_clipalign.gcd import SpectralGCDModel
from hf_clipalign.gcd.head import ConceptHead
from hf_clipalign.losses import spectral_gcd_losses, teacher_temperature
from hf_clipalign.trainers import Teacher
from hf_clipalign.trainers.gcd.data import BalancedSampler, GCDImages
from hf_clipalign.trainers.gcd.discovery import held_out_share, scores, student_features
from hf_clipalign.trainers.gcd.optimization import cosine_factor
from hf_clipalign.trainers.gcd.preparation import filter_concepts

STEPS, BATCH = 400, 64
HEADS: dict[str, dict[str, Any]] = {
    "concept similarities": {},
    "– a tenth of the rate": {"rate": 0.01},
    "– mean-entropy weight 1": {"entropy_weight": 1.0},
    "– images drawn as often as they come": {"balanced": False},
    "image features": {"on_features": True},
}


@dataclass
class Draw:
    """One draw of known classes and labels."""

    split: GCDSplit
    student: Tensor
    concepts: Tensor
    teacher: Tensor
    teacher_concepts: Tensor

    @property
    def n_classes(self) -> int:
        return len(self.split.class_names) + self.split.n_novel

    def scores(self, classes: np.ndarray) -> list[float]:
        return [100 * value for value in scores(self.split, classes).values()]

    def spaces(self) -> dict[str, Tensor]:
        found = {}
        for name, images, texts in (
            ("student", self.student, self.concepts),
            ("teacher", self.teacher, self.teacher_concepts),
        ):
            similarities = images @ texts.T / 0.01
            found[f"{name}, image features"] = images
            found[f"{name}, centred similarities"] = F.normalize(similarities - similarities.mean(dim=0), dim=-1)
            found[f"{name}, concept distributions"] = similarities.softmax(dim=-1)
        return found


def draw(source: Any, student: Tensor, seed: int) -> Draw:
    """As `discovery_table.py` draws, with the labels that are held out there."""
    mini = load_mini()
    split = GCDSplit.from_source(source, 0.5, seed=seed, class_seed=seed, per_class=True)
    teacher = Teacher(mini.teacher, mini.teacher_processor)
    _, names, taught = filter_concepts(split, teacher, mini.concepts.known + mini.concepts.novel, TEMPLATE)
    model = SpectralGCDModel.from_student(
        mini.student, names, split.class_names, split.n_novel, processor=mini.student_processor, template=TEMPLATE
    )
    visible, _ = hold_out_labels(split, held_out_share(int(split.labelled.sum())), seed)
    return Draw(visible, student, model.concept_features, taught.images, taught.texts)


@torch.no_grad()
def views(source: Any, n: int) -> Tensor:
    """Unit features `[N, n, 2, d]` of n pairs of views of every image."""
    mini = load_mini()
    encoder = as_dual_encoder(mini.student)
    split = GCDSplit.from_source(source, 0.5, seed=0, class_seed=0, per_class=True)
    images = GCDImages(split, mini.student_processor.image_processor, encoder.image_size, crop_share=0.9)
    pairs = []
    for number in range(n):
        blocks = []
        for rows in torch.arange(len(split)).split(BATCH):
            items = [images[row, number] for row in rows.tolist()]
            pixels = torch.stack([item[view] for view in ("view_1", "view_2") for item in items])
            features = F.normalize(encoder.encode_image(pixels).float(), dim=-1)
            blocks.append(features.unflatten(0, (2, -1)).transpose(0, 1))
        pairs.append(torch.cat(blocks))
    return torch.stack(pairs, dim=1)


def train_head(
    own: Draw,
    seen: Tensor,
    seed: int,
    rate: float = 0.1,
    entropy_weight: float = 2.0,
    balanced: bool = True,
    on_features: bool = False,
) -> np.ndarray:
    """Classes of all images by a head that is trained on frozen features."""
    torch.manual_seed(seed)
    split, texts = own.split, torch.eye(seen.shape[-1]) if on_features else own.concepts
    plain = own.student @ texts.T / 0.01
    head = ConceptHead(len(texts), own.n_classes, *SMALL_HEAD.values())
    head.reset_parameters()
    optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9, weight_decay=5e-5)
    per_epoch = len(split) // BATCH
    epochs = math.ceil(STEPS / per_epoch)
    sampler, labels = BalancedSampler(split.labelled, seed), torch.from_numpy(split.training_labels)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        rows = torch.tensor([row for row, _ in sampler]) if balanced else torch.randperm(len(split))
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine_factor(epoch, epochs)
        for batch in rows[: per_epoch * BATCH].split(BATCH):
            pair = seen[batch, torch.randint(seen.shape[1], (BATCH,))]
            similarities = torch.cat([pair[:, 0], pair[:, 1]]) @ texts.T / 0.01
            _, logits, embeddings = head(similarities - plain.mean(dim=0))
            losses = spectral_gcd_losses(
                *(logits, embeddings, similarities, labels[batch], None),
                teacher_temperature=teacher_temperature(epoch, 0.07, 0.04, max(1, epochs // 5)),
                mean_entropy_weight=entropy_weight,
                distillation_weight=0.0,
            )
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
    with torch.no_grad():
        return head(plain - plain.mean(dim=0))[1].argmax(dim=1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--heads", action="store_true", help="train heads too, some 25 seconds each on one core")
    parser.add_argument("--views", type=int, default=12, help="pairs of views of every image for that")
    args = parser.parse_args()
    mini = load_mini()
    for name in args.sets:
        source = SETS[name]()
        whole = GCDSplit.from_source(source, 0.5, per_class=True)
        student = student_features(mini.student, mini.student_processor, whole)
        draws = {seed: draw(source, student, seed) for seed in args.seeds}
        found: dict[str, list[list[float]]] = {}
        for seed, own in draws.items():
            for space, values in own.spaces().items():
                plain = kmeans_classes(values, own.n_classes, seed)
                semi = semi_supervised_kmeans(values, own.split.training_labels, own.n_classes, seed)
                found.setdefault(f"k-means on {space}", []).append(own.scores(plain))
                found.setdefault(f"semi-supervised k-means on {space}", []).append(own.scores(semi))
        seen = views(source, args.views) if args.heads else None
        for row, settings in HEADS.items() if seen is not None else ():
            for seed, own in draws.items():
                found.setdefault(f"head on {row}", []).append(own.scores(train_head(own, seen, seed, **settings)))
        for row, values in found.items():
            print(f"{name}, {row}:", *(f"{value:.1f}" for value in np.mean(values, axis=0)), flush=True)


if __name__ == "__main__":
    main()
