"""What cannot work is refused by name, with the way out, before any training."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import TrainingArguments

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageSource, take
from hf_clipalign.trainers import KDPLTrainingArguments, PromptLearningTrainingArguments
from tests.trainers.prompts.runs import CONFIGS, build, images, losses, mini, student


def unlabelled() -> ImageSource:
    source = take(images(), range(24))
    source.labels, source.class_names = None, None
    return source


@pytest.mark.parametrize(
    ("mode", "settings", "message"),
    [
        ("kdpl", {"train_dataset": unlabelled}, "no class names: .*class_agnostic=True"),
        ("supervised", {"train_dataset": unlabelled}, "no class names: pass class_names"),
        ("supervised", {"train_dataset": unlabelled, "class_names": ["a", "b"]}, "no labels.*KDPLTrainer"),
        ("supervised", {"class_names": ["a", "b"]}, "labels go from 0 to 11, but there are 2 class names"),
        ("kdpl", {"class_names": ["red_fox", "owl", "Red fox"]}, r"'Red fox' \(position 2, before in 0\)"),
        ("kdpl", {"class_names": ["owl", ""]}, "position 1 is blank"),
        ("kdpl", {"class_names": []}, "there are none"),
        (
            "kdpl",
            {"class_names": ["owl", "very " * 30 + "long"]},
            r"class 'very very .*tokens, but the model reads 24",
        ),
        ("agnostic", {"k_max": 201}, "k_max is 201, but the dictionary has 200 concepts"),
        ("agnostic", {"dictionary": ["cat", "CAT"]}, r"dictionary: duplicates"),
        ("kdpl", {"dictionary": ["cat", "dog"]}, "class_agnostic is False"),
        ("supervised", {"per_device_train_batch_size": 64}, "36 images do not fill one batch of 64"),
        (
            "supervised",
            {
                "gaussian_mean": 1.0,
                "gaussian_std": 1.0,
                "load_best_model_at_end": True,
                "eval_strategy": "epoch",
                "save_strategy": "epoch",
                "eval_dataset": images,
            },
            "exclude each other",
        ),
    ],
)
def test_refused_at_construction(mode: str, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    settings = {name: value() if callable(value) else value for name, value in settings.items()}
    with pytest.raises(ClipAlignError, match=message):
        build(mode, tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "a photo"}, "exactly one '{}'"),
        ({"teacher_template": "{} and {}"}, "teacher_template .* exactly one"),
        ({"crop_scale": 0.0}, "crop_scale is 0.0"),
        ({"gaussian_mean": 3.0}, "go together"),
        ({"gaussian_mean": 3.0, "gaussian_std": 0.0}, "gaussian_std is 0.0"),
        ({"cache_image_features": True}, "cannot be cached while images are augmented"),
        ({"dictionary": "words.txt"}, "only with class_agnostic=True"),
        ({"k_max": 1}, "k_max is 1"),
        ({"num_train_epochs": 2.5}, "whole epochs, not 2.5"),
        ({"remove_unused_columns": True}, "must be False"),
    ],
)
def test_contradictory_settings(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match=message):
        KDPLTrainingArguments(output_dir=str(tmp_path), **settings)


def test_accuracy_of_unlabelled_images(tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match="no labels, so there is no accuracy"):
        build("kdpl", tmp_path).accuracy(unlabelled())


def test_several_gpus_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KDPLTrainingArguments, "n_gpu", 2)
    with pytest.raises(ClipAlignError, match=r"cannot train on 2 GPUs: .*accelerate launch"):
        build("kdpl", tmp_path)


def test_bare_model_and_frozen_adapter(tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match=r"bare CLIPModel.*get_peft_model"):
        build("supervised", tmp_path, model=mini().student)
    frozen = student()
    frozen.requires_grad_(False)
    with pytest.raises(ClipAlignError, match="is_trainable=True"):
        build("supervised", tmp_path, model=frozen)


def broken() -> ImageSource:
    source = take(images(), range(36))
    items = [source.items[row] for row in range(36)]
    items[5] = items[20] = b"not an image"
    return ImageSource(items, ids=source.ids, labels=source.labels, class_names=source.class_names, name="shop")


def test_unreadable_image_stops_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match=r"shop, row"):
        build("supervised", tmp_path, train_dataset=broken()).train()


def test_unreadable_images_are_skipped_when_asked(tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        trainer = build(
            "supervised", tmp_path, train_dataset=broken(), skip_unreadable=True, per_device_train_batch_size=17
        )
    assert "skipping 2 of 36 images of shop" in caplog.text
    assert len(trainer.train_dataset) == 34
    assert np.array_equal(trainer.train_dataset.source.labels, np.delete(broken().labels, [5, 20]))
    trainer.train()
    assert len(losses(trainer)) == 4


def test_nothing_readable(tmp_path: Path) -> None:
    source = broken()
    source.items = [b"x"] * 36
    with pytest.raises(ClipAlignError, match="none of the 36 images of shop can be read"):
        build("supervised", tmp_path, train_dataset=source, skip_unreadable=True)


def test_every_setting_has_help_and_every_preset_is_valid(tmp_path: Path) -> None:
    inherited = {field.name for field in fields(TrainingArguments)}
    for kind in (PromptLearningTrainingArguments, KDPLTrainingArguments):
        own = [field for field in fields(kind) if field.name not in inherited]
        assert len(own) > 10
        assert all(len(field.metadata.get("help", "")) > 20 for field in own)
        for method in CONFIGS:
            arguments = kind.preset(method, output_dir=str(tmp_path), seed=7)
            assert arguments.seed == 7
            assert arguments.weight_decay == 5e-4
    assert KDPLTrainingArguments.preset("maple", learning_rate=1.0).learning_rate == 1.0
