"""Category discovery on folder-like parts of the built-in set over seeds, and whether its own check chooses rightly.

    OMP_NUM_THREADS=1 python benchmarks/discovery_table.py --out runs/discovery

Every set is treated as `clipalign discover` treats a folder: half of the classes known, half of their images
labelled, the number of classes given, 400 steps. A seed draws the known classes, the labels and the head. Every
finished run is one file of `OUT`, and is not repeated. `--folder DIR` adds a labelled folder of your own.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign.data import GCDSplit, ImageSource, from_dataset, image_folder, load_mini
from hf_clipalign.trainers import SpectralGCDTrainingArguments, Teacher
from hf_clipalign.trainers.gcd.discovery import Discovery, discover, held_out_share, short_run
from hf_clipalign.trainers.gcd.outcome import comparison, verdict
from hf_clipalign.trainers.gcd.preparation import filter_concepts

TEMPLATE = "an emoji of {}"
GROUPS = ("animals-nature", "food-drink", "objects", "activities", "travel-places")
SMALL_HEAD = {"hidden_size": 256, "mlp_hidden_size": 512, "bottleneck_size": 128}


def few_of_each(images: Any, classes: list[str], most: int) -> ImageSource:
    """At most so many images of every class, in a data set with these classes as labels."""
    names = np.array(classes)
    generator = np.random.default_rng(0)
    rows = [generator.permutation(np.flatnonzero(names == name))[:most] for name in sorted(set(classes) - {""})]
    chosen = np.sort(np.concatenate(rows))
    labelled = images.select(chosen.tolist()).add_column("class", names[chosen].tolist())
    return from_dataset(labelled, image_column="image", label_column="class")


def emoji_subgroups() -> ImageSource:
    """The 26 subgroups with 40 images or more, 40 of each."""
    images = load_mini().emoji_subset()
    groups, names = images["group"][:], images["subgroup"][:]
    large = {name for name, count in Counter(names).items() if count >= 40}
    kept = [name if group in GROUPS and name in large else "" for group, name in zip(groups, names, strict=True)]
    return few_of_each(images, kept, 40)


def icon_categories() -> ImageSource:
    """The 12 commonest categories of icons that no model saw, 50 of each."""
    images = load_mini().icons
    names = [categories[0] if categories else "" for categories in images["categories"][:]]
    common = {name for name, _ in Counter(name for name in names if name).most_common(12)}
    return few_of_each(images, [name if name in common else "" for name in names], 50)


def icon_sets() -> ImageSource:
    """The five icon sets, 60 icons of each."""
    images = load_mini().icons
    return few_of_each(images, images["set"][:], 60)


SETS = {"emoji-subgroups": emoji_subgroups, "icon-categories": icon_categories, "icon-sets": icon_sets}


def save_folder(source: ImageSource, folder: Path) -> None:
    """Writes the images as a labelled folder, for commands that take one."""
    assert source.labels is not None
    assert source.class_names is not None
    for row, label in enumerate(source.labels):
        file = folder / source.class_names[int(label)] / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        source.read(row).save(file)


def run(source: ImageSource, seed: int, out: Path, args: argparse.Namespace) -> Discovery:
    """What the command does with a folder."""
    mini = load_mini()
    split = GCDSplit.from_source(source, 0.5, seed=seed, class_seed=seed, per_class=True)
    names = mini.concepts
    teacher = Teacher(mini.teacher, mini.teacher_processor)
    _, concepts, taught = filter_concepts(split, teacher, names.known + names.novel, TEMPLATE)
    training = SpectralGCDTrainingArguments(
        output_dir=str(out),
        seed=seed,
        use_cpu=True,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        crop_share=0.9,
        **short_run(len(split), 64, math.ceil(args.steps / (len(split) // 64))),
    )
    found = discover(
        split,
        mini.student,
        mini.student_processor,
        taught,
        concepts,
        training,
        n_novel=split.n_novel,
        template=TEMPLATE,
        hold_out=held_out_share(int(split.labelled.sum())),
        check_folds=args.check_folds,
        centring=(True,),
        **SMALL_HEAD,
    )
    shutil.rmtree(out, ignore_errors=True)
    return found


def as_row(found: Discovery) -> dict[str, Any]:
    """What the tables are made of, as JSON."""
    check = found.check
    return {
        "methods": {
            name: {"classes": method.classes.tolist(), "held_out": method.held_out, "collapse": method.collapse}
            | method.scores
            for name, method in found.methods.items()
        },
        "labels": found.split.labels.tolist(),
        "labelled": found.split.labelled.tolist(),
        "held_out": found.held_out.tolist(),
        "check": check
        and {
            "classes": check.classes.tolist(),
            "hidden": check.hidden.tolist(),
            "right": {name: values.tolist() for name, values in check.right.items()},
        },
        "doubts": found.doubts(),
        "undecided": found.undecided(),
        "recommended": found.recommended,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("discovery-table"))
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--folder", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--check-folds", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400, help="of every training; default 400, as the command")
    parser.add_argument("--save-folders", type=Path, help="write the sets as labelled folders there, and stop")
    args = parser.parse_args()
    if args.save_folders:
        for name in args.sets:
            save_folder(SETS[name](), args.save_folders / name)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for name in (*args.sets, *args.folder):
            file = args.out / f"{Path(name).name}-{seed}.json"
            if file.exists():
                continue
            source = SETS[name]() if name in SETS else image_folder(name)
            start = time.process_time()
            found = run(source, seed, args.out / "training", args)
            row = as_row(found) | {"seconds": time.process_time() - start}
            file.write_text(json.dumps(row))
            print(f"{file.name}, {row['seconds']:.0f} s: {comparison(found).rows}, {verdict(found)}", flush=True)


if __name__ == "__main__":
    main()
