"""Finds the classes that nobody named: SpectralGCD, from the dictionary to a gallery of what was found.

    accelerate launch examples/train_gcd.py

runs on the built-in images and models: 16 kinds of emoji, 8 of them known and half of their images labelled. On
your own images, one sub-folder for every class you know and one called "unlabelled" for all others:

    accelerate launch examples/train_gcd.py --dataset animals/ --n_novel 12 \
        --student openai/clip-vit-base-patch16 --teacher laion/CLIP-ViT-H-14-laion2B-s32B-b79K --bf16

Labelled data (a Hub id, a folder) is split by `--known` (names, a number or a share), or as published:

    accelerate launch examples/train_gcd.py --dataset uoft-cs/cifar100 --split train --label_column fine_label \
        --preset cifar100 --student openai/clip-vit-base-patch16 --teacher laion/CLIP-ViT-H-14-laion2B-s32B-b79K

All flags of the Trainer work; the defaults are the published settings, and for the built-in set values that suit it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor
from transformers import HfArgumentParser

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import load_model, load_processor
from hf_clipalign.data import (
    GCDSplit,
    from_dataset,
    gcd_preset,
    keep_classes,
    load_dictionary,
    load_mini,
)
from hf_clipalign.evaluation import ResultTable
from hf_clipalign.hub import describe_run
from hf_clipalign.trainers import SpectralGCDTrainingArguments, Teacher
from hf_clipalign.trainers.gcd.discovery import Discovery, discover
from hf_clipalign.trainers.gcd.outcome import (
    assignments,
    comparison,
    verdict,
    write_assignments,
    write_card,
    write_gallery,
    write_summary,
)
from hf_clipalign.trainers.gcd.preparation import count_novel as estimate_novel
from hf_clipalign.trainers.gcd.preparation import filter_concepts

MINI = "mini"
MINI_STYLES = ("noto", "twemoji", "fluent", "openmoji")
MINI_CLASSES = (
    *("animal-mammal", "animal-bird", "animal-marine", "food-fruit", "food-vegetable", "food-sweet", "drink"),
    *("transport-ground", "sky-weather", "clothing", "tool", "musical-instrument", "plant-flower", "heart", "time"),
    "face-smiling",
)
MINI_DEFAULTS: dict[str, Any] = {
    "template": "an emoji of {}.",
    "hidden_size": 256,
    "mlp_hidden_size": 512,
    "bottleneck_size": 128,
    "crop_share": 0.9,
    "center_concepts": True,  # few steps: without it the head needs many more
    "per_device_train_batch_size": 64,
    "num_train_epochs": 15,
    "warmup_teacher_epochs": 3,
    "output_dir": "gcd-mini",
    "logging_strategy": "epoch",
    "save_strategy": "no",
}
MINI_LICENCE = " Images: Noto (Apache-2.0), Twemoji (CC BY 4.0), Fluent (MIT), OpenMoji (CC BY-SA 4.0)."
PLAIN_TEMPLATE = "a photo of a {} ."


@dataclass
class ExampleArguments:
    """Options of the example itself."""

    dataset: str = field(default=MINI, metadata={"help": "Folder, Hub id, parquet or CSV; mini is the built-in set."})
    split: str | None = field(default=None, metadata={"help": "Split of a data set."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the class in a data set."})
    unlabelled: str = field(default="unlabelled", metadata={"help": "Sub-folder of the images without a label."})
    known: str | None = field(
        default=None, metadata={"help": "Known classes of labelled data: a number, a share, or names with commas."}
    )
    preset: str | None = field(default=None, metadata={"help": "A published setting, for example cifar100 or cub."})
    known_classes: str | None = field(
        default=None, metadata={"help": "File with the known classes of a preset that follows a list, one a line."}
    )
    n_novel: int | None = field(
        default=None, metadata={"help": "Number of novel classes; by default the true one, or an estimate."}
    )
    student: str | None = field(default=None, metadata={"help": "The CLIP to train: Hub id or folder."})
    teacher: str | None = field(default=None, metadata={"help": "The bigger CLIP to learn from: Hub id or folder."})
    dictionary: str | None = field(
        default=None,
        metadata={"help": "File of concepts; by default WordNet's 20,000, for the built-in set all emoji names."},
    )
    no_filter: bool = field(default=False, metadata={"help": "Keep all concepts of the dictionary."})
    template: str = field(default=PLAIN_TEMPLATE, metadata={"help": "Prompt of the concepts, with one {}."})
    hidden_size: int = field(default=768, metadata={"help": "Width of the concept projection."})
    mlp_hidden_size: int = field(default=2048, metadata={"help": "Width of the head's MLP."})
    bottleneck_size: int = field(default=256, metadata={"help": "Size of the contrastive embedding."})


def parse(argv: list[str]) -> tuple[ExampleArguments, SpectralGCDTrainingArguments]:
    """The flags; what is not given has its published value, and for the built-in set one that suits it."""
    parser = HfArgumentParser((ExampleArguments, SpectralGCDTrainingArguments), description=__doc__)
    parser.set_defaults(output_dir="gcd")
    known, _ = HfArgumentParser(ExampleArguments, add_help=False).parse_known_args(argv)
    if known.preset is not None:
        preset = gcd_preset(known.preset)
        parser.set_defaults(mean_entropy_weight=preset.mean_entropy_weight, template=preset.template)
    if known.dataset == MINI:
        parser.set_defaults(**MINI_DEFAULTS)
    example, training = parser.parse_args_into_dataclasses(argv)
    if example.dataset != MINI and None in (example.student, example.teacher):
        raise ClipAlignError("name the models for your own images: --student and --teacher")
    return example, training


def mini_split(seed: int) -> GCDSplit:
    """Kinds of emoji in four drawing styles, half of the kinds known, drawn by the seed."""
    emoji = from_dataset(load_mini(share_alike=True).emoji_subset(styles=MINI_STYLES), label_column="subgroup")
    names = list(emoji.class_names or ())
    source = keep_classes(emoji, [names.index(name) for name in MINI_CLASSES])
    source.name = "emoji by kind"
    return GCDSplit.from_source(source, 0.5, class_seed=seed, per_class=True)


def own_split(example: ExampleArguments) -> GCDSplit:
    """A published setting, labelled data with some labels hidden, or a partly labelled folder."""
    columns = {"split": example.split, "label_column": example.label_column}
    if example.preset is not None:
        return GCDSplit.preset(example.preset, example.dataset, example.known_classes, **columns)
    if example.known is None:
        return GCDSplit.from_folder(example.dataset, example.unlabelled, example.n_novel)
    return GCDSplit.from_source(example.dataset, _known(example.known), **columns)


def _known(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return [name.strip() for name in text.split(",")]


def dictionary(example: ExampleArguments) -> list[str]:
    """The file that was named, or WordNet; for the built-in set the names of all emoji, which its models have seen."""
    if example.dataset == MINI and example.dictionary is None:
        names = load_mini().concepts
        return names.known + names.novel
    return load_dictionary(example.dictionary)


def count_novel(example: ExampleArguments, split: GCDSplit, features: Tensor, show: bool = True) -> int:
    """What was given, else the truth, else an estimate from the labelled part."""
    if example.n_novel is not None:
        return example.n_novel
    if split.has_truth:
        return split.n_novel
    n_novel, estimate = estimate_novel(split, features)
    if show:
        Console().print(estimate.table())
    return n_novel


def accuracies(found: Discovery, title: str, command: str) -> ResultTable:
    """All, Old and New of every method; an empty table where the truth is not known."""
    table = ResultTable(title, note=f"`{command}`.")
    for name, method in found.methods.items():
        if method.scores:
            table.add(name, method.scores)
    return table


def main(argv: list[str] | None = None) -> ResultTable:
    argv = sys.argv[1:] if argv is None else argv
    example, training = parse(argv)
    on_mini, mini = example.dataset == MINI, load_mini()
    student_name, teacher_name = example.student or mini.student_path, example.teacher or mini.teacher_path
    student, processor = load_model(student_name).to(training.device), load_processor(student_name)
    split = mini_split(training.seed) if on_mini else own_split(example)
    teacher = Teacher(teacher_name)
    teacher.model.to(training.device)
    filtered, concepts, taught = filter_concepts(
        split,
        teacher,
        dictionary(example),
        example.template,
        filter_template=PLAIN_TEMPLATE if example.preset is not None else None,  # published: the plain prompt
        keep_all=example.no_filter,
        cache=training.teacher_cache,
    )
    del teacher  # all its work is done
    found = discover(
        split,
        student,
        processor,
        taught,
        concepts,
        training,
        n_novel=count_novel(example, split, taught.images, show=training.process_index == 0),
        template=example.template,
        hidden_size=example.hidden_size,
        mlp_hidden_size=example.mlp_hidden_size,
        bottleneck_size=example.bottleneck_size,
    )
    command = describe_run(["accelerate", "launch", "examples/train_gcd.py", *argv])
    table = accuracies(found, f"Clustering accuracy of the unlabelled images of {example.dataset}", command)
    if training.process_index == 0:
        folder = Path(training.output_dir or ".")
        method = str(found.trained)
        rows = assignments(found, method, taught, concepts)
        write_assignments(folder / "assignments.csv", rows)
        write_summary(folder / "summary.json", found, method, rows, {"command": command})
        gallery = write_gallery(folder, found, method, taught, concepts, MINI_LICENCE if on_mini else "")
        write_card(found, command, f"Unlabelled images of {example.dataset}")
        Console(markup=False).print(table.to_rich() if split.has_truth else comparison(found).to_rich())
        print(f"{filtered.n_retained} of {len(filtered.concept_names)} concepts tell the images apart")
        print(f"the gallery is {gallery}, the model, its card and assignments.csv are in {folder}")
        for reason in verdict(found):
            print(f"warning: {reason}")
        if training.push_to_hub and found.model is not None:
            found.model.push_to_hub(training.hub_model_id or folder.name)
    return table


if __name__ == "__main__":
    try:
        main()
    except ClipAlignError as error:
        sys.exit(f"error: {error}")
