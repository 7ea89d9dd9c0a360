"""What both inversions promise on every family: items never meet, the model is left alone, bad input is explained."""

import functools
import inspect

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import load_mini
from hf_clipalign.inversion import oti, ovi
from hf_clipalign.inversion.optimisation import _ItemAdamW, initial_tokens
from hf_clipalign.inversion.text import pseudo_prompt
from tests.tiny_models import ALL_MAKERS, FAMILIES, tiny_clip, tiny_model, tiny_processor, tiny_tokenizer, tokenizer_of

METHODS = ("oti", "ovi")


@functools.cache
def targets(family, n=5):
    width = as_dual_encoder(tiny_model(family)).embed_dim
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1))


def run(method, family="clip", embeds=None, model=None, **options):
    model = tiny_model(family) if model is None else model
    embeds = targets(family) if embeds is None else embeds
    options = {"steps": 6, "progress": False, "n_tokens": 2} | options
    if method == "ovi":
        return ovi(model, embeds, **options)
    return oti(model, embeds, processor=tiny_tokenizer(family), **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_features_come_closer_and_are_those_of_the_tokens(method, family):
    output = run(method, family, steps=30, evaluate_at=(0, 30))
    encoder = as_dual_encoder(tiny_model(family))
    width = encoder.text_dim if method == "oti" else encoder.vision_dim
    assert output.tokens.shape == (5, 2, width)
    assert output.features.shape == targets(family).shape
    assert output.losses.shape == (30,)
    cosines = [F.cosine_similarity(output.snapshots[step], targets(family)) for step in (0, 30)]
    assert (cosines[1] > cosines[0] + 0.05).all()
    torch.testing.assert_close(output.losses[0], 1 - cosines[0].mean())
    again = run(method, family, steps=1, init=output.tokens, evaluate_at=(0,))
    torch.testing.assert_close(again.snapshots[0], output.features, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_an_item_does_not_depend_on_its_batch_mates(method, family):
    together = run(method, family)
    alone = run(method, family, targets(family)[3:4], ids=[3])
    small = run(method, family, batch_size=2)
    torch.testing.assert_close(alone.features[0], together.features[3], atol=1e-4, rtol=0)
    torch.testing.assert_close(small.features, together.features, atol=1e-4, rtol=0)
    torch.testing.assert_close(small.losses, together.losses, atol=1e-5, rtol=0)
    other = run(method, family, targets(family)[3:4], ids=[4])
    assert (other.features[0] - together.features[3]).abs().max() > 1e-3


@pytest.mark.parametrize("strategy", [pytest.param("packed", marks=pytest.mark.slow), "cut", "ovi"])
def test_all_published_steps_are_exact_for_a_batch_size(strategy):
    """Near convergence AdamW makes rounding grow, so only batches of one shape give equal results."""
    mini = load_mini()
    embeds = torch.randn(7, 128, generator=torch.Generator().manual_seed(1))

    def invert(rows):
        options = {"ids": rows, "batch_size": 5, "progress": False}
        if strategy == "ovi":
            return ovi(mini.student, embeds[rows], n_tokens=1, steps=10, **options)
        return oti(mini.student, embeds[rows], processor=mini.student_processor, strategy=strategy, **options)

    many = invert(list(range(7)))
    fewer = invert([0, 6, 2, 1, 4, 5])  # one item in the last batch
    same_place = [0, 2, 4, 5]
    assert torch.equal(fewer.features[same_place], many.features[same_place])
    assert torch.equal(fewer.tokens[same_place], many.tokens[same_place])
    assert fewer.steps_taken.shape == (6,)
    if strategy != "packed":  # there an item's place in its row decides about rounding
        assert torch.equal(fewer.features[[1, 3]], many.features[[6, 1]])
    last = F.cosine_similarity(fewer.features, embeds[[0, 6, 2, 1, 4, 5]]).mean()
    assert abs(1 - last - fewer.losses[-1]) < 0.02  # of the six, not of the copies that fill the batch up


def test_starts_depend_on_seed_and_name_only():
    first = initial_tokens(range(3), (2, 8), None, torch.Generator().manual_seed(7))
    assert torch.equal(initial_tokens(["2", "0"], (2, 8), None, torch.Generator().manual_seed(7)), first[[2, 0]])
    assert not torch.equal(initial_tokens(range(3), (2, 8), None, torch.Generator().manual_seed(8)), first)
    assert torch.equal(initial_tokens(range(3), (2, 8), None, None), initial_tokens(range(3), (2, 8), None, None))
    many = initial_tokens(range(500), (1, 64), None, None)
    assert many.std() == pytest.approx(0.02, rel=0.02)
    assert len(many.flatten().unique()) > 31_000
    assert initial_tokens([], (2, 8), None, None).shape == (0, 2, 8)


@pytest.mark.parametrize("method", METHODS)
def test_snapshots_are_shorter_runs(method):
    output = run(method, evaluate_at=(0, 4, 6))
    assert sorted(output.snapshots) == [0, 4, 6]
    torch.testing.assert_close(output.snapshots[4], run(method, steps=4).features, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.snapshots[6], output.features, atol=0, rtol=0)
    assert (output.snapshots[0] - output.snapshots[4]).abs().max() > 1e-2


@pytest.mark.parametrize("method", METHODS)
def test_each_item_stops_when_it_stops_improving(method):
    options = {"steps": 120, "tolerance": 0.08}
    together = run(method, **options)
    assert together.steps_taken.min() < 120
    assert len(together.steps_taken.unique()) > 1
    for item, taken in enumerate(together.steps_taken.tolist()):
        alone = run(method, embeds=targets("clip")[item : item + 1], ids=[item], **options)
        assert alone.steps_taken.tolist() == [taken]
        stopped = run(method, embeds=targets("clip")[item : item + 1], ids=[item], steps=taken)
        torch.testing.assert_close(together.features[item], stopped.features[0], atol=5e-3, rtol=0)
    assert run(method, steps=20).steps_taken.tolist() == [20] * 5


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method, monkeypatch):
    model = tiny_clip()
    model.train()
    model.text_model.encoder.layers[0].eval()
    model.visual_projection.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}

    def breaks(*unused):
        assert not model.training
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("hf_clipalign.inversion.optimisation._ItemAdamW.step", breaks)
        with pytest.raises(RuntimeError):
            run(method, model=model)
    run(method, model=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trained
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("method", METHODS)
def test_it_works_under_no_grad_and_in_bfloat16(method):
    with torch.no_grad():
        exact = run(method, steps=20)
    half = run(method, model=tiny_clip().to(torch.bfloat16), steps=20)
    assert half.tokens.dtype == half.features.dtype == torch.float32
    torch.testing.assert_close(half.losses[-1], exact.losses[-1], atol=0.02, rtol=0)
    assert exact.losses[-1] < exact.losses[0] - 0.1


@pytest.mark.parametrize("method", METHODS)
def test_it_works_in_inference_mode_and_from_arrays(method):
    model, expected = tiny_clip(), run(method)
    with torch.inference_mode():
        found = run(method, model=model, embeds=targets("clip") * 1.0)
        with pytest.raises(ClipAlignError, match="load it outside"):
            run(method, model=tiny_clip())
    assert torch.equal(found.features, expected.features)
    start = expected.tokens.numpy()
    from_arrays = run(method, embeds=targets("clip").double().numpy(), init=start)
    assert torch.equal(from_arrays.features, run(method, init=expected.tokens).features)
    assert torch.equal(run(method, embeds=targets("clip").tolist()).features, expected.features)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("template", ["a photo of {}", "{} texture.", "a car on a  {}", "x£{}."])
def test_the_place_of_the_pseudo_tokens(family, template):
    encoder, tokenizer = as_dual_encoder(tiny_model(family)), tiny_tokenizer(family)
    prompt = pseudo_prompt(encoder, tokenizer, template, 3)
    ids = prompt.input_ids.tolist()
    stand_in = ids[prompt.position]
    assert ids[prompt.position : prompt.position + 3] == [stand_in] * 3
    assert stand_in not in (ids[prompt.position - 1] if prompt.position else None, ids[prompt.position + 3])
    assert len(ids) == 64 or encoder.causal_text
    one = pseudo_prompt(encoder, tokenizer, template, 1).input_ids.tolist()
    short = [*ids[: prompt.position], *ids[prompt.position + 2 :]]
    assert short == (one if encoder.causal_text else one[: len(short)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"template": "a photo"}, "'a photo' has 0 places"),
        ({"template": "{} of {}"}, "'{} of {}' has 2 places"),
        ({"template": None}, "the template is None"),
        ({"n_tokens": 73}, "73 pseudo-tokens has 78 tokens, but the model reads 77"),
    ],
)
def test_bad_templates(options, words):
    with pytest.raises(ClipAlignError, match=words):
        run("oti", **options)


def spoilt(value):
    embeds = targets("clip").clone()
    embeds[[1, 3]] = value
    return embeds


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"embeds": torch.ones(2, 31)}, r"\[2, 31\], but the model's shared space has 24"),
        ({"embeds": torch.ones(24)}, r"\[24\]"),
        ({"embeds": torch.ones(0, 24)}, "there are no"),
        ({"embeds": spoilt(0.0), "ids": list("abcde")}, r"zero for 2 items \(b, d\)"),
        ({"embeds": spoilt(float("nan"))}, r"NaN or infinite values in 2 of 5 rows \(1, 3\)"),
        ({"steps": 0}, "steps is 0"),
        ({"n_tokens": 0}, "n_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"steps": 1.5}, "steps is 1.5: give an integer"),
        ({"steps": "3"}, "steps is '3'"),
        ({"n_tokens": "2"}, "n_tokens is '2'"),
        ({"lr": float("nan")}, "lr is nan: give a number above 0"),
        ({"lr": -0.1}, "lr is -0.1"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"evaluate_at": 1}, "evaluate_at is 1: give a list"),
        ({"evaluate_at": [1.5]}, "a step of evaluate_at is 1.5"),
        ({"evaluate_at": [-1]}, "a step of evaluate_at is -1"),
        ({"embeds": [["a"]]}, "must be one tensor or array of numbers"),
        ({"embeds": "embeds.pt"}, "is a single string, 'embeds.pt'"),
        ({"eps": 0.0}, "eps is 0.0: give a number above 0; the published batch has 6.4e-07"),
        ({"embeds": torch.ones(2, 24, dtype=torch.complex64)}, "got complex numbers"),
        ({"ids": 3}, "ids is 3: give a list"),
        ({"init": torch.full((2, 32), float("nan"))}, "init "),
        ({"evaluate_at": (3, 7)}, "step 7, but there are 6 steps"),
        ({"ids": ["a"]}, "1 ids"),
        ({"generator": 3}, "generator is 3: give a torch.Generator"),
        ({"init": torch.zeros(4, 2, 32)}, r"\[4, 2, 32\], but the pseudo-tokens have \[5, 2,"),
    ],
)
def test_bad_input(method, options, words):
    with pytest.raises(ClipAlignError, match=words):
        run(method, **options)


@pytest.mark.parametrize("method", METHODS)
def test_neither_scale_nor_container_of_the_targets_matters(method):
    expected = run(method)
    embeds = targets("clip").double()
    for given in (embeds * 1e25, embeds * 1e-200, list(embeds), pd.DataFrame(embeds.numpy(), index=[4, 2, 0, 1, 3])):
        torch.testing.assert_close(run(method, embeds=given).features, expected.features, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_items", [4, 64])
def test_eps_meets_the_gradient_of_an_item_as_the_published_one_meets_that_of_the_mean(n_items):
    """One step of a batch whose loss is a mean, with AdamW's 1e-8, where gradients are as small as that."""
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(2, n_items, 3, 5, generator=generator)
    gradients *= 1e-7
    published = start.clone().requires_grad_(True)
    reference = torch.optim.AdamW([published], lr=2e-2, weight_decay=0.01)
    ours = start
    default = inspect.signature(oti).parameters["eps"].default
    assert default == inspect.signature(ovi).parameters["eps"].default == 64e-8
    optimizer = _ItemAdamW(start, 2e-2, 0.01, default if n_items == 64 else 4e-8)
    for factor in (1.0, 0.3, -0.5):
        published.grad = factor * gradients / n_items
        reference.step()
        ours = optimizer.step(ours, factor * gradients)
        torch.testing.assert_close(ours, published.detach(), atol=1e-6, rtol=0)


def test_eps_of_an_item_does_not_depend_on_its_batch():
    together = run("oti", eps=1e-4)
    alone = run("oti", embeds=targets("clip")[3:4], ids=[3], eps=1e-4)
    torch.testing.assert_close(alone.tokens[0], together.tokens[3], atol=1e-5, rtol=0)
    assert (run("oti").tokens - together.tokens).abs().max() > 1e-3


def test_a_result_that_is_no_number_is_refused_by_name():
    with pytest.raises(ClipAlignError, match=r"for 5 items \(a, b, c, d, e\) with lr 1e\+30: lower it"):
        run("oti", lr=1e30, ids=iter("abcde"))


def test_a_start_of_nan_and_a_missing_tokenizer():
    with pytest.raises(ClipAlignError, match="init holds NaN"):
        run("ovi", init=torch.full((2, 48), float("nan")))
    for processor in (None, "clip", tiny_processor("clip").image_processor):
        with pytest.raises(ClipAlignError, match="give the checkpoint's processor or tokenizer"):
            oti(tiny_clip(), targets("clip"), processor=processor)


def test_more_pseudo_patches_than_patches():
    with pytest.raises(ClipAlignError, match="17 pseudo-patches, but the model's images have 16"):
        run("ovi", n_tokens=17)


@pytest.mark.parametrize("family", ["chinese_clip", "altclip", "vision_text", "vision_text_clip", "clipseg"])
@pytest.mark.parametrize("method", METHODS)
def test_other_families_of_transformers(method, family):
    model = ALL_MAKERS[family]()
    wanted = torch.randn(3, as_dual_encoder(model).embed_dim, generator=torch.Generator().manual_seed(1))
    options = {"n_tokens": 2, "progress": False, "lr": 0.05}
    if method == "oti":
        options |= {"processor": tokenizer_of(family)}
    invert = ovi if method == "ovi" else oti
    output = invert(model, wanted, steps=25, evaluate_at=(0,), **options)
    before, after = (F.cosine_similarity(features, wanted) for features in (output.snapshots[0], output.features))
    assert (after > before + 0.05).all()
    alone = invert(model, wanted[1:2], ids=[1], steps=25, **options)
    torch.testing.assert_close(alone.features[0], output.features[1], atol=1e-3, rtol=1e-3)
    again = invert(model, wanted, steps=1, init=output.tokens, evaluate_at=(0,), **options)
    torch.testing.assert_close(again.snapshots[0], output.features, atol=1e-4, rtol=1e-4)


def test_a_real_word_as_pseudo_token_gives_the_text_feature_of_a_tower_that_looks_both_ways():
    model, tokenizer = ALL_MAKERS["chinese_clip"](), tokenizer_of("chinese_clip")
    encoder = as_dual_encoder(model)
    ids = tokenizer(["a photo of cat", "a photo of dog"], return_tensors="pt")["input_ids"]
    words = encoder.token_table.weight.detach()[ids[:, 4]][:, None]
    wanted = torch.randn(2, encoder.embed_dim, generator=torch.Generator().manual_seed(1))
    output = oti(model, wanted, processor=tokenizer, steps=1, init=words, evaluate_at=(0,), progress=False)
    with torch.no_grad():
        expected = encoder.encode_text(ids)
    torch.testing.assert_close(output.snapshots[0], expected, atol=1e-5, rtol=1e-4)
