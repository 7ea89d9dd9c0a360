"""Small runs of `SpectralGCDTrainer` on the built-in set, for the tests; as a script, one run that prints its result.

torchrun --standalone --nproc_per_node 2 tests/trainers/gcd/runs.py 8 /tmp/run
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_clipalign.data import GCDSplit, Mini, from_dataset, keep_classes, load_mini
from hf_clipalign.gcd import SpectralGCDModel
from hf_clipalign.trainers import SpectralGCDTrainer, SpectralGCDTrainingArguments
from tests.processes import report_what_is_left

TEMPLATE = "an emoji of {}."
CLASSES = ("animal-bird", "drink", "heart", "tool")
CONCEPTS = ("bird", "owl", "hot beverage", "bottle", "red heart", "blue heart", "hammer", "wrench", "sun", "car")


@functools.cache
def mini() -> Mini:
    """The built-in set."""
    return load_mini()


@functools.cache
def split() -> GCDSplit:
    """About 80 images of four classes, two of them known."""
    emoji = mini().emoji_subset(styles="noto")
    source = from_dataset(emoji, label_column="subgroup")
    names = list(source.class_names or ())
    return GCDSplit.from_source(keep_classes(source, [names.index(name) for name in CLASSES]), 2)


def new_model(seed: int = 0, **config: Any) -> SpectralGCDModel:
    """A fresh student with a small head."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "mlp_hidden_size": 24, "bottleneck_size": 8}
    return SpectralGCDModel.from_student(
        mini().student,
        CONCEPTS,
        split().class_names,
        split().n_novel,
        processor=mini().student_processor,
        template=TEMPLATE,
        **{**sizes, **config},
    )


def build(folder: Any, model: SpectralGCDModel | None = None, **settings: Any) -> SpectralGCDTrainer:
    """A trainer; settings that are not of its arguments go to the trainer itself."""
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 16,
        "learning_rate": 0.01,
        "warmup_teacher_epochs": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    own = ("train_dataset", "eval_dataset", "teacher", "teacher_processor", "callbacks")
    teacher = {"teacher": mini().teacher, "teacher_processor": mini().teacher_processor}
    passed = {"train_dataset": split(), **teacher, **{name: settings.pop(name) for name in own if name in settings}}
    arguments |= settings
    return SpectralGCDTrainer(model or new_model(), SpectralGCDTrainingArguments(**arguments), **passed)


def losses(trainer: SpectralGCDTrainer) -> list[float]:
    """The logged loss of every step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained(model: SpectralGCDModel) -> dict[str, Tensor]:
    """Copies of the trained parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


class Draws:
    """Records which images each step of this process sees."""

    def __init__(self, trainer: SpectralGCDTrainer):
        self.seen: list[list[int]] = []
        self._step = trainer.training_step
        trainer.training_step = self._record  # type: ignore[method-assign]

    def _record(self, model: Any, inputs: dict[str, Any], *args: Any) -> Tensor:
        self.seen.append(inputs["index"].tolist())
        return self._step(model, inputs, *args)


def run(batch: int, folder: Path) -> tuple[SpectralGCDTrainer, dict[str, Any]]:
    """A trained trainer, and what came of it."""
    trainer = build(folder, per_device_train_batch_size=batch, teacher_cache=str(folder / "teacher.safetensors"))
    draws = Draws(trainer)
    trainer.train()
    seen = torch.tensor(draws.seen)
    everywhere = trainer.accelerator.gather(seen).unflatten(0, (trainer.accelerator.num_processes, -1))
    return trainer, {
        "losses": losses(trainer),
        "parameters": {name: value.flatten().tolist() for name, value in trained(trainer.gcd_model).items()},
        "processes": trainer.args.world_size,
        "batches": everywhere.transpose(0, 1).flatten(1).tolist(),
        "scores": trainer.evaluate(),
        "profiles": trainer.gcd_model.class_profiles.flatten().tolist(),
    }


def main() -> None:
    torch.set_num_threads(1)
    report_what_is_left()
    trainer, result = run(int(sys.argv[1]), Path(sys.argv[2]))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
