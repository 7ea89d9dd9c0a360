"""How many classes are in these images, if only some are labelled? k-means, scored on the labelled part.

    python examples/count_classes.py                        # 130 kinds of animal emoji, 65 of them labelled
    python examples/count_classes.py --classes subgroup     # 26 emoji subgroups, 13 of them labelled in half

Both run on the built-in images and teacher. The first is easy: a class is one animal, drawn in three styles. In the
second a class is a subgroup such as "food-vegetable", whose images need not look alike. The curve goes to `--out`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import from_dataset, load_mini
from hf_clipalign.features import extract_image_features, project_image_features
from hf_clipalign.gcd import estimate_n_classes

GROUPS = ("animals-nature", "food-drink", "objects", "activities", "travel-places")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", choices=("name", "subgroup"), default="name")
    parser.add_argument("--seed", type=int, default=0, help="of the known classes, the labels and k-means (default 0)")
    parser.add_argument("--out", type=Path, default=Path("outputs/classes.png"))
    args = parser.parse_args()
    mini = load_mini()
    images = mini.emoji_subset()
    group, subgroup = (np.array(images[column][:]) for column in ("group", "subgroup"))
    if args.classes == "name":
        rows = np.flatnonzero(np.char.startswith(subgroup, "animal-"))
    else:
        large = [name for name, count in Counter(subgroup.tolist()).items() if count >= 40]
        rows = np.flatnonzero(np.isin(group, GROUPS) & np.isin(subgroup, large))
    images = images.select(rows)
    labels = np.array(images[args.classes][:])

    rng = np.random.default_rng(args.seed)
    classes = rng.permutation(np.unique(labels))
    labelled = np.isin(labels, classes[: len(classes) // 2])
    if args.classes == "subgroup":
        labelled &= rng.random(len(labels)) < 0.5

    source = from_dataset(images, image_column="image")
    features = extract_image_features(mini.teacher, source, mini.teacher_processor).values
    images = project_image_features(as_dual_encoder(mini.teacher), features)
    estimate = estimate_n_classes(images, labels, labelled, seed=args.seed, progress=True)
    Console().print(estimate.table())
    print(f"{estimate.n_classes} classes estimated, {len(classes)} are there, {estimate.n_known} were known")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    estimate.plot().savefig(args.out, dpi=130)
    print("written:", args.out)


if __name__ == "__main__":
    try:
        main()
    except ClipAlignError as error:
        sys.exit(f"error: {error}")
