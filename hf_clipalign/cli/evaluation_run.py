"""What the commands that score heads share: the state of one call, its images, its band, and its results."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.common import console, parse_band, warn


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


def image_features(run: EvaluationRun, data: str) -> Any:
    """Features of images, from a store or from the images; what is skipped is told and kept for the results."""
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.data import open_source
    from hf_clipalign.features import FeatureStore, extract_image_features

    if (Path(data) / "features.json").is_file():
        store = FeatureStore.open(data)
        store.check_model(as_dual_encoder(run.model))
        features = store.to_features()
    else:
        source = open_source(data, **run.columns)  # type: ignore[arg-type]
        features = extract_image_features(run.model, source, run.processor)
    if features.skipped:
        names = ", ".join(name for name, _ in features.skipped[:5])
        warn(f"{len(features.skipped)} images could not be read and are left out:", names)
    run.results.setdefault("skipped", []).extend(features.skipped)
    return features


def fixed_band(run: EvaluationRun, modality: str) -> tuple[int, int] | None:
    """The band that `--band` names; None for `none` and `auto`.

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
        raise ClipAlignError(
            f"no {modality} band is published for {run.model_name!r}: use --band auto or K_TOP,K_BOTTOM, "
            "or --base-model ID if it is a copy of a published one."
        )
    encoder = as_dual_encoder(run.model)
    if known.layout != encoder.layout:
        run.model = encoder.with_layout(known.layout)
        warn("projector layout:", f"{known.layout}, with which the published band was chosen")
    return band


def rich_table(columns: list[str], rows: list[list[str]], caption: str) -> Table:
    """A table for the terminal, numbers to the right."""
    table = Table(caption=caption)
    for column in columns:
        table.add_column(column, justify="left" if column == "head" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def write_results(run: EvaluationRun, out: Path, title: str) -> None:
    """Writes `results.json` and `index.html` to a folder, and says where they are."""
    from hf_clipalign._files import atomic_file
    from hf_clipalign.evaluation import write_report

    with atomic_file(out / "results.json") as staging:
        staging.write_text(json.dumps(run.results, indent=1, ensure_ascii=False, default=_plain), encoding="utf-8")
    lead = f"Model {run.model_name}, data {run.data}."
    page = write_report(out / "index.html", title, run.sections, lead)
    console.print(f"page: {page}   numbers: {out / 'results.json'}")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
