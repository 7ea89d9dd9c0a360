"""ContrastiveTrainer: what it trains, its loss, temperature, gradient cache, accumulation, resuming, checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional as F
from transformers import AutoModel, AutoProcessor

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import tower_parameters
from hf_clipalign.data import from_dataset, with_captions
from hf_clipalign.hub import check_card
from hf_clipalign.losses import contrastive_loss, info_nce_loss, sigmoid_loss
from hf_clipalign.trainers import ContrastiveTrainer, ContrastiveTrainingArguments, ImageTextPairs
from tests.tiny_models import ALL_MAKERS, tiny_processor
from tests.trainers.contrastive.runs import N_IMAGES, build, few, losses, mini, pairs, student, weights

PROJECTORS = {"model.visual_projection.weight", "model.text_projection.weight"}


def moved(trainer: Any, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}


def one_batch(trainer: Any) -> dict[str, Any]:
    return next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize(
    "trainable", ["all", "projectors", "image", pytest.param("text", marks=pytest.mark.slow), "given"]
)
def test_what_is_trainable_moves_and_nothing_else(trainable: str, tmp_path: Path) -> None:
    model = student()
    if trainable == "given":
        model.requires_grad_(False)
        model.text_projection.requires_grad_(True)
    trainer = build(tmp_path, model, trainable=trainable, num_train_epochs=1)
    before = weights(trainer)
    trainer.train()
    of_tower = {name: {id(p) for p in tower_parameters(model, name)} for name in ("image", "text")}
    towers = {
        name: {f"model.{n}" for n, p in model.named_parameters() if id(p) in known} for name, known in of_tower.items()
    }
    expected = {
        "all": towers["image"] | towers["text"],
        "projectors": PROJECTORS,
        **towers,
        "given": {"model.text_projection.weight"},
    }
    assert moved(trainer, before) == expected[trainable] | {"model.logit_scale"}


def test_first_loss_is_the_stock_models(tmp_path: Path) -> None:
    trainer = build(tmp_path)
    batch = one_batch(trainer)
    texts = mini().student_processor(text=batch["captions"], padding=True, return_tensors="pt")
    model = student()
    model.logit_scale.data.fill_(math.log(1 / 0.05))
    expected = model(**batch["images"], **texts, return_loss=True).loss
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected, atol=1e-5, rtol=1e-5)


def test_all_captions_sigmoid_and_image_term_are_the_losses_of_the_package(tmp_path: Path) -> None:
    trainer = build(
        tmp_path, loss="sigmoid", captions="all", image_term_weight=0.5, image_term_temperature=0.3, augment=True
    )
    batch = one_batch(trainer)
    assert len(batch["captions"]) > 12
    model = student().eval()
    with torch.no_grad():
        images, second = (model.get_image_features(**batch[part]).pooler_output for part in ("images", "second_views"))
        inputs = mini().student_processor(text=batch["captions"], padding=True, return_tensors="pt")
        texts = model.get_text_features(**inputs).pooler_output
    assert not torch.equal(images, second)
    positives = batch["image_groups"][:, None] == batch["text_groups"]
    assert positives.sum() == len(batch["captions"])
    expected = sigmoid_loss(images, texts, 20.0, -10.0, positives=positives)
    expected = expected + 0.5 * info_nce_loss(torch.cat([images, second]), 0.3)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected, atol=1e-4, rtol=1e-4)


def test_images_of_a_label_share_their_captions(tmp_path: Path) -> None:
    trainer = build(tmp_path, positives="label", per_device_train_batch_size=N_IMAGES)
    batch = one_batch(trainer)
    assert len(batch["image_groups"].unique()) == len(set(pairs().labels.tolist())) < N_IMAGES
    model = student().eval()
    with torch.no_grad():
        images = model.get_image_features(**batch["images"]).pooler_output
        inputs = mini().student_processor(text=batch["captions"], padding=True, return_tensors="pt")
        texts = model.get_text_features(**inputs).pooler_output
    same = batch["image_groups"][:, None] == batch["image_groups"]
    expected = contrastive_loss(images, texts, 20.0, positives=same)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected, atol=1e-4, rtol=1e-4)


def test_training_lowers_each_loss(tmp_path: Path) -> None:
    for settings in ({}, {"loss": "sigmoid"}, {"image_term_weight": 1.0, "augment": True}):
        trainer = build(tmp_path, num_train_epochs=4, per_device_train_batch_size=36, learning_rate=3e-4, **settings)
        trainer.train()
        values = losses(trainer)
        assert values[-1] < 0.9 * values[0], settings


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [
        ({"temperature_mode": "fixed", "temperature": 1.0}, 1.0, 1.0),
        ({"temperature_mode": "learned", "temperature": 0.5}, 2.005, 3.0),
        ({"max_logit_scale": 2.001, "temperature": 0.5}, 2.001, 2.001),
        ({"temperature": None}, 99.0, 100.0),
    ],
)
def test_temperature(settings: dict, low: float, high: float, tmp_path: Path) -> None:
    trainer = build(tmp_path, train_dataset=few(12), num_train_epochs=6, learning_rate=1e-3, **settings)
    trainer.train()
    trainer.save_model()
    saved = AutoModel.from_pretrained(tmp_path).logit_scale.exp().item()
    assert low - 1e-4 <= saved <= high + 1e-4
    assert trainer.state.log_history[0]["logit_scale"] <= high + 1e-4


def test_the_bias_starts_where_it_is_asked_for(tmp_path: Path) -> None:
    assert build(tmp_path, loss="sigmoid", logit_bias=-3.0).learner.bias.item() == -3.0
    assert build(tmp_path, loss="sigmoid").learner.bias.item() == -10.0


def test_cached_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    settings = {"captions": "all", "image_term_weight": 0.5, "augment": True, "optim": "sgd", "learning_rate": 0.01}
    whole, cached = (build(tmp_path, cache_chunk_size=size, **settings) for size in (None, 5))
    start = weights(whole)
    for trainer in (whole, cached):
        trainer.train()
    assert losses(cached) == pytest.approx(losses(whole), abs=1e-5)
    assert moved(cached, start) > PROJECTORS
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(cached)[name], value, atol=1e-6, rtol=1e-5)


def test_second_pass_drops_what_the_first_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"cache_chunk_size": 5, "num_train_epochs": 1, "image_term_weight": 0.5, "augment": True}
    cached = build(tmp_path, student(attention_dropout=0.3), **settings)
    cached.train()
    monkeypatch.setattr(
        "hf_clipalign.trainers.contrastive.learner.checkpoint", lambda encode, chunk, use_reentrant: encode(chunk)
    )
    kept = build(tmp_path, student(attention_dropout=0.3), **settings)
    kept.train()
    without = build(tmp_path, **settings)
    without.train()
    assert losses(cached) == losses(kept) != losses(without)
    for name, value in weights(kept).items():
        torch.testing.assert_close(weights(cached)[name], value, atol=1e-6, rtol=1e-5)


def test_accumulation_is_the_mean_of_its_micro_batches(tmp_path: Path) -> None:
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 12, "optim": "sgd", "max_grad_norm": 0.0}
    trainer = build(tmp_path, gradient_accumulation_steps=3, learning_rate=0.1, weight_decay=0.0, **settings)
    start = weights(trainer)
    trainer.train()
    reference = build(tmp_path, **settings)
    values = [reference.compute_loss(reference.model, batch) for batch in reference.get_train_dataloader()]
    assert len(values) == 3
    mean = torch.stack(values).mean()
    mean.backward()
    assert losses(trainer) == pytest.approx([mean.item()], abs=1e-5)
    for name, parameter in reference.learner.named_parameters():
        expected = start[name] - 0.1 * parameter.grad
        torch.testing.assert_close(weights(trainer)[name], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("loss", [pytest.param("info_nce", marks=pytest.mark.slow), "sigmoid"])
def test_resumed_is_uninterrupted(loss: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "loss": loss,
        "num_train_epochs": 3,
        "save_strategy": "steps",
        "save_steps": 4,  # in the middle of the second epoch
        "save_total_limit": None,
        "image_term_weight": 0.5,
        "augment": True,
        "dataloader_num_workers": 1,
    }
    straight = build(tmp_path, student(attention_dropout=0.1), **settings)
    straight.train()
    for change, words in (
        ({"loss": "info_nce" if loss == "sigmoid" else "sigmoid"}, f"loss '{loss}', this one has"),
        ({"trainable": "projectors"}, "trainable 'all', this one has 'projectors'"),
        ({"temperature_mode": "fixed"}, "temperature_mode 'clamped', this one has 'fixed'"),
        ({"train_dataset": few(24)}, "images 36, this one has 24"),
    ):
        with pytest.raises(ClipAlignError, match=rf"checkpoint-4 is of a run with {words}"):
            build(tmp_path, **(settings | change)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    lora = get_peft_model(student(), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ClipAlignError, match=r"adapter \[\], this one has \['default'\]"):
        build(tmp_path, lora, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    other = student(attention_dropout=0.1)
    other.text_projection.weight.data.zero_()
    resumed = build(tmp_path, other, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert losses(resumed)[4:] == losses(straight)[4:]
    for name, value in weights(straight).items():
        assert torch.equal(weights(resumed)[name], value), name
    files = {file.name for file in (tmp_path / "checkpoint-4").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "training_args.json"} <= files
    assert ("loss.safetensors" in files) == (loss == "sigmoid")
    assert "training_args.bin" not in files


def test_saved_model_is_stock_and_has_a_card(tmp_path: Path) -> None:
    trainer = build(tmp_path, loss="sigmoid")
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(command="python my_run.py")
    loaded, processor = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    inputs = processor(text=["an emoji of cat"], images=[pairs().read(0)], return_tensors="pt")
    with torch.no_grad():
        logits, expected = (model(**inputs).logits_per_image for model in (loaded.eval(), trainer.clip.eval()))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    check_card(card)
    assert "pairwise sigmoid loss" in card
    assert "python my_run.py" in card
    assert pairs().fingerprint() in card
    assert "| epochs | 2, 6 steps |" in card
    assert "bias of the sigmoid loss is not in the checkpoint" in card


def test_an_adapter_is_trained_saved_and_resumed(tmp_path: Path) -> None:
    def adapted(seed: int) -> PeftModel:
        torch.manual_seed(seed)
        return get_peft_model(student(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))

    with pytest.raises(ClipAlignError, match="of a PeftModel only the adapter is saved: leave trainable out"):
        build(tmp_path, adapted(0), trainable="all")
    settings = {"loss": "sigmoid", "save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
    trainer = build(tmp_path, adapted(0), **settings)
    before = weights(trainer)
    trainer.train()
    rest = {"model.base_model.model.logit_scale", "own_bias"}
    assert moved(trainer, before) == {name for name in before if "lora_" in name} | rest
    resumed = build(tmp_path, adapted(1), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for name, value in weights(trainer).items():
        assert torch.equal(weights(resumed)[name], value), name
    trainer.save_model()
    trainer.create_model_card()
    loaded = PeftModel.from_pretrained(student(), tmp_path).eval()
    pixels = trainer.train_dataset[0]["images"]["pixel_values"][None]
    with torch.no_grad():
        found, expected = (model.get_image_features(pixels).pooler_output for model in (loaded, trainer.clip.eval()))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert check_card((tmp_path / "README.md").read_text(encoding="utf-8")).library_name == "peft"


def test_evaluation_searches_the_whole_set(tmp_path: Path) -> None:
    trainer = build(
        tmp_path,
        eval_dataset={"first": few(20), "all": pairs()},
        per_device_eval_batch_size=8,
        positives="label",
    )
    scores = trainer.evaluate()
    model = student().eval()
    inputs = mini().student_processor(
        images=[pairs().read(row) for row in range(20)],
        text=[texts[0] for texts in few(20).texts],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        logits = model(**inputs).logits_per_image
    labels = torch.as_tensor(few(20).labels)
    hits = (labels[logits.argmax(dim=0)] == labels).float().mean().item()
    assert 0.2 < hits < 1
    assert scores["eval_first_text_to_image_recall_at_1"] == pytest.approx(hits)
    assert {"eval_first_loss", "eval_all_text_to_image_map"} <= set(scores)


def test_views_and_captions_depend_on_seed_epoch_and_image_only(tmp_path: Path) -> None:
    trainer = build(tmp_path, augment=True, image_term_weight=1.0)
    data = trainer.train_dataset
    pixels: dict[str, torch.Tensor] = {}
    captions: dict[str, list] = {}
    for name, epoch, rows in (("first", 0, range(8)), ("again", 0, reversed(range(8))), ("later", 1, range(8))):
        data.set_epoch(epoch)
        items = {row: data[row] for row in rows}
        pixels[name] = torch.stack([items[row]["images"]["pixel_values"] for row in range(8)])
        captions[name] = [items[row]["captions"] for row in range(8)]
    assert captions["first"] == captions["again"] != captions["later"]
    assert torch.equal(pixels["first"], pixels["again"])
    assert not (pixels["first"] == pixels["later"]).flatten(1).all(dim=1).any()
    drawn = set()
    for epoch in range(30):
        data.set_epoch(epoch)
        drawn.add(data[3]["captions"][0])
    assert drawn == set(pairs().texts[3])


def test_own_augmentation_makes_the_views(tmp_path: Path) -> None:
    def dark(image: Any, generator: np.random.Generator) -> Any:
        return image.point(lambda value: value * generator.uniform(0.1, 0.5))

    plain = build(tmp_path).train_dataset[0]["images"]["pixel_values"]
    item = build(tmp_path, augmentation=dark, image_term_weight=1.0).train_dataset[0]
    assert item["images"]["pixel_values"].max() < plain.max()
    assert not torch.equal(item["images"]["pixel_values"], item["second_views"]["pixel_values"])


def test_autocast_leaves_the_loss_in_float32(tmp_path: Path) -> None:
    trainer = build(tmp_path, temperature=0.01)
    batch = one_batch(trainer)
    expected = trainer.compute_loss(trainer.model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = trainer.model(**trainer._model_inputs(batch))
        loss = trainer.compute_loss(trainer.model, batch)
    assert outputs["image_embeds"].dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    exact = contrastive_loss(outputs["image_embeds"].float(), outputs["text_embeds"].float(), 100.0)
    torch.testing.assert_close(loss, exact, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss, expected, atol=0.2, rtol=0.05)


@pytest.mark.parametrize(
    ("family", "loss"),
    [
        ("metaclip_2", "info_nce"),
        ("siglip", "info_nce"),
        ("siglip", "sigmoid"),
        ("siglip2", "sigmoid"),
        ("chinese_clip", "info_nce"),
        ("altclip", "sigmoid"),
        ("vision_text", "info_nce"),
    ],
)
def test_every_family(family: str, loss: str, tmp_path: Path) -> None:
    words = ("cat", "dog", "bird", "fish", "horse", "car", "bus", "boat")
    source = with_captions(few(8), [f"a photo of a {word}" for word in words])
    model = ALL_MAKERS[family]()
    arguments = ContrastiveTrainingArguments(
        output_dir=str(tmp_path),
        loss=loss,
        max_steps=2,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        cache_chunk_size=3,
        temperature=0.1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
    )
    trainer = ContrastiveTrainer(model, arguments, processing_class=tiny_processor(family), train_dataset=source)
    before = weights(trainer)
    trainer.train()
    assert all(math.isfinite(value) for value in losses(trainer))
    trained = {name for name, parameter in trainer.learner.named_parameters() if parameter.requires_grad}
    untouched = trained - moved(trainer, before)
    # the key's bias has no gradient: softmax takes no notice of it
    assert all("k_proj.bias" in name or "key.bias" in name or "position" in name for name in untouched), untouched
    assert moved(trainer, before) <= trained


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"loss": "triplet"}, "loss is 'triplet': choose from info_nce, sigmoid"),
        ({"temperature": 0.0}, "temperature is 0.0: give a positive number"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature_mode": "fixed", "max_logit_scale": 50.0}, "max_logit_scale is for temperature_mode 'clamped'"),
        ({"temperature": 0.001, "max_logit_scale": 100.0}, "above max_logit_scale 100"),
        ({"logit_bias": -5.0}, "logit_bias is for loss 'sigmoid'"),
        ({"image_term_weight": -1.0}, "image_term_weight is -1.0"),
        ({"image_term_temperature": 0.0}, "image_term_temperature is 0.0"),
        ({"cache_chunk_size": 0}, "cache_chunk_size is 0"),
        ({"cache_chunk_size": 2.5}, "cache_chunk_size is 2.5: give an integer"),
        ({"temperature": "0.1"}, "temperature is '0.1': give a positive number"),
        ({"train_dataset": "photos"}, "the data set is 'photos': open it first"),
        ({"train_dataset": Path("photos")}, "the data set is 'photos': open it first"),
        ({"dataloader_drop_last": False, "per_device_train_batch_size": 7}, "36 pairs in batches of 7 leave one"),
        ({"remove_unused_columns": True}, "remove_unused_columns must be False"),
        ({"crop_scale": 0.0}, "crop_scale is 0.0"),
        ({"flip": True}, "flip is a part of the augmentation"),
        ({"gradient_checkpointing": True}, "set cache_chunk_size"),
        ({"image_term_weight": 1.0}, "two random views of an image: set augment=True"),
        ({"per_device_train_batch_size": 1}, "a batch of one pair has no negatives"),
        ({"per_device_train_batch_size": 40}, "36 pairs do not fill one batch of 40"),
        ({"temperature": None, "max_logit_scale": 50.0}, "the checkpoint's scale 100 is above max_logit_scale 50"),
        ({"trainable": "given", "model": "frozen"}, "nothing in the model is trainable"),
        ({"train_dataset": "without captions"}, "the images have no captions"),
        ({"train_dataset": "blank caption"}, r"1 of 3 images have no caption or a blank one \(1\)"),
        ({"train_dataset": "data set"}, "the images have no captions. Name their column with text_column"),
        ({"train_dataset": "no labels", "positives": "label"}, "no labels, but positives is 'label'"),
    ],
)
def test_bad_settings_and_data(settings: dict, match: str, tmp_path: Path) -> None:
    blank = few(3)
    blank.texts = [["a"], [" "], ["b"]]
    no_labels = few(12)
    no_labels.labels = None
    emoji = mini().emoji_subset(split="train").select(range(20))
    data = {
        "without captions": from_dataset(emoji),
        "data set": emoji,
        "blank caption": blank,
        "no labels": no_labels,
    }
    settings = dict(settings)
    if "train_dataset" in settings:
        settings["train_dataset"] = data.get(settings["train_dataset"], settings["train_dataset"])
    if settings.pop("model", None):
        settings["model"] = student().requires_grad_(False)
    with pytest.raises(ClipAlignError, match=match):
        build(tmp_path, **settings)


def test_a_data_set_with_a_caption_column(tmp_path: Path) -> None:
    emoji = mini().emoji_subset(split="train").select(range(24))
    trainer = build(tmp_path, train_dataset=emoji, text_column="name", num_train_epochs=1)
    trainer.train()
    assert trainer.train_dataset[0]["captions"] == [emoji[0]["name"]]
    assert len(losses(trainer)) == 2


def test_long_captions_are_cut_or_refused(tmp_path: Path) -> None:
    long = with_captions(few(12), ["zebra " * 40] + ["cat"] * 11)
    trainer = build(tmp_path, train_dataset=long, num_train_epochs=1)
    trainer.train()
    assert math.isfinite(losses(trainer)[0])
    with pytest.raises(ClipAlignError, match=r"text \d+ \('zebra .*the model reads 24"):
        build(tmp_path, train_dataset=long, num_train_epochs=1, truncate_captions=False).train()


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    trainer = build(tmp_path, save_strategy="steps", save_steps=2)
    steps = trainer.after_step
    trainer.after_step = lambda: (steps(), trainer.clip.text_projection.weight.data.fill_(math.nan))[0]
    with pytest.raises(ClipAlignError, match=r"the loss is nan at step 2 .* no good checkpoint yet"):
        trainer.train()
    good = build(tmp_path, save_strategy="steps", save_steps=2)
    good.after_step = lambda: good.state.global_step >= 4 and good.clip.logit_scale.data.fill_(math.nan)
    with pytest.raises(ClipAlignError, match=r"the last good checkpoint is .*checkpoint-4"):
        good.train()


def test_a_scale_that_falls_to_nothing_ends_the_run(tmp_path: Path) -> None:
    trainer = build(tmp_path)
    trainer.after_step = lambda: trainer.clip.logit_scale.data.fill_(-1e30)
    with pytest.raises(ClipAlignError, match=r"scale is 0 at step 2 .*: there .*Lower learning_rate"):
        trainer.train()


def test_the_wait_for_the_device_is_at_the_log_not_at_every_step(tmp_path: Path) -> None:
    trainer = build(tmp_path, logging_steps=3, num_train_epochs=1)
    kept = []
    trainer.after_step = lambda: kept.append(dict(trainer._terms))
    trainer.train()
    assert all(isinstance(value, torch.Tensor) for terms in kept for value in terms.values())
    logged = next(entry for entry in trainer.state.log_history if "contrastive_loss" in entry)
    assert logged["contrastive_loss"] == pytest.approx(float(kept[-1]["contrastive_loss"]) / 3)
    assert logged["contrastive_loss"] == pytest.approx(logged["loss"], abs=1e-3)


def test_no_processor_and_a_list_of_pairs_are_refused(tmp_path: Path) -> None:
    arguments = ContrastiveTrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ClipAlignError, match="processing_class is None"):
        ContrastiveTrainer(student(), arguments, processing_class=None, train_dataset=pairs())
    for part, words in (("tokenizer", "holds no image processor"), ("image_processor", "holds no tokenizer")):
        processor = getattr(mini().student_processor, part)
        with pytest.raises(ClipAlignError, match=words):
            ContrastiveTrainer(student(), arguments, processing_class=processor, train_dataset=pairs())
    with pytest.raises(ClipAlignError, match="data set is a list of items without images: give an ImageSource"):
        build(tmp_path, train_dataset=[("cat.png", "a cat")])
    with pytest.raises(ClipAlignError, match="data set is a list of items without images: give an ImageSource"):
        build(tmp_path, eval_dataset={"a": [("cat.png", "a cat")]})


def test_models_that_cannot_save_themselves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match="Linear cannot save itself"):
        build(tmp_path, torch.nn.Linear(2, 2))


def test_pairs_give_every_caption_and_the_first(tmp_path: Path) -> None:
    processor = mini().student_processor
    assert ImageTextPairs(pairs(), processor, captions="all")[3]["captions"] == pairs().texts[3]
    assert ImageTextPairs(pairs(), processor, captions="first")[3]["captions"] == pairs().texts[3][:1]


def test_embeddings_need_not_be_of_unit_length(tmp_path: Path) -> None:
    trainer = build(tmp_path)
    with torch.no_grad():
        outputs = trainer.model(**trainer._model_inputs(one_batch(trainer)))
    assert not torch.allclose(F.normalize(outputs["image_embeds"], dim=-1), outputs["image_embeds"])
