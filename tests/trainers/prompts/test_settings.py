"""Settings that were once left aside without a word: each works, or is refused in one line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch.nn import functional as F
from transformers import AutoModel

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageSource, fill, keep_classes
from hf_clipalign.evaluation import zero_shot_accuracy
from hf_clipalign.trainers import PromptLearningTrainingArguments, Teacher
from hf_clipalign.trainers.prompts.learner import PromptLearner
from hf_clipalign.tuners import CoOpConfig, VPTConfig, adapter_template
from tests.tiny_models import tiny_clip, tiny_image_processor, tiny_tokenizer
from tests.trainers.prompts.runs import N_CLASSES, build, images, losses, mini, prompts, student


def adapted(config: Any, adapter_name: str = "default") -> Any:
    torch.manual_seed(0)
    return get_peft_model(copy.deepcopy(mini().student), config, adapter_name=adapter_name)


def test_label_smoothing_is_in_the_loss(tmp_path: Path) -> None:
    trainer = build("supervised", tmp_path, label_smoothing_factor=0.2)
    batch = next(iter(trainer.get_train_dataloader()))
    logits = trainer.model(batch["pixel_values"])["logits"]
    expected = F.cross_entropy(logits, batch["labels"], label_smoothing=0.2)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected)
    with pytest.raises(ClipAlignError, match="label_smoothing_factor is for labels"):
        build("kdpl", tmp_path, label_smoothing_factor=0.2)


def test_accuracy_with_own_metrics(tmp_path: Path) -> None:
    trainer = build("supervised", tmp_path)
    expected = trainer.accuracy(images())
    trainer.compute_metrics = lambda prediction: {"images": len(prediction.label_ids)}
    assert trainer.accuracy(images()) == expected
    assert trainer.evaluate(images())["eval_images"] == len(images())


@pytest.mark.parametrize("mode", ["supervised", "kdpl"])
@pytest.mark.parametrize(
    "config",
    [
        lambda: VPTConfig(n_prompts=2, modules_to_save=["text_projection"]),
        lambda: CoOpConfig(n_ctx=3, modules_to_save=["text_projection"]),
        lambda: LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    ],
)
def test_what_is_trainable_in_the_text_tower_is_trained(mode: str, config: Any, tmp_path: Path) -> None:
    trainer = build(mode, tmp_path, model=adapted(config()), num_train_epochs=1)
    trainer.accuracy(images())  # text features of an evaluation are not those of training
    before = prompts(trainer)
    trainer.train()
    trained = {name: torch.equal(value, before[name]) for name, value in prompts(trainer).items()}
    assert any("text" in name for name in trained)
    assert not any(trained.values()), [name for name, same in trained.items() if same]
    trainer.save_model()
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(mini().student_path), tmp_path).eval()
    template = trainer.learner.template
    found = zero_shot_accuracy(loaded, mini().student_processor, images(), template)
    assert found == pytest.approx(trainer.accuracy(images()))


def test_text_features_of_prompts_in_the_image_tower_are_computed_once(tmp_path: Path) -> None:
    trainer = build("supervised", tmp_path, "vpt")
    assert not trainer.learner.learns_text
    assert build("supervised", tmp_path).learner.learns_text


def test_one_class_tells_what_changes_text_features() -> None:
    learner = PromptLearner(student(), mini().student_processor.tokenizer, "an emoji of {}.")
    learner.set_classes("one", ["owl"])
    assert learner.learns_text


def test_an_adapter_by_another_name_lies_where_it_is_looked_for(tmp_path: Path) -> None:
    model = adapted(CoOpConfig(n_ctx=3), adapter_name="shoes")
    trainer = build("supervised", tmp_path, model=model, save_strategy="epoch", num_train_epochs=2)
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-6"):
        assert {"adapter_config.json", "adapter_model.safetensors"} <= {file.name for file in folder.iterdir()}
        assert not (folder / "shoes").exists()
    base = AutoModel.from_pretrained(mini().student_path)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    saved = [value for name, value in loaded.named_parameters() if "context" in name]
    assert torch.equal(saved[0], *prompts(trainer).values())
    resumed = build(
        "supervised", tmp_path, model=adapted(CoOpConfig(n_ctx=3), adapter_name="shoes"), save_strategy="epoch"
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert torch.equal(*prompts(resumed).values(), *prompts(trainer).values())


def test_a_class_specific_context_keeps_its_classes(tmp_path: Path) -> None:
    config = CoOpConfig(n_ctx=2, class_specific=True, n_classes=N_CLASSES)
    trainer = build("supervised", tmp_path, model=adapted(config))
    trainer.save_model()
    names = [name.replace("_", " ") for name in images().class_names]
    assert PeftConfig.from_pretrained(tmp_path).class_names == names
    assert 0 <= trainer.accuracy(images()) <= 1
    with pytest.raises(ClipAlignError, match="6 prompts for a class-specific context of 12 classes"):
        trainer.accuracy(keep_classes(images(), range(6)))
    with pytest.raises(ClipAlignError, match="trained on other classes"):
        trainer.accuracy(keep_classes(images(), range(N_CLASSES)[::-1]))


def test_a_run_that_is_all_warm_up_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match="warm-up at 1e-05: train for 2 or more, or pass warmup_epochs=0"):
        PromptLearningTrainingArguments(output_dir=str(tmp_path), num_train_epochs=1)
    for way_out in ({"warmup_epochs": 0}, {"num_train_epochs": 2}, {"published_schedule": False}, {"max_steps": 5}):
        PromptLearningTrainingArguments(output_dir=str(tmp_path), **{"num_train_epochs": 1} | way_out)


def test_transformers_reads_the_configuration_of_the_learner(tmp_path: Path) -> None:
    trainer = build("supervised", tmp_path)
    assert trainer.model.config.model_type == "clip"
    assert not hasattr(mini().student.config, "use_cache")


def test_the_template_goes_into_the_configuration(tmp_path: Path) -> None:
    trainer = build("kdpl", tmp_path, template="an emoji of {}, drawn.")
    trainer.save_model()
    assert PeftConfig.from_pretrained(tmp_path).template == "an emoji of {}, drawn."
    assert trainer.card_facts()["template"] == "an emoji of {}, drawn."
    random = build("kdpl", tmp_path, model=adapted(CoOpConfig(n_ctx=5)), template=None)
    assert random.learner.template == "X X X X X {}."
    assert random.teacher_template == "a photo of a {}."
    texture = build("kdpl", tmp_path, template="{} texture.")
    assert adapter_template(texture.peft_model) == "X X X {} texture."


def test_a_saved_adapter_is_evaluated_with_its_own_prompt(tmp_path: Path) -> None:
    trainer = build("supervised", tmp_path, augment=False, num_train_epochs=4, learning_rate=0.05)
    trainer.train()
    trainer.save_model()
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(mini().student_path), tmp_path).eval()
    found = zero_shot_accuracy(loaded, mini().student_processor, images())
    assert found == pytest.approx(trainer.accuracy(images()))


@pytest.mark.parametrize("method", ["coop", "cocoop", "vpt"])
def test_verdict_by_labels(method: str, tmp_path: Path) -> None:
    trainer = build("supervised", tmp_path, method)
    same = trainer.verdict(images())
    assert same.n_images == len(images())
    assert same.teacher is None
    own, plain = (
        trainer.accuracy(images()),
        zero_shot_accuracy(mini().student, mini().student_processor, images(), "an emoji of {}."),
    )
    assert same.difference == pytest.approx(own - plain)


def test_a_spoilt_adapter_is_worse_and_agreement_is_called_agreement(tmp_path: Path) -> None:
    model = adapted(VPTConfig(n_prompts=2, modules_to_save=["visual_projection"]))
    trainer = build("kdpl", tmp_path, model=model, class_names=images().class_names)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.normal_()
    verdict = trainer.verdict(images())
    assert verdict.outcome == "worse"
    assert "worse than the plain student: accuracy -" in str(verdict)
    unlabelled = ImageSource(images().items, ids=images().ids, name="unlabelled")
    by_teacher = str(trainer.verdict(unlabelled))
    assert "worse than the plain student: agreement with the teacher" in by_teacher
    assert by_teacher.endswith("Without labels this is agreement only, not accuracy.")
    supervised = build("supervised", tmp_path)
    with pytest.raises(ClipAlignError, match="neither labels nor a teacher"):
        supervised.verdict(unlabelled)


def test_the_teacher_takes_the_mean_of_several_prompts(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("an emoji of {}.\n\na {}.\n")
    trainer = build("kdpl", tmp_path, teacher_template=str(tmp_path / "prompts.txt"))
    names, teacher = images().class_names, trainer.teacher
    listed = [teacher.text_features(fill(template, names)) for template in ("an emoji of {}.", "a {}.")]
    torch.testing.assert_close(trainer.teacher_text_features(), F.normalize(listed[0] + listed[1], dim=-1))
    assert "mean of 2 prompts" in trainer.card_facts()["parameters"]["teacher"]
    trainer.train()
    assert np.isfinite(losses(trainer)).all()
    with pytest.raises(ClipAlignError, match="no text file of templates"):
        build("kdpl", tmp_path, teacher_template="missing.txt")


def test_a_teacher_with_quick_gelu_is_loaded_with_it(tmp_path: Path) -> None:
    """The path of the paper's teacher, DFN5B ViT-H/14, whose weights are of no use under another activation."""
    teachers = []
    for activation in ("quick_gelu", "gelu"):
        twin = copy.deepcopy(tiny_clip())
        twin.config.text_config.hidden_act = twin.config.vision_config.hidden_act = activation
        for part in (twin, tiny_tokenizer(), tiny_image_processor()):
            part.save_pretrained(tmp_path / activation)
        teachers.append(Teacher(str(tmp_path / activation)))
    teacher, other = teachers
    reference = AutoModel.from_pretrained(tmp_path / "quick_gelu").eval()
    pixels = torch.randn(2, 3, teacher.encoder.image_size, teacher.encoder.image_size)
    with torch.no_grad():
        vision = reference.vision_model(pixels).pooler_output
        expected = F.normalize(reference.visual_projection(vision), dim=-1)
    torch.testing.assert_close(teacher.image_features(pixels), expected)
    assert (teacher.image_features(pixels) - other.image_features(pixels)).abs().max() > 1e-4
    assert teacher.model.vision_model.encoder.layers[0].mlp.activation_fn.__class__.__name__ == "QuickGELUActivation"


def test_an_adapter_goes_on_with_its_own_template(tmp_path: Path) -> None:
    build("supervised", tmp_path, template="an emoji of {}, drawn.").save_model()
    base = AutoModel.from_pretrained(mini().student_path)
    loaded = PeftModel.from_pretrained(base, tmp_path, is_trainable=True)
    assert build("supervised", tmp_path, model=loaded, template=None).learner.template == "an emoji of {}, drawn."
    assert build("supervised", tmp_path, model=student(), template=None).learner.template == "an emoji of {}."


@pytest.mark.parametrize("mode", ["supervised", "kdpl"])
def test_a_lora_student_has_a_card_and_a_verdict(mode: str, tmp_path: Path) -> None:
    model = adapted(LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    trainer = build(mode, tmp_path, model=model)
    untrained = trainer.verdict(images())
    assert (untrained.difference, untrained.outcome) == (0.0, "not told apart")
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "LORA" in card
    assert "| prompt template | an emoji of {}. |" in card
    assert "import hf_clipalign.tuners" not in card
