"""Small runs of the prompt trainers on the built-in set, for the tests; as a script, one run that prints its result.

torchrun --standalone --nproc_per_node 2 tests/trainers/prompts/runs.py kdpl 6 /tmp/run
"""

from __future__ import annotations

import copy
import functools
import json
import sys
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor

from hf_clipalign.data import ImageSource, Mini, from_dataset, keep_classes, load_mini
from hf_clipalign.trainers import (
    KDPLTrainer,
    KDPLTrainingArguments,
    PromptLearningTrainer,
    PromptLearningTrainingArguments,
)
from hf_clipalign.tuners import CoCoOpConfig, CoOpConfig, MaPLeConfig, PromptSRCConfig, VPTConfig
from tests.processes import report_what_is_left

N_CLASSES, N_IMAGES = 12, 36
MODES = ("supervised", "kdpl", "agnostic")
CONFIGS = {
    "coop": functools.partial(CoOpConfig, n_ctx=3, ctx_init="an emoji of"),
    "cocoop": functools.partial(CoCoOpConfig, n_ctx=3, ctx_init="an emoji of"),
    "vpt": functools.partial(VPTConfig, n_prompts=2),
    "maple": functools.partial(MaPLeConfig, n_ctx=2, ctx_init="an emoji"),
    "promptsrc": functools.partial(PromptSRCConfig, n_ctx=3, n_prompts=2, ctx_init="an emoji of"),
}


@functools.cache
def mini() -> Mini:
    """The built-in set."""
    return load_mini()


@functools.cache
def images() -> ImageSource:
    """Twelve emoji in three styles each."""
    emoji = mini().emoji_subset(split="train")
    source = from_dataset(emoji, label_column="name")
    counts = torch.bincount(torch.as_tensor(source.labels))
    return keep_classes(source, (counts == 3).nonzero().flatten()[:N_CLASSES].tolist())


def student(method: str = "coop", seed: int = 0) -> Any:
    """A fresh student with a prompt adapter."""
    torch.manual_seed(seed)
    return get_peft_model(copy.deepcopy(mini().student), CONFIGS[method]())


def build(mode: str, folder: Any, method: str = "coop", model: Any = None, **settings: Any) -> Any:
    """A trainer; settings that are not of its arguments go to the trainer itself."""
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 12,
        "learning_rate": 0.01,
        "warmup_epochs": 0,
        "template": "an emoji of {}.",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    own = ("train_dataset", "eval_dataset", "class_names", "teacher", "teacher_processor", "dictionary", "callbacks")
    passed: dict[str, Any] = {"train_dataset": images(), **{n: settings.pop(n) for n in own if n in settings}}
    arguments |= settings
    model = model or student(method)
    if mode == "supervised":
        return PromptLearningTrainer(
            model,
            PromptLearningTrainingArguments(**arguments),
            processing_class=mini().student_processor,
            **passed,
        )
    if mode == "agnostic":
        arguments = {"class_agnostic": True, "k_max": 40, **arguments}
        passed = {"dictionary": mini().concepts.known[:200], **passed}
    passed = {"teacher": mini().teacher, "teacher_processor": mini().teacher_processor, **passed}
    return KDPLTrainer(model, KDPLTrainingArguments(**arguments), processing_class=mini().student_processor, **passed)


def losses(trainer: Any) -> list[float]:
    """The logged loss of every step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def prompts(trainer: Any) -> dict[str, Tensor]:
    """Copies of the trained parameters."""
    return {name: p.detach().clone() for name, p in trainer.peft_model.named_parameters() if p.requires_grad}


def run(mode: str, batch: int, folder: Any, resume: bool = False) -> tuple[Any, dict[str, Any]]:
    """A trained trainer, and what came of it."""
    trainer = build(mode, folder, per_device_train_batch_size=batch, save_strategy="epoch")
    trainer.train(resume_from_checkpoint=resume)
    return trainer, {
        "losses": losses(trainer),
        "prompts": {name: value.flatten().tolist() for name, value in prompts(trainer).items()},
        "processes": trainer.args.world_size,
        "accuracy": trainer.accuracy(images()),
    }


def main() -> Any:
    """Returns the trainer, which lives to the end as in a script without functions."""
    torch.set_num_threads(1)
    report_what_is_left()
    mode, batch, folder = sys.argv[1:4]
    trainer, result = run(mode, int(batch), folder, resume="resume" in sys.argv[4:])
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        print("RESULT " + json.dumps(result))
    return trainer


if __name__ == "__main__":
    kept = main()
