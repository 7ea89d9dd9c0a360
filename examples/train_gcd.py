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

import numpy as np
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F
from transformers import HfArgumentParser, set_seed

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder, load_model, load_processor
from hf_clipalign.data import (
    GCDSplit,
    extend_dictionary,
    fill,
    from_dataset,
    gcd_preset,
    keep_classes,
    load_dictionary,
    load_mini,
)
from hf_clipalign.evaluation import ReportTable, ResultTable, class_gallery, kmeans_classes, write_report
from hf_clipalign.features import extract_image_features, project_image_features
from hf_clipalign.gcd import SpectralFilterResult, SpectralGCDModel, estimate_n_classes, spectral_filter
from hf_clipalign.hub import CardEvaluation, describe_run
from hf_clipalign.metrics import clustering_accuracy
from hf_clipalign.trainers import (
    SpectralGCDTrainer,
    SpectralGCDTrainingArguments,
    Teacher,
    TeacherConcepts,
    teacher_concepts,
)

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
FEW_CONCEPTS = 6
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


def student_features(student: Any, processor: Any, split: GCDSplit) -> Tensor:
    """Unit image features of the untrained student."""
    encoder = as_dual_encoder(student)
    features = extract_image_features(encoder, split.source, processor)
    return F.normalize(project_image_features(encoder, features.values), dim=-1)


def dictionary(example: ExampleArguments) -> list[str]:
    """The file that was named, or WordNet; for the built-in set the names of all emoji, which its models have seen."""
    if example.dataset == MINI and example.dictionary is None:
        names = load_mini().concepts
        return names.known + names.novel
    return load_dictionary(example.dictionary)


def filter_concepts(
    example: ExampleArguments, split: GCDSplit, teacher: Teacher, cache: str | None
) -> tuple[SpectralFilterResult, list[str], TeacherConcepts]:
    """What the filter found, the concepts to use, and the teacher's features of them and of the images.

    In the published settings the filter reads the plain prompt, whatever that of the training is.
    """
    names = extend_dictionary(dictionary(example), split.class_names)
    features = teacher_concepts(teacher, split.source, names, example.template, cache=cache)
    texts = features.texts
    if example.preset is not None and example.template != PLAIN_TEMPLATE:
        texts = teacher.text_features(fill(PLAIN_TEMPLATE, names)).cpu()
    found = spectral_filter(features.images, texts, names)
    if example.no_filter:
        return found, names, features
    return found, found.concepts, features.of_concepts(found.retained)


def count_novel(example: ExampleArguments, split: GCDSplit, features: Tensor, show: bool = True) -> int:
    """What was given, else the truth, else an estimate from the labelled part."""
    if example.n_novel is not None:
        return example.n_novel
    if split.has_truth:
        return split.n_novel
    estimate = estimate_n_classes(features, split.training_labels, split.labelled)
    if show:
        Console().print(estimate.table())
    if not estimate.n_novel:
        raise ClipAlignError(
            f"{split.source.name}: the estimate finds no novel class: give their number with --n_novel"
        )
    return estimate.n_novel


def scores(split: GCDSplit, classes: np.ndarray) -> dict[str, float]:
    """All, Old and New of the unlabelled images."""
    rows = split.unlabelled_rows
    found = clustering_accuracy(split.labels[rows], classes[rows], split.known_mask[rows])
    return {name.capitalize(): found[name] for name in ("all", "old", "new")}


def baselines(table: ResultTable, split: GCDSplit, features: dict[str, Tensor], n_classes: int, seed: int) -> None:
    """Adds what k-means finds without training."""
    for name, values in features.items():
        table.add(f"k-means on {name} features", scores(split, kmeans_classes(values, n_classes, seed)))


def new_model(
    example: ExampleArguments, student: Any, processor: Any, concepts: list[str], split: GCDSplit, n_novel: int
) -> SpectralGCDModel:
    """The student with an untrained head."""
    return SpectralGCDModel.from_student(
        student,
        concepts,
        split.class_names,
        n_novel,
        processor=processor,
        template=example.template,
        hidden_size=example.hidden_size,
        mlp_hidden_size=example.mlp_hidden_size,
        bottleneck_size=example.bottleneck_size,
    )


def write_gallery(folder: Path, model: SpectralGCDModel, split: GCDSplit, classes: np.ndarray, licence: str) -> Path:
    """The page with a row for every class."""
    sections = class_gallery(split, classes, model.class_labels(), model.class_concepts(FEW_CONCEPTS))
    lead = (
        f"{len(split)} images, {int(split.labelled.sum())} with a label of {len(split.class_names)} known classes; "
        f"{model.config.n_novel} others were looked for, with {len(model.config.concepts)} concepts.{licence}"
    )
    return write_report(folder / "gallery.html", "Classes that were found", sections, lead)


def main(argv: list[str] | None = None) -> ResultTable:
    argv = sys.argv[1:] if argv is None else argv
    example, training = parse(argv)
    on_mini, mini = example.dataset == MINI, load_mini()
    student_name, teacher_name = example.student or mini.student_path, example.teacher or mini.teacher_path
    student, processor = load_model(student_name).to(training.device), load_processor(student_name)
    split = mini_split(training.seed) if on_mini else own_split(example)
    teacher = Teacher(teacher_name)
    teacher.model.to(training.device)
    found, concepts, taught = filter_concepts(example, split, teacher, training.teacher_cache)
    del teacher  # all its work is done
    n_novel = count_novel(example, split, taught.images, show=training.process_index == 0)
    command = describe_run(["accelerate", "launch", "examples/train_gcd.py", *argv])
    table = ResultTable(f"Clustering accuracy of the unlabelled images of {example.dataset}", note=f"`{command}`.")
    if split.has_truth:
        features = {"student": student_features(student, processor, split), "teacher": taught.images}
        baselines(table, split, features, len(split.class_names) + n_novel, training.seed)

    set_seed(training.seed)  # before the head is drawn
    model = new_model(example, student, processor, concepts, split, n_novel)
    trainer = SpectralGCDTrainer(model, training, train_dataset=split, teacher=taught)
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    classes = trainer.assign_classes()
    if split.has_truth:
        table.add("SpectralGCD", scores(split, classes))
    trainer.save_model()
    if trainer.is_world_process_zero():
        folder = Path(training.output_dir or ".")
        gallery = write_gallery(folder, model, split, classes, MINI_LICENCE if on_mini else "")
        cells = ReportTable(["method", *table.tests], table.cells(), "accuracy in percent")
        evaluations = [CardEvaluation(table.title, [], cells)] if split.has_truth else []
        trainer.create_model_card(command=command, evaluations=evaluations)
        if split.has_truth:
            Console(markup=False).print(table.to_rich())
        print(f"{found.n_retained} of {len(found.concept_names)} concepts tell the images apart")
        print(f"the gallery is {gallery}, the model and its card are in {folder}")
        if training.push_to_hub:
            model.push_to_hub(training.hub_model_id or folder.name)
    return table


if __name__ == "__main__":
    try:
        main()
    except ClipAlignError as error:
        sys.exit(f"error: {error}")
