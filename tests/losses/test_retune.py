"""RE-tune's maths against the authors' numbers, and its properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from torch import Tensor
from torch.nn import functional as F

from hf_clipalign import ClipAlignError
from hf_clipalign.losses import (
    masked_bce_loss,
    retune_cosines,
    retune_labels,
    retune_logits,
    retune_scores,
    undo_small_updates,
)
from hf_clipalign.tuners import EmbeddingSpace, RETuneConfig, adapt_image, adapt_text

FIXTURES = Path(__file__).parents[1] / "fixtures" / "retune"
PARAMS = json.loads((FIXTURES / "params.json").read_text())
VARIANTS = PARAMS["variants"]
HEADS = {"image": "visual_projection", "text": "text_projection"}


def vectors() -> dict[str, Tensor]:
    with np.load(FIXTURES / "vectors.npz") as arrays:
        stored = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return {name: value.float() / 1024 if name.startswith("init/") else value for name, value in stored.items()}


VECTORS = vectors()


def our_name(side: str, name: str, kind: str) -> str:
    """The reference's layer.0 and layer.2 as our modules; a linear adapter has layer.0 alone."""
    _, number, parameter = name.split(".")
    place = "in" if kind == "mlp" and number == "0" else "out"
    return f"base_model.model.{HEADS[side]}.clip_retune_{place}.default.{parameter}"


def adapted_space(kind: str, image: bool = True, text: bool = True, shared: bool = False) -> Any:
    sides = "shared" if shared else "both" if image and text else "image" if image else "text"
    config = RETuneConfig(adapter="mlp" if kind == "mlp" else "linear", sides=sides)
    model = get_peft_model(EmbeddingSpace(128), config)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in VECTORS.items():
            prefix = f"init/{kind}/"
            if name.startswith(prefix):
                side, rest = name.removeprefix(prefix).split("/")
                if our_name(side, rest, kind) in parameters:
                    parameters[our_name(side, rest, kind)].copy_(value)
    return model


def prompts(model: Any, kind: str) -> tuple[Tensor, Tensor]:
    stored = (VECTORS[f"prompt_embeddings/{kind}/{polarity}"] for polarity in ("positive", "negative"))
    positive, negative = (
        adapt_text(model, part.flatten(0, 1)).unflatten(0, part.shape[:2]).mean(1) for part in stored
    )
    return positive, negative


def logits_and_targets(model: Any, variant: dict[str, Any]) -> tuple[Tensor, Tensor]:
    task, n = variant["task_index"], VECTORS["labels"].shape[1]
    columns = {"joint": range(n), "class_incremental": [task], "label_incremental": range((task or 0) + 1)}
    used = list(columns[variant["mode"]])
    positive, negative = prompts(model, variant["prompts"])
    logits = retune_logits(adapt_image(model, VECTORS["image_embeddings"]), positive[used], negative[used])
    return logits, VECTORS["labels"][:, used].float()


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_loss_gradients_and_a_step(name: str) -> None:
    variant = VARIANTS[name]
    sides = (variant[f"{side}_adapter"] for side in ("image", "text", "shared"))
    model = adapted_space("mlp" if variant["adapter"] == "mlp" else "dense", *sides)
    logits, targets = logits_and_targets(model, variant)
    expected = VECTORS[f"{name}/logits"]
    assert (logits - expected.reshape(logits.shape)).abs().max() < 1e-5
    loss = masked_bce_loss(logits, targets)
    assert abs(loss.item() - VECTORS[f"{name}/loss"].item()) < 2e-5
    loss.backward()
    parameters = dict(model.named_parameters())
    before = {key: value.detach().clone() for key, value in parameters.items()}
    torch.optim.Adam(parameters.values(), lr=1e-4).step()
    checked = 0
    for key, value in VECTORS.items():
        what, _, rest = key.removeprefix(f"{name}/").partition("/")
        if not key.startswith(f"{name}/") or not rest:
            continue
        parameter = parameters[our_name(*rest.split("/"), variant["adapter"])]
        found: Any = parameter.grad if what.startswith("grad") else parameter.detach()
        scale, tolerance = (value.abs().max(), 1e-4) if what.startswith("grad") else (1.0, 2e-6)
        if what.endswith("norm_sum"):
            found, scale, tolerance = torch.stack([found.norm(), found.sum()]), value.abs().clamp(min=1e-2), 1e-3
        elif what.endswith("rows0to1"):
            found = found[:2]
        assert ((found - value).abs() / scale).max() < tolerance, key
        checked += 1
    assert checked >= 8 or "task0" in name or not variant["text_adapter"] or variant["shared_adapter"]
    assert all(not torch.equal(parameters[key], before[key]) for key in parameters)


@pytest.mark.parametrize("kind", ["mlp", "dense"])
def test_scores_and_labels(kind: str) -> None:
    with torch.no_grad():
        model = adapted_space(kind)
        positive, negative = prompts(model, "multiple")
        cosines = retune_cosines(adapt_image(model, VECTORS["image_embeddings"]), positive, negative)
    for score, name in (("positive", "score_positive_only"), ("difference", "score_difference")):
        assert (retune_scores(*cosines, score) - VECTORS[f"predict/{kind}/{name}"]).abs().max() < 1e-5
    assert torch.equal(retune_labels(*cosines).float(), VECTORS[f"predict/{kind}/hard_labels"])
    if kind == "mlp":
        assert (positive - VECTORS["predict/mlp/mean_adapted_positive"]).abs().max() < 1e-5


@pytest.mark.parametrize("side", ["image", "text"])
def test_reset_rule(side: str) -> None:
    name = f"{side}/layer.0.bias"
    old, new = VECTORS[f"init/dense/{name}"], VECTORS[f"reset/before/{name}"]
    kept = undo_small_updates({"b": old}, {"b": new}, PARAMS["reset_threshold"])["b"]
    bits = np.unpackbits(VECTORS[f"reset/kept_update_mask_bits/{name}"].numpy())[: len(old)].astype(bool)
    assert 0 < bits.sum() < len(bits)
    assert torch.equal(kept, torch.where(torch.from_numpy(bits), new, old))


def test_reset_threshold_zero_changes_nothing() -> None:
    old, new = torch.zeros(9), torch.randn(9)
    assert torch.equal(undo_small_updates({"b": old}, {"b": new}, 0.0)["b"], new)
    almost = undo_small_updates({"b": old}, {"b": new}, 1.0)["b"]
    assert almost.count_nonzero() == 1


def test_unknown_targets_do_not_count() -> None:
    logits, targets = torch.randn(6, 3), torch.randint(2, (6, 3)).float()
    whole = masked_bce_loss(logits, targets)
    assert torch.isclose(whole, F.binary_cross_entropy_with_logits(logits, targets))
    more = torch.cat([logits, 100 * torch.ones(2, 3)]).requires_grad_()
    loss = masked_bce_loss(more, torch.cat([targets, torch.full((2, 3), torch.nan)]))
    loss.backward()
    assert torch.isclose(loss, whole)
    assert more.grad is not None
    assert not more.grad[6:].any()
    assert masked_bce_loss(logits, torch.full((6, 3), torch.nan)) == 0


def test_logits_are_differences_of_cosines_of_any_length() -> None:
    images, positive, negative = torch.randn(4, 8), torch.randn(3, 8), torch.randn(3, 8)
    logits = retune_logits(images, positive, negative)
    expected = F.cosine_similarity(images[:, None], positive, dim=-1)
    expected -= F.cosine_similarity(images[:, None], negative, dim=-1)
    assert torch.allclose(logits, expected, atol=1e-6)
    assert torch.allclose(retune_logits(7 * images, 3 * positive, negative), logits, atol=1e-6)
    assert torch.equal(retune_labels(*retune_cosines(images, positive, negative)), logits > 0)
    assert not retune_logits(torch.zeros(1, 8), positive, negative).any()


def test_half_precision_inputs_give_float32() -> None:
    parts = [torch.randn(4, 8).bfloat16() for _ in range(3)]
    assert retune_logits(*parts).dtype == torch.float32


def test_bad_input() -> None:
    with pytest.raises(ClipAlignError, match="must be"):
        retune_logits(torch.ones(2, 4), torch.ones(1, 3), torch.ones(1, 3))
    with pytest.raises(ClipAlignError, match="same shape"):
        masked_bce_loss(torch.ones(2, 4), torch.ones(2, 3))
    with pytest.raises(ClipAlignError, match=r"\(4,\).*must be"):
        retune_logits(torch.ones(4), torch.ones(1, 4), torch.ones(1, 4))
    for strange in (-1.0, 0.5):
        with pytest.raises(ClipAlignError, match="targets must be 1, 0, or NaN"):
            masked_bce_loss(torch.ones(1, 3), torch.tensor([[1.0, torch.nan, strange]]))
    with pytest.raises(ClipAlignError, match=r"'both'.*positive, difference"):
        retune_scores(torch.ones(1, 1), torch.ones(1, 1), "both")


@pytest.mark.parametrize(
    ("changes", "threshold", "kept"),
    [
        ([1.0, 1.4, 2.0], 0.5, [False, False, True]),  # half of the largest change alone would reset nothing
        ([0.0, 0.5, 1.0], 0.5, [False, True, True]),  # what is exactly at the limit stays
        ([-3.0, 1.0, 2.0], 0.5, [True, False, True]),  # a change counts by its size
    ],
)
def test_the_limit_lies_between_the_smallest_and_the_largest_change(
    changes: list[float], threshold: float, kept: list[bool]
) -> None:
    old = torch.tensor([4.0, 8.0, 16.0])
    new = old + torch.tensor(changes)
    found = undo_small_updates({"w": old}, {"w": new}, threshold)["w"]
    assert found.tolist() == torch.where(torch.tensor(kept), new, old).tolist()


@pytest.mark.parametrize("target", [-1.0, 0.5, 2.0, float("inf")])
def test_targets_that_are_neither_known_nor_unknown_are_refused(target: float) -> None:
    with pytest.raises(ClipAlignError, match="targets must be 1, 0, or NaN"):
        masked_bce_loss(torch.zeros(1, 2), torch.tensor([[1.0, target]]))


def test_cosines_do_not_depend_on_the_length_of_images_and_prompts() -> None:
    images, positive, negative = (torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in (4, 3, 5))
    negative = negative[:3]
    for found, prompts in zip(retune_cosines(3 * images, 0.1 * positive, negative), (positive, negative), strict=True):
        expected = F.cosine_similarity(images[:, None], prompts[None], dim=-1)
        torch.testing.assert_close(found, expected)
