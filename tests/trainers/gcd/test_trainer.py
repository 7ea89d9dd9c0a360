"""SpectralGCDTrainer on a small part of the built-in set: what moves, what stays, resume, caches, processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from hf_clipalign import ClipAlignError
from hf_clipalign.data import GCDSplit, open_source
from hf_clipalign.gcd import SpectralGCDModel
from hf_clipalign.trainers import SpectralGCDTrainingArguments, Teacher, TeacherConcepts, teacher_concepts
from hf_clipalign.trainers.gcd.data import BalancedSampler, GCDImages, random_square
from hf_clipalign.trainers.gcd.optimization import cosine_factor
from tests.processes import run_script
from tests.tiny_models import tiny_model
from tests.trainers.gcd.runs import CONCEPTS, TEMPLATE, build, losses, mini, new_model, run, split, trained

SCRIPT = Path(__file__).parent / "runs.py"
VECTORS = Path(__file__).parents[2] / "fixtures" / "spectralgcd" / "losses.npz"


# Draws and views


def test_half_of_the_draws_is_labelled_and_they_depend_on_seed_and_epoch_only() -> None:
    labelled = np.arange(4000) < 400
    sampler = BalancedSampler(labelled, seed=3)
    draws = list(sampler)
    rows = np.array([row for row, _ in draws])
    assert abs(labelled[rows].mean() - 0.5) < 0.03
    assert [number for _, number in draws] == list(range(4000))
    assert draws == list(BalancedSampler(labelled, seed=3))
    assert draws != list(BalancedSampler(labelled, seed=4))
    sampler.set_epoch(1)
    assert draws != list(sampler)


@pytest.mark.parametrize("labelled", [np.zeros(50, dtype=bool), np.ones(50, dtype=bool)])
def test_draws_where_all_or_none_are_labelled(labelled: np.ndarray) -> None:
    assert BalancedSampler(labelled, seed=0).probabilities == pytest.approx(np.full(50, 1 / 50))


def test_squares_keep_their_share_and_stay_inside() -> None:
    generator = np.random.default_rng(0)
    boxes = [random_square((40, 24), generator, 0.875)[0] for _ in range(200)]
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes} == {(21, 21)}
    assert {min(values) for values in zip(*boxes, strict=True)} >= {0}
    assert max(box[2] for box in boxes) == 40
    assert max(box[3] for box in boxes) == 24
    assert random_square((9, 9), generator, 1.0)[0] == (0, 0, 9, 9)


def test_two_views_differ_by_draw_and_epoch_and_come_back() -> None:
    images = GCDImages(split(), mini().student_processor.image_processor, 48)
    item = images[(3, 0)]
    assert item["view_1"].shape == (3, 48, 48)
    assert not torch.equal(item["view_1"], item["view_2"])
    assert torch.equal(item["view_1"], images[(3, 0)]["view_1"])
    assert not all(torch.equal(item[view], images[(3, 7)][view]) for view in ("view_1", "view_2"))
    images.set_epoch(1)
    assert not all(torch.equal(item[view], images[(3, 0)][view]) for view in ("view_1", "view_2"))
    assert item["labels"] == split().training_labels[3]


def test_learning_rates_are_those_of_the_reference() -> None:
    expected = np.load(VECTORS)["lr_schedule/backbone_and_heads"]
    factors = np.array([cosine_factor(epoch, 200) for epoch in range(200)])
    np.testing.assert_allclose(factors[:, None] * [0.005, 0.1], expected, rtol=1e-5)


# Training


def test_the_head_and_the_last_block_move_and_nothing_else(tmp_path: Path) -> None:
    trainer = build(tmp_path, num_train_epochs=1)
    model = trainer.gcd_model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    block = {name for name in before if name.startswith("backbone.vision_model.encoder.layers.4.")}
    head = {name for name in before if name.startswith("head.")}
    assert changed == block | head | {"class_profiles", "overall_profile"}
    assert not model.concept_means.any()
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates == pytest.approx([0.005 * cosine_factor(1, 1), 0.01 * cosine_factor(1, 1)])
    assert len(losses(trainer)) == len(split()) // 16
    logged = trainer.state.log_history[0]
    assert {"cross_entropy", "clustering", "mean_entropy", "info_nce", "supcon", "forward_kl"} <= set(logged)
    names = [f"{tail:s}" for tail in model.class_labels()]
    assert names[:2] == split().class_names
    assert any(any(concept in name for concept in CONCEPTS) for name in names[2:])


def test_the_number_of_trained_blocks_is_a_setting(tmp_path: Path) -> None:
    head_only = trained(build(tmp_path, train_blocks=0).gcd_model)
    assert all(name.startswith("head.") for name in head_only)
    two = {name.split(".")[4] for name in trained(build(tmp_path, train_blocks=2).gcd_model) if "backbone" in name}
    assert two == {"3", "4"}
    with pytest.raises(ClipAlignError, match="has 5"):
        build(tmp_path, train_blocks=6)


def test_training_learns_the_known_classes(tmp_path: Path) -> None:
    settings = {"num_train_epochs": 8, "learning_rate": 0.03, "supervised_weight": 1.0}
    trainer = build(tmp_path, center_concepts=True, **settings)
    trainer.train()
    classes = trainer.assign_classes()
    assert np.mean(losses(trainer)[-4:]) < np.mean(losses(trainer)[:4]) - 0.5
    assert (classes[split().labelled] == split().labels[split().labelled]).mean() > 0.9
    old = split().unlabelled_rows[split().known_mask[split().unlabelled_rows]]
    assert (classes[old] == split().labels[old]).mean() > 0.6


def test_centring_takes_the_mean_of_the_untrained_student(tmp_path: Path) -> None:
    trainer = build(tmp_path, num_train_epochs=1, center_concepts=True)
    pixel_values = torch.stack([trainer._plain_images[row]["pixel_values"] for row in range(len(split()))])
    with torch.no_grad():
        before = new_model()(pixel_values).cross_modal
    trainer.train()
    means = trainer.gcd_model.concept_means
    torch.testing.assert_close(means, before.mean(dim=0), atol=1e-4, rtol=1e-5)
    trainer.train()
    assert torch.equal(trainer.gcd_model.concept_means, means)


@pytest.mark.parametrize("training", [True, False])
def test_a_look_at_the_plain_images_leaves_the_mode_of_the_model(training: bool, tmp_path: Path) -> None:
    trainer = build(tmp_path)
    trainer.gcd_model.train(training)
    trainer.assign_classes()
    assert trainer.gcd_model.training is training


def test_how_evenly_the_classes_are_filled_is_logged(tmp_path: Path) -> None:
    trainer = build(tmp_path, num_train_epochs=1, logging_steps=1)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(0.25 <= entry["largest_class"] <= 1 and 0 <= entry["empty_classes"] <= 3 for entry in logged)
    assert all(0 <= entry["class_entropy"] <= np.log(4) + 1e-9 for entry in logged)


def test_a_collapse_is_told_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = build(tmp_path, num_train_epochs=1, learning_rate=0.0, backbone_learning_rate=0.0)
    with torch.no_grad():
        trainer.gcd_model.head.projection.weight.zero_()  # the same logits for all images
    trainer.train()
    assert "100 % lie in one, 3 are empty" in str(trainer.collapse)
    assert "the classes have collapsed: all 94 images" in caplog.text
    assert "center_concepts=True" in caplog.text
    assert {entry["largest_class"] for entry in trainer.state.log_history if "loss" in entry} == {1.0}


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = build(tmp_path / "whole", save_strategy="steps", save_steps=7)
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-7"
    resumed = build(tmp_path / "resumed", new_model(seed=5))
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert 7 % (len(split()) // 16) != 0
    assert losses(resumed)[7:] == losses(whole)[7:]
    for name, value in trained(whole.gcd_model).items():
        assert torch.equal(value, trained(resumed.gcd_model)[name]), name


def test_accumulation_takes_the_mean_of_the_gradients(tmp_path: Path) -> None:
    trainer = build(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=3, max_steps=1)
    parameters = [p for p in trainer.gcd_model.parameters() if p.requires_grad]
    micro: list[list[Tensor]] = []
    updated: list[list[Tensor]] = []
    compute_loss = trainer.compute_loss

    def recorded_loss(*args: Any, **kwargs: Any) -> Tensor:
        loss = compute_loss(*args, **kwargs)
        micro.append(list(torch.autograd.grad(loss, parameters, retain_graph=True)))
        return loss

    class Recorder(TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            updated.append([p.grad.clone() for p in parameters])  # type: ignore[union-attr]

    trainer.compute_loss = recorded_loss  # type: ignore[method-assign]
    trainer.add_callback(Recorder())
    trainer.train()
    assert len(micro) == 3
    for gradient, parts in zip(updated[0], zip(*micro, strict=True), strict=True):
        torch.testing.assert_close(gradient, sum(parts) / 3, atol=1e-6, rtol=1e-4)


def test_without_distillation_no_teacher_is_needed(tmp_path: Path) -> None:
    trainer = build(tmp_path, num_train_epochs=1, distillation_weight=0.0, teacher=None, teacher_processor=None)
    trainer.train()
    assert "forward_kl" not in trainer.state.log_history[0]


def test_the_teacher_sees_the_plain_images(tmp_path: Path) -> None:
    trainer = build(tmp_path)
    index = torch.tensor([5, 2, 5])
    images = [split().source.read(row) for row in index.tolist()]
    inputs = mini().teacher_processor(images=images, return_tensors="pt")
    with torch.no_grad():
        images = mini().teacher.get_image_features(**inputs).pooler_output
        words = mini().teacher_processor(
            text=[TEMPLATE.format(c) for c in CONCEPTS], return_tensors="pt", padding=True
        )
        texts = mini().teacher.get_text_features(**words).pooler_output
    expected = torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(texts).T / 0.01
    torch.testing.assert_close(trainer.teacher_concepts().cross_modal(index), expected, atol=1e-3, rtol=1e-4)


def test_features_of_the_filter_serve_as_teacher(tmp_path: Path) -> None:
    teacher = Teacher(mini().teacher, mini().teacher_processor)
    more = teacher_concepts(teacher, split().source, ["snow", *CONCEPTS], TEMPLATE, progress=False)
    given = build(tmp_path, teacher=more.of_concepts(range(1, 11)), teacher_processor=None)
    index = torch.tensor([4, 0])
    own = build(tmp_path).teacher_concepts().cross_modal(index)
    torch.testing.assert_close(given.teacher_concepts().cross_modal(index), own, atol=1e-3, rtol=1e-5)
    with pytest.raises(ClipAlignError, match="11 concepts, but there are 94 and 10"):
        build(tmp_path, teacher=more, teacher_processor=None)


def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    trainer = build(tmp_path, num_train_epochs=1)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    loaded = SpectralGCDModel.from_pretrained(tmp_path)
    images = [split().source.read(row) for row in range(4)]
    for ours, theirs in zip(trainer.gcd_model.predict(images), loaded.predict(images), strict=True):
        assert dataclasses.replace(ours, probability=0, concepts=[]) == dataclasses.replace(
            theirs, probability=0, concepts=[]
        )
        assert ours.probability == pytest.approx(theirs.probability, abs=1e-5)
    assert "2602.17395" in (tmp_path / "README.md").read_text()


# The teacher's cache


def test_the_cache_is_written_once_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Teacher(mini().teacher, mini().teacher_processor)
    file = tmp_path / "teacher.safetensors"
    first = teacher_concepts(teacher, split().source, CONCEPTS, TEMPLATE, cache=file, progress=False)
    monkeypatch.setattr("hf_clipalign.trainers.gcd.teacher.extract_image_features", None)
    again = teacher_concepts(teacher, split().source, CONCEPTS, TEMPLATE, cache=file)
    alone = teacher_concepts(None, split().source, CONCEPTS, TEMPLATE, cache=file)
    for other in (again, alone):
        assert torch.equal(first.images, other.images)
        assert torch.equal(first.texts, other.texts)


def test_a_cache_of_something_else_is_an_error_that_says_what(tmp_path: Path) -> None:
    teacher = Teacher(mini().teacher, mini().teacher_processor)
    student = Teacher(mini().student, mini().student_processor)
    file = tmp_path / "teacher.safetensors"
    teacher_concepts(teacher, split().source, CONCEPTS, TEMPLATE, cache=file, progress=False)
    other = GCDSplit.from_source(split().source, 2).source
    other = dataclasses.replace(split(), source=other).source
    cases: list[tuple[Any, Any, Any, str]] = [
        (student, CONCEPTS, TEMPLATE, "another teacher .* and another image processing"),
        (teacher, CONCEPTS[:-1], TEMPLATE, "other concepts or another template"),
        (teacher, CONCEPTS, "a photo of a {} .", "other concepts or another template"),
    ]
    for model, concepts, template, message in cases:
        with pytest.raises(ClipAlignError, match=message):
            teacher_concepts(model, other, concepts, template, cache=file)
    file.write_bytes(b"no tensors")
    with pytest.raises(ClipAlignError, match="damaged: delete it"):
        teacher_concepts(teacher, other, CONCEPTS, TEMPLATE, cache=file)


def test_the_cache_holds_features_and_what_they_belong_to(tmp_path: Path) -> None:
    teacher = Teacher(mini().teacher, mini().teacher_processor)
    file = tmp_path / "teacher.safetensors"
    teacher_concepts(teacher, split().source, CONCEPTS, TEMPLATE, cache=file, progress=False)
    tensors = load_file(file)
    assert tensors["images"].shape == (len(split()), 128)
    save_file(tensors, file)
    with pytest.raises(ClipAlignError, match="holds no features of a teacher of this version"):
        teacher_concepts(teacher, split().source, CONCEPTS, TEMPLATE, cache=file)


@pytest.mark.parametrize("name", ["images", "texts"])
@pytest.mark.parametrize("spoil", [lambda rows: rows[:-1], lambda rows: rows * np.nan, lambda rows: rows[:, :-1]])
def test_a_cache_with_other_features_is_damaged_and_made_again(
    name: str, spoil: Callable[[Tensor], Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = Teacher(mini().teacher, mini().teacher_processor)
    file = tmp_path / "teacher.safetensors"
    first = teacher_concepts(teacher, split().source, CONCEPTS, TEMPLATE, cache=file, progress=False)
    with safe_open(file, framework="pt") as stored:
        keys = stored.metadata()
    tensors = load_file(file)
    save_file({**tensors, name: spoil(tensors[name]).contiguous()}, file, metadata=keys)
    with pytest.raises(ClipAlignError, match="damaged: delete it"):
        teacher_concepts(None, split().source, CONCEPTS, TEMPLATE, cache=file)
    again = teacher_concepts(teacher, split().source, CONCEPTS, TEMPLATE, cache=file, progress=False)
    assert torch.equal(again.images, first.images)
    assert torch.equal(again.texts, first.texts)
    assert "teacher.safetensors is damaged" in caplog.text


def test_all_images_that_cannot_be_read_are_told_at_once(tmp_path: Path) -> None:
    for row in range(6):
        file = tmp_path / f"{row}.png"
        split().source.read(row).save(file) if row < 2 else file.write_bytes(b"no image")
    teacher = Teacher(mini().teacher, mini().teacher_processor)
    with pytest.raises(ClipAlignError, match=r"4 of 6 images .* leave them out\. .*2.png.*; and 1 more"):
        teacher_concepts(teacher, open_source(tmp_path), CONCEPTS, TEMPLATE, progress=False)


# Bad input


def test_bad_input(tmp_path: Path) -> None:
    others = GCDSplit.from_source(split().source, ["tool"])
    nobody_knows = dataclasses.replace(split(), labels=split().training_labels)
    flexible = SpectralGCDModel.from_student(
        *(tiny_model("siglip2"), CONCEPTS, split().class_names, 2), processor=None, concept_features=torch.rand(10, 32)
    )
    many = SpectralGCDModel.from_student(
        *(mini().student, CONCEPTS, split().class_names, 1000), processor=mini().student_processor, template=TEMPLATE
    )
    nan = torch.full((len(split()), 128), float("nan"))
    cases: list[tuple[Any, str]] = [
        (lambda: build(tmp_path, train_dataset=others), "class_names=split.class_names"),
        (lambda: build(tmp_path, train_dataset=split().source), "make a GCDSplit"),
        (lambda: build(tmp_path, flexible), "fixed image size"),
        (lambda: build(tmp_path, many), "1002 classes cannot be found"),
        (lambda: build(tmp_path, per_device_train_batch_size=512), "do not fill one batch"),
        (lambda: build(tmp_path, teacher=None, teacher_processor=None).train(), "nothing to distil from"),
        (lambda: build(tmp_path, train_dataset=nobody_knows).evaluate(), "true classes"),
        (lambda: build(tmp_path, learning_rate=1e30).train(), "rate .*1e.30.*Lower learning_rate and backbone"),
        (lambda: build(tmp_path, eval_dataset=split()), "eval_dataset cannot be given: evaluate"),
        (lambda: build(tmp_path).evaluate(others), "evaluate takes no other data"),
        (lambda: build(tmp_path).predict(split()), "has no predict: .* gcd_model.predict"),
        (lambda: build(tmp_path, teacher_cache=str(tmp_path)).train(), "is a folder: name a file in it"),
        (lambda: build(tmp_path, teacher=TeacherConcepts(nan, nan[:10], 1.0)), "teacher's image features holds NaN"),
        (lambda: build(tmp_path, mini().student), "make a SpectralGCDModel of it"),
        (lambda: flexible.predict(pixel_values=torch.zeros(1, 3, 32, 32)), "takes images of any shape"),
    ]
    for call, message in cases:
        with pytest.raises(ClipAlignError, match=message):
            call()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate is -1"),
        ({"lr_scheduler_type": "constant"}, "lr_scheduler_type and warmup_steps do nothing"),
        ({"warmup_steps": 10}, "lr_scheduler_type and warmup_steps do nothing"),
        ({"crop_share": 0.0}, "crop_share"),
        ({"supervised_weight": 1.5}, "supervised_weight"),
        ({"student_temperature": 0.0}, "student_temperature"),
        ({"train_blocks": -1}, "train_blocks"),
        ({"distillation_weight": float("nan")}, "distillation_weight is nan"),
        ({"distillation_weight": -1.0}, "distillation_weight is -1"),
        ({"mean_entropy_weight": float("nan")}, "mean_entropy_weight is nan"),
        ({"momentum": -0.1}, "momentum is -0.1"),
        ({"rate_floor": -0.5}, "rate_floor is -0.5"),
        ({"warmup_teacher_epochs": -1}, "warmup_teacher_epochs is -1"),
        ({"teacher_temperature": float("inf")}, "teacher_temperature is inf"),
        ({"dataloader_drop_last": False}, "dataloader_drop_last"),
        ({"remove_unused_columns": True}, "remove_unused_columns"),
    ],
)
def test_contradictory_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ClipAlignError, match=message):
        SpectralGCDTrainingArguments(output_dir="x", **settings)


def test_presets() -> None:
    assert SpectralGCDTrainingArguments.preset("cifar100", output_dir="x").mean_entropy_weight == 4.0
    with pytest.raises(ClipAlignError, match="there are cifar10"):
        SpectralGCDTrainingArguments.preset("mnist", output_dir="x")


# Several processes


@pytest.mark.slow
def test_two_processes_are_one_with_the_doubled_batch(tmp_path: Path) -> None:
    _, one = run(16, tmp_path / "one")
    two = run_script(SCRIPT, 8, tmp_path / "two", processes=2)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert len(one["losses"]) >= 6
    assert two["batches"] == one["batches"]
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)
    assert two["scores"] == pytest.approx(one["scores"])
    assert two["profiles"] == pytest.approx(one["profiles"], abs=1e-4)
    for name, value in one["parameters"].items():
        assert np.abs(np.array(value) - np.array(two["parameters"][name])).max() < 1e-4, name
