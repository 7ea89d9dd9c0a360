"""`clipalign spectrum`: look at what a model's projectors align."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hf_clipalign.cli.common import ModelOption, console, load, parse_band


def spectrum(
    model: ModelOption = "mini-student",
    image_band: Annotated[
        str | None, typer.Option(help="K_TOP,K_BOTTOM to draw for images. Default: the published or suggested band.")
    ] = None,
    text_band: Annotated[str | None, typer.Option(help="The same for texts.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the plot (.png, .svg, .pdf).")] = Path("spectrum.png"),
) -> None:
    """Plot a model's spectrum with the three bands, and print it as a table.

    The spectrum of the inter-modal operator has a steep top, a flat middle and a steep bottom. IsoCLIP keeps the
    middle for image-image and text-text similarity. No data are needed to look at it.

    Example: [bold]clipalign spectrum --model openai/clip-vit-base-patch32[/]
    """
    from hf_clipalign._files import atomic_file
    from hf_clipalign.backbones import as_dual_encoder
    from hf_clipalign.evaluation import plot_spectrum
    from hf_clipalign.isoclip import decompose, known_bands

    loaded, _ = load(model, with_processor=False)
    encoder = as_dual_encoder(loaded)
    given = {"image": parse_band(image_band), "text": parse_band(text_band)}
    published = None if all(given.values()) else known_bands(encoder)
    if published is not None and not any(given.values()):
        encoder = encoder.with_layout(published.layout)
    parts = decompose(encoder.image_projector.matrix, encoder.text_projector.matrix)
    in_this_layout = published is not None and published.layout == encoder.layout
    bands, sources = _bands(published if in_this_layout else None, parts.S, given)
    figure = plot_spectrum(parts.S, bands)
    with atomic_file(out) as staging:
        figure.savefig(staging, dpi=130)
    console.print(_table(parts.S, bands, sources))
    if "suggested" in sources.values():
        console.print(
            "A suggested band comes from the shape of the spectrum alone and is ONLY a suggestion: "
            "choose on labelled images with `clipalign evaluate --band auto`."
        )
    console.print(f"plot: {out}")


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


def _table(values: Any, bands: dict[str, tuple[int, int]], sources: dict[str, str]) -> Table:
    energy = values.double() ** 2
    table = Table(title=f"{len(values)} singular directions")
    for column in ("modality", "band", "source", "part", "directions", "largest", "smallest", "energy"):
        table.add_column(
            column, justify="right" if column in ("directions", "largest", "smallest", "energy") else "left"
        )
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
            table.add_row(*head, name, str(len(part)), *ends, share)
    return table
