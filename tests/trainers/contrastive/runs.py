"""Small contrastive runs on the built-in set, for the tests; as a script, runs that print their results.

torchrun --standalone --nproc_per_node 2 tests/trainers/contrastive/runs.py 6 /tmp/run '[{"loss": "sigmoid"}]'
"""

from __future__ import annotations

import copy
import functools
import json
import sys
from typing import Any

import torch
from torch import Tensor

from hf_clipalign.data import ImageSource, Mini, from_dataset, load_mini, take, with_captions
from hf_clipalign.trainers import ContrastiveTrainer, ContrastiveTrainingArguments
from tests.processes import report_what_is_left

N_IMAGES = 36


@functools.cache
def mini() -> Mini:
    """The built-in set."""
    return load_mini()


@functools.cache
def pairs() -> ImageSource:
    """36 emoji in several styles; each has its name and up to three keywords as captions, of uneven numbers."""
    emoji = mini().emoji_subset(split="train").select(range(N_IMAGES))
    source = from_dataset(emoji, label_column="name")
    keywords, names = emoji["keywords"][:], emoji["name"][:]
    captions = [[f"an emoji of {names[row]}", *keywords[row][: row % 4]] for row in range(N_IMAGES)]
    return with_captions(source, captions)


def few(n: int) -> ImageSource:
    """The first n pairs."""
    return take(pairs(), range(n))


def student(**changes: Any) -> Any:
    """A fresh copy of the built-in student, with other values in both towers' configurations."""
    if not changes:
        return copy.deepcopy(mini().student)
    config = copy.deepcopy(mini().student.config)
    for tower in (config.text_config, config.vision_config):
        for name, value in changes.items():
            setattr(tower, name, value)
    return type(mini().student).from_pretrained(mini().student_path, config=config, dtype=torch.float32)


def build(folder: Any, model: Any = None, **settings: Any) -> ContrastiveTrainer:
    """A trainer; settings that are not of its arguments go to the trainer itself."""
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 12,
        "learning_rate": 1e-4,
        "temperature": 0.05,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    own = ("train_dataset", "eval_dataset", "callbacks", "augmentation")
    passed = {"train_dataset": pairs(), **{name: settings.pop(name) for name in own if name in settings}}
    arguments |= settings
    return ContrastiveTrainer(
        model or student(),
        ContrastiveTrainingArguments(**arguments),
        processing_class=mini().student_processor,
        **passed,
    )


def losses(trainer: Any) -> list[float]:
    """The logged loss of every step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer: Any) -> dict[str, Tensor]:
    """Copies of all parameters, those of the loss included."""
    return {name: parameter.detach().clone() for name, parameter in trainer.learner.named_parameters()}


def evaluated(trainer: Any) -> dict[str, Any]:
    """Embeddings of 20 pairs, gathered over all processes, and the scores of an evaluation of the same."""
    prediction = trainer.predict(few(20))
    image_embeds, text_embeds = (part.tolist() for part in prediction.predictions)
    return {
        "embeds": (image_embeds, text_embeds),
        "groups": prediction.label_ids.tolist(),
        "scores": trainer.evaluate(few(20)),
    }


def main() -> None:
    torch.set_num_threads(1)
    report_what_is_left()
    results = []
    for settings in json.loads(sys.argv[3]):
        trainer = build(sys.argv[2], per_device_train_batch_size=int(sys.argv[1]), **settings)
        trainer.train()
        torch_free = {name: value.flatten().tolist() for name, value in weights(trainer).items()}
        results.append({"losses": losses(trainer), "weights": torch_free, **evaluated(trainer)})
    if trainer.is_world_process_zero():
        print("RESULT " + json.dumps(results))


if __name__ == "__main__":
    main()
