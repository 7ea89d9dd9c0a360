"""Fine-tunes a CLIP at several temperatures and shows what that does to the modality gap and to OTI (Cross the Gap).

    python examples/finetune_contrastive.py

runs on the built-in emoji and the built-in student model (some minutes on a CPU): temperature 1, 0.01, learned, and
0.01 with a SimCLR term between two views of the images. One table shows, for the model before and after each run,
the gap, image-image retrieval with and without OTI, and zero-shot accuracy, on emoji that no model was trained on. On
your own captioned images (a Hub id or a parquet file) with a labelled test split:

    accelerate launch examples/finetune_contrastive.py --dataset owner/name --text_column caption \
        --label_column label --model openai/clip-vit-base-patch32 --template "a photo of {}" --steps 150 --bf16 \
        --per_device_train_batch_size 512 --cache_chunk_size 64 --num_train_epochs 5 --output_dir runs/gap

All flags of the Trainer and of `ContrastiveTrainingArguments` work; those that a run sets itself (temperature, image
term) are its own. `--runs` chooses some of the runs.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch.nn import functional as F
from transformers import HfArgumentParser, set_seed

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder, load_model, load_processor
from hf_clipalign.data import ImageSource, from_dataset, load_mini, open_source, take, with_captions
from hf_clipalign.evaluation import ReportTable, compare_methods, retrieval_task, zero_shot_weights
from hf_clipalign.features import extract_image_features
from hf_clipalign.hub import describe_run
from hf_clipalign.metrics import modality_gap
from hf_clipalign.trainers import ContrastiveTrainer, ContrastiveTrainingArguments

MINI = "mini"
RUNS: dict[str, dict[str, Any]] = {
    "tau-1": {"temperature": 1.0, "temperature_mode": "fixed"},
    "tau-0.01": {"temperature": 0.01, "temperature_mode": "fixed"},
    "tau-learned": {"temperature": 0.07, "temperature_mode": "clamped"},
    "tau-0.01-simclr": {
        "temperature": 0.01,
        "temperature_mode": "fixed",
        "image_term_weight": 1.0,
        "augment": True,
    },
}
MINI_DEFAULTS = {
    "output_dir": "contrastive-mini",
    "num_train_epochs": 2,
    "per_device_train_batch_size": 128,
    "learning_rate": 3e-4,
    "warmup_steps": 6,
    "positives": "label",
    "crop_scale": 0.5,
    "save_strategy": "no",
    "logging_steps": 14,
}
LEGEND = (
    "τ: temperature. gap: distance of the centroids of images and prompts. apart: how often a linear classifier "
    "tells them apart, %. mAP: image-image retrieval, %. OTI: the same with inverted queries, {steps} steps. "
    "OTI − mAP: with its 95 % interval. top-1: zero-shot, %."
)
COLUMNS = {
    "temperature": "τ",
    "centroid_distance": "gap",
    "linear_separability": "apart",
    "map": "mAP",
    "map_oti": "OTI",
    "gain": "OTI − mAP",
    "accuracy": "top-1",
}


@dataclass
class ExampleArguments:
    """Options of the example itself."""

    dataset: str = field(default=MINI, metadata={"help": "Hub id or parquet; mini is the built-in set."})
    train_split: str = field(default="train", metadata={"help": "Split of a data set to learn from."})
    test_split: str = field(default="test", metadata={"help": "Labelled split of a data set to measure on."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the classes in a data set."})
    model: str | None = field(default=None, metadata={"help": "The model to fine-tune: Hub id or folder."})
    runs: list[str] = field(default_factory=lambda: list(RUNS), metadata={"help": f"Some of {', '.join(RUNS)}."})
    template: str = field(default="an emoji of {}", metadata={"help": "Prompt of a class and of OTI's token."})
    steps: int = field(default=50, metadata={"help": "Steps of OTI; the paper takes 150."})
    most_images: int | None = field(default=None, metadata={"help": "Measure on so many images only."})


def parse(argv: list[str]) -> tuple[ExampleArguments, ContrastiveTrainingArguments]:
    """The flags; for the built-in set what is not given has a value that suits it."""
    parser = HfArgumentParser((ExampleArguments, ContrastiveTrainingArguments), description=__doc__)
    parser.set_defaults(output_dir="contrastive")
    known, _ = HfArgumentParser(ExampleArguments, add_help=False).parse_known_args(argv)
    if known.dataset == MINI:
        parser.set_defaults(**MINI_DEFAULTS)
    example, training = parser.parse_args_into_dataclasses(argv)
    for name in example.runs:
        if name not in RUNS:
            raise ClipAlignError(f"no run {name!r}: there are {', '.join(RUNS)}")
    return example, training


def mini_data() -> tuple[ImageSource, ImageSource]:
    """Known emoji with a few captions each to learn from, novel emoji with their names to measure on."""
    mini = load_mini()
    known = mini.emoji_subset(split="train")
    captions = [
        [f"an emoji of {name}", name, f"a {style} emoji of {name}", f"an emoji of {', '.join([name, *keywords[:2]])}"]
        for name, style, keywords in zip(known["name"][:], known["style"][:], known["keywords"][:], strict=True)
    ]
    train = with_captions(from_dataset(known, label_column="name"), captions)
    return train, from_dataset(mini.emoji_subset(novel=True), label_column="name")


def own_data(example: ExampleArguments, training: ContrastiveTrainingArguments) -> tuple[ImageSource, ImageSource]:
    """The two splits of a data set."""
    columns = {"label_column": example.label_column, "text_column": training.text_column}
    test = open_source(example.dataset, split=example.test_split, label_column=example.label_column)
    if test.labels is None or test.class_names is None:
        raise ClipAlignError(f"{test.name}: there are no class names to measure with: name their column, label_column")
    return open_source(example.dataset, split=example.train_split, **columns), test


def measure(model: Any, processor: Any, test: ImageSource, example: ExampleArguments) -> dict[str, Any]:
    """Gap, image-image retrieval with and without OTI, and zero-shot accuracy."""
    encoder = as_dual_encoder(model)
    if example.most_images is not None:
        test = take(test, range(min(example.most_images, len(test))))
    features = extract_image_features(model, test, processor, progress=False)
    texts = zero_shot_weights(encoder, processor, test.class_names, example.template).cpu()
    with torch.no_grad():
        images = F.normalize(encoder.project_image(features.values.to(encoder.device)).cpu(), dim=-1)
    compared = compare_methods(
        encoder,
        retrieval_task(features),
        processor=processor,
        methods=("raw", "oti"),
        steps=example.steps,
        evaluate_at=sorted({round(example.steps * share) for share in (0.1, 0.25, 0.5, 0.75)} | {example.steps}),
        template=example.template,
        progress=False,
    )
    baseline, inverted = compared.retrieval.scores
    predicted = (images @ texts.T).argmax(dim=1).numpy()
    return {
        "temperature": 1 / encoder.logit_scale.item(),
        **modality_gap(images, texts),
        "map": baseline.metrics["map"],
        "map_oti": inverted.metrics["map"],
        "gain": inverted.gain,
        "gain_interval": list(inverted.gain_interval),
        "accuracy": float((predicted == features.labels).mean()),
        "curve": {str(step): score for step, score in compared.curve.items()},
    }


def fine_tune(name: str, example: ExampleArguments, training: ContrastiveTrainingArguments, train: ImageSource) -> Any:
    """One run: a fresh model, trained and saved with its card. Gives the trainer."""
    source = example.model or load_mini().student_path
    folder = Path(str(training.output_dir)) / name
    arguments = dataclasses.replace(training, output_dir=str(folder), **RUNS[name])
    set_seed(arguments.seed)
    trainer = ContrastiveTrainer(
        load_model(source, dtype=torch.float32),
        arguments,
        processing_class=load_processor(source),
        train_dataset=train,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    return trainer


def as_cells(row: dict[str, Any]) -> list[str]:
    """One line of the table as text."""
    low, high = (100 * value for value in row["gain_interval"])
    return [
        f"{row['temperature']:.2g}",
        f"{row['centroid_distance']:.2f}",
        f"{100 * row['linear_separability']:.1f}",
        f"{100 * row['map']:.1f}",
        f"{100 * row['map_oti']:.1f}",
        f"{100 * row['gain']:+.1f} [{low:+.1f},{high:+.1f}]",
        f"{100 * row['accuracy']:.1f}",
    ]


def report(rows: dict[str, dict[str, Any]], caption: str) -> ReportTable:
    """All rows as one table."""
    return ReportTable(["run", *COLUMNS.values()], [[name, *as_cells(row)] for name, row in rows.items()], caption)


def plot(rows: dict[str, dict[str, Any]]) -> Figure:
    """OTI's gain against the gap, and mAP over OTI's steps against the plain cosine."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    gap, steps = figure.subplots(1, 2)
    for number, (name, row) in enumerate(rows.items()):
        colour = f"C{number}"
        low, high = row["gain_interval"]
        bars = [[100 * (row["gain"] - low)], [100 * (high - row["gain"])]]
        gap.errorbar([row["centroid_distance"]], [100 * row["gain"]], yerr=bars, fmt="o", color=colour, label=name)
        curve = {int(step): 100 * (score - row["map"]) for step, score in row["curve"].items()}
        steps.plot(list(curve), list(curve.values()), marker="o", color=colour)
    gap.set(xlabel="modality gap: distance of the centroids", ylabel="OTI's gain, mAP points")
    steps.set(xlabel="steps of OTI", ylabel="mAP minus the plain cosine's, points")
    for axes in (gap, steps):
        axes.axhline(0, color="grey", linewidth=0.8)
    figure.legend(loc="outside lower center", ncols=len(rows))
    return figure


def main(argv: list[str] | None = None) -> dict[str, dict[str, Any]]:
    argv = sys.argv[1:] if argv is None else argv
    example, training = parse(argv)
    train, test = mini_data() if example.dataset == MINI else own_data(example, training)
    command = describe_run(["python", "examples/finetune_contrastive.py", *argv])
    source = example.model or load_mini().student_path
    model = load_model(source).to(training.device)
    rows = {"before": measure(model, load_processor(source), test, example)}
    for name in example.runs:
        trainer = fine_tune(name, example, training, train)
        rows[name] = measure(trainer.clip.eval(), trainer.processing_class, test, example)
        legend = f"{len(test)} images of {test.name}. {LEGEND.format(steps=example.steps)}"
        own = report({name: rows[name]}, legend.removesuffix("."))
        trainer.create_model_card(results=own, command=command)

    if training.process_index == 0:
        folder = Path(str(training.output_dir))
        (folder / "results.json").write_text(json.dumps({"command": command, "rows": rows}, indent=2))
        plot(rows).savefig(folder / "gap.png", dpi=120)
        Console().print(report(rows, LEGEND.format(steps=example.steps)).to_rich())
        print(f"Numbers, plot and a checkpoint of every run: {folder}")
    return rows


if __name__ == "__main__":
    try:
        main()
    except ClipAlignError as error:
        sys.exit(f"error: {error}")
