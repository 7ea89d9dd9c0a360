"""Both prompt trainers: what they learn, checkpoints, resuming, accumulation, averages, evaluation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch.nn import functional as F
from transformers import AutoModel, TrainerCallback

from hf_clipalign import ClipAlignError
from hf_clipalign.data import fill, keep_classes
from hf_clipalign.losses import kdpl_loss, select_classes
from hf_clipalign.trainers.checkpoints import last_good_checkpoint
from tests.trainers.prompts.runs import (
    CONFIGS,
    MODES,
    N_CLASSES,
    N_IMAGES,
    build,
    images,
    losses,
    mini,
    prompts,
    student,
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", CONFIGS)
def test_every_prompt_moves_and_nothing_else(method: str, mode: str, tmp_path: Path) -> None:
    trainer = build(mode, tmp_path, method, num_train_epochs=1)
    before = {name: p.detach().clone() for name, p in trainer.peft_model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.peft_model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == parameter.requires_grad, name
    assert len(losses(trainer)) == 3


def test_training_lowers_the_loss_of_each_kind(tmp_path: Path) -> None:
    for mode in MODES:
        trainer = build(mode, tmp_path, "maple", num_train_epochs=6, augment=False)
        trainer.train()
        values = losses(trainer)
        assert np.mean(values[-3:]) < 0.9 * np.mean(values[:3]), mode


def one_batch(trainer) -> dict:
    return next(iter(trainer.get_train_dataloader()))


def stock_logits(which: str, pixels: torch.Tensor, names: list[str]) -> torch.Tensor:
    model, processor = getattr(mini(), which), getattr(mini(), f"{which}_processor")
    inputs = processor(text=fill("an emoji of {}.", names), return_tensors="pt", padding=True)
    with torch.no_grad():
        return model(pixel_values=pixels, **inputs).logits_per_image


def test_first_supervised_loss_is_the_stock_models_cross_entropy(tmp_path: Path) -> None:
    trainer = build("supervised", tmp_path)
    batch = one_batch(trainer)
    logits = stock_logits("student", batch["pixel_values"], images().class_names)
    expected = F.cross_entropy(logits, batch["labels"])
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected, atol=1e-4, rtol=1e-4)


def test_first_kdpl_loss_uses_the_students_scale_for_both(tmp_path: Path) -> None:
    scale = mini().student.logit_scale.data.clone()
    try:
        mini().student.logit_scale.data = scale - 1.0  # so that the two models differ in it
        trainer = build("kdpl", tmp_path)
        batch = one_batch(trainer)
        student_logits = stock_logits("student", batch["pixel_values"], images().class_names)
        teacher_logits = stock_logits("teacher", batch["teacher_pixel_values"], images().class_names)
        teacher_logits = teacher_logits * (mini().student.logit_scale - mini().teacher.logit_scale).exp()
        expected = kdpl_loss(student_logits, teacher_logits.detach())["loss"]
        torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected, atol=1e-4, rtol=1e-3)
    finally:
        mini().student.logit_scale.data = scale


def test_first_agnostic_loss_is_over_the_chosen_concepts(tmp_path: Path) -> None:
    trainer = build("agnostic", tmp_path, teacher_template="an emoji of {}.")
    batch = one_batch(trainer)
    names = mini().concepts.known[:200]
    teacher_logits = stock_logits("teacher", batch["teacher_pixel_values"], names)
    kept = select_classes(teacher_logits, 40)
    student_logits = stock_logits("student", batch["pixel_values"], names)[:, kept]
    expected = kdpl_loss(student_logits, teacher_logits[:, kept])["loss"]
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected, atol=1e-4, rtol=1e-3)


def test_labels_are_not_read_by_kdpl(tmp_path: Path) -> None:
    results = []
    for labels in (images().labels, None, images().labels[::-1].copy()):
        source = keep_classes(images(), range(N_CLASSES))
        source.labels = labels
        trainer = build("kdpl", tmp_path, train_dataset=source, class_names=images().class_names, num_train_epochs=1)
        trainer.train()
        results.append(losses(trainer))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("mode", MODES)
def test_accumulation_gives_the_update_of_a_big_batch(mode: str, tmp_path: Path) -> None:
    whole = build(mode, tmp_path, num_train_epochs=1)
    whole.train()
    parts = build(mode, tmp_path, num_train_epochs=1, per_device_train_batch_size=4, gradient_accumulation_steps=3)
    parts.train()
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-4)
    start = prompts(build(mode, tmp_path))
    for name, value in prompts(whole).items():
        torch.testing.assert_close(prompts(parts)[name], value, atol=1e-6, rtol=1e-4)
        assert (value - start[name]).abs().max() > 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_resumed_is_uninterrupted(mode: str, tmp_path: Path) -> None:
    settings = {
        "num_train_epochs": 3,
        "save_strategy": "steps",
        "save_steps": 4,  # in the middle of the second epoch
        "save_total_limit": None,
        "gaussian_mean": 2.0,
        "gaussian_std": 1.0,
        "dataloader_num_workers": 1,
    }
    straight = build(mode, tmp_path, "promptsrc", **settings)
    straight.train()
    resumed = build(mode, tmp_path, "promptsrc", model=student("promptsrc", seed=99), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert losses(resumed)[4:] == losses(straight)[4:]
    for name, value in prompts(straight).items():
        assert torch.equal(prompts(resumed)[name], value), name


def test_checkpoints_hold_adapters_only_and_no_pickled_settings(tmp_path: Path) -> None:
    trainer = build("kdpl", tmp_path, save_strategy="epoch", gaussian_mean=1.0, gaussian_std=1.0)
    trainer.train()
    files = {file.name for file in (tmp_path / "checkpoint-3").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "prompt_average.safetensors"} <= files
    assert not {name for name in files if name.startswith(("model", "pytorch", "training_args.bin"))}
    assert (tmp_path / "checkpoint-3" / "adapter_model.safetensors").stat().st_size < 10_000


def test_saved_prompt_is_an_ordinary_adapter(tmp_path: Path) -> None:
    trainer = build("kdpl", tmp_path)
    trainer.train()
    trainer.save_model()
    base = AutoModel.from_pretrained(mini().student_path)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    inputs = mini().student_processor(
        text=fill("an emoji of {}.", images().class_names),
        images=[images().read(row) for row in range(4)],
        return_tensors="pt",
        padding=True,
    )
    with torch.no_grad():
        logits = loaded(**inputs).logits_per_image
        expected = trainer.model.eval()(inputs["pixel_values"])["logits"]
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-4)
    assert (tmp_path / "tokenizer.json").is_file()


def test_average_is_of_the_epochs_ends(tmp_path: Path) -> None:
    weights = {1: math.exp(-0.5), 2: 1.0}
    trainer = build("supervised", tmp_path, save_strategy="epoch", gaussian_mean=2.0, gaussian_std=1.0)
    trainer.train()
    base = AutoModel.from_pretrained(mini().student_path)
    parts = []
    for epoch, weight in weights.items():
        loaded = PeftModel.from_pretrained(base, tmp_path / f"checkpoint-{3 * epoch}", adapter_name=f"e{epoch}")
        context = next(p for name, p in loaded.named_parameters() if name.endswith(f".e{epoch}"))
        parts.append(weight / sum(weights.values()) * context.detach())
        base = loaded.unload()
    (value,) = prompts(trainer).values()
    torch.testing.assert_close(value, sum(parts), atol=1e-6, rtol=1e-5)


def test_accuracy_among_other_classes_counts_every_image(tmp_path: Path) -> None:
    trainer = build("kdpl", tmp_path, train_dataset=keep_classes(images(), range(8)))
    unseen = keep_classes(images(), range(5, 12))
    pixels = torch.stack([trainer._images(unseen, trainer.args, False)[row]["pixel_values"] for row in range(21)])
    predicted = stock_logits("student", pixels, unseen.class_names).argmax(1).numpy()
    assert trainer.accuracy(unseen) == pytest.approx((predicted == unseen.labels).mean())
    scores = trainer.evaluate({"seen": keep_classes(images(), range(8)), "unseen": unseen})
    assert scores["eval_unseen_accuracy"] == pytest.approx((predicted == unseen.labels).mean())
    assert 0 < scores["eval_seen_loss"] < 5


def test_accuracy_follows_the_prompts(tmp_path: Path) -> None:
    trainer = build("supervised", tmp_path, augment=False, num_train_epochs=6, learning_rate=0.05)
    before = trainer.evaluate(images())
    trainer.train()
    after = trainer.evaluate(images())
    assert after["eval_loss"] < 0.8 * before["eval_loss"]


def test_datasets_library_and_workers(tmp_path: Path) -> None:
    emoji = (
        mini().emoji_subset(split="train").select(range(24)).class_encode_column("name").rename_column("name", "label")
    )
    trainer = build("supervised", tmp_path, train_dataset=emoji, num_train_epochs=1, dataloader_num_workers=2)
    trainer.train()
    assert len(losses(trainer)) == 2


def test_views_do_not_depend_on_workers(tmp_path: Path) -> None:
    alone = build("supervised", tmp_path)
    alone.train()
    with_workers = build("supervised", tmp_path, dataloader_num_workers=2, dataloader_persistent_workers=True)
    with_workers.train()
    assert losses(with_workers) == losses(alone)


@pytest.mark.slow
def test_ready_made_tensors_can_be_trained_on(tmp_path: Path) -> None:
    dataset = build("kdpl", tmp_path, augment=False, cache_image_features=False).train_dataset
    items = [dataset[row] for row in range(N_IMAGES)]
    trainer = build("kdpl", tmp_path, train_dataset=items, class_names=images().class_names)
    trainer.train()
    reference = build("kdpl", tmp_path, augment=False, cache_image_features=False)
    reference.train()
    assert losses(trainer) == losses(reference)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_mixed_precision_and_checkpointed_activations(dtype: str, tmp_path: Path) -> None:
    trainer = build(
        "kdpl", tmp_path, "maple", bf16=dtype == "bfloat16", gradient_checkpointing=True, num_train_epochs=1
    )
    trainer.train()
    plain = build("kdpl", tmp_path, "maple", num_train_epochs=1)
    plain.train()
    assert losses(trainer) == pytest.approx(losses(plain), rel=0.1 if dtype == "bfloat16" else 1e-5)


def test_loss_that_is_not_a_number_names_step_rate_and_checkpoint(tmp_path: Path) -> None:
    trainer = build("supervised", tmp_path, save_strategy="steps", save_steps=1, num_train_epochs=2)
    trainer.add_callback(_Breaks(trainer, at_step=4))
    with pytest.raises(ClipAlignError, match=r"loss is nan at step 5 with learning rate 0.005: .*checkpoint-3"):
        trainer.train()
    assert last_good_checkpoint(tmp_path).endswith("checkpoint-3")


def test_first_loss_that_is_not_a_number_has_no_checkpoint(tmp_path: Path) -> None:
    model = student()
    next(p for p in model.parameters() if p.requires_grad).data.fill_(math.nan)
    with pytest.raises(ClipAlignError, match=r"at step 1 .* no good checkpoint yet"):
        build("supervised", tmp_path, model=model).train()


class _Breaks(TrainerCallback):
    """Spoils the prompts after a step, before its checkpoint is saved."""

    def __init__(self, trainer, at_step: int):
        self.trainer, self.at_step = trainer, at_step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.at_step:
            next(p for p in self.trainer.peft_model.parameters() if p.requires_grad).data.fill_(math.nan)
