"""The teacher's features: computed once, kept under a key of all that they depend on."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.data import fill
from hf_clipalign.trainers import Teacher
from tests.trainers.prompts.runs import build, images, losses, mini, prompts

PROMPTS = ["an emoji of cat.", "an emoji of red heart."]


def make(folder: Path | None, model=None, processor=None) -> Teacher:
    return Teacher(model or mini().teacher, processor or mini().teacher_processor, cache_dir=folder)


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.safetensors")}


def test_features_are_the_models_and_come_back_from_the_cache(tmp_path: Path, monkeypatch) -> None:
    features = make(tmp_path).text_features(PROMPTS)
    inputs = mini().teacher_processor(text=PROMPTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = mini().teacher.get_text_features(**inputs).pooler_output
    torch.testing.assert_close(features, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5, rtol=1e-5)
    monkeypatch.setattr("hf_clipalign.trainers.teacher.encode_texts", None)  # a second computation would fail
    assert torch.equal(make(tmp_path).text_features(PROMPTS), features)


def test_key_changes_with_weights_prompts_and_tokenizer(tmp_path: Path) -> None:
    make(tmp_path).text_features(PROMPTS)
    make(tmp_path).text_features(PROMPTS)
    assert len(files(tmp_path)) == 1
    make(tmp_path).text_features(PROMPTS[::-1])
    assert len(files(tmp_path)) == 2
    changed = copy.deepcopy(mini().teacher)
    changed.text_model.final_layer_norm.bias.data[3] += 1e-3
    make(tmp_path, changed).text_features(PROMPTS)
    assert len(files(tmp_path)) == 3
    other_activation = copy.deepcopy(mini().teacher)
    other_activation.config.text_config.hidden_act = "relu"
    make(tmp_path, other_activation).text_features(PROMPTS)
    assert len(files(tmp_path)) == 4
    processor = copy.deepcopy(mini().teacher_processor)
    processor.tokenizer.add_tokens(["heart"])
    ids = processor.tokenizer(PROMPTS)["input_ids"]
    assert ids != mini().teacher_processor.tokenizer(PROMPTS)["input_ids"]
    teacher = make(tmp_path, processor=processor)
    teacher._cached("text", [*PROMPTS, repr(ids)], lambda: torch.zeros(2, 1))
    assert len(files(tmp_path)) == 5


def test_key_does_not_depend_on_where_the_weights_came_from(tmp_path: Path) -> None:
    mini().teacher.save_pretrained(tmp_path / "copy")
    mini().teacher_processor.save_pretrained(tmp_path / "copy")
    make(tmp_path / "cache").text_features(PROMPTS)
    Teacher(tmp_path / "copy", cache_dir=tmp_path / "cache").text_features(PROMPTS)
    assert len(files(tmp_path / "cache")) == 1


def test_damaged_file_is_made_again(tmp_path: Path) -> None:
    features = make(tmp_path).text_features(PROMPTS)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(make(tmp_path).text_features(PROMPTS), features)
    assert len(file.read_bytes()) > 100


def test_weights_loaded_after_construction_count(tmp_path: Path) -> None:
    """Features are taken when training starts: a teacher that gets its weights late is the right one."""
    late = copy.deepcopy(mini().teacher)
    for parameter in late.parameters():
        parameter.data.zero_()
    trainer = build("kdpl", tmp_path, teacher=late, num_train_epochs=1)
    late.load_state_dict(mini().teacher.state_dict())
    trainer.train()
    reference = build("kdpl", tmp_path, num_train_epochs=1)
    reference.train()
    assert losses(trainer) == losses(reference)


def test_cached_image_features_change_nothing(tmp_path: Path, monkeypatch) -> None:
    plain = build("agnostic", tmp_path, augment=False, cache_image_features=False)
    plain.train()
    first = build("agnostic", tmp_path, augment=False, cache_dir=str(tmp_path / "cache"))
    first.train()
    assert losses(first) == pytest.approx(losses(plain), abs=1e-5)
    for name, value in prompts(plain).items():
        torch.testing.assert_close(prompts(first)[name], value, atol=1e-6, rtol=1e-4)
    monkeypatch.setattr(Teacher, "image_features", None)  # a second computation would fail
    second = build("agnostic", tmp_path, augment=False, cache_dir=str(tmp_path / "cache"))
    second.train()
    assert losses(second) == losses(first)


def test_image_key_changes_with_the_images(tmp_path: Path) -> None:
    from hf_clipalign.data import take

    for rows in (range(24), range(12, 36)):
        source = take(images(), rows)
        build("kdpl", tmp_path, augment=False, train_dataset=source, cache_dir=str(tmp_path / "cache")).train()
    assert len([name for name in files(tmp_path / "cache") if "image" in name]) == 2


def test_prompts_of_the_teacher(tmp_path: Path) -> None:
    names = images().class_names
    assert build("kdpl", tmp_path).teacher_prompts == fill("an emoji of {}.", names)
    pets = build("kdpl", tmp_path, teacher_template="{}, a type of pet.")
    assert pets.teacher_prompts[0] == f"{names[0]}, a type of pet."
    assert build("agnostic", tmp_path).teacher_prompts[0].startswith("a photo of a ")


def test_small_teacher_is_warned_about(tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        build("kdpl", tmp_path)
        assert "not bigger" not in caplog.text
        build("kdpl", tmp_path, teacher=mini().student, teacher_processor=mini().student_processor)
    assert "teacher (2.4 M parameters) is not bigger than the student (2.4 M)" in caplog.text


def test_each_model_is_tokenised_by_its_own_tokenizer(tmp_path: Path) -> None:
    trainer = build("kdpl", tmp_path)
    calls = []
    own = trainer.teacher.processor
    spy = copy.copy(own)
    spy.tokenizer = lambda texts, **kwargs: (calls.append(list(texts)), own.tokenizer(texts, **kwargs))[1]
    trainer.teacher.processor = spy
    trainer.teacher_text_features()
    assert calls[0] == trainer.teacher_prompts


def test_model_without_processor() -> None:
    with pytest.raises(ClipAlignError, match="pass teacher_processor"):
        Teacher(mini().teacher)
