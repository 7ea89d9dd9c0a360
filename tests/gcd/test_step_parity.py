"""The model and one training step against the reference's numbers (`fixtures/spectralgcd/step.npz`).

Images are stored as bytes, large tensors by their first rows, Frobenius norm and sum.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign.gcd import SpectralGCDModel
from hf_clipalign.losses import spectral_gcd_losses, teacher_temperature
from hf_clipalign.trainers.gcd.optimization import parameter_groups
from tests.parity_models import parity_clip

FIXTURE = Path(__file__).parents[1] / "fixtures" / "spectralgcd" / "step.npz"
N_KNOWN, N_NOVEL = 4, 3
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64)[:, None, None]
HEAD_NAMES = {
    "ln_t.weight": "head.projection.weight",
    "ln_t.bias": "head.projection.bias",
    "projector.last_layer.weight_v": "head.prototypes.weight",
} | {f"projector.mlp.{i}.{kind}": f"head.mlp.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")}
BLOCK_NAMES = {
    "attn.in_proj_": "self_attn.qkv_proj.",
    "attn.out_proj.": "self_attn.out_proj.",
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
LOSS_NAMES = {
    "supervised_classification": "cross_entropy",
    "cluster_with_entropy_term": "clustering",
    "mean_entropy_term": "mean_entropy",
    "info_nce": "info_nce",
    "supcon": "supcon",
    "forward_kl": "forward_kl",
    "reverse_kl": "reverse_kl",
    "total": "loss",
}


@functools.cache
def vectors() -> dict[str, Tensor]:
    with np.load(FIXTURE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def pixel_values() -> Tensor:
    views = torch.cat([vectors()["view1"], vectors()["view2"]]).double() / 255
    return ((views - MEAN) / STD).float()


def reference_model() -> SpectralGCDModel:
    clip = parity_clip()
    model = SpectralGCDModel.from_student(
        clip,
        [f"concept {number}" for number in range(20)],
        [f"class {number}" for number in range(N_KNOWN)],
        N_NOVEL,
        processor=None,
        concept_features=clip.get_text_features(vectors()["concept_input_ids"].long()).pooler_output.detach(),
        hidden_size=32,
        mlp_hidden_size=48,
        bottleneck_size=24,
    )
    state = {ours: vectors()[f"init/{theirs}"] for theirs, ours in HEAD_NAMES.items()}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    model.train_last_blocks(1)
    return model


def losses_of(model: SpectralGCDModel, epoch: int) -> dict[str, Tensor]:
    output: Any = model(pixel_values())
    labels = torch.where(vectors()["labelled_mask"] == 1, vectors()["labels"], -1)
    return spectral_gcd_losses(
        output.logits,
        output.embeddings,
        output.cross_modal,
        labels,
        vectors()["teacher_representation"],
        teacher_temperature=teacher_temperature(epoch),
        mean_entropy_weight=2.0,
    )


def block_gradient(model: SpectralGCDModel, name: str) -> Tensor:
    """A gradient of the last block under the original CLIP's name."""
    for theirs, ours in BLOCK_NAMES.items():
        name = name.replace(theirs, ours)
    prefix = "backbone.vision_model.encoder.layers.2."
    parameters = dict(model.named_parameters())
    name = prefix + name.removeprefix("visual.transformer.resblocks.2.")
    names = [name.replace("qkv_proj", f"{part}_proj") for part in "qkv"] if "qkv" in name else [name]
    return torch.cat([parameters[part].grad for part in names])  # type: ignore[misc]


def assert_matches(key: str, value: Tensor, relative: float) -> None:
    """`key` may name the whole tensor, its first rows, or its norm and sum."""
    expected = vectors()[key]
    if "_rows0to3/" in key:
        value = value[:4]
    if "_norm_sum/" in key:
        norm, total = expected.tolist()
        assert float(value.norm()) == pytest.approx(norm, rel=relative)
        assert float(value.double().sum()) == pytest.approx(total, abs=relative * norm * value.numel() ** 0.5)
        return
    torch.testing.assert_close(value, expected, atol=relative * float(expected.abs().max()), rtol=0)


@torch.no_grad()
def test_outputs() -> None:
    model = reference_model()
    output = model(pixel_values())
    features = F.normalize(vectors()["student_text_features"], dim=-1)
    torch.testing.assert_close(model.concept_features, features, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.image_embeds, vectors()["image_features"], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.cross_modal, vectors()["cross_modal"], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.projected, vectors()["projected"], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.logits, vectors()["head_logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.embeddings, vectors()["head_embedding"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("epoch", [0, 12, 40])
def test_losses(epoch: int) -> None:
    losses = losses_of(reference_model(), epoch)
    assert teacher_temperature(epoch) == pytest.approx(float(vectors()[f"epoch{epoch}/teacher_temperature"]), abs=1e-7)
    for theirs, ours in LOSS_NAMES.items():
        torch.testing.assert_close(
            losses[ours].detach(), vectors()[f"epoch{epoch}/loss/{theirs}"], atol=2e-5, rtol=2e-6, msg=ours
        )


@pytest.mark.parametrize("epoch", [0, 12])
def test_gradients(epoch: int) -> None:
    model = reference_model()
    losses_of(model, epoch)["loss"].backward()
    parameters = dict(model.named_parameters())
    checked = 0
    for key in vectors():
        parts = key.split("/")
        if parts[0] != f"epoch{epoch}" or not parts[1].startswith("grad"):
            continue
        backbone = parts[1].startswith("grad_backbone")
        gradient = block_gradient(model, parts[2]) if backbone else parameters[HEAD_NAMES[parts[2]]].grad
        assert gradient is not None
        assert_matches(key, gradient, 1e-4)
        checked += 1
    assert checked >= 15
    frozen = [name for name, parameter in parameters.items() if parameter.grad is None]
    assert all(name.startswith("backbone.") and "encoder.layers.2" not in name for name in frozen)


def test_parameters_after_a_step() -> None:
    model = reference_model()
    optimizer = torch.optim.SGD(parameter_groups(model, 0.1, 0.005), momentum=0.9, weight_decay=5e-5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses_of(model, 0)["loss"].backward()
    optimizer.step()
    parameters = dict(model.named_parameters())
    keys = [key for key in vectors() if key.startswith("epoch0/after_step")]
    assert len(keys) == 9 + 4
    for key in keys:
        value = parameters[HEAD_NAMES[key.split("/")[-1]]].detach()
        if "_norm_sum/" in key:
            assert_matches(key, value, 1e-5)
        else:
            expected = vectors()[key]
            torch.testing.assert_close(value[: len(expected)], expected, atol=2e-6, rtol=0)
    block = [name for name in before if "vision_model.encoder.layers.2." in name]
    for name in block:
        expected = before[name] - 0.005 * (parameters[name].grad + 5e-5 * before[name])
        torch.testing.assert_close(parameters[name].detach(), expected, atol=1e-7, rtol=0)
