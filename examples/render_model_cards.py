"""Renders the cards in `model_cards/` from the measured numbers in `model_cards/results.json`.

clipalign demo --out demo-report && cp demo-report/results.json model_cards/   # only to measure again
python examples/render_model_cards.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_clipalign import IsoCLIPModel
from hf_clipalign.data import load_mini
from hf_clipalign.hub import CardEvaluation, ModelCardInfo, build_card, retrieval_evaluation
from hf_clipalign.hub.push import SPECTRUM_FILE, save_spectrum

FOLDER = Path(__file__).resolve().parent.parent / "model_cards"
DATASET = {"dataset_name": "mini set, emoji of novel concepts", "dataset_type": "hf_clipalign-mini"}
LICENCE = {
    "licence": "apache-2.0",
    "licence_note": "Apache-2.0, as the package. The image sets that were used for training are listed with their "
    "licences in the package's `licences.tsv`.",
}
LIMITS = (
    "Not a general CLIP: trained on emoji and icons on plain paper and the words of their names, not on photographs.",
    "Images have to be put on white before the processor sees them: `hf_clipalign.data.read_image` does it.",
    "One training run, 909 image queries and 301 text queries: look at the intervals, not at single points.",
)


def evaluations(results: dict[str, Any], head: str, modalities: tuple[str, ...]) -> list[CardEvaluation]:
    """What the demo measured for one model, each table with its verdict."""
    image_verdict, words, text_verdict = results["verdict"].partition("In text search")
    verdicts = {"image": image_verdict.strip(), "text": words + text_verdict}
    return [
        retrieval_evaluation(results[f"{name}_{name}"], head, name, verdict=verdicts[name], **DATASET)
        for name in modalities
    ]


def mini_card(name: str, results: dict[str, Any], size: str) -> ModelCardInfo:
    """The card of one of the two models that come with the package."""
    return ModelCardInfo(
        kind="clip",
        model_class="CLIPModel",
        name=f"mini-{name}",
        load_from=f"mini-{name}",
        description=f"A stock `CLIPModel` with {size}, trained from scratch on emoji and icons for the examples, "
        "tests and the demo of hf_clipalign. It comes with the package: `load_mini()` of `hf_clipalign.data` gives "
        f"it, and `load_mini().{name}_path` is the folder that `mini-{name}` stands for below.",
        evaluations=evaluations(results, "raw", ("image", "text")),
        limits=LIMITS,
        **LICENCE,
    )


def isoclip_card(results: dict[str, Any]) -> ModelCardInfo:
    """The card of the aligned student."""
    image, text = tuple(results["image_band"]), tuple(results["text_band"])
    command = (
        f"clipalign trim --model mini-student --image-band {image[0]},{image[1]} --text-band {text[0]},{text[1]} "
        "--out isoclip-mini-student"
    )
    return ModelCardInfo(
        kind="isoclip",
        model_class="CLIPVisionModelWithProjection",
        name="isoclip-mini-student",
        load_from="isoclip-mini-student",
        base_model="mini-student",
        method="isoclip",
        image_band=image,
        text_band=text,
        description=f"Written by `{command}`. The bands were chosen on emoji that the model has seen; all results are "
        "on emoji whose concepts it never saw.",
        has_spectrum=True,
        evaluations=evaluations(results, "isoclip", ("image", "text")),
        limits=LIMITS,
        **LICENCE,
    )


def stock_card(results: dict[str, Any]) -> ModelCardInfo:
    """The card of the aligned student's image tower as a stock checkpoint with short vectors."""
    band = tuple(results["image_band"])
    heads = {score["head"]: score for score in results["image_image"]["scores"]}
    return ModelCardInfo(
        kind="stock",
        name="isoclip-mini-student-image",
        load_from="isoclip-mini-student-image",
        model_class="CLIPVisionModelWithProjection",
        base_model="mini-student",
        method="isoclip",
        image_band=band,
        compact=True,
        parameters={"dimension": heads["isoclip-compact"]["width"]},
        description=f"Written by `clipalign trim --model mini-student --image-band {band[0]},{band[1]} --stock image "
        "--compact --out isoclip-mini-student-image`.",
        has_spectrum=True,
        evaluations=evaluations(results, "isoclip-compact", ("image",)),
        limits=LIMITS,
        **LICENCE,
    )


def all_cards() -> list[ModelCardInfo]:
    """The facts of every card in the folder, from the checked-in numbers."""
    results = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    return [
        mini_card("student", results["student"], "2.4 million parameters (48 px)"),
        mini_card("teacher", results["teacher"], "3.0 million parameters (64 px)"),
        isoclip_card(results["student"]),
        stock_card(results["student"]),
    ]


def main() -> None:
    """Writes every card, and the spectrum where a card shows one."""
    for info in all_cards():
        folder = FOLDER / info.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(str(build_card(info)), encoding="utf-8")
        if info.has_spectrum:
            bands = {"image_band": info.image_band, "text_band": info.text_band}
            model = IsoCLIPModel.from_clip_pretrained(load_mini().student, **bands)
            save_spectrum(model, FOLDER / info.name / SPECTRUM_FILE)
        print(FOLDER / info.name)


if __name__ == "__main__":
    main()
