"""Learns a prompt for a small CLIP from a bigger one, without labels (KDPL), and says what it is worth.

    accelerate launch examples/train_kdpl.py

runs on the built-in images and models: 150 openmoji names are learned from their images alone, 150 others are kept
to test on. On a folder of your own images without labels, with the names of what is on them:

    accelerate launch examples/train_kdpl.py --dataset photos --class_names "boot, sandal, trainer" \
        --student openai/clip-vit-base-patch32 --teacher laion/CLIP-ViT-H-14-laion2B-s32B-b79K \
        --teacher_template "a photo of a {}, a type of shoe." --output_dir runs/shoes

One image in five is kept to test on (`--holdout`), or give `--test_dataset`. A labelled data set (a folder of
sub-folders, a Hub id, a parquet file) is learned with all its classes; `--labels` is the supervised baseline,
`--class_agnostic` learns without class names. The papers' splits, of the classes and of the images:

    accelerate launch examples/train_kdpl.py --dataset oxford_pets/images --split_file split_zhou_OxfordPets.json \
        --protocol base_to_novel --shots 16 --seed 1 --method promptsrc --bf16 --output_dir runs/pets --push_to_hub

All flags of the Trainer work; the defaults are the published settings of the method.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from peft import get_peft_model
from rich.console import Console
from transformers import HfArgumentParser, set_seed

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import load_model, load_processor
from hf_clipalign.data import (
    ImageSource,
    base_and_novel,
    from_dataset,
    keep_classes,
    load_dictionary,
    load_mini,
    open_source,
    published_few_shot_rows,
    read_split,
    take,
)
from hf_clipalign.evaluation import ResultTable, zero_shot_accuracy
from hf_clipalign.hub import CardEvaluation, describe_run
from hf_clipalign.hub.connection import check_push_access
from hf_clipalign.trainers import (
    METHODS,
    KDPLTrainer,
    KDPLTrainingArguments,
    PromptLearningTrainer,
    adapter_preset,
    training_preset,
)
from hf_clipalign.trainers.images import drop_unreadable
from hf_clipalign.trainers.prompts.templates import read_templates
from hf_clipalign.tuners import CoCoOpConfig, CoOpConfig, MaPLeConfig, PromptSRCConfig, VPTConfig

logger = logging.getLogger(__name__)

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
    "ctx_init": "an emoji of",
    "augment": False,  # icons fill their images: a crop cuts off what they are
    "k_max": 300,
    "output_dir": "prompt-mini",
    "logging_strategy": "epoch",
}
PROTOCOLS = ("all", "base_to_novel", "cross_dataset", "domain")
HELD_OUT = "held-out images"


@dataclass
class ExampleArguments:
    """Options of the example itself."""

    dataset: str = field(default=MINI, metadata={"help": "Hub id, folder, parquet or CSV; mini is the built-in set."})
    train_split: str = field(default="train", metadata={"help": "Split of a Hub data set to learn from."})
    test_split: str = field(default="test", metadata={"help": "Split of a Hub data set to test on."})
    test_dataset: str | None = field(default=None, metadata={"help": "Another folder, file or Hub id to test on."})
    split_file: str | None = field(
        default=None, metadata={"help": "The papers' split of the images in the folder (split_zhou_*.json)."}
    )
    holdout: float = field(default=0.2, metadata={"help": "Share of the images kept to test on, where no others are."})
    class_names: str | None = field(
        default=None, metadata={"help": 'Names for images without labels: "a, b", or a file with one a line.'}
    )
    protocol: str = field(
        default="all",
        metadata={"help": f"Classes to learn and to test: one of {', '.join(PROTOCOLS)}."},
    )
    targets: str | None = field(
        default=None, metadata={"help": 'Data sets to test on only, "a, b", for cross_dataset and domain.'}
    )
    student: str | None = field(default=None, metadata={"help": "The CLIP to learn a prompt for: Hub id or folder."})
    teacher: str | None = field(default=None, metadata={"help": "The bigger CLIP to learn from: Hub id or folder."})
    method: str = field(default="coop", metadata={"help": f"One of {', '.join(METHODS)}."})
    ctx_init: str = field(default="a photo of a", metadata={"help": "Words that the context starts from."})
    n_ctx: int | None = field(
        default=None, metadata={"help": "Context vectors, by default as published; more than words: a random start."}
    )
    labels: bool = field(default=False, metadata={"help": "Learn from labels instead: the supervised baseline."})
    shots: int | None = field(default=None, metadata={"help": "Images per class to learn from; by default all."})


@dataclass
class Task:
    """What is learned from and what is tested on.

    Args:
        train (`ImageSource`): images to learn from.
        tests (`dict[str, ImageSource]`): labelled images by what they test.
        held_out (`ImageSource`, *optional*): images that the verdict is about; they need no labels.
        class_names (`list[str]`, *optional*): names for images without labels; those of labelled ones to learn from.
    """

    train: ImageSource
    tests: dict[str, ImageSource]
    held_out: ImageSource | None = None
    class_names: list[str] | None = None


@dataclass
class Outcome:
    """What one run gives."""

    table: ResultTable
    row: str
    trainer: Any
    task: Task
    verdict: Any = None


class FlagParser(HfArgumentParser):
    """Flags whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ClipAlignError(f"{message}; --help lists the flags")


def parse(argv: list[str]) -> tuple[ExampleArguments, KDPLTrainingArguments]:
    """The flags; what is not given has the method's published value, and for the built-in set values that suit it."""
    parser = FlagParser(
        (ExampleArguments, KDPLTrainingArguments),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(output_dir="prompt")
    known, _ = FlagParser(ExampleArguments, add_help=False, allow_abbrev=False).parse_known_args(argv)
    _check_choices(known)
    parser.set_defaults(**training_preset(known.method, protocol=_published_protocol(known)))
    if known.dataset == MINI:
        parser.set_defaults(**MINI_DEFAULTS)
    try:
        example, training, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    except ValueError as error:
        raise error if isinstance(error, ClipAlignError) else ClipAlignError(" ".join(str(error).split())) from None
    if unknown:
        raise ClipAlignError(f"unknown flag {unknown[0]!r}; --help lists the flags")
    if example.labels and training.class_agnostic:
        raise ClipAlignError("--labels and --class_agnostic exclude each other: labels need class names")
    return example, training


def _check_choices(known: Any) -> None:
    if known.method not in METHODS:
        raise ClipAlignError(f"no method {known.method!r}: there are {', '.join(METHODS)}")
    if known.protocol not in PROTOCOLS:
        raise ClipAlignError(f"no protocol {known.protocol!r}: there are {', '.join(PROTOCOLS)}")
    if not 0 <= known.holdout < 1:
        raise ClipAlignError(f"--holdout is {known.holdout}: give a share from 0 to below 1")
    if (known.targets is None) == (known.protocol in ("cross_dataset", "domain")):
        raise ClipAlignError("--targets and --protocol cross_dataset or domain go together: give both or neither")
    if known.dataset == MINI and (known.protocol != "all" or known.split_file or known.test_dataset):
        raise ClipAlignError("the built-in set has its own split: name another --dataset, or drop its flags")


def _published_protocol(example: Any) -> str:
    return "cross_dataset" if example.protocol in ("cross_dataset", "domain") else "base_to_novel"


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
    return Task(seen, {"seen classes": seen, "unseen classes": unseen, "unseen domain": domain}, held_out=unseen)


def own_task(example: ExampleArguments, training: KDPLTrainingArguments) -> Task:
    """All classes by default; the protocols choose some, after the images were drawn, as published."""
    train, test = own_images(example, training)
    if train.labels is None:
        return unlabelled_task(example, train, test, training.seed, training.class_agnostic)
    if example.class_names is not None:
        raise ClipAlignError(f"{train.name} has labels and class names of its own: drop --class_names")
    if example.shots:
        rows = published_few_shot_rows(train.labels, example.shots, training.seed)
        rest = sorted(set(range(len(train))) - set(rows))
        test = take(train, rest) if test is None and rest else test
        train = take(train, rows)
    if test is None and example.holdout:
        train, test = hold_out(train, example.holdout, training.seed)
    if example.protocol == "base_to_novel":
        (train, _), halves = base_and_novel(train), [] if test is None else base_and_novel(test)
        tests = dict(zip(("seen classes", "unseen classes"), halves, strict=False))
        return Task(train, tests, tests.get("unseen classes"))
    if example.labels and test is not None and test.labels is None:
        raise ClipAlignError(f"{test.name}: no labels, and --labels has no teacher to agree with; drop one of the two")
    tests = {HELD_OUT: test} if test is not None and test.labels is not None else {}
    for name in _listed(example.targets):
        tests[name] = readable(open_source(name, split=_split_of(name, example.test_split)), training)
    return Task(train, tests, test, train.class_names)


def own_images(example: ExampleArguments, training: KDPLTrainingArguments) -> tuple[ImageSource, ImageSource | None]:
    """Images to learn from, and those to test on where the data set has some of its own."""
    if example.split_file:
        parts = read_split(example.split_file, example.dataset)
        if "train" not in parts:
            raise ClipAlignError(f"{example.split_file}: no images to learn from; its list train is empty")
        return readable(parts["train"], training), readable(parts.get("test"), training)
    train = open_source(example.dataset, split=_split_of(example.dataset, example.train_split))
    test = None
    if example.test_dataset:
        test = open_source(example.test_dataset, split=_split_of(example.test_dataset, example.test_split))
    elif not Path(example.dataset).exists():
        test = open_source(example.dataset, split=example.test_split)
    return readable(train, training), readable(test, training)


def _split_of(name: str, split: str) -> str | None:
    return None if Path(name).exists() else split


def readable(source: ImageSource | None, training: KDPLTrainingArguments) -> ImageSource | None:
    """The source, without the images that cannot be read if they are to be skipped: in every pass over it."""
    return drop_unreadable(source) if source is not None and training.skip_unreadable else source


def unlabelled_task(
    example: ExampleArguments, train: ImageSource, test: ImageSource | None, seed: int, agnostic: bool
) -> Task:
    """All images are learned from but those that are held out."""
    if example.shots or example.labels or example.protocol != "all":
        raise ClipAlignError(f"{train.name}: no labels, which --labels, --shots and --protocol need; drop these flags")
    if example.class_names is None and not agnostic:
        raise ClipAlignError(
            f'{train.name} has no labels: say what is on the images with --class_names "a, b", or learn without names '
            "with --class_agnostic"
        )
    if test is None and example.holdout:
        train, test = hold_out(train, example.holdout, seed)
    tests = {HELD_OUT: test} if test is not None and test.labels is not None else {}
    return Task(train, tests, test, _names(example.class_names))


def hold_out(source: ImageSource, share: float, seed: int) -> tuple[ImageSource, ImageSource | None]:
    """The images to learn from and those to test on, a share of every class; of a class of one none."""
    labels = np.zeros(len(source), dtype=int) if source.labels is None else np.asarray(source.labels)
    generator, held = np.random.default_rng(seed), []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        held += rows[: min(max(1, round(share * len(rows))), len(rows) - 1)].tolist()
    rest = sorted(set(range(len(source))) - set(held))
    return take(source, rest), take(source, sorted(held)) if held else None


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _names(text: str | None) -> list[str] | None:
    if text is None or not Path(text).is_file():
        return None if text is None else _listed(text)
    lines = Path(text).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def add_prompts(student: Any, processor: Any, example: ExampleArguments) -> Any:
    """The student with the method's learned prompts, as many and as deep as published, or as its towers allow.

    The context starts from the words of `--ctx_init`, whatever the data set's prompt is.
    """
    settings = adapter_preset(example.method, protocol=_published_protocol(example))
    towers = {"text": student.config.text_config, "image": student.config.vision_config}
    layers = {tower: config.num_hidden_layers for tower, config in towers.items()}
    both = layers["image"] if example.method == "vpt" else min(layers.values())
    for name in [name for name in settings if "depth" in name]:
        settings[name] = min(settings[name], layers.get(name.removesuffix("_depth"), both))
    if "ctx_init" in settings:
        words = example.ctx_init.strip()
        n_words = len(processor.tokenizer(words, add_special_tokens=False)["input_ids"])
        n_ctx = min(settings["n_ctx"], n_words) if example.n_ctx is None else example.n_ctx
        settings |= {"n_ctx": n_ctx, "ctx_init": words if n_ctx <= n_words else None}
    return get_peft_model(student, CONFIGS[example.method](**settings))


def build_trainer(example: ExampleArguments, training: KDPLTrainingArguments, task: Task, models: Any) -> Any:
    """The supervised trainer or KDPL's."""
    student, processor, teacher, teacher_processor = models
    set_seed(training.seed)  # before prompts are drawn
    prompted = add_prompts(student, processor, example)
    common = {"processing_class": processor, "train_dataset": task.train}
    if task.class_names is not None and not training.class_agnostic:
        common["class_names"] = task.class_names
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
    if example.dataset != MINI and None in (example.student, example.teacher):
        logger.warning("the built-in tiny models know emoji and icons, no photographs: name --student and --teacher")
    return load_model(student), load_processor(student), load_model(teacher), load_processor(teacher)


def run(argv: list[str]) -> Outcome:
    """Everything between the flags and the files."""
    example, training = parse(argv)
    if training.push_to_hub:
        check_push_access(training.hub_model_id, training.hub_token)
    task = mini_task(training.seed) if example.dataset == MINI else own_task(example, training)
    models = student, processor, teacher, teacher_processor = load_models(example)
    command = describe_run(["accelerate", "launch", "examples/train_kdpl.py", *argv])
    table = ResultTable(f"Accuracy on {example.dataset}", note=f"`{command}`.")
    if example.dataset == MINI:
        table.note += " Seen classes: the images that were learned from, with labels the training accuracy."
    templates = read_templates(training.teacher_template or training.template or f"{example.ctx_init} {{}}.")
    for part, source in task.tests.items():
        for name, model in (("student", (student, processor)), ("teacher", (teacher, teacher_processor))):
            score = zero_shot_accuracy(*model, source, templates)
            table.add(f"zero-shot {name}", {part: score}, seed=training.seed)

    trainer = build_trainer(example, training, task, models)
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    how = "labels" if example.labels else "KDPL, class names unknown" if training.class_agnostic else "KDPL"
    outcome = Outcome(table, f"{example.method} ({how})", trainer, task)
    for part, source in task.tests.items():
        table.add(outcome.row, {part: trainer.accuracy(source)}, seed=training.seed)
    if task.held_out is not None and (task.held_out.class_names or task.class_names):
        names = task.held_out.class_names or task.class_names
        outcome.verdict = trainer.verdict(task.held_out, names, templates)
    trainer.save_model()
    trainer.create_model_card(results=card_results(outcome), command=command, row=outcome.row)
    if training.push_to_hub:
        trainer.push_to_hub()
    return outcome


def card_results(outcome: Outcome) -> Any:
    """The table with the verdict below it; the verdict alone where there are no labels to make a table of."""
    verdict = str(outcome.verdict or "")
    if outcome.task.tests:
        return replace(outcome.table, note=f"{outcome.table.note} {verdict}".strip())
    return [CardEvaluation("Held-out images", [], verdict=verdict)] if verdict else None


def main(argv: list[str] | None = None) -> ResultTable:
    outcome = run(sys.argv[1:] if argv is None else argv)
    if outcome.trainer.is_world_process_zero():
        if outcome.task.tests:
            Console().print(outcome.table.to_rich())
        print(outcome.verdict or "Nothing with names was held out, so nothing says whether the adapter is better.")
        folder, template = outcome.trainer.args.output_dir, outcome.trainer.learner.template
        print(f"Adapter and model card: {folder}. Its prompt: {template!r}")
    return outcome.table


if __name__ == "__main__":
    try:
        main()
    except ClipAlignError as error:
        sys.exit(f"error: {error}")
