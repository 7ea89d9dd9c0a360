"""Which parameters a tower and a projector have, in every family."""

from __future__ import annotations

import pytest
import torch

from hf_clipalign.backbones import as_dual_encoder, projector_parameters, tower_parameters
from tests.tiny_models import ALL_MAKERS


@pytest.mark.parametrize("family", ALL_MAKERS)
def test_towers_are_apart_and_hold_their_projectors(family: str) -> None:
    model = ALL_MAKERS[family]()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    image, text = ({names[id(p)] for p in tower_parameters(model, kind)} for kind in ("image", "text"))
    assert image
    assert text
    assert not image & text
    assert all("vis" in name for name in image)
    assert all("text" in name for name in text)
    assert {names[id(p)] for p in projector_parameters(model, "image")} < image
    assert {names[id(p)] for p in projector_parameters(model, "text")} < text
    rest = set(names.values()) - image - text
    assert {"logit_scale"} <= rest
    assert all(name.startswith(("logit_", "decoder")) or "pooler" in name for name in rest), rest


def test_projectors_by_name() -> None:
    found = {}
    for family in ("clip", "siglip"):
        model = ALL_MAKERS[family]()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        found[family] = [names[id(p)] for kind in ("image", "text") for p in projector_parameters(model, kind)]
    assert found["clip"] == ["visual_projection.weight", "text_projection.weight"]
    assert {name.rsplit(".", 2)[-2] for name in found["siglip"]} == {"layernorm", "fc1", "fc2", "head"}


def test_flags_and_gradients_stay_as_they_were() -> None:
    model = ALL_MAKERS["clip"]()
    model.visual_projection.requires_grad_(False)
    with torch.no_grad():
        tower_parameters(model, "image")
    assert not model.visual_projection.weight.requires_grad
    assert model.text_projection.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_log_logit_scale_is_the_parameter_behind_the_scale() -> None:
    for maker in ALL_MAKERS.values():
        encoder = as_dual_encoder(maker())
        torch.testing.assert_close(encoder.log_logit_scale.exp(), encoder.logit_scale)
