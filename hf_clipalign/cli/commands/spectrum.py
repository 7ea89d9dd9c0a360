"""`clipalign spectrum`: look at what a model's projectors align."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._tables import NumberTable
from hf_clipalign.cli.models import chosen_model, load
from hf_clipalign.cli.options import (
    BaseModelOption,
    ImageBandOption,
    ModelOption,
    TextBandOption,
    console,
    next_step,
    parse_band,
)

_ENDINGS = (".png", ".svg", ".pdf")


def spectrum(
    model: ModelOption = None,
    image_band: ImageBandOption = None,
    text_band: TextBandOption = None,
    base_model: BaseModelOption = None,
    out: Annotated[Path, typer.Option(help="Where to write the plot (.png, .svg, .pdf).")] = Path("spectrum.png"),
) -> None:
    """Plot a model's spectrum with the three bands, and print it as a table.

    The spectrum of the inter-modal operator has a steep top, a flat middle and a steep bottom. IsoCLIP keeps the
    middle for image-image and text-text similarity. No data are needed. Bands that are not given are the published
    ones, or suggested by the shape of the spectrum.

    Example: [bold]clipalign spectrum --model openai/clip-vit-base-patch32[/]
    """
    from hf_clipalign._io.files import atomic_file
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.evaluation import plot_spectrum
    from hf_clipalign.isoclip import decompose, known_bands

    if out.suffix.lower() not in _ENDINGS or out.is_dir():
        raise ClipAlignError(f"--out {str(out)!r} is no plot: name a file that ends in {', '.join(_ENDINGS)}.")
    model = chosen_model(model)
    given = {"image": parse_band(image_band), "text": parse_band(text_band)}
    loaded, _ = load(model, with_processor=False)
    encoder = as_dual_encoder(loaded)
    published = None if all(given.values()) else known_bands(encoder, base_model)
    if published is not None and not any(given.values()):
        encoder = encoder.with_layout(published.layout)
    parts = decompose(encoder.image_projector.matrix, encoder.text_projector.matrix)
    in_this_layout = published is not None and published.layout == encoder.layout
    bands, sources = _bands(published if in_this_layout else None, parts.S, given)
    figure = plot_spectrum(parts.S, bands)
    with atomic_file(out) as staging:
        figure.savefig(staging, dpi=130, format=out.suffix.lower()[1:])
    console.print(_table(parts.S, bands, sources))
    if "suggested" in sources.values():
        console.print(
            "A suggested band comes from the shape of the spectrum alone and is ONLY a suggestion: "
            "choose on labelled images with `clipalign evaluate`."
        )
    console.print(f"plot: {out}", soft_wrap=True)
    next_step("clipalign", "evaluate", "DATA", "--model", model)


def _bands(published: Any, values: Any, given: dict[str, Any]) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    from hf_clipalign.isoclip import suggest_band
    from hf_clipalign.isoclip.spectrum import band_slice

    bands, sources = {}, {}
    for modality, band in given.items():
        known = getattr(published, modality, None)
        bands[modality] = band or known or suggest_band(values)
        sources[modality] = "given" if band else "published" if known else "suggested"
        band_slice(len(values), *bands[modality])
    return bands, sources


def _table(values: Any, bands: dict[str, tuple[int, int]], sources: dict[str, str]) -> NumberTable:
    energy = values.double() ** 2
    rows = []
    for modality, (k_top, k_bottom) in bands.items():
        edges = {
            "top": (0, k_top),
            "middle": (k_top, len(values) - k_bottom),
            "bottom": (len(values) - k_bottom, None),
        }
        for index, (name, (start, stop)) in enumerate(edges.items()):
            part = values[start:stop]
            head = (modality, f"{k_top},{k_bottom}", sources[modality]) if index == 0 else ("", "", "")
            ends = (f"{part[0]:.3g}", f"{part[-1]:.3g}") if len(part) else ("–", "–")
            share = f"{100 * float(energy[start:stop].sum() / energy.sum()):.1f} %"
            rows.append([*head, name, str(len(part)), *ends, share])
    columns = ["modality", "band", "source", "part", "directions", "largest", "smallest", "energy"]
    return NumberTable(columns, rows, f"{len(values)} singular directions", texts=(0, 1, 2, 3))
