"""Damaged, incomplete and hostile checkpoint folders: one clear error that names the culprit, or the same model."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hf_clipalign import ClipAlignError, IsoCLIPModel
from hf_clipalign.backbones import check_finite, is_finite, load_model, load_processor
from hf_clipalign.gcd import SpectralGCDModel
from hf_clipalign.tuners import CoCoOpConfig, MaPLeConfig, RETuneConfig
from tests.tiny_models import save_tiny, tiny_clip, tiny_image_processor, tiny_tokenizer

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("clip", tmp_path_factory.mktemp("intact") / "clip")


def changed(intact: Path, folder: Path, weights: Edit | None = None, config: Edit | None = None) -> Path:
    """A copy of a checkpoint with other weights or another configuration."""
    if intact != folder:
        shutil.copytree(intact, folder, dirs_exist_ok=True)
    if weights is not None:
        state = load_file(folder / "model.safetensors")
        weights(state)
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    if config is not None:
        values = json.loads((folder / "config.json").read_text())
        config(values)
        (folder / "config.json").write_text(json.dumps(values))
    return folder


def refused(folder: Path, message: str, load: Callable[[Any], Any] = load_model) -> None:
    with pytest.raises(ClipAlignError, match=message) as caught:
        load(folder)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 800 + len(str(folder))


def spoil(name: str, value: float) -> Edit:
    def edit(state: dict[str, Any]) -> None:
        state[name].view(-1)[3] = value

    return edit


@pytest.mark.parametrize("name", ["text_projection.weight", "vision_model.encoder.layers.1.mlp.fc1.bias"])
def test_missing_weights_are_named(intact: Path, tmp_path: Path, name: str) -> None:
    refused(changed(intact, tmp_path, lambda state: state.pop(name)), f"lacks {name}")


def test_many_missing_weights_are_counted(intact: Path, tmp_path: Path) -> None:
    def edit(state: dict[str, Any]) -> None:
        for name in [name for name in state if "text_model" in name]:
            del state[name]

    refused(changed(intact, tmp_path, edit), "and 49 more")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(intact: Path, tmp_path: Path, value: float) -> None:
    name = "text_model.encoder.layers.2.self_attn.q_proj.weight"
    refused(changed(intact, tmp_path, spoil(name, value)), f"NaN or infinite weights in {name}")


def test_large_weights_are_finite() -> None:
    huge = torch.full((8,), 3e38)
    assert not torch.isfinite(huge.sum())
    assert is_finite(huge)
    assert is_finite(torch.full((4096,), 60000.0, dtype=torch.float16))
    assert not is_finite(torch.tensor([float("inf"), -float("inf")]))
    model = torch.nn.Linear(2, 2)
    model.bias.data[1] = float("nan")
    with pytest.raises(ClipAlignError, match="'mine' has NaN or infinite weights in bias"):
        check_finite(model, "mine")


@pytest.mark.parametrize("n_layers", [0, 2])
def test_layers_that_the_configuration_leaves_out_are_named(intact: Path, tmp_path: Path, n_layers: int) -> None:
    folder = changed(intact, tmp_path, config=lambda c: c["text_config"].update(num_hidden_layers=n_layers))
    refused(folder, rf"leaves out: text_model.encoder.layers.{n_layers}\.")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["text_config"].update(num_hidden_layers=4), r"lacks text_model.encoder.layers.3\."),
        (lambda c: c["text_config"].update(hidden_size=64), r"other shapes.*\[77, 32\] instead of \[77, 64\]"),
        (lambda c: c.update(projection_dim=12), r"text_projection.weight \(\[24, 32\] instead of \[12, 32\]\)"),
        (lambda c: c["text_config"].update(layer_norm_eps=float("nan")), "NaN is no value of JSON"),
    ],
)
def test_a_configuration_of_another_model_is_told(intact: Path, tmp_path: Path, edit: Edit, message: str) -> None:
    refused(changed(intact, tmp_path, config=edit), message)


@pytest.mark.parametrize("tower", ["text_config", "vision_config"])
@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"])
@pytest.mark.parametrize("size", [2**40, 2**24, 10**400])
def test_absurd_sizes_are_refused_before_anything_is_built(
    intact: Path, tmp_path: Path, tower: str, key: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = changed(intact, tmp_path, config=lambda c: c[tower].update({key: size}))
    monkeypatch.setattr(AutoModel, "from_config", None)
    monkeypatch.setattr(AutoModel, "from_pretrained", None)
    refused(folder, f"gives {key} as ")


@pytest.mark.parametrize(("key", "size"), [("num_hidden_layers", 5000), ("hidden_size", 2**16)])
def test_a_model_that_the_weights_cannot_fill_is_refused_before_memory_is_used(
    intact: Path, tmp_path: Path, key: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = changed(intact, tmp_path, config=lambda c: c["text_config"].update({key: size}))
    monkeypatch.setattr(AutoModel, "from_pretrained", None)
    refused(folder, "belongs to another model")


def test_truncated_weights_are_told(intact: Path, tmp_path: Path) -> None:
    content = (intact / "model.safetensors").read_bytes()
    for length in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
        folder = changed(intact, tmp_path)
        (folder / "model.safetensors").write_bytes(content[:length])
        refused(folder, r"model.safetensors' is (incomplete|not valid JSON)")
    (folder / "model.safetensors").write_bytes(content + b"\0")
    refused(folder, "incomplete")
    (folder / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + content[8:])
    refused(folder, "incomplete")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"a":' * 90 + b"1" + b"}" * 90])
def test_json_that_cannot_be_read_is_told(intact: Path, tmp_path: Path, name: str, content: bytes) -> None:
    folder = changed(intact, tmp_path)
    (folder / name).write_bytes(content)
    refused(folder, name, load_processor)
    refused(folder, name)


def test_an_image_size_that_no_image_has_is_refused(intact: Path, tmp_path: Path) -> None:
    folder = changed(intact, tmp_path)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 2**20}})
    )
    refused(folder, "shortest_edge as 1048576", load_processor)


@pytest.mark.parametrize("damage", ["missing", "nan"])
@pytest.mark.parametrize("through", [IsoCLIPModel, AutoModel])
def test_aligned_models_are_checked(tmp_path: Path, damage: str, through: Any) -> None:
    IsoCLIPModel.from_clip_pretrained(tiny_clip(), image_band=(2, 3)).save_pretrained(tmp_path)
    edit = spoil("image_projection.weight", float("nan")) if damage == "nan" else _without("image_projection.weight")
    changed(tmp_path, tmp_path, edit)
    message = "infinite weights in image_projection" if damage == "nan" else "lacks image_projection.weight"
    refused(tmp_path, message, through.from_pretrained)


def test_models_for_category_discovery_are_checked(tmp_path: Path) -> None:
    processor = type("Processor", (), {"tokenizer": tiny_tokenizer(), "image_processor": tiny_image_processor()})()
    concepts, classes = ["cat", "dog", "car"], ["cat", "dog"]
    SpectralGCDModel.from_student(tiny_clip(), concepts, classes, 1, processor=processor).save_pretrained(tmp_path)
    loaded = SpectralGCDModel.from_pretrained(tmp_path)
    assert loaded.config.concepts == concepts
    changed(tmp_path, tmp_path, _without("head.prototypes.weight"))
    refused(tmp_path, "lacks head.prototypes.weight", SpectralGCDModel.from_pretrained)


def _without(name: str) -> Edit:
    def edit(state: dict[str, Any]) -> None:
        del state[name]

    return edit


@pytest.mark.parametrize("config", [CoCoOpConfig(n_ctx=2), MaPLeConfig(n_ctx=2, depth=2), RETuneConfig()])
def test_adapters_are_checked(tmp_path: Path, config: Any) -> None:
    get_peft_model(tiny_clip(), copy.deepcopy(config)).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    saved = load_file(path)

    def load(folder: Path) -> Any:
        return PeftModel.from_pretrained(tiny_clip(), folder)

    assert load(tmp_path).peft_config
    for name in saved:
        save_file({key: value for key, value in saved.items() if key != name}, path, {"format": "pt"})
        refused(tmp_path, f"lacks 1 of {len(saved)} weights", load)
        save_file({**saved, name: torch.full_like(saved[name], float("nan"))}, path, {"format": "pt"})
        refused(tmp_path, "NaN or infinite weights", load)
    save_file({"other": torch.ones(1)}, path, {"format": "pt"})
    refused(tmp_path, f"lacks {len(saved)} of {len(saved)} weights", load)


def test_a_second_adapter_beside_another_is_no_damage(tmp_path: Path) -> None:
    get_peft_model(tiny_clip(), RETuneConfig()).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(tiny_clip(), tmp_path, adapter_name="one")
    model.load_adapter(tmp_path, adapter_name="two")
    assert {"one", "two"} <= set(model.peft_config)


_ODD = (
    *(None, True, False, 0, -1, 1, 2, 7, 2**31, 2**40, -(2**40), 10**30, 1.5, -0.5, float("nan"), float("inf"), 1e308),
    *("", "x", "é", [], [1], [[]], {}, {"a": 1}, "../..", "1e-5", [1] * 100),
)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*place, key))


def _mutate(path: Path, seed: int) -> None:
    generator, content = random.Random(seed), json.loads(path.read_text())
    *parents, last = generator.choice([place for place in _places(content) if place and "vocab" not in place])
    holder = content
    for key in parents:
        holder = holder[key]
    if generator.random() < 0.15:
        del holder[last]
    else:
        holder[last] = generator.choice(_ODD)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "seed", [*range(24), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(24, 256))]
)
def test_mutated_settings_load_or_are_refused(intact: Path, tmp_path: Path, seed: int) -> None:
    names = ("config.json", "config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json")
    folder = changed(intact, tmp_path)
    _mutate(folder / names[seed % len(names)], seed)
    for load in (load_model, load_processor):
        with contextlib.suppress(ClipAlignError):
            load(folder)
