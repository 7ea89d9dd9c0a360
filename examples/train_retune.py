"""Learns findings one after the other with RE-tune's adapters, and shows what is not forgotten.

    python examples/train_retune.py

runs on the built-in images: the findings are what an emoji's published keywords say about it (animal, face, person,
food, plant; a dog's face is an animal and a face, an apple is food and a plant). All three scenarios are run, with the
zero-shot model as the lower bound and joint training as the upper one. The report is `retune-mini/index.html`.

On chest X-rays, from features that `clipalign embed` made (the images are not needed any more):

    python examples/train_retune.py --model me/biomedical-clip --features chest/ --labels CheXpert/train.csv \
        --test_features chest-valid/ --test_labels CheXpert/valid.csv --scenarios class-incremental \
        --output_dir runs/chest

`--resume` resumes stopped runs. The defaults are the published settings. Research software, not for diagnosis.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
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
    FindingLabels,
    FindingPrompts,
    IncrementalTask,
    class_incremental,
    data_incremental,
    from_dataset,
    joint,
    label_incremental,
    load_mini,
    read_chexpert,
)
from hf_clipalign.evaluation import IncrementalResult, write_incremental_report
from hf_clipalign.features import LabelledEmbeddings, extract_to_store
from hf_clipalign.hub import describe_run
from hf_clipalign.trainers import RETuneTrainer, RETuneTrainingArguments
from hf_clipalign.trainers.retune.findings_report import findings_section, measure_findings
from hf_clipalign.tuners import RETuneConfig

MINI_FINDINGS = {
    "animal": {"animal"},
    "face": {"face"},
    "person": {"person", "people", "man", "woman", "boy", "girl", "child", "baby", "adult"},
    "food": {"food", "fruit", "vegetable", "drink"},
    "plant": {"plant", "flower", "tree"},
}
MINI_POSITIVE = ("an emoji of {}", "an image with {}", "this shows {}", "{}")
MINI_NEGATIVE = ("an emoji without {}", "an image with no {}", "there is no {}", "not {}")
MINI_DEFAULTS = {
    "output_dir": "retune-mini",
    "per_device_train_batch_size": 64,  # a task has some 700 images: 6,144 would be one step per epoch
}
MINI_ROWS: int | None = None
OWN_DATA = ("model", "features", "labels", "test_features", "test_labels")


@dataclass
class ExampleArguments:
    """Options of the example itself."""

    model: str | None = field(default=None, metadata={"help": "The CLIP: Hub id or folder. Default: the built-in."})
    features: str | None = field(default=None, metadata={"help": "Training features: a folder of `clipalign embed`."})
    labels: str | None = field(default=None, metadata={"help": "Training labels, CheXpert's CSV format."})
    test_features: str | None = field(default=None, metadata={"help": "Test features."})
    test_labels: str | None = field(default=None, metadata={"help": "Test labels, CheXpert's CSV format."})
    validation_features: str | None = field(default=None, metadata={"help": "Features to choose thresholds on."})
    validation_labels: str | None = field(default=None, metadata={"help": "Their labels; no training or test data."})
    resamples: int = field(default=1000, metadata={"help": "Of the bootstrap over patients."})
    findings: list[str] | None = field(default=None, metadata={"help": "Columns of the labels, in order."})
    prompts: str | None = field(default=None, metadata={"help": "YAML or JSON file of prompts; default: published."})
    scenarios: list[str] = field(
        default_factory=lambda: ["class-incremental", "label-incremental", "data-incremental"],
        metadata={"help": "Which scenarios to run."},
    )
    n_parts: int = field(default=5, metadata={"help": "Parts of the data-incremental scenario: 5, 10 or 20."})
    order: list[str] | None = field(default=None, metadata={"help": "Findings in the order of learning."})
    shuffle: bool = field(
        default=True, metadata={"help": "Shuffle the data before it is cut; else consecutive parts."}
    )
    adapter: str = field(default="mlp", metadata={"help": "mlp or linear."})
    sides: str = field(default="both", metadata={"help": "both, shared, image or text."})
    identity_start: bool = field(default=False, metadata={"help": "Start the adapters as the identity."})
    resume: bool = field(default=False, metadata={"help": "Resume a run that was stopped."})


@dataclass
class Problem:
    """What is learned, what is tested on, the model, and what thresholds are chosen on if there is any."""

    model_source: Any
    processor: Any
    train: LabelledEmbeddings
    test: LabelledEmbeddings
    prompts: FindingPrompts
    validation: LabelledEmbeddings | None = None


def parse(argv: list[str]) -> tuple[ExampleArguments, RETuneTrainingArguments]:
    """The flags; for the built-in data with settings that suit its size."""
    parser = HfArgumentParser((ExampleArguments, RETuneTrainingArguments), description=__doc__)
    parser.set_defaults(output_dir="retune")
    known, _ = HfArgumentParser(ExampleArguments, add_help=False).parse_known_args(argv)
    if not has_own_data(known):
        parser.set_defaults(**MINI_DEFAULTS)
    return parser.parse_args_into_dataclasses(argv)


def has_own_data(example: ExampleArguments) -> bool:
    """Whether a flag is given that makes sense for own data only."""
    return any(getattr(example, name) is not None for name in (*OWN_DATA, "findings", "prompts"))


def mini_labels(split: str) -> tuple[Any, FindingLabels]:
    """Images of a split, and what their keywords say about them; the styles of one emoji are one "patient"."""
    emoji = load_mini().emoji_subset(split=split)
    if MINI_ROWS is not None:
        emoji = emoji.select(np.random.default_rng(0).permutation(len(emoji))[:MINI_ROWS])
    source = from_dataset(emoji)
    keywords = [set(words) for words in emoji["keywords"]]
    values = np.array([[bool(words & own) for own in MINI_FINDINGS.values()] for words in keywords], dtype=float)
    return source, FindingLabels(source.ids, list(MINI_FINDINGS), values, list(emoji["emoji_id"]), f"emoji, {split}")


def mini_problem(folder: Path) -> Problem:
    """Known emoji to learn from; emoji of concepts that neither the model nor the adapter saw to test on."""
    mini = load_mini()
    parts = []
    for split in ("train", "novel"):
        source, labels = mini_labels(split)
        store = extract_to_store(
            mini.student, source, mini.student_processor, folder / f"features-{split}", progress=False
        )
        parts.append(LabelledEmbeddings.from_store(store, labels, mini.student))
    prompts = FindingPrompts.from_templates(list(MINI_FINDINGS), MINI_POSITIVE, MINI_NEGATIVE)
    return Problem(mini.student_path, mini.student_processor, *parts, prompts)


def own_problem(example: ExampleArguments) -> Problem:
    """Stored features with CheXpert's labels."""
    missing = [name for name in OWN_DATA if getattr(example, name) is None]
    if missing:
        raise ClipAlignError(f"own data need --{' and --'.join(missing)} too")
    model, processor = load_model(example.model), load_processor(str(example.model))
    findings = {"findings": example.findings} if example.findings else {}
    if (example.validation_features is None) != (example.validation_labels is None):
        raise ClipAlignError("--validation_features and --validation_labels go together: give both or neither")

    def part(features: str | None, labels: str | None) -> LabelledEmbeddings:
        return LabelledEmbeddings.from_store(str(features), read_chexpert(str(labels), **findings), model)

    train, test = part(example.features, example.labels), part(example.test_features, example.test_labels)
    chosen_on = example.validation_features and part(example.validation_features, example.validation_labels)
    names = train.labels.findings
    prompts = FindingPrompts.load(example.prompts) if example.prompts else FindingPrompts.published(names)
    return Problem(example.model, processor, train, test, prompts, chosen_on or None)


def scenario_tasks(name: str, labels: FindingLabels, example: ExampleArguments, seed: int) -> list[IncrementalTask]:
    """The tasks of a scenario."""
    cut_seed = seed if example.shuffle else None
    makers: dict[str, Callable[[], list[IncrementalTask]]] = {
        "class-incremental": lambda: class_incremental(labels, example.order, cut_seed),
        "label-incremental": lambda: label_incremental(labels, example.order, cut_seed),
        "data-incremental": lambda: data_incremental(labels, example.n_parts, cut_seed),
        "joint": lambda: joint(labels),
    }
    if name not in makers:
        raise ClipAlignError(f"no scenario {name!r}: there are {', '.join(makers)}")
    return makers[name]()


def build_trainer(
    name: str, problem: Problem, example: ExampleArguments, training: RETuneTrainingArguments
) -> RETuneTrainer:
    """A fresh adapter and its trainer; every scenario has a folder of its own."""
    own = {**vars(training), "output_dir": str(Path(training.output_dir or "retune") / name)}
    fields = RETuneTrainingArguments.__dataclass_fields__
    settings = RETuneTrainingArguments(**{key: own[key] for key in fields if fields[key].init and key in own})
    set_seed(settings.seed)  # before the adapter is drawn
    config = RETuneConfig(adapter=example.adapter, sides=example.sides, identity_start=example.identity_start)
    return RETuneTrainer(
        get_peft_model(load_model(problem.model_source), config),
        settings,
        prompts=problem.prompts,
        train_dataset=problem.train,
        eval_dataset=problem.test,
        tasks=scenario_tasks(name, problem.train.labels, example, settings.seed),
        processing_class=problem.processor,
        scenario=name,
    )


def run_scenario(
    name: str, problem: Problem, example: ExampleArguments, training: RETuneTrainingArguments, command: str
) -> RETuneTrainer:
    """Learns the tasks of a scenario and measures every finding; the adapter and its card are in its folder."""
    trainer = build_trainer(name, problem, example, training)
    trainer.train(resume_from_checkpoint=example.resume)
    measure_findings(trainer, problem.test, problem.validation, example.resamples)
    trainer.create_model_card(command=command)
    return trainer


def show(trainer: RETuneTrainer, bounds: dict[str, Any]) -> None:
    """Prints the matrix with its bounds, and the findings one by one, as `clipalign findings` does."""
    result, clinical = trainer.result, trainer.clinical
    assert result is not None
    Console().print(result.table("auroc", bounds).to_rich(f"{result.scenario}: AUROC after every task, %"))
    Console().print(clinical.ranking_table().to_rich(f"{result.scenario}: every finding after the last task"))
    Console().print(clinical.threshold_table().to_rich())
    print(f"{result.scenario}: {clinical.verdict}")


def main(argv: list[str] | None = None) -> list[IncrementalResult]:
    argv = sys.argv[1:] if argv is None else argv
    example, training = parse(argv)
    folder = Path(training.output_dir or "retune")
    problem = own_problem(example) if has_own_data(example) else mini_problem(folder)
    command = describe_run(["python", "examples/train_retune.py", *argv])
    upper = run_scenario("joint", problem, example, training, command).result
    assert upper is not None
    bounds = {"joint training": {**_last(upper), **upper.means[-1]}}
    trainers = [run_scenario(name, problem, example, training, command) for name in example.scenarios]
    results = [trainer.result for trainer in trainers if trainer.result is not None]
    if training.process_index:  # the first of several processes shows and writes
        return results
    for trainer in trainers:
        show(trainer, bounds)
    page = write_incremental_report(
        folder,
        results,
        bounds,
        lead=f"{command}. Research software, not for diagnosis. "
        f"{len(problem.train):,} images to learn from, {len(problem.test):,} to test on.",
        first=[findings_section(trainer, f"Each finding after {trainer.result.scenario}") for trainer in trainers],
    )
    print(f"Report: {page}; adapters: {', '.join(str(folder / name) for name in example.scenarios)}")
    return results


def _last(result: IncrementalResult) -> dict[str, dict[str, float]]:
    """Scores by finding after the last task."""
    return {metric: dict(zip(result.findings, rows[-1], strict=True)) for metric, rows in result.scores.items()}


if __name__ == "__main__":
    try:
        main()
    except ClipAlignError as error:
        sys.exit(f"error: {error}")
