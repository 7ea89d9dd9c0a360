"""OTI and OVI against the golden vectors of the reference implementation, and SigLIP against a direct computation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.inversion import oti, ovi
from hf_clipalign.inversion.text import pseudo_prompt
from tests.parity_models import parity_clip
from tests.tiny_models import tiny_siglip, tiny_tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures" / "oti_ovi"
PARAMS = json.loads((FIXTURES / "params.json").read_text())
VECTORS = {name: torch.from_numpy(value) for name, value in np.load(FIXTURES / "vectors.npz").items()}
END, PLACEHOLDER = 49407, 1950


class TemplateTokenizer:
    """Gives the stored ids of one template, with as many placeholders as the text has."""

    def __init__(self, case):
        ids = VECTORS[f"oti/{case}/input_ids"][0].tolist()
        self.ids = ids[: ids.index(END) + 1]

    def __call__(self, texts, **settings):
        if isinstance(texts, str):
            return {"input_ids": self._row(texts)}
        return {"input_ids": torch.tensor([self._row(text) for text in texts])}

    def _row(self, text):
        assert text.count("£")
        first, rest = self.ids.index(PLACEHOLDER), [token for token in self.ids if token != PLACEHOLDER]
        return [*rest[:first], *[PLACEHOLDER] * text.count("£"), *rest[first:]]


def case(method, name):
    prefix = f"{method}/{name}/"
    return {key.removeprefix(prefix): value for key, value in VECTORS.items() if key.startswith(prefix)}


def check(run, expected, steps=10):
    output = run(steps=steps, evaluate_at=(0, steps))
    torch.testing.assert_close(output.losses, expected["losses"], atol=2e-6, rtol=0)
    torch.testing.assert_close(output.tokens, expected["final_tokens"], atol=5e-6, rtol=0)
    torch.testing.assert_close(output.features, expected["final_features"], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.snapshots[0], expected["init_features"], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.snapshots[steps], output.features, atol=0, rtol=0)
    torch.testing.assert_close(run(steps=1).tokens, expected["tokens_step1"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("strategy", ["packed", "cut", "full"])
@pytest.mark.parametrize("name", list(PARAMS["oti"]))
def test_oti(name, strategy):
    expected, settings = case("oti", name), PARAMS["oti"][name]

    def run(**options):
        return oti(
            parity_clip(),
            VECTORS["image_features"],
            processor=TemplateTokenizer(name),
            n_tokens=settings["num_pseudo_tokens"],
            template=settings["template"],
            init=expected["init_tokens"],
            strategy=strategy,
            eps=1e-8 * len(VECTORS["image_features"]),
            progress=False,
            **options,
        )

    check(run, expected)


@pytest.mark.parametrize("name", list(PARAMS["oti"]))
def test_the_prompt_is_the_references(name):
    settings = PARAMS["oti"][name]
    encoder = as_dual_encoder(parity_clip())
    prompt = pseudo_prompt(encoder, TemplateTokenizer(name), settings["template"], settings["num_pseudo_tokens"])
    stored = VECTORS[f"oti/{name}/input_ids"][0]
    assert prompt.input_ids.tolist() == stored[: len(prompt.input_ids)].tolist()
    assert not stored[len(prompt.input_ids) :].any()
    assert stored[prompt.position] == PLACEHOLDER


@pytest.mark.parametrize("name", list(PARAMS["ovi"]))
def test_ovi(name):
    expected, n_tokens = case("ovi", name), PARAMS["ovi"][name]["num_pseudo_tokens"]

    def run(**options):
        init = expected["init_tokens"]
        texts = VECTORS["text_features"]
        eps = 1e-8 * len(texts)
        return ovi(parity_clip(), texts, n_tokens=n_tokens, init=init, eps=eps, progress=False, **options)

    check(run, expected)


def textbook(encode, targets, init, steps):
    tokens = init.clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([tokens], lr=2e-2, weight_decay=0.01)
    losses = []
    for _ in range(steps):
        loss = (1 - F.cosine_similarity(encode(tokens), targets)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return tokens.detach(), encode(tokens).detach(), torch.tensor(losses)


def test_siglip_oti_is_the_full_length_computation():
    model, tokenizer = tiny_siglip(), tiny_tokenizer("siglip")
    torch.manual_seed(0)
    targets, init = torch.randn(3, 32), 0.02 * torch.randn(3, 2, 32)
    text = "a photo of red red"
    ids = tokenizer(text, padding="max_length", max_length=64, return_tensors="pt")["input_ids"].expand(3, -1)
    tower = model.text_model

    def encode(tokens):
        embeds = tower.embeddings.token_embedding(ids).detach().clone()
        embeds[:, 3:5] = tokens
        hidden = tower.encoder(inputs_embeds=tower.embeddings(inputs_embeds=embeds)).last_hidden_state
        return tower.head(tower.final_layer_norm(hidden)[:, -1])

    tokens, features, losses = textbook(encode, targets, init, 12)
    output = oti(model, targets, processor=tokenizer, n_tokens=2, steps=12, init=init, eps=3e-8, progress=False)
    torch.testing.assert_close(output.losses, losses, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.tokens, tokens, atol=1e-3, rtol=0)
    torch.testing.assert_close(output.features, features, atol=1e-4, rtol=0)


def test_siglip_ovi_is_the_direct_computation():
    model = tiny_siglip()
    torch.manual_seed(0)
    targets, init = torch.randn(3, 32), 0.02 * torch.randn(3, 3, 32)
    tower = model.vision_model
    token_of_patch = [i * 3 // 16 for i in range(16)]

    def encode(tokens):
        embeds = tokens[:, token_of_patch] + tower.embeddings.position_embedding.weight
        return tower.head(tower.post_layernorm(tower.encoder(inputs_embeds=embeds).last_hidden_state))

    tokens, features, losses = textbook(encode, targets, init, 12)
    output = ovi(model, targets, n_tokens=3, steps=12, init=init, eps=3e-8, progress=False)
    torch.testing.assert_close(output.losses, losses, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.tokens, tokens, atol=1e-3, rtol=0)
    torch.testing.assert_close(output.features, features, atol=1e-4, rtol=0)
