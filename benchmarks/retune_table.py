"""RE-tune on the built-in set, three seeds: all scenarios, both bounds, and heads that are plainly fine-tuned.

    OMP_NUM_THREADS=1 python benchmarks/retune_table.py --output runs/retune_table.json

A few minutes on one core; with `--report FOLDER` also the matrices, means over the seeds, as tables and heat maps. The
seed draws the parts, the adapters and the order of the data. The heads learn on the same frozen embeddings (of unit
length) with Adam at 1e-3, the same tasks, epochs and batches: a linear layer with one output per finding, or an MLP
(d, 2d, findings) whose hidden layer the findings share. "Unlabelled is absent" is what a plain loop does with a label
that it was not given; "masked" leaves such labels out of the loss.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from hf_clipalign.data import IncrementalTask
from hf_clipalign.evaluation import IncrementalResult, ResultTable, run_incremental, write_incremental_report
from hf_clipalign.evaluation.incremental import METRICS
from hf_clipalign.evaluation.reports.plots import plot_task_matrix
from hf_clipalign.losses import masked_bce_loss

SCENARIOS = ("class-incremental", "label-incremental", "data-incremental")
ADAPTERS = {
    "RE-tune": [],
    "RE-tune, score from both prompts": ["--score", "difference"],
    "RE-tune, identity start": ["--identity_start", "true"],
    "RE-tune, linear": ["--adapter", "linear"],
}
HEADS = {
    "linear head, unlabelled is absent": (False, False),
    "linear head, masked": (False, True),
    "MLP head, masked": (True, True),
}
QUIET = ["--disable_tqdm", "true", "--report_to", "none", "--logging_strategy", "no", "--use_cpu", "true"]


def load_example() -> Any:
    """The example as a module."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    return importlib.import_module("train_retune")


class Head:
    """A classifier on frozen embeddings that is fine-tuned task by task."""

    def __init__(self, problem: Any, training: Any, hidden: bool, masked: bool):
        torch.manual_seed(training.seed)
        self.problem, self.training, self.masked = problem, training, masked
        d, n = problem.train.embeds.shape[1], len(problem.train.labels.findings)
        layers = [nn.Linear(d, 2 * d), nn.ReLU(), nn.Linear(2 * d, n)] if hidden else [nn.Linear(d, n)]
        self.model = nn.Sequential(*layers)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def learn(self, task: IncrementalTask) -> None:
        """Ten epochs on a task, as the adapters."""
        labels = self.problem.train.labels
        targets = torch.from_numpy(labels.targets())[torch.from_numpy(task.rows)]
        unseen = [column for column, name in enumerate(labels.findings) if name not in task.findings]
        targets[:, unseen] = torch.nan if self.masked else 0.0
        embeds = F.normalize(self.problem.train.embeds[torch.from_numpy(task.rows)], dim=-1)
        for _ in range(int(self.training.num_train_epochs)):
            for rows in torch.randperm(len(embeds)).split(self.training.per_device_train_batch_size):
                loss = masked_bce_loss(self.model(embeds[rows]), targets[rows])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()

    @torch.no_grad()
    def scores(self) -> tuple[Tensor, Tensor]:
        """Probabilities and hard labels of the test data."""
        probabilities = self.model(F.normalize(self.problem.test.embeds, dim=-1)).sigmoid()
        return probabilities, probabilities > 0.5


def head_result(example: Any, problem: Any, arguments: tuple[Any, Any], name: str, head: str) -> IncrementalResult:
    """A head through a scenario."""
    settings, training = arguments
    learner = Head(problem, training, *HEADS[head])
    labels = problem.test.labels
    tasks = example.scenario_tasks(name, problem.train.labels, settings, training.seed)
    return run_incremental(tasks, learner.learn, learner.scores, labels.targets(), labels.findings, name)


def columns(result: IncrementalResult, name: str) -> dict[str, float]:
    """What the table shows of a scenario."""
    found = {f"{name}: AUROC": result.means[-1]["macro_auroc"]}
    if len(result.tasks) > 1:
        found[f"{name}: forgetting"] = result.forgetting("auroc")["forgetting"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the table; .md and .csv beside it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[27, 28, 29])
    parser.add_argument("--report", type=Path, help="folder for the matrices and heat maps, means over the seeds")
    args = parser.parse_args()
    example = load_example()
    table = ResultTable("Incremental findings on the built-in set")
    runs: dict[tuple[str, str], list[IncrementalResult]] = {}
    with tempfile.TemporaryDirectory() as cache:
        problem = example.mini_problem(Path(cache))
        for seed in args.seeds:
            for method, flags in ADAPTERS.items():
                for name in (*SCENARIOS, "joint"):
                    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                        own = ["--seed", str(seed), "--output_dir", folder, *QUIET, *flags]
                        arguments = example.parse(own)
                        result = example.run_scenario(name, problem, *arguments, "")
                    zero = {f"{name}: AUROC": result.zero_shot["macro_auroc"]}
                    table.add(f"zero-shot{', both prompts' if 'both' in method else ''}", zero, seed)
                    table.add(method, columns(result, name), seed)
                    runs.setdefault((method, name), []).append(result)
            for head in HEADS:
                for name in (*SCENARIOS, "joint"):
                    result = head_result(example, problem, example.parse(["--seed", str(seed), *QUIET]), name, head)
                    table.add(head, columns(result, name), seed)
                    runs.setdefault((head, name), []).append(result)
            print(f"seed {seed} done", flush=True)
    if args.report:
        report(args.report, runs, args.seeds)
    for ending in (".json", ".md", ".csv"):
        table.save(args.output.with_suffix(ending))
    Console(width=240).print(table.to_rich())


@dataclass
class MeanResult(IncrementalResult):
    """The mean of several seeds' results, with the standard deviation of every score."""

    spread: dict[str, list[list[float]]] = field(default_factory=dict)

    @classmethod
    def of(cls, results: list[IncrementalResult], scenario: str) -> MeanResult:
        """Of results with the same tasks and findings."""
        first = results[0]
        matrices = {metric: np.stack([result.matrix(metric) for result in results]) for metric in first.scores}
        rows = zip(*(result.means for result in results), strict=True)
        return cls(
            scenario=scenario,
            findings=first.findings,
            tasks=first.tasks,
            taught=first.taught,
            zero_shot=first.zero_shot,
            undefined=first.undefined,
            scores={metric: stack.mean(axis=0).tolist() for metric, stack in matrices.items()},
            means=[{key: float(np.mean([row[key] for row in task])) for key in task[0]} for task in rows],
            spread={metric: stack.std(axis=0, ddof=1).tolist() for metric, stack in matrices.items()},
        )

    def plot(self, metric: str = "auroc") -> Any:
        """The heat map, with the spread below every mean."""
        names = (self.tasks, self.findings, self.taught, METRICS[metric])
        return plot_task_matrix(self.matrix(metric), *names, spread=self.spread[metric])


def report(folder: Path, runs: dict[tuple[str, str], list[IncrementalResult]], seeds: list[int]) -> None:
    """Matrices and heat maps: means over the seeds."""
    methods = ("RE-tune", "RE-tune, identity start", "linear head, unlabelled is absent")
    results = [MeanResult.of(runs[method, name], f"{method}, {name}") for method in methods for name in SCENARIOS]
    upper = MeanResult.of(runs["RE-tune", "joint"], "joint")
    scores = {kind: dict(zip(upper.findings, rows[-1], strict=True)) for kind, rows in upper.scores.items()}
    bounds = {"joint training": {**scores, **upper.means[-1]}}
    lead = f"Built-in set, means over the seeds {', '.join(map(str, seeds))}; forgetting is that of the mean matrix."
    write_incremental_report(folder, results, bounds, lead=lead)


if __name__ == "__main__":
    main()
