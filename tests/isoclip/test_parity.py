"""IsoCLIP against the golden vectors of the reference implementation (tolerances of their README)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.evaluation import Head, nearest_class_mean_logits, zero_shot_weights
from hf_clipalign.isoclip import IsoCLIPModel, decompose, trim_projectors
from hf_clipalign.metrics import nearest_class_mean, retrieval_metrics, retrieval_metrics_from_similarities
from tests.parity_models import parity_clip

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = [
    *[("A", band) for band in ((0, 0), (10, 4), (8, 24), (20, 40))],
    *[("A_teacher", band) for band in ((0, 0), (5, 7), (20, 16))],
]
METRIC_NAMES = {"mAP": "map", "mAP_at_R": "map_at_r", "precision_at_R": "r_precision", "recall_at_1": "recall_at_1"}


def vectors(folder):
    return {key: torch.from_numpy(value) for key, value in np.load(FIXTURES / folder / "vectors.npz").items()}


def params(folder):
    return json.loads((FIXTURES / folder / "params.json").read_text())


@pytest.fixture(scope="module")
def isoclip():
    return vectors("isoclip")


def our_band(encoder, band):
    """The reference counts k_bottom from min(d_v, d_t); ours counts from the rank."""
    surplus = min(encoder.vision_dim, encoder.text_dim) - min(encoder.embed_dim, encoder.vision_dim, encoder.text_dim)
    return band[0], max(0, band[1] - surplus)


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("name", ["A", "A_teacher"])
def test_features_and_spectrum(isoclip, name):
    encoder = as_dual_encoder(parity_clip(name))
    with torch.no_grad():
        close(encoder.image_preprojection(isoclip["pixel_values"]), isoclip[f"{name}/image_preproj"])
        close(encoder.text_preprojection(isoclip["input_ids"]), isoclip[f"{name}/text_preproj"])
        close(encoder.encode_image(isoclip["pixel_values"]), isoclip[f"{name}/image_features"])
        close(encoder.encode_text(isoclip["input_ids"]), isoclip[f"{name}/text_features"])
    spectrum = decompose(encoder.image_projector.matrix, encoder.text_projector.matrix)
    expected = isoclip[f"{name}/psi_singular_values"]
    close(spectrum.S, expected[: len(spectrum.S)])
    assert (expected[len(spectrum.S) :] < 1e-5).all()


@pytest.mark.parametrize(("name", "band"), CASES)
def test_trimmed_projectors_features_and_cosines(isoclip, name, band):
    model = parity_clip(name)
    encoder = as_dual_encoder(model)
    key = f"{name}/kt{band[0]}_kb{band[1]}"
    band = our_band(encoder, band)
    image, text = trim_projectors(encoder.image_projector.weight, encoder.text_projector.weight, *band)
    if f"{key}/W_image_iso" in isoclip:
        close(image.T, isoclip[f"{key}/W_image_iso"])
        close(text.T, isoclip[f"{key}/W_text_iso"])
    aligned = IsoCLIPModel.from_clip_pretrained(model, image_band=band, text_band=band)
    with torch.no_grad():
        images = F.normalize(aligned.get_image_features(isoclip["pixel_values"]).pooler_output, dim=-1)
        texts = F.normalize(aligned.get_text_features(isoclip["input_ids"]).pooler_output, dim=-1)
    close(images, isoclip[f"{key}/image_iso"])
    close(texts, isoclip[f"{key}/text_iso"])
    close(images @ images.T, isoclip[f"{key}/cos_image"])
    close(texts @ texts.T, isoclip[f"{key}/cos_text"])


@pytest.mark.parametrize("case", ["image_same_split", "image_different_split", "text_different_split"])
@pytest.mark.parametrize("kind", ["plain", "iso"])
def test_retrieval_from_images_to_metrics(case, kind):
    data, expected = vectors("retrieval_end_to_end"), params("retrieval_end_to_end")["cases"][f"{case}/{kind}"]
    encoder = as_dual_encoder(parity_clip("A"))
    modality = case.split("_")[0]
    weights = [encoder.image_projector.weight.detach(), encoder.text_projector.weight.detach()]
    if kind == "iso":
        weights = trim_projectors(*weights, *our_band(encoder, (expected["k_top"], expected["k_bottom"])))
    head = Head(kind, weights[0 if modality == "image" else 1])
    names = {
        "image_same_split": ("same_images", "same_images", "same_labels", "same_labels"),
        "image_different_split": ("query_images", "gallery_images", "query_labels", "gallery_labels"),
        "text_different_split": ("text_query_ids", "text_gallery_ids", "text_query_labels", "text_gallery_labels"),
    }[case]
    encode = encoder.image_preprojection if modality == "image" else encoder.text_preprojection
    with torch.no_grad():
        query, gallery = head.embed(encode(data[names[0]]), encode(data[names[1]]))
    similarity = query @ gallery.T
    close(similarity, data[f"{case}/{kind}/similarity"])
    labels = data[names[2]], data[names[3]]
    for scores in (
        retrieval_metrics(query, gallery, *labels, expected["same_split"], definition="reference"),
        retrieval_metrics_from_similarities(similarity, *labels, expected["same_split"], definition="reference"),
    ):
        for theirs, ours in METRIC_NAMES.items():
            assert 100 * scores[ours] == pytest.approx(expected["metrics_percent"][theirs], abs=1e-3)


@pytest.mark.parametrize("kind", ["ncm", "iso_ncm"])
def test_nearest_class_mean(kind):
    data, settings = vectors("ncm"), params("ncm")
    encoder = as_dual_encoder(parity_clip("A"))
    image, text = encoder.image_projector.weight.detach(), encoder.text_projector.weight.detach()
    if kind == "iso_ncm":
        image = trim_projectors(image, text, *our_band(encoder, (settings["k_top"], settings["k_bottom"])))[0]
    with torch.no_grad():
        train, test = (encoder.image_preprojection(data[f"{part}_images"]) for part in ("train", "test"))
    logits = nearest_class_mean_logits(Head(kind, image), train, data["train_labels"], test)
    if kind == "iso_ncm":
        close(nearest_class_mean(train, data["train_labels"]), data["iso_ncm/class_means"])
        close(test, data["iso_ncm/test_features"])
    else:
        close(nearest_class_mean(train @ image.T, data["train_labels"]), data["ncm/class_means"])
    close(logits * encoder.logit_scale.detach(), data[f"{kind}/logits"], atol=1e-4)
    assert torch.equal(logits.argmax(1), data[f"{kind}/predictions"])


class StoredTokenizer:
    """Gives the stored token ids of the prompts of one data set, and checks that these prompts are asked for."""

    def __init__(self, prompts, input_ids):
        self.ids = dict(zip(prompts, input_ids, strict=True))

    def __call__(self, texts, **kwargs):
        ids = torch.stack([self.ids[text] for text in texts])
        return {"input_ids": ids if "return_tensors" in kwargs else ids.tolist()}


@pytest.mark.parametrize("data_set", ["OxfordPets", "DescribableTextures", "Food101", "EuroSAT"])
def test_zero_shot(data_set):
    data, settings = vectors("ncm"), params("ncm")
    encoder = as_dual_encoder(parity_clip("A"))
    template = settings["zero_shot_templates"][data_set]
    prompts = [template.format(name.replace("_", " ")) for name in settings["class_names"]]
    tokenizer = StoredTokenizer(prompts, data[f"zero_shot/{data_set}/input_ids"])
    weights = zero_shot_weights(encoder, tokenizer, settings["class_names"], template)
    close(weights, data[f"zero_shot/{data_set}/text_features"])
    with torch.no_grad():
        logits = encoder.logit_scale * encoder.encode_image(data["test_images"], normalize=True) @ weights.T
    close(logits, data[f"zero_shot/{data_set}/logits"], atol=1e-4)
