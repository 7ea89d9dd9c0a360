"""Readers of models, adapters, cards and states of runs; see `readers.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.fuzz import mutations as kinds
from tests.fuzz.readers import Reader, anything, finite

_JSON_AND_WEIGHTS = {"*.json": kinds.JSON, "*.safetensors": ["flip early", "cut", "insert", *kinds.JSON]}


def _model(folder: Path) -> None:
    from tests.tiny_models import save_tiny

    save_tiny("clip", folder)


def _read_model(folder: Path, file: Path) -> Any:
    from hf_clipalign.backbones import load_model

    return load_model(str(folder))


def _weights_of_the_file(model: Any, sound: Any, folder: Path) -> str | None:
    """Every parameter comes from the file: nothing is drawn at random, nothing is left out, nothing is not finite."""
    from safetensors.torch import load_file

    stored = load_file(folder / "model.safetensors")
    for name, value in model.state_dict().items():
        if name.endswith("position_ids"):
            continue
        if name not in stored:
            return f"{name} is not in the file, and nothing is said"
        if stored[name].shape != value.shape or not torch.equal(stored[name].to(value.dtype), value):
            return f"{name} is not what the file holds"
        if not value.isfinite().all():
            return f"{name} is not finite, and nothing is said"
    return None


def _read_processor(folder: Path, file: Path) -> Any:
    from PIL import Image

    from hf_clipalign.backbones import load_processor

    processor = load_processor(str(folder))
    return processor(
        text=["a photo of a cat"], images=[Image.new("RGB", (40, 30), (200, 10, 10))], return_tensors="pt"
    )


def _whole_batch(batch: Any, sound: Any, folder: Path) -> str | None:
    return finite(batch["pixel_values"], sound, folder) if "pixel_values" in batch else "no pixel_values"


def _isoclip(folder: Path) -> None:
    from hf_clipalign import IsoCLIPModel
    from tests.tiny_models import tiny_clip

    IsoCLIPModel.from_clip_pretrained(tiny_clip(), image_band=(3, 2), text_band=(2, 3)).save_pretrained(folder)


def _gcd(folder: Path) -> None:
    from hf_clipalign.gcd import SpectralGCDModel
    from tests.tiny_models import tiny_clip, tiny_tokenizer

    sizes = {"hidden_size": 12, "mlp_hidden_size": 16, "bottleneck_size": 6}
    torch.manual_seed(0)
    SpectralGCDModel.from_student(
        tiny_clip(), ["bird", "cup", "sun"], ["tool", "drink"], 2, processor=_tokenizer(tiny_tokenizer()), **sizes
    ).save_pretrained(folder)


def _tokenizer(tokenizer: Any) -> Any:
    from tests.tiny_models import tiny_image_processor

    class Processor:
        image_processor = tiny_image_processor()

        def __call__(self, **kwargs: Any) -> Any:
            return tokenizer(**kwargs)

    Processor.tokenizer = tokenizer  # type: ignore[attr-defined]
    return Processor()


def _finite_model(model: Any, sound: Any, folder: Path) -> str | None:
    bad = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    return f"{bad[:2]} not finite, and nothing is said" if bad else None


def _retune_adapter(folder: Path) -> None:
    from peft import get_peft_model

    from hf_clipalign.tuners import RETuneConfig
    from tests.tiny_models import tiny_clip

    torch.manual_seed(0)
    get_peft_model(tiny_clip(), RETuneConfig()).save_pretrained(folder)


def _read_retune_adapter(folder: Path, file: Path) -> Any:
    from hf_clipalign.tuners import load_without_towers

    return load_without_towers(str(folder))


def _folder_for_a_card(folder: Path) -> None:
    _isoclip(folder)


def _read_folder_for_a_card(folder: Path, file: Path) -> Any:
    from hf_clipalign.hub import build_card, describe_folder

    return str(build_card(describe_folder(folder)))


def _sound_card(text: str, sound: Any, folder: Path) -> str | None:
    from hf_clipalign.hub import check_card

    check_card(text)
    return "a script in the card" if "<script" in text else None


def _results(folder: Path) -> None:
    score = {
        "metrics": {"map": 0.5, "recall_at_1": 0.25},
        "map_interval": [0.4, 0.6],
        "gain": 0.1,
        "gain_interval": [0.0, 0.2],
        "per_task": {"data": 0.5},
        "width": 8,
    }
    comparison = {
        "scores": [{"head": head, **score} for head in ("raw", "isoclip")],
        "tasks": ["data"],
        "n_queries": 4,
        "n_without_positive": 0,
        "without_positive": [],
    }
    content = {"task": "image-image", "band": [150, 50], "data": "photos", "comparison": comparison}
    (folder / "results.json").write_text(json.dumps(content))


def _read_results(folder: Path, file: Path) -> Any:
    from dataclasses import replace

    from hf_clipalign.hub import ModelCardInfo, build_card, read_evaluations

    info = ModelCardInfo(
        kind="isoclip",
        name="aligned",
        load_from="me/aligned",
        model_class="CLIPVisionModelWithProjection",
        base_model="openai/clip",
        licence="mit",
        method="isoclip",
        image_band=(150, 50),
    )
    return str(build_card(replace(info, evaluations=read_evaluations(file, info))))


def _cards(folder: Path) -> None:
    root = Path(__file__).parents[2] / "model_cards"
    for card in sorted(root.glob("*/README.md")):
        (folder / f"{card.parent.name}.md").write_bytes(card.read_bytes()[:1500])


def _read_card(folder: Path, file: Path) -> Any:
    from hf_clipalign.hub import check_card

    return check_card(file.read_bytes().decode("utf-8", "replace"))


def _retune_state(folder: Path) -> None:
    from tests.trainers.retune.runs import build

    build(folder, num_train_epochs=1, train_dataset=_few_embeddings()).train()


def _few_embeddings() -> Any:
    from tests.trainers.retune.runs import embeddings

    return embeddings(16)


def _read_retune_state(folder: Path, file: Path) -> Any:
    from hf_clipalign.trainers import RETuneState

    state = RETuneState(folder)
    return state.tasks, state.prompts, state.before, state.learned, state.result


def _checkpoint(folder: Path) -> None:
    from safetensors.torch import save_file

    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2" / "trainer_state.json").write_text(json.dumps({"global_step": 2, "log_history": []}))
    save_file({"a": torch.ones(3)}, folder / "checkpoint-2" / "model.safetensors")


def _read_checkpoint(folder: Path, file: Path) -> Any:
    from hf_clipalign.trainers.checkpoints import checkpoint_to_resume, last_good_checkpoint

    return checkpoint_to_resume(True, folder), last_good_checkpoint(folder)


def _band_text(folder: Path) -> None:
    (folder / "band.txt").write_text("150,50")


def _read_band(folder: Path, file: Path) -> Any:
    from hf_clipalign.cli.options import parse_band

    return parse_band(file.read_bytes().decode("utf-8", "replace"))


MODEL_READERS = {
    "model": Reader(_model, _read_model, {"config.json": kinds.JSON, **_JSON_AND_WEIGHTS}, _weights_of_the_file, 350),
    "processor": Reader(_model, _read_processor, {"*.json": kinds.JSON}, _whole_batch, 200),
    "isoclip": Reader(_isoclip, _read_model, _JSON_AND_WEIGHTS, _finite_model, 150),
    "gcd model": Reader(_gcd, _read_model, _JSON_AND_WEIGHTS, _finite_model, 150),
    "re-tune adapter": Reader(_retune_adapter, _read_retune_adapter, _JSON_AND_WEIGHTS, _finite_model, 250),
    "card of a folder": Reader(
        _folder_for_a_card, _read_folder_for_a_card, {"config.json": kinds.JSON}, _sound_card, 300
    ),
    "results": Reader(_results, _read_results, {"*.json": kinds.JSON}, _sound_card, 300),
    "card": Reader(_cards, _read_card, {"*.md": kinds.TEXT}, anything, 300),
    "re-tune state": Reader(_retune_state, _read_retune_state, {"retune.json": kinds.JSON}, anything, 250),
    "checkpoint": Reader(
        _checkpoint, _read_checkpoint, {"*/*.json": kinds.JSON, "*/*.safetensors": kinds.BYTES}, anything, 200
    ),
    "band": Reader(_band_text, _read_band, {"*.txt": kinds.TEXT}, anything, 200),
}
