"""Learns a prompt for a small CLIP from a bigger one, without labels (KDPL), and shows what it is worth.

    accelerate launch examples/train_kdpl.py

runs on the built-in images and models: 150 openmoji names are learned from their images alone, 150 others are kept
to test on. On your own images (a Hub id, a folder, a parquet file):

    accelerate launch examples/train_kdpl.py --dataset timm/oxford-iiit-pet --method maple --shots 16 \
        --student openai/clip-vit-base-patch32 --teacher laion/CLIP-ViT-H-14-laion2B-s32B-b79K \
        --teacher_template "a photo of a {}, a type of pet." --bf16 --output_dir runs/pets --push_to_hub

`--labels` is the supervised baseline, `--class_agnostic` learns without class names. All flags of the Trainer work;
the defaults are the published settings of the method.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from peft import get_peft_model
from rich.console import Console
from transformers import HfArgumentParser, set_seed

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import load_model, load_processor
from hf_clipalign.data import (
    ImageSource,
    base_and_novel,
    few_shot,
    from_dataset,
    keep_classes,
    load_dictionary,
    load_mini,
    open_source,
)
from hf_clipalign.evaluation import ResultTable, zero_shot_accuracy
from hf_clipalign.hub import describe_run
from hf_clipalign.trainers import (
    METHODS,
    KDPLTrainer,
    KDPLTrainingArguments,
    PromptLearningTrainer,
    adapter_preset,
    training_preset,
)
from hf_clipalign.tuners import CoCoOpConfig, CoOpConfig, MaPLeConfig, PromptSRCConfig, VPTConfig

CONFIGS = {
    "coop": CoOpConfig,
    "cocoop": CoCoOpConfig,
    "vpt": VPTConfig,
    "maple": MaPLeConfig,
    "promptsrc": PromptSRCConfig,
}
MINI = "mini"
MINI_CLASSES = 300
MINI_DEFAULTS = {
    "template": "an emoji of {}.",
    "teacher_template": "an emoji of {}.",
    "augment": False,  # icons fill their images: a crop cuts off what they are
    "k_max": 300,
    "output_dir": "prompt-mini",
    "logging_strategy": "epoch",
}


@dataclass
class ExampleArguments:
    """Options of the example itself."""

    dataset: str = field(default=MINI, metadata={"help": "Hub id, folder, parquet or CSV; mini is the built-in set."})
    train_split: str = field(default="train", metadata={"help": "Split of a data set to learn from."})
    test_split: str = field(default="test", metadata={"help": "Split of a data set to test on."})
    domain: str | None = field(
        default=None, metadata={"help": "Another data set of the same class names, to test another domain."}
    )
    student: str | None = field(default=None, metadata={"help": "The CLIP to learn a prompt for: Hub id or folder."})
    teacher: str | None = field(default=None, metadata={"help": "The bigger CLIP to learn from: Hub id or folder."})
    method: str = field(default="coop", metadata={"help": f"One of {', '.join(METHODS)}."})
    n_ctx: int | None = field(default=None, metadata={"help": "Context vectors; by default as published."})
    labels: bool = field(default=False, metadata={"help": "Learn from labels instead: the supervised baseline."})
    shots: int | None = field(default=None, metadata={"help": "Images per class to learn from; by default all."})


@dataclass
class Task:
    """What is learned from and what is tested on."""

    train: ImageSource
    tests: dict[str, ImageSource]


def parse(argv: list[str]) -> tuple[ExampleArguments, KDPLTrainingArguments]:
    """The flags; what is not given has the method's published value, and for the built-in set values that suit it."""
    parser = HfArgumentParser((ExampleArguments, KDPLTrainingArguments), description=__doc__)
    parser.set_defaults(output_dir="prompt")
    known, _ = HfArgumentParser(ExampleArguments, add_help=False).parse_known_args(argv)
    if known.method not in METHODS:
        raise ClipAlignError(f"no method {known.method!r}: there are {', '.join(METHODS)}")
    parser.set_defaults(**training_preset(known.method))
    if known.dataset == MINI:
        parser.set_defaults(**MINI_DEFAULTS)
    example, training = parser.parse_args_into_dataclasses(argv)
    if example.labels and training.class_agnostic:
        raise ClipAlignError("--labels and --class_agnostic exclude each other: labels need class names")
    return example, training


def mini_task(seed: int) -> Task:
    """150 + 150 emoji names drawn by the seed; learned from openmoji images, another domain are line drawings."""
    mini = load_mini(share_alike=True)
    styles = {
        style: from_dataset(mini.emoji_subset(styles=style, novel=False), label_column="name")
        for style in ("openmoji", "line")
    }
    names = sorted(set(styles["openmoji"].class_names or ()) & set(styles["line"].class_names or ()))
    chosen = np.random.default_rng(seed).permutation(names)[:MINI_CLASSES].tolist()
    openmoji, line = (
        keep_classes(source, [list(source.class_names or ()).index(name) for name in chosen])
        for source in styles.values()
    )
    openmoji.name, line.name = "openmoji", "line drawings of openmoji"
    seen, unseen = base_and_novel(openmoji)
    domain = base_and_novel(line)[0]
    return Task(seen, {"seen classes": seen, "unseen classes": unseen, "unseen domain": domain})


def own_task(example: ExampleArguments, seed: int) -> Task:
    """The first half of the classes is learned, the second half tested only. Without labels, all is learned."""
    train = open_source(example.dataset, split=example.train_split)
    if train.labels is None:
        return Task(train, {})
    test = open_source(example.dataset, split=example.test_split) if not Path(example.dataset).exists() else train
    (seen, _), (seen_test, unseen_test) = base_and_novel(train), base_and_novel(test)
    tests = {"seen classes": seen_test, "unseen classes": unseen_test}
    if example.domain:
        tests["unseen domain"] = base_and_novel(open_source(example.domain, split=example.test_split))[0]
    return Task(few_shot(seen, example.shots, seed) if example.shots else seen, tests)


def add_prompts(student: Any, processor: Any, example: ExampleArguments, template: str) -> Any:
    """The student with the method's learned prompts, as many as published or as the template has words for."""
    settings = {name: value for name, value in adapter_preset(example.method).items() if "depth" not in name}
    if "ctx_init" in settings:
        words = template.split("{}")[0].strip()
        n_words = len(processor.tokenizer(words, add_special_tokens=False)["input_ids"])
        settings |= {"ctx_init": words, "n_ctx": min(settings["n_ctx"], n_words)}
        if example.n_ctx is not None:
            settings |= {"n_ctx": example.n_ctx, "ctx_init": words if example.n_ctx <= n_words else None}
    return get_peft_model(student, CONFIGS[example.method](**settings))


def build_trainer(example: ExampleArguments, training: KDPLTrainingArguments, task: Task, models: Any) -> Any:
    """The supervised trainer or KDPL's."""
    student, processor, teacher, teacher_processor = models
    set_seed(training.seed)  # before prompts are drawn
    prompted = add_prompts(student, processor, example, training.template)
    common = {"processing_class": processor, "train_dataset": task.train}
    if example.labels:
        return PromptLearningTrainer(prompted, training, **common)
    dictionary = load_dictionary(training.dictionary) if training.class_agnostic else None
    return KDPLTrainer(
        prompted, training, teacher=teacher, teacher_processor=teacher_processor, dictionary=dictionary, **common
    )


def load_models(example: ExampleArguments) -> tuple[Any, Any, Any, Any]:
    """Student and teacher with their processors; the built-in ones where none are named."""
    mini = load_mini()
    student, teacher = example.student or mini.student_path, example.teacher or mini.teacher_path
    return load_model(student), load_processor(student), load_model(teacher), load_processor(teacher)


def main(argv: list[str] | None = None) -> ResultTable:
    argv = sys.argv[1:] if argv is None else argv
    example, training = parse(argv)
    task = mini_task(training.seed) if example.dataset == MINI else own_task(example, training.seed)
    models = student, processor, teacher, teacher_processor = load_models(example)
    command = describe_run(["accelerate", "launch", "examples/train_kdpl.py", *argv])
    note = f"`{command}`."
    if example.dataset == MINI:
        note += " Seen classes: the images that were learned from, with labels the training accuracy."
    table = ResultTable(f"Accuracy on {example.dataset}", note=note)
    teacher_template = training.teacher_template or training.template
    for part, source in task.tests.items():
        table.add("zero-shot student", {part: zero_shot_accuracy(student, processor, source, training.template)})
        score = zero_shot_accuracy(teacher, teacher_processor, source, teacher_template)
        table.add("zero-shot teacher", {part: score})

    trainer = build_trainer(example, training, task, models)
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    how = "labels" if example.labels else "KDPL, class names unknown" if training.class_agnostic else "KDPL"
    row = f"{example.method} ({how})"
    for part, source in task.tests.items():
        table.add(row, {part: trainer.accuracy(source)}, seed=0)

    trainer.save_model()
    trainer.create_model_card(results=table if task.tests else None, command=command, row=row)
    if training.push_to_hub:
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        if task.tests:
            Console().print(table.to_rich())
        print(f"Adapter and model card: {training.output_dir}")
    return table


if __name__ == "__main__":
    try:
        main()
    except ClipAlignError as error:
        sys.exit(f"error: {error}")
