"""Losses of images and texts against their formulas and against transformers' own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hf_clipalign import ClipAlignError
from hf_clipalign.losses import contrastive_loss, sigmoid_loss


def clip_loss(logits_per_text: torch.Tensor) -> torch.Tensor:
    """CLIP's loss as its paper has it (arXiv 2103.00020, figure 3)."""
    targets = torch.arange(len(logits_per_text))
    return (F.cross_entropy(logits_per_text, targets) + F.cross_entropy(logits_per_text.T, targets)) / 2


def draw(n: int, m: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 8, generator=generator), torch.randn(m, 8, generator=generator)


def test_pairs_give_the_loss_that_transformers_gives() -> None:
    images, texts = draw(6, 6)
    cosines = F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
    torch.testing.assert_close(contrastive_loss(images, texts, 14.3), clip_loss(14.3 * cosines))


def test_shared_positives_are_their_formula() -> None:
    images, texts = draw(3, 5)
    positives = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 1]], dtype=torch.bool)
    logits = 5.0 * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    rows = []
    for table, mask in ((logits, positives), (logits.T, positives.T)):
        means = [
            torch.stack([row[p] - row.logsumexp(0) for p in mask[i].nonzero().flatten()]).mean()
            for i, row in enumerate(table)
        ]
        rows.append(-torch.stack(means).mean())
    torch.testing.assert_close(contrastive_loss(images, texts, 5.0, positives=positives), sum(rows) / 2)


@pytest.mark.parametrize("loss", [contrastive_loss, sigmoid_loss])
def test_a_second_caption_is_pulled_to_its_image_and_not_pushed_away(loss) -> None:
    images, texts = draw(4, 4)
    positives = torch.eye(4, dtype=torch.bool)
    positives[0, 1] = True
    pulls = []
    for mask in (positives, None):
        second = texts[1].clone().requires_grad_()
        loss(images, torch.stack([texts[0], second, texts[2], texts[3]]), 1.0, positives=mask).backward()
        pulls.append(-(second.grad @ F.normalize(images[0], dim=-1)).item())
    assert pulls[0] > 0.01 > pulls[1]


def test_sigmoid_is_its_formula() -> None:
    images, texts = draw(4, 4)
    logits = 7.0 * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T - 3.0
    expected = -F.logsigmoid(logits * (2 * torch.eye(4) - 1)).sum() / 4
    torch.testing.assert_close(sigmoid_loss(images, texts, 7.0, -3.0), expected)
    positives = torch.zeros(4, 4, dtype=torch.bool)
    positives[0] = True
    expected = -F.logsigmoid(torch.where(positives, logits, -logits)).sum() / 4
    torch.testing.assert_close(sigmoid_loss(images, texts, 7.0, -3.0, positives=positives), expected)


@pytest.mark.parametrize("loss", [contrastive_loss, sigmoid_loss])
def test_length_and_type_do_not_matter_and_gradients_flow(loss) -> None:
    images, texts = draw(5, 5)
    scale = torch.tensor(10.0, requires_grad=True)
    images.requires_grad_()
    value = loss(images, texts, scale)
    value.backward()
    assert images.grad.abs().max() > 0
    assert scale.grad != 0
    torch.testing.assert_close(loss(3 * images, 0.1 * texts, 10.0), value)
    half = loss(images.bfloat16(), texts.bfloat16(), 10.0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, value, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("loss", [contrastive_loss, sigmoid_loss])
@pytest.mark.parametrize(
    ("shapes", "scale", "positives", "match"),
    [
        (((3, 4), (2, 4)), 1.0, None, "3 images and 2 texts"),
        (((3, 4), (3, 5)), 1.0, None, "same d"),
        (((0, 4), (0, 4)), 1.0, None, "one row or more"),
        (((3, 4), (3, 4)), 0.0, None, "logit_scale must be positive and finite, not 0"),
        (((3, 4), (3, 4)), float("nan"), None, "not nan"),
        (((3, 4), (3, 4)), float("inf"), None, "not inf"),
        (((3, 4), (3, 4)), torch.tensor(-1.0), None, "not -1"),
        (((3, 4), (2, 4)), 1.0, torch.ones(3, 3, dtype=torch.bool), "positives must be booleans"),
        (((2, 4), (2, 4)), 1.0, torch.eye(2), "positives must be booleans"),
    ],
)
def test_bad_input(loss, shapes, scale, positives, match) -> None:
    with pytest.raises(ClipAlignError, match=match):
        loss(torch.ones(shapes[0]), torch.ones(shapes[1]), scale, positives=positives)


def test_nobody_is_alone() -> None:
    images, texts = draw(2, 2)
    with pytest.raises(ClipAlignError, match="image 1 has no positive"):
        contrastive_loss(images, texts, 1.0, positives=torch.tensor([[True, True], [False, False]]))
    with pytest.raises(ClipAlignError, match="text 0 has no positive"):
        contrastive_loss(images, texts, 1.0, positives=torch.tensor([[False, True], [False, True]]))


def parts(n: int, *cuts: int) -> list[slice]:
    ends = [0, *cuts, n]
    return [slice(ends[i], ends[i + 1]) for i in range(len(ends) - 1)]


@pytest.mark.parametrize("kind", ["pairs", "captions of uneven numbers", "labels", "a mask"])
@pytest.mark.parametrize("cuts", [(3,), (1, 2), (2, 5)])
def test_the_shares_of_disjoint_rows_add_up_to_loss_and_gradient(kind: str, cuts: tuple[int, ...]) -> None:
    n, m = 6, 6 if kind == "pairs" else 9
    images, texts = draw(n, m)
    groups = {
        "captions of uneven numbers": (torch.arange(6), torch.tensor([0, 1, 1, 1, 2, 3, 4, 4, 5])),
        "labels": (torch.tensor([4, 4, 7, 7, 4, 9]), torch.tensor([4, 9, 7, 7, 4, 9, 4, 4, 7])),
    }
    options = {"groups": groups[kind]} if kind in groups else {}
    if kind == "a mask":
        options = {"positives": torch.eye(6, 9, dtype=torch.bool).logical_or(torch.ones(6, 9).tril(-5).bool())}
        options["positives"][0, 6:] = True
    text_cuts = tuple(cut + 1 for cut in cuts)
    for loss, shares in (
        (contrastive_loss, zip(parts(n, *cuts), parts(m, *text_cuts), strict=True)),
        (sigmoid_loss, parts(n, *cuts)),
    ):
        whole, split = images.clone().requires_grad_(), images.clone().requires_grad_()
        expected = loss(whole, texts, 8.0, **options)
        found = [loss(split, texts, 8.0, own=own, **options) for own in shares]
        torch.testing.assert_close(torch.stack(found).sum(), expected)
        expected.backward()
        torch.stack(found).sum().backward()
        torch.testing.assert_close(split.grad, whole.grad)
        assert all(share < expected for share in found)


def test_groups_are_a_mask() -> None:
    images, texts = draw(3, 4)
    groups = torch.tensor([5, 6, 5]), torch.tensor([6, 5, 5, 6])
    mask = groups[0][:, None] == groups[1]
    for loss in (contrastive_loss, sigmoid_loss):
        torch.testing.assert_close(
            loss(images, texts, 3.0, groups=groups), loss(images, texts, 3.0, positives=mask), atol=0, rtol=0
        )
        with pytest.raises(ClipAlignError, match="not both"):
            loss(images, texts, 3.0, groups=groups, positives=mask)
        with pytest.raises(ClipAlignError, match=r"shapes \(3,\) and \(3,\)"):
            loss(images, texts, 3.0, groups=(groups[0], groups[0]))


def test_who_is_alone_is_named_by_its_place_in_all_rows() -> None:
    images, texts = draw(4, 4)
    groups = torch.arange(4), torch.tensor([0, 1, 2, 9])
    with pytest.raises(ClipAlignError, match="image 3 has no positive"):
        contrastive_loss(images, texts, 1.0, groups=groups, own=(slice(2, 4), slice(0, 2)))
    with pytest.raises(ClipAlignError, match="text 3 has no positive"):
        contrastive_loss(images, texts, 1.0, groups=groups, own=(slice(0, 2), slice(1, 4)))


@pytest.mark.parametrize("loss", [contrastive_loss, sigmoid_loss])
@pytest.mark.parametrize(("place", "name"), [(0, "image_groups"), (1, "text_groups")])
def test_groups_that_are_no_tensors_are_named(loss, place: int, name: str) -> None:
    groups: list = [torch.arange(3), torch.arange(3)]
    groups[place] = [0, 1, 2]
    with pytest.raises(ClipAlignError, match=f"{name} is of type list"):
        loss(torch.eye(3), torch.eye(3), 1.0, groups=tuple(groups))
