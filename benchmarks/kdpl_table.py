"""All five methods, supervised, with KDPL and with KDPL without class names, on the built-in set, three seeds.

    OMP_NUM_THREADS=1 python benchmarks/kdpl_table.py --output runs/kdpl_table.json

Less than an hour on one core of its own. Every finished run is written at once; a second call resumes where the first
one stopped, and `--merge` takes over what calls for other methods or seeds have found.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from hf_clipalign.evaluation import ResultTable, zero_shot_accuracy
from hf_clipalign.trainers import METHODS

MODES = {"labels": ["--labels"], "KDPL": [], "KDPL, class names unknown": ["--class_agnostic"]}


def load_example() -> Any:
    """The example as a module."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    return importlib.import_module("train_kdpl")


def zero_shot(example: Any, seed: int) -> dict[str, dict[str, float]]:
    """Scores of the two models without learning."""
    arguments, training = example.parse(["--seed", str(seed)])
    student, processor, teacher, teacher_processor = example.load_models(arguments)
    tests = example.mini_task(seed).tests.items()
    pairs = {"zero-shot student": (student, processor), "zero-shot teacher": (teacher, teacher_processor)}
    return {
        name: {part: zero_shot_accuracy(*pair, source, training.template) for part, source in tests}
        for name, pair in pairs.items()
    }


def learned(example: Any, method: str, flags: list[str], seed: int, cache: str) -> dict[str, float]:
    """Scores of one learned prompt."""
    with tempfile.TemporaryDirectory() as folder:
        own = ["--method", method, "--seed", str(seed), "--output_dir", folder, *flags]
        quiet = ["--save_strategy", "no", "--disable_tqdm", "true", "--cache_dir", cache, "--report_to", "none"]
        arguments, training = example.parse([*own, *quiet, "--logging_strategy", "no"])
        task = example.mini_task(seed)
        trainer = example.build_trainer(arguments, training, task, example.load_models(arguments))
        trainer.train()
        return {part: trainer.accuracy(source) for part, source in task.tests.items()}


def save(table: ResultTable, path: Path) -> None:
    """Writes the table as JSON, Markdown and CSV."""
    for ending in (".json", ".md", ".csv"):
        table.save(path.with_suffix(ending))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the table; .md and .csv beside it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--merge", type=Path, nargs="*", default=[], help="tables of other calls to take over first")
    args = parser.parse_args()
    note = "Seen classes: the images that were learned from; with labels that is training accuracy."
    table = ResultTable("Learned prompts on the built-in set", note=note)
    if args.output.is_file():
        table = ResultTable.from_json(args.output.read_text(encoding="utf-8"))
    for other in args.merge:
        for method, row in ResultTable.from_json(other.read_text(encoding="utf-8")).scores.items():
            for test, values in row.items():
                for seed, value in values.items():
                    table.add(method, {test: value}, seed)
    example = load_example()
    cache = str(args.output.parent / "teacher")
    jobs = [(method, how, seed) for method in args.methods for seed in args.seeds for how in MODES]
    for seed in args.seeds:
        if seed not in table.scores.get("zero-shot student", {}).get("seen classes", {}):
            for name, scores in zero_shot(example, seed).items():
                table.add(name, scores, seed)
    for method, how, seed in jobs:
        name = f"{method} ({how})"
        if seed in table.scores.get(name, {}).get("seen classes", {}):
            continue
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            scores = learned(example, method, MODES[how], seed, cache)
        table.add(name, scores, seed)
        save(table, args.output)
        print(f"{name}, seed {seed}: {time.perf_counter() - start:.0f} s, {scores}", flush=True)
    save(table, args.output)
    Console().print(table.to_rich())


if __name__ == "__main__":
    main()
