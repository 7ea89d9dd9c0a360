"""What the commands that score heads share: the state of one call, its images, its band, and its results."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign._checks.quoting import readable_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.data import check_labelled, open_data
from hf_clipalign.cli.options import console, parse_band, warn

_FEWEST_CLASSES = 4


@dataclass
class EvaluationRun:
    """The options of one call, the model, and what has been found so far."""

    data: str
    second: str | None
    model_name: str
    band: str
    heads: list[str] | None
    template: str
    seed: int
    columns: dict[str, str | None]
    device: str
    base_model: str | None = None
    model: Any = None
    processor: Any = None
    results: dict[str, Any] = field(default_factory=dict)
    sections: list[Any] = field(default_factory=list)
    opened: dict[str, Any] = field(default_factory=dict)

    @property
    def task_name(self) -> str:
        """What tables call the data."""
        return readable_name(Path(self.data).name or self.data)

    def describe(self, **settings: Any) -> dict[str, Any]:
        """What the results begin with; names of files as valid Unicode."""
        given = {"model": self.model_name, "data": self.data, **settings, "seed": self.seed}
        return {name: readable_name(value) if isinstance(value, str) else value for name, value in given.items()}

    def open_images(self, with_names: bool = False, halved: bool = False) -> None:
        """Opens the data and the second data; what cannot be scored is refused before a model is loaded.

        Args:
            with_names (`bool`, *optional*, defaults to `False`): Whether class names are needed.
            halved (`bool`, *optional*, defaults to `False`): Whether a band is chosen on one half of the classes.

        Raises:
            `ClipAlignError`: no labels, no class names, or too few classes.
        """
        for name in filter(None, (self.data, self.second)):
            self.opened[name] = open_data(name, **self.columns)
            check_labelled(name, self.opened[name], with_names)
        n_classes = len(np.unique(np.asarray(self.opened[self.data].labels)))
        if halved and n_classes < _FEWEST_CLASSES:
            raise ClipAlignError(
                f"{self.data!r} has {n_classes} {'class' if n_classes == 1 else 'classes'}, too few to choose a band "
                "on one half and report on the other: give --image-band K_TOP,K_BOTTOM or none."
            )


def own_band(task: str, modality: str, image_band: str | None, text_band: str | None, band: str | None) -> str:
    """The band option of the task's modality, `auto` by default; `band` is the earlier name of both."""
    given = {"image": image_band, "text": text_band}
    other = "text" if modality == "image" else "image"
    if given[other] is not None:
        raise ClipAlignError(f"--{other}-band is not for --task {task}: use --{modality}-band.")
    return given[modality] or band or "auto"


def image_features(run: EvaluationRun, data: str) -> Any:
    """Features of images, from a store or from the images; what is skipped is named and kept for the results."""
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.features import EmbeddingStore, FeatureStore, extract_image_features
    from hf_clipalign.features.rows import not_features

    source = run.opened[data]
    if isinstance(source, EmbeddingStore):
        raise not_features(data)
    if isinstance(source, FeatureStore):
        source.check_model(as_dual_encoder(run.model))
        features = source.to_features()
    else:
        features = extract_image_features(run.model, source, run.processor)
    if features.skipped:
        names = ", ".join(name for name, _ in features.skipped[:5])
        count = len(features.skipped)
        what = "1 image could not be read and is" if count == 1 else f"{count} images could not be read and are"
        warn(f"{what} left out:", names + ("…" if count > 5 else ""))
    run.results.setdefault("skipped", []).extend(features.skipped)
    return features


def fixed_band(run: EvaluationRun, modality: str) -> tuple[int, int] | None:
    """The band that the option names; None for `none` and `auto`.

    A published band brings its projector layout: `run.model` becomes the view in that layout.
    """
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.isoclip import known_bands

    if run.band in ("none", "auto"):
        return None
    if run.band != "known":
        return parse_band(run.band)
    known = known_bands(run.model, run.base_model)
    band = getattr(known, modality, None)
    if known is None or band is None:
        option = f"--{modality}-band"
        raise ClipAlignError(
            f"no {modality} band is published for {run.model_name!r}: use {option} auto or {option} K_TOP,K_BOTTOM, "
            "or --base-model ID if it is a copy of a published one."
        )
    encoder = as_dual_encoder(run.model)
    if known.layout != encoder.layout:
        run.model = encoder.with_layout(known.layout)
        warn("projector layout:", f"{known.layout}, with which the published band was chosen")
    return band


def write_results(run: EvaluationRun, out: Path, title: str) -> None:
    """Writes `results.json` and `index.html` to a folder, and says where they are."""
    from hf_clipalign._io.files import atomic_file
    from hf_clipalign._io.masking import without_secrets
    from hf_clipalign.evaluation import write_report

    with atomic_file(out / "results.json") as staging:
        results = without_secrets(json.loads(json.dumps(run.results, default=_plain)))
        staging.write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
    lead = f"Model {run.model_name}, data {readable_name(run.data)}."
    page = write_report(out / "index.html", title, run.sections, lead)
    console.print(f"page: {page}   numbers: {out / 'results.json'}", soft_wrap=True)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
