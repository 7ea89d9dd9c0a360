"""`clipalign export`: an aligned tower in a form that other libraries load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._suggestions import unknown_name
from hf_clipalign.cli.models import chosen_model, load
from hf_clipalign.cli.options import ImageBandOption, ModelOption, TextBandOption, console, next_step, parse_band


def export(
    model: ModelOption = None,
    to: Annotated[
        str,
        typer.Option(
            help="stock (a checkpoint for transformers), sentence-transformers (a folder), or onnx (a file)."
        ),
    ] = "stock",
    out: Annotated[
        Path | None, typer.Option(help="Folder, or file for onnx. Default: named after the format and the modality.")
    ] = None,
    modality: Annotated[str, typer.Option(help="image or text; sentence-transformers also: both.")] = "image",
    compact: Annotated[
        bool, typer.Option("--compact", help="Embeddings of a smaller dimension, exactly the same cosines.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    image_band: ImageBandOption = None,
    text_band: TextBandOption = None,
) -> None:
    """Export an aligned tower for serving without this package.

    The model is an aligned one written by [bold]clipalign trim[/], or any base model with a known or given band. The
    result compares images with images, or texts with texts; never an image with a text.

    Examples:

    [bold]clipalign export --model clip-b32-isoclip --to onnx --compact --out clip-b32.onnx[/]

    [bold]clipalign export --model mini:teacher --image-band 1,48 --to sentence-transformers --out teacher-st[/]
    """
    if to not in _WRITERS:
        raise unknown_name("format", to, _WRITERS)
    allowed = ("image", "text", "both") if to == "sentence-transformers" else ("image", "text")
    if modality not in allowed:
        raise unknown_name("modality", modality, allowed, f" for {to}")
    bands = parse_band(image_band), parse_band(text_band)
    loaded, processor = load(chosen_model(model))
    aligned = _aligned(loaded, *bands)
    path = out or Path(f"{modality}.onnx" if to == "onnx" else f"{to}-{modality}")
    console.print(_WRITERS[to](aligned, path, processor, modality, compact, dtype), soft_wrap=True)
    if to != "onnx":
        next_step("clipalign", "push", path, "OWNER/NAME")


def _aligned(loaded: Any, image_band: tuple[int, int] | None, text_band: tuple[int, int] | None) -> Any:
    from hf_clipalign.isoclip import IsoCLIPModel

    base = getattr(loaded, "aligned_backbone", None)
    if base is not None and image_band is None and text_band is None:
        return loaded
    return IsoCLIPModel.from_clip_pretrained(loaded if base is None else base, image_band, text_band)


def _stock(aligned: Any, path: Path, processor: Any, modality: Any, compact: bool, dtype: str) -> str:
    from hf_clipalign._tensors import parse_dtype
    from hf_clipalign.hub.export.common import EXPORT_DTYPES

    aligned.save_stock(path, modality, compact, processor, parse_dtype(dtype, *EXPORT_DTYPES))
    class_name = json.loads((path / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    return f"stock checkpoint: {path}  (load it with transformers.{class_name}.from_pretrained)"


def _sentence_transformers(aligned: Any, path: Path, processor: Any, modality: Any, compact: bool, dtype: str) -> str:
    from hf_clipalign.hub import export_sentence_transformers

    export_sentence_transformers(aligned, path, processor, modality, compact, dtype)
    return f"sentence-transformers folder: {path}  (load it with SentenceTransformer({str(path)!r}))"


def _onnx(aligned: Any, path: Path, processor: Any, modality: Any, compact: bool, dtype: str) -> str:
    from hf_clipalign.hub import export_onnx

    export_onnx(aligned, path, modality, compact, dtype)
    return f"ONNX file: {path}  (batch size is dynamic)"


_WRITERS = {"stock": _stock, "sentence-transformers": _sentence_transformers, "onnx": _onnx}
