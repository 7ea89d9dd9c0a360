"""SpectralGCDModel: what it saves, what it predicts and says, on several families."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import Mini, load_mini
from hf_clipalign.gcd import SpectralGCDConfig, SpectralGCDModel, concept_contributions, top_concepts
from hf_clipalign.gcd.explanation import ProfileSums, concept_labels
from hf_clipalign.gcd.prediction import image_inputs
from hf_clipalign.hub import build_card, check_card, describe_folder
from tests.tiny_models import tiny_chinese_clip, tiny_image_processor, tiny_model, tiny_tokenizer

CONCEPTS = ["bird", "cup", "heart", "hammer", "sun"]
SIZES = {"hidden_size": 12, "mlp_hidden_size": 16, "bottleneck_size": 6}


@functools.cache
def mini() -> Mini:
    return load_mini()


def mini_model(**kwargs: Any) -> SpectralGCDModel:
    torch.manual_seed(0)
    arguments = {"processor": mini().student_processor, "template": "an emoji of {}.", **SIZES, **kwargs}
    return SpectralGCDModel.from_student(mini().student, CONCEPTS, ["tool", "drink"], 2, **arguments)


def images(n: int = 6) -> list[Image.Image]:
    return [mini().emoji[row * 7]["image"] for row in range(n)]


def processor(family: str) -> Any:
    class Processor:
        tokenizer = tiny_tokenizer(family)
        image_processor = tiny_image_processor(family)

        def __call__(self, **kwargs: Any) -> Any:
            return self.tokenizer(**kwargs)

    return Processor()


@pytest.mark.parametrize("family", ["clip", "metaclip_2", "siglip"])
@torch.no_grad()
def test_every_family_goes_through_a_folder(family: str, tmp_path: Path) -> None:
    student = tiny_model(family)
    model = SpectralGCDModel.from_student(
        student, CONCEPTS, ["cat"], 2, processor=processor(family), template="a photo of a {}", **SIZES
    )
    pixel_values = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = as_dual_encoder(student).encode_image(pixel_values, normalize=True)
    assert model.config.backbone_config is as_dual_encoder(model.backbone).config
    outputs = model(pixel_values)
    torch.testing.assert_close(outputs.cross_modal, features @ model.concept_features.T / 0.01, atol=1e-4, rtol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, SpectralGCDModel)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    torch.testing.assert_close(loaded(pixel_values).logits, outputs.logits, atol=1e-5, rtol=0)


def test_the_checkpoint_has_no_text_tower_and_the_student_keeps_its_own(tmp_path: Path) -> None:
    model = mini_model()
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert not [name for name in stored if "text_model" in name]
    assert "concept_features" in stored
    assert (tmp_path / "preprocessor_config.json").is_file()
    assert json.loads((tmp_path / "config.json").read_text())["concepts"] == CONCEPTS
    assert mini().student.text_model.encoder.layers
    assert model.backbone is not mini().student


@torch.no_grad()
def test_outputs_and_tuple() -> None:
    model = mini_model()
    pixel_values = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    outputs = model(pixel_values)
    shapes = {name: tuple(value.shape) for name, value in outputs.items()}
    assert shapes == {
        **{"logits": (2, 4), "embeddings": (2, 6), "cross_modal": (2, 5), "projected": (2, 12)},
        "image_embeds": (2, 128),
    }
    assert float(outputs.logits.abs().max()) <= 1 + 1e-5
    assert torch.equal(model(pixel_values, return_dict=False)[0], outputs.logits)


@torch.no_grad()
def test_bfloat16(tmp_path: Path) -> None:
    model = mini_model()
    model.save_pretrained(tmp_path)
    half = SpectralGCDModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    pixel_values = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    outputs = half(pixel_values.bfloat16())
    assert (outputs.logits.dtype, outputs.cross_modal.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(outputs.logits.float(), model(pixel_values).logits, atol=0.1, rtol=0)
    assert len(half.predict(pixel_values=pixel_values)) == 2


@torch.no_grad()
def test_mixed_precision_keeps_the_similarities_in_float32() -> None:
    model = mini_model()
    pixel_values = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(pixel_values)
    assert outputs.image_embeds.dtype == torch.bfloat16
    units = torch.nn.functional.normalize(outputs.image_embeds.float(), dim=-1)
    torch.testing.assert_close(outputs.cross_modal, units @ model.concept_features.T / 0.01, atol=1e-4, rtol=1e-5)
    assert outputs.logits.dtype == torch.float32


def test_a_model_without_a_processor_can_be_saved(tmp_path: Path) -> None:
    model = mini_model()
    model._image_processor = None
    model.save_pretrained(tmp_path)
    loaded = SpectralGCDModel.from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path / "again")
    assert not list(tmp_path.rglob("preprocessor_config.json"))
    loaded.image_processor = mini().student_processor
    assert loaded.predict(images(1))


def described() -> SpectralGCDModel:
    """Class 2 is about the sun, class 3 about nothing in particular; all are one third hearts."""
    model = mini_model()
    shares = torch.tensor([[0.0, 0.0, 0.3, 0.7, 0.0], [0, 0.7, 0.3, 0, 0], [0, 0, 0.3, 0, 0.7], [0, 0, 0.3, 0, 0.7]])
    model.describe_classes(shares.clamp(min=1e-9).log(), torch.tensor([0, 1, 2, 2]))
    return model


def test_novel_classes_are_named_by_what_sets_them_apart() -> None:
    model = described()
    assert model.class_labels() == ["tool", "drink", "sun", "novel-2"]
    concepts = model.class_concepts(2)
    assert concepts[0][0][0] == "hammer"
    assert concepts[0][0][1] == pytest.approx(0.7 * np.log(0.7 / 0.175), rel=1e-4)
    assert [name for name, _ in concepts[2]] == ["sun"]
    assert concepts[3] == []


def test_no_two_classes_have_the_same_label() -> None:
    concepts = [["cat", "red"], ["cat", "red", "bird"], ["cat", "red"], ["dog"], []]
    names = [f"novel-{number}" for number in range(1, 6)]
    found = concept_labels(names, concepts, ["dog"], k=2)
    assert found == ["cat, red", "cat, red, bird", "cat, red (novel-3)", "dog (novel-4)", "novel-5"]
    model = mini_model()
    shares = torch.tensor([[0.9, 0.1, 0, 0, 0], [0.9, 0, 0.1, 0, 0], [0, 0, 0, 0.5, 0.5], [0, 0, 0, 0.5, 0.5]])
    model.describe_classes(shares.clamp(min=1e-9).log(), torch.tensor([0, 1, 2, 3]))
    assert model.class_labels()[2:] == ["hammer, sun", "hammer, sun (novel-2)"]


def test_predictions_say_class_name_and_reasons(tmp_path: Path) -> None:
    model = described()
    found = model.predict(images(), batch_size=4)
    with torch.no_grad():
        inputs = mini().student_processor.image_processor(
            [
                np.asarray(Image.alpha_composite(Image.new("RGBA", p.size, "white"), p).convert("RGB"))
                for p in images()
            ],
            return_tensors="pt",
        )
        outputs = model(inputs["pixel_values"])
    assert [one.index for one in found] == outputs.logits.argmax(-1).tolist()
    names = ["tool", "drink", "novel-1", "novel-2"]
    for row, one in enumerate(found):
        assert one.name == names[one.index]
        assert one.label == model.class_labels()[one.index]
        assert one.probability == pytest.approx(float((outputs.logits[row] / 0.1).softmax(-1).max()), abs=1e-5)
        share = outputs.cross_modal[row].softmax(-1)
        ratio = model.class_profiles[one.index].clamp(min=1e-38).log() - model.overall_profile.clamp(min=1e-38).log()
        factors = ratio if model.class_profiles[one.index].any() else torch.ones(5)
        for concept, evidence in one.concepts:
            at = CONCEPTS.index(concept)
            assert evidence == pytest.approx(float(share[at] * factors[at]), rel=1e-3)
    path = tmp_path / "one.png"
    images(1)[0].save(path)
    assert model.predict(path)[0].index == found[0].index


def test_a_class_without_images_is_explained_by_the_image() -> None:
    model = described()
    model.class_profiles.zero_()
    (found,) = model.predict(images(1))
    shares = model(image_inputs(model, images(1))).cross_modal[0].detach().softmax(-1)
    assert found.concepts[0] == (CONCEPTS[int(shares.argmax())], pytest.approx(float(shares.max()), rel=1e-4))


def test_every_iterable_of_images_is_read() -> None:
    model, given = mini_model(), images(3)
    expected = [found.probability for found in model.predict(given)]
    column = mini().emoji.select([0, 7, 14])["image"]
    for other in (iter(given), (image for image in given), column):
        assert [found.probability for found in model.predict(other)] == expected
    stream = io.BytesIO()
    given[0].save(stream, "PNG")
    for one in (given[0], np.asarray(given[0].convert("RGB")), bytearray(stream.getvalue())):
        assert len(model.predict(one)) == 1


def test_names_of_novel_classes_leave_out_those_that_are_taken() -> None:
    config = SpectralGCDConfig(class_names=["novel-1", "novel-3"], n_novel=3)
    assert config.names == ["novel-1", "novel-3", "novel-2", "novel-4", "novel-5"]
    with pytest.raises(ClipAlignError, match="concepts is a single string, 'abc'"):
        SpectralGCDConfig(concepts="abc")


def test_a_family_whose_blocks_are_not_known_says_so() -> None:
    student = tiny_chinese_clip()
    model = SpectralGCDModel.from_student(
        student, CONCEPTS, ["cat"], 2, processor=None, concept_features=torch.rand(5, 24), **SIZES
    )
    with pytest.raises(ClipAlignError, match=r"ChineseCLIPModel keeps its image blocks: .* train_blocks=0"):
        model.train_last_blocks()


def test_a_model_without_profiles_predicts_but_does_not_describe() -> None:
    model = mini_model()
    assert model.class_labels() == ["tool", "drink", "novel-1", "novel-2"]
    assert model.predict(images(1))[0].concepts
    with pytest.raises(ClipAlignError, match="no concept profiles"):
        model.class_concepts()


def test_contributions_sum_to_the_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    profiles = torch.randn(3, 8, generator=generator).softmax(-1)
    overall = profiles.mean(dim=0)
    distances = (profiles * (profiles / overall).log()).sum(dim=-1)
    torch.testing.assert_close(concept_contributions(profiles, overall).sum(dim=-1), distances)
    with pytest.raises(ClipAlignError, match="do not go with"):
        concept_contributions(profiles, overall[:4])


def test_equal_contributions_keep_the_order_and_negative_ones_are_left_out() -> None:
    found = top_concepts(torch.tensor([[0.5, 0.5, -1.0, 0.7]]), ["a", "b", "c", "d"], k=4)
    assert [name for name, _ in found[0]] == ["d", "a", "b"]


def test_profiles_do_not_depend_on_batches() -> None:
    shares = torch.rand(9, 4, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(9) % 2
    whole, parts = ProfileSums(3, 4), ProfileSums(3, 4)
    whole.add(shares, classes)
    for rows in torch.arange(9).split(2):
        parts.add(shares[rows], classes[rows])
    torch.testing.assert_close(parts.profiles, whole.profiles)
    torch.testing.assert_close(whole.overall, shares.mean(dim=0))
    torch.testing.assert_close(whole.profiles[0], shares[::2].mean(dim=0))
    assert not whole.profiles[2].any()


def test_the_card_describes_the_folder(tmp_path: Path) -> None:
    mini_model().save_pretrained(tmp_path)
    card = build_card(describe_folder(tmp_path, "me/tools-gcd"))
    data = check_card(card)
    assert data.pipeline_tag == "image-classification"
    assert "arxiv:2602.17395" in (data.tags or [])
    assert 'AutoModel.from_pretrained("me/tools-gcd")' in str(card)
    assert "| novel classes | 2 |" in str(card)
    assert "\nA CLIP with a head that sorts" in str(card)
    assert "set before training" in str(card)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"concepts": []}, "concepts: there are none"),
        ({"concepts": ["sun", " "]}, "blank"),
        ({"concepts": ["sun", "Sun"]}, "duplicates"),
        ({"concepts": ["sun", 3]}, "not a text"),
        ({"class_names": ["a", "a"]}, "duplicates"),
        ({"class_names": [], "n_novel": 1}, "must be 2 or more"),
        ({"n_novel": -1}, "n_novel is -1"),
        ({"n_novel": "2"}, "n_novel is '2': give an integer"),
        ({"n_novel": 2.5}, "n_novel is 2.5"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"bottleneck_size": 0.5}, "bottleneck_size is 0.5"),
        ({"processor": None}, "give the checkpoint's processor or tokenizer"),
        ({"concept_features": np.full((5, 128), np.nan)}, "concept_features holds NaN"),
        ({"concept_features": torch.zeros(5, 128)}, r"concept_features.* are zero"),
        ({"concept_features": torch.ones(5, 7)}, r"concept_features are \(5, 7\)"),
        ({"concept_temperature": 0.0}, "concept_temperature"),
    ],
)
def test_bad_input(arguments: dict[str, Any], message: str) -> None:
    given = {"concepts": CONCEPTS, "class_names": ["tool", "drink"], "n_novel": 2, **arguments}
    with pytest.raises(ClipAlignError, match=message):
        SpectralGCDModel.from_student(mini().student, **{"processor": mini().student_processor, **given})


def test_arrays_are_taken_as_tensors() -> None:
    features = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    model, other = (mini_model(concept_features=given) for given in (features, features.numpy()))
    assert torch.equal(model.concept_features, other.concept_features)
    cross_modal = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    model.describe_classes(cross_modal, torch.tensor([0, 2, 3]))
    other.describe_classes(cross_modal.numpy(), np.array([0, 2, 3]))
    assert torch.equal(model.class_profiles, other.class_profiles)
    assert model.predict(pixel_values=np.zeros((1, 3, 48, 48), np.float32))


@pytest.mark.parametrize(
    ("cross_modal", "classes", "message"),
    [
        (torch.zeros(3, 5), torch.tensor([0, 1]), r"\[3, 5\] and classes \[2\]: give a row of 5 similarities"),
        (torch.zeros(3, 4), torch.tensor([0, 1, 2]), r"\[3, 4\] and classes \[3\]"),
        (torch.zeros(3, 5), torch.tensor([0, 1, 9]), "whole numbers from 0 to 3"),
        (torch.zeros(3, 5), torch.tensor([0.0, 1.0, 2.0]), "whole numbers from 0 to 3"),
        (torch.full((3, 5), float("nan")), torch.tensor([0, 1, 2]), "cross_modal holds NaN"),
    ],
)
def test_classes_that_cannot_be_described(cross_modal: Any, classes: Any, message: str) -> None:
    with pytest.raises(ClipAlignError, match=message):
        mini_model().describe_classes(cross_modal, classes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "there are no images"),
        ({"pixel_values": torch.zeros(0, 3, 48, 48)}, "there are no images"),
        ({"pixel_values": torch.zeros(3, 48, 48)}, r"shape \[3, 48, 48\]: give images \[N, 3, H, W\]"),
        ({"pixel_values": torch.zeros(2, 3, 16, 16)}, r"cannot read pixel_values of shape \[2, 3, 16, 16\]"),
        ({"pixel_values": torch.full((1, 3, 48, 48), float("nan"))}, "pixel_values hold NaN"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"temperature": 0}, "temperature is 0"),
        ({"n_concepts": -1}, "n_concepts is -1"),
    ],
)
def test_predict_explains_bad_input(arguments: dict[str, Any], message: str) -> None:
    if not {"images", "pixel_values"} & set(arguments):
        arguments = {**arguments, "pixel_values": torch.zeros(1, 3, 48, 48)}
    with pytest.raises(ClipAlignError, match=message):
        mini_model().predict(**arguments)


def test_predict_wants_one_input_and_a_processor() -> None:
    model = mini_model()
    for given in ({}, {"images": images(1), "pixel_values": torch.zeros(1, 3, 48, 48)}):
        with pytest.raises(ClipAlignError, match="either images or pixel_values"):
            model.predict(**given)  # type: ignore[arg-type]
    model._image_processor = None
    model.config._name_or_path = ""
    model.name_or_path = ""
    with pytest.raises(ClipAlignError, match="image processor"):
        model.predict(images(1))
