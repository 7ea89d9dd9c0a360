"""SigLIP's linearised head against the golden vectors of the reference implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import Projector, linearize_pooling_head
from hf_clipalign.backbones.linearization import in_layout, residual_head
from hf_clipalign.isoclip import decompose, trim_projectors

FIXTURE = Path(__file__).parents[1] / "fixtures" / "isoclip_siglip"
PARAMS = json.loads((FIXTURE / "params.json").read_text())
BANDS = [tuple(band) for band in PARAMS["k_top_k_bottom"]]


@pytest.fixture(scope="module")
def vectors():
    return {key: torch.from_numpy(value) for key, value in np.load(FIXTURE / "vectors.npz").items()}


@pytest.fixture(scope="module")
def head(vectors):
    """The pooling head of the vectors as a module of transformers."""
    from transformers import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

    config = SiglipVisionConfig(
        hidden_size=PARAMS["embed_dim"],
        num_attention_heads=PARAMS["num_heads"],
        intermediate_size=PARAMS["hidden_dim"],
        layer_norm_eps=PARAMS["layer_norm_eps"],
        hidden_act="gelu",
    )
    pool = {name.removeprefix("attn_pool."): value for name, value in vectors.items() if name.startswith("attn_pool.")}
    state = {"probe": pool["latent"]}
    for kind in ("weight", "bias"):
        state[f"attention.in_proj_{kind}"] = torch.cat([pool[f"q.{kind}"], pool[f"kv.{kind}"]])
        state[f"attention.out_proj.{kind}"] = pool[f"proj.{kind}"]
        state[f"layernorm.{kind}"] = pool[f"norm.{kind}"]
        for layer in ("fc1", "fc2"):
            state[f"mlp.{layer}.{kind}"] = pool[f"mlp.{layer}.{kind}"]
    module = SiglipMultiheadAttentionPoolingHead(config).eval()
    module.load_state_dict(state)
    return module


@pytest.fixture(scope="module")
def reference(vectors, head):
    """Both projectors, stacked as the authors' code stacks them."""
    text = Projector(vectors["text_projection.weight"], vectors["text_projection.bias"])
    return linearize_pooling_head(head, "reference").matrix, in_layout(text, "reference").matrix


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@torch.no_grad()
def test_the_head_is_split_before_its_mlp(vectors, head):
    close(head(vectors["tokens"]), vectors["pooled_with_mlp"])
    close(residual_head(head, vectors["pooled_no_mlp"]), vectors["pooled_with_mlp"])


def test_reference_layout_of_both_projectors(vectors, reference):
    close(reference[0], vectors["W_image_aug"].T)
    close(reference[1], vectors["W_text_aug"].T)


def test_spectrum(vectors, reference):
    values = decompose(*reference).S
    # the shared size bounds the rank, the reference also counts the null direction that the column of ones adds
    close(values, vectors["psi_singular_values"][: len(values)])
    assert vectors["psi_singular_values"][len(values) :].max() < 1e-5


@pytest.mark.parametrize("band", BANDS)
def test_trimmed_projectors_and_features(vectors, reference, band):
    surplus = PARAMS["r"] - PARAMS["embed_dim"]
    image, text = trim_projectors(*reference, band[0], max(0, band[1] - surplus))
    name = f"kt{band[0]}_kb{band[1]}"
    close(image, vectors[f"{name}/W_image_iso"].T)
    close(text, vectors[f"{name}/W_text_iso"].T)
    lifted = F.pad(vectors["pooled_no_mlp"], (0, 1), value=1.0)
    features = F.normalize(lifted @ image.T, dim=-1)
    close(features, vectors[f"{name}/image_iso"])
    close(features @ features.T, vectors[f"{name}/cos_image"])


def test_the_default_is_the_tangent_of_the_mlp_without_normalisation(head):
    """At slope 1/2, with a norm that only scales and shifts, the head is linear: the map must be that head."""

    class ScaleAndShift(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            return x * self.norm.weight + self.norm.bias

    x = torch.randn(4, PARAMS["embed_dim"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = 0.5 * head.mlp.fc1(ScaleAndShift(head.layernorm)(x))
        expected = x + head.mlp.fc2(hidden)
    projector = linearize_pooling_head(head)
    close(F.linear(x, projector.weight, projector.bias), expected)
    reference = linearize_pooling_head(head, "reference")
    assert (F.linear(x, reference.weight, reference.bias) - expected).abs().max() > 0.1


def test_an_unknown_layout_is_refused(head):
    with pytest.raises(ClipAlignError, match="unknown layout 'authors': choose from consistent, reference"):
        linearize_pooling_head(head, "authors")
