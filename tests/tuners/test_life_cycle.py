"""PEFT's life cycle for every method on every family."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, PeftType
from PIL import Image
from torch import Tensor
from transformers import AutoModel, pipeline

from hf_clipalign.tuners import plan_prompts, prompted_logits, prompted_outputs
from tests.tiny_models import save_tiny, tiny_model, tiny_pixel_values
from tests.tuners.methods import CONFIGS, MATRIX, MODULE_TO_SAVE, logits, prompted, prompts, stirred
from tests.versions import loads_by_transformers

every_pair = pytest.mark.parametrize(("method", "family"), MATRIX)
every_method = pytest.mark.parametrize("method", CONFIGS)


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, atol=1e-4)


def frozen_model(family: str) -> Any:
    """The base as adapters leave it: torch's attention pooling takes another kernel for weights that are trained."""
    return tiny_model(family).requires_grad_(False)


def pass_of(model: Any, family: str) -> Tensor:
    return prompted_logits(model, plan=plan_prompts(model, prompts(family)), **tiny_pixel_values(3, family))


@every_pair
def test_changes_the_logits_and_can_be_switched_off(method: str, family: str) -> None:
    base = logits(frozen_model(family), family)
    model = prompted(method, family)
    assert (logits(model, family) - base).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(logits(model, family), base)
    assert (logits(model, family) - base).abs().max() > 1e-3


@every_pair
def test_packed_pass_equals_the_stock_forward(method: str, family: str) -> None:
    model = prompted(method, family)
    with torch.no_grad():
        assert close(pass_of(model, family), logits(model, family))


@every_pair
def test_a_step_moves_the_prompts_and_nothing_else(method: str, family: str) -> None:
    model = prompted(method, family)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    pass_of(model, family).logsumexp(dim=-1).square().sum().backward()
    optimizer.step()
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) != value.requires_grad, name


@every_pair
def test_saved_and_loaded(method: str, family: str, tmp_path: Path) -> None:
    model = prompted(method, family)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 80_000
    for options in ({}, {"adapter_name": "other"}, {"low_cpu_mem_usage": True}, {"is_trainable": True}):
        loaded = PeftModel.from_pretrained(tiny_model(family), tmp_path, **options)
        assert close(logits(loaded.eval(), family), logits(model, family)), options
        trained = any(parameter.requires_grad for parameter in loaded.parameters())
        assert trained == options.get("is_trainable", False)


@every_pair
def test_second_adapter_and_switching(method: str, family: str, tmp_path: Path) -> None:
    first, second = prompted(method, family, seed=1), prompted(method, family, seed=2)
    expected = {"default": logits(first, family), "second": logits(second, family)}
    second.save_pretrained(tmp_path)
    first.load_adapter(tmp_path, adapter_name="second")
    for name in ("second", "default", "second"):
        first.set_adapter(name)
        assert close(logits(first, family), expected[name])
    assert not close(expected["default"], expected["second"])
    first.delete_adapter("default")
    assert close(logits(first, family), expected["second"])


@every_pair
def test_unload_gives_the_stock_model_back(method: str, family: str) -> None:
    stock = frozen_model(family)
    unloaded = prompted(method, family).unload()
    assert type(unloaded) is type(stock)
    assert unloaded.state_dict().keys() == stock.state_dict().keys()
    assert torch.equal(logits(unloaded, family), logits(stock, family))


@every_pair
def test_copies_are_independent(method: str, family: str) -> None:
    model = prompted(method, family, seed=1)
    expected = logits(model, family)
    stirred(copied := copy.deepcopy(model), seed=2)
    assert torch.equal(logits(model, family), expected)
    assert close(logits(copied, family), logits(prompted(method, family, seed=2), family))


@every_pair
def test_gradient_checkpointing_gives_the_same_gradients(method: str, family: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = prompted(method, family).train()
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        pass_of(model, family).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)


@every_pair
def test_bfloat16(method: str, family: str) -> None:
    model = prompted(method, family, base=tiny_model(family).to(torch.bfloat16))
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    inputs = tiny_pixel_values(3, family)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    output = prompted_outputs(model, plan=plan_prompts(model, prompts(family)), **inputs)
    assert output.logits.dtype == torch.bfloat16
    output.logits.float().square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters() if p.requires_grad)
    assert (output.logits.float() - logits(prompted(method, family), family)).abs().max() < 2


@loads_by_transformers
@every_pair
def test_auto_model_and_pipeline_on_the_adapter_folder(method: str, family: str, tmp_path: Path) -> None:
    base = save_tiny(family, tmp_path / "base")
    model = prompted(method, family, base=AutoModel.from_pretrained(base))
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoModel.from_pretrained(tmp_path / "adapter")
    assert close(logits(loaded, family), logits(model, family))
    if family == "siglip2":  # its image processor gives other shapes for every image
        return
    classifier = pipeline(
        "zero-shot-image-classification",
        model=str(tmp_path / "adapter"),
        tokenizer=str(base),
        image_processor=str(base),
    )
    names = ["cat", "red fox", "owl", "horse", "dog"]
    found = classifier(Image.new("RGB", (40, 40), "red"), names, hypothesis_template="a photo of a {}.")
    inputs = classifier.image_processor(Image.new("RGB", (40, 40), "red"), return_tensors="pt")
    texts = [f"a photo of a {name}." for name in names]
    ids = classifier.tokenizer(texts, padding="max_length", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=ids, **inputs).logits_per_image[0]
    expected = expected.sigmoid() if "siglip" in family else expected.softmax(dim=-1)
    scores = {item["label"]: item["score"] for item in found}
    assert torch.allclose(torch.tensor([scores[name] for name in names]), expected, atol=1e-4)


@loads_by_transformers
@every_method
def test_transformers_own_adapter_calls(method: str, tmp_path: Path) -> None:
    model = prompted(method, "clip")
    model.save_pretrained(tmp_path / "first")
    bare = tiny_model("clip")
    bare.load_adapter(str(tmp_path / "first"))
    assert close(logits(bare, "clip"), logits(model, "clip"))
    bare.disable_adapters()
    assert torch.equal(logits(bare, "clip"), logits(frozen_model("clip"), "clip"))
    bare.enable_adapters()
    bare.save_pretrained(tmp_path / "second")
    assert sorted(file.name for file in (tmp_path / "second").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert close(
        logits(PeftModel.from_pretrained(tiny_model("clip"), tmp_path / "second"), "clip"), logits(bare, "clip")
    )


@loads_by_transformers
@every_method
def test_two_adapters_by_transformers_own_calls(method: str, tmp_path: Path) -> None:
    for seed, name in enumerate(("first", "second")):
        prompted(method, "clip", seed).save_pretrained(tmp_path / name)
    bare = tiny_model("clip")
    for name in ("first", "second"):
        bare.load_adapter(str(tmp_path / name), adapter_name=name)
    for seed, name in enumerate(("first", "second")):
        bare.set_adapter(name)
        assert close(logits(bare, "clip"), logits(prompted(method, "clip", seed), "clip"))
    bare.delete_adapter("first")
    assert close(logits(bare, "clip"), logits(prompted(method, "clip", 1), "clip"))


@every_method
def test_an_adapter_added_by_transformers_own_call_is_trained_alone(method: str, tmp_path: Path) -> None:
    model = tiny_model("clip")
    model.add_adapter(CONFIGS[method]())
    stirred(model, seed=0)
    assert close(logits(model, "clip"), logits(prompted(method, "clip"), "clip"))
    model(input_ids=prompts("clip"), **tiny_pixel_values(3, "clip")).logits_per_image.square().sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained
    assert all("clip_" in name for name in trained)
    model.save_pretrained(tmp_path)
    assert close(logits(PeftModel.from_pretrained(tiny_model("clip"), tmp_path), "clip"), logits(model, "clip"))


@every_method
def test_eager_attention(method: str) -> None:
    model, eager = prompted(method, "clip"), prompted(method, "clip")
    eager.get_base_model().set_attn_implementation("eager")
    with torch.no_grad():
        assert close(pass_of(eager, "clip"), pass_of(model, "clip"))


@every_method
def test_the_configuration_comes_back(method: str, tmp_path: Path) -> None:
    model = prompted(method, "clip")
    model.save_pretrained(tmp_path)
    found, expected = PeftConfig.from_pretrained(tmp_path), model.peft_config["default"]
    assert type(found) is type(expected)
    assert PeftType(found.peft_type) is found.peft_type
    ours = set(CONFIGS[method]().to_dict()) - {"inference_mode", "auto_mapping"}
    assert {name: getattr(found, name) for name in ours} == {name: getattr(expected, name) for name in ours}


@every_method
def test_a_module_to_save_is_trained_and_saved(method: str, tmp_path: Path) -> None:
    from peft import get_peft_model

    config = CONFIGS[method]()
    config.modules_to_save = [MODULE_TO_SAVE[method]]
    model = stirred(get_peft_model(tiny_model("clip"), config), seed=3)
    model.save_pretrained(tmp_path)
    assert close(logits(PeftModel.from_pretrained(tiny_model("clip"), tmp_path), "clip"), logits(model, "clip"))


@every_method
def test_merging_is_refused(method: str) -> None:
    model = prompted(method, "clip")
    with pytest.raises(NotImplementedError, match="no weights of the model"):
        model.merge_and_unload()
