"""Classes of images, with names and the concepts that speak for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_clipalign._checks.numbers import check_integer, check_number
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import read_image
from hf_clipalign.data.images.processing import process_images
from hf_clipalign.gcd.explanation import concept_contributions, top_concepts

_BYTES_OR_PATH = (str, bytes, bytearray, memoryview)


@dataclass(frozen=True)
class ClassPrediction:
    """What the model says about an image.

    Args:
        index (`int`): the class: known ones first.
        name (`str`): the known class's name, or "novel-k".
        label (`str`): a readable name: for a novel class its strongest concepts.
        probability (`float`): of the class, at the temperature of training.
        concepts (`list[tuple[str, float]]`): what speaks for the class, best first: each concept's share in this
            image times the logarithm of how much more frequent it is in the class than in all images. For a class
            that nothing is known of, as no image was in it: the shares themselves.

    Example:
        ```python
        >>> from hf_clipalign.gcd import SpectralGCDModel
        >>> gcd = SpectralGCDModel.from_student(model, ["fur", "wheel"], ["cat", "car"], 0, processor=processor)
        >>> (prediction,) = gcd.predict([images.read(0)])
        >>> prediction.name in ("cat", "car"), [name for name, _ in prediction.concepts] != []
        (True, True)
        ```
    """

    index: int
    name: str
    label: str
    probability: float
    concepts: list[tuple[str, float]]


def predict_classes(
    model: Any, images: Any, pixel_values: Any, n_concepts: int, batch_size: int, temperature: float
) -> list[ClassPrediction]:
    """`SpectralGCDModel.predict`, where the arguments are described."""
    check_number("temperature", temperature, "a number above 0", above=0)
    check_integer("batch_size", batch_size)
    check_integer("n_concepts", n_concepts, 0)
    if model.encoder.flexible_images:
        raise ClipAlignError(
            f"{type(model.backbone).__name__} takes images of any shape as patches, which predict does not make: "
            "call the model with all that its image processor gives"
        )
    if (images is None) == (pixel_values is None):
        raise ClipAlignError("give either images or pixel_values")
    if pixel_values is None:
        several = isinstance(images, (Sequence, Iterator)) and not isinstance(images, _BYTES_OR_PATH)
        images = list(images) if several else [images]
        batches = [
            image_inputs(model, images[start : start + batch_size]) for start in range(0, len(images), batch_size)
        ]
    else:
        batches = list(_checked_pixels(pixel_values).split(batch_size))
    if not sum(map(len, batches)):
        raise ClipAlignError("there are no images to predict: give one or more")
    outputs = [_outputs(model, batch) for batch in batches]
    logits = torch.cat([output.logits.float() for output in outputs])
    cross_modal = torch.cat([output.cross_modal for output in outputs])
    return _predictions(model, logits / temperature, cross_modal, n_concepts)


def _outputs(model: Any, pixel_values: Tensor) -> Any:
    """The outputs for one batch of images; one clear error where their size does not suit the image tower."""
    try:
        return model(pixel_values.to(model.device, model.encoder.dtype))
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ClipAlignError(
            f"the image tower cannot read pixel_values of shape {list(pixel_values.shape)}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _predictions(model: Any, logits: Tensor, cross_modal: Tensor, n_concepts: int) -> list[ClassPrediction]:
    probabilities, classes = logits.softmax(dim=-1).max(dim=-1)
    shares = cross_modal.softmax(dim=-1)
    profiles = model.class_profiles[classes]
    contributions = concept_contributions(profiles, model.overall_profile, shares)
    evidence = torch.where(profiles.any(dim=-1, keepdim=True), contributions, shares)
    explained = top_concepts(evidence, model.config.concepts, n_concepts)
    names, labels = model.config.names, model.class_labels()
    return [
        ClassPrediction(index, names[index], labels[index], probability, concepts)
        for index, probability, concepts in zip(classes.tolist(), probabilities.tolist(), explained, strict=True)
    ]


def image_inputs(model: Any, images: Sequence[Any]) -> Tensor:
    """`pixel_values [N, 3, H, W]` of images or their paths, by the model's own image processor."""
    inputs = process_images(model.image_processor, map(read_image, images))
    if inputs is None:
        raise ClipAlignError("there are no images to sort: give at least one.")
    return inputs["pixel_values"]


def _checked_pixels(pixel_values: Any) -> Tensor:
    pixel_values = torch.as_tensor(pixel_values)
    if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
        raise ClipAlignError(f"pixel_values have shape {list(pixel_values.shape)}: give images [N, 3, H, W]")
    if not bool(torch.isfinite(pixel_values).all()):
        raise ClipAlignError("pixel_values hold NaN or infinite numbers: make them again, or give images")
    return pixel_values
