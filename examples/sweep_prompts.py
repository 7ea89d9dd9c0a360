"""Learns many prompts and puts them into tables: data sets × methods × seeds × (labels, KDPL, class names unknown).

    python examples/sweep_prompts.py --methods coop maple --seeds 1 2 3 --output runs/sweep

runs on the built-in set. On other data sets (folders, Hub ids, parquet files), with any flags of `train_kdpl.py`
behind `--`:

    python examples/sweep_prompts.py --datasets pets flowers --modes labels kdpl --per_class --output runs/sweep \
        -- --student openai/clip-vit-base-patch32 --teacher laion/CLIP-ViT-H-14-laion2B-s32B-b79K --shots 16

Every finished run is one file of `OUTPUT/rows`, written in full or not at all; a second call skips what is done and
resumes what was stopped in the middle. Tables (`DATASET.md`, `.csv`, `.json`) have mean ± std over the seeds, and
`DATASET-intervals.md` 95 % bootstrap intervals over the images; `--per_class` and `--confusion` add CSV files.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import train_kdpl

from hf_clipalign import ClipAlignError
from hf_clipalign.evaluation import ResultTable, zero_shot_logits
from hf_clipalign.metrics import bootstrap_interval
from hf_clipalign.trainers import METHODS
from hf_clipalign.trainers.checkpoints import whole_checkpoints

MODES = {"labels": ["--labels"], "kdpl": [], "agnostic": ["--class_agnostic"]}


def parse(argv: list[str]) -> argparse.Namespace:
    """The flags of the sweep, and under `flags` those of every run."""
    own, flags = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=[train_kdpl.MINI], help="as --dataset of train_kdpl.py")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--output", type=Path, required=True, help="folder of rows and tables")
    parser.add_argument("--per_class", action="store_true", help="accuracy of every class, as CSV")
    parser.add_argument("--confusion", action="store_true", help="how often each class is taken for which, as CSV")
    args = parser.parse_args(own)
    for owned in ("--dataset", "--method", "--seed", "--output_dir", "--labels", "--class_agnostic"):
        if any(flag == owned or flag.startswith(f"{owned}=") for flag in flags):
            raise ClipAlignError(f"the sweep sets {owned} itself: use its own flags instead")
    args.flags = flags
    return args


def is_first_process() -> bool:
    """Whether this process writes and prints: the only one, or the first that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def short_name(dataset: str) -> str:
    """A data set's name as part of file names."""
    return "-".join(part for part in dataset.replace("\\", "/").split("/") if part.strip("."))


def finished(file: Path, flags: list[str]) -> dict[str, Any] | None:
    """A row that is done, or None.

    Raises:
        `ClipAlignError`: it was made with other flags, so it does not belong into the same table.
    """
    if not file.is_file():
        return None
    row = json.loads(file.read_text(encoding="utf-8"))
    if row["flags"] != flags:
        raise ClipAlignError(f"{file} was made with other flags ({' '.join(row['flags'])}): give another --output")
    return row


def learn(dataset: str, method: str, mode: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One run: scores by row and test, and what the adapter says of every image."""
    folder = args.output / "runs" / f"{short_name(dataset)}-{method}-{mode}-{seed}"
    own = ["--dataset", dataset, "--method", method, "--seed", str(seed), "--output_dir", str(folder)]
    resume = ["--resume_from_checkpoint", "true"] if whole_checkpoints(folder) else []
    outcome = train_kdpl.run([*own, *MODES[mode], *args.flags, *resume])
    model, processor = outcome.trainer.peft_model.eval(), outcome.trainer.processing_class
    tests = {}
    for part, source in outcome.task.tests.items():
        logits = zero_shot_logits(model, processor, source, source.class_names)
        tests[part] = {
            "classes": list(source.class_names),
            "ids": list(source.ids),
            "labels": [int(label) for label in source.labels],
            "predictions": logits.argmax(dim=1).tolist(),
        }
    scores = {row: {test: seeds[seed] for test, seeds in tests.items()} for row, tests in outcome.table.scores.items()}
    return {
        "flags": args.flags,
        "row": outcome.row,
        "scores": scores,
        "verdict": str(outcome.verdict or ""),
        "tests": tests,
    }


def write(file: Path, text: str) -> None:
    """Writes a file in full or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, staging = tempfile.mkstemp(dir=file.parent, suffix=".part")
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
        stream.write(text)
    os.replace(staging, file)


def write_csv(file: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    """Writes a table as CSV."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    write(file, stream.getvalue())


def write_tables(dataset: str, rows: dict[tuple[str, int], dict[str, Any]], args: argparse.Namespace) -> ResultTable:
    """Everything about one data set."""
    table = ResultTable(
        f"Learned prompts on {dataset}", note=f"Flags of every run: `{' '.join(args.flags) or 'none'}`."
    )
    for (_, seed), row in rows.items():
        for name, scores in row["scores"].items():
            table.add(name, scores, seed=seed)
    stem = args.output / short_name(dataset)
    for ending in (".md", ".csv", ".json"):
        table.save(stem.with_name(stem.name + ending))
    write(stem.with_name(stem.name + "-intervals.md"), interval_table(rows))
    if args.per_class:
        write_csv(
            stem.with_name(stem.name + "-classes.csv"),
            ["row", "test", "class", "images", "right"],
            [[*key, sum(counts.values()), counts[True]] for key, counts in by_class(rows).items()],
        )
    if args.confusion:
        write_csv(
            stem.with_name(stem.name + "-confusion.csv"),
            ["row", "test", "class", "taken for", "images"],
            [[*key, count] for key, count in sorted(confusions(rows).items())],
        )
    return table


def predictions(rows: dict[tuple[str, int], dict[str, Any]]) -> Iterable[tuple[str, str, str, str, str]]:
    """(row, test, image, its class, what it is taken for) over all seeds."""
    for row in rows.values():
        for test, said in row["tests"].items():
            names = said["classes"]
            for image, label, prediction in zip(said["ids"], said["labels"], said["predictions"], strict=True):
                yield row["row"], test, image, names[label], names[prediction]


def by_class(rows: dict[tuple[str, int], dict[str, Any]]) -> dict[tuple[str, str, str], Counter[bool]]:
    """Right and wrong images of every class."""
    counts: dict[tuple[str, str, str], Counter[bool]] = {}
    for row, test, _, name, taken_for in predictions(rows):
        counts.setdefault((row, test, name), Counter())[name == taken_for] += 1
    return counts


def confusions(rows: dict[tuple[str, int], dict[str, Any]]) -> Counter[tuple[str, str, str, str]]:
    """How often each class is taken for which."""
    return Counter((row, test, name, taken_for) for row, test, _, name, taken_for in predictions(rows))


def interval_table(rows: dict[tuple[str, int], dict[str, Any]]) -> str:
    """Accuracy with 95 % intervals, as Markdown: images are resampled, with all seeds that saw them."""
    seen: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    for row, test, image, name, taken_for in predictions(rows):
        seen.setdefault((row, test), []).append((image, name == taken_for))
    lines = ["| method | test | accuracy, % | 95 % interval |", "| --- | --- | --- | --- |"]
    for (row, test), images in seen.items():
        groups = {image: number for number, image in enumerate(dict.fromkeys(image for image, _ in images))}
        right = [float(is_right) for _, is_right in images]
        mean, low, high = bootstrap_interval(right, [groups[image] for image, _ in images])
        lines.append(f"| {row} | {test} | {100 * mean:.1f} | {100 * low:.1f} to {100 * high:.1f} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> dict[str, ResultTable]:
    args = parse(sys.argv[1:] if argv is None else argv)
    tables = {}
    for dataset in args.datasets:
        rows = {}
        for seed, method, mode in itertools.product(args.seeds, args.methods, args.modes):
            file = args.output / "rows" / f"{short_name(dataset)}-{method}-{mode}-{seed}.json"
            row = finished(file, args.flags)
            if row is None:
                row = learn(dataset, method, mode, seed, args)
                if is_first_process():
                    write(file, json.dumps(row))
            rows[f"{method}-{mode}", seed] = row
            if is_first_process():
                tables[dataset] = write_tables(dataset, rows, args)
        if is_first_process():
            print(tables[dataset].to_markdown())
    return tables


if __name__ == "__main__":
    try:
        main()
    except ClipAlignError as error:
        sys.exit(f"error: {error}")
