"""`clipalign export`: an aligned tower, or the embeddings of an index, in a form that other libraries load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.commands.push import OverwriteOption
from hf_clipalign.cli.models import check_band, check_modality, chosen_model, load
from hf_clipalign.cli.names import misplaced_model
from hf_clipalign.cli.options import (
    BaseModelOption,
    ImageBandOption,
    ModelOption,
    TextBandOption,
    console,
    next_step,
    parse_band,
)


def export(
    index: Annotated[
        Path | None,
        typer.Argument(metavar="[IDX]", show_default=False, help="An index, to export its embeddings, not a tower."),
    ] = None,
    model: ModelOption = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="A tower: stock (a checkpoint for transformers, the default), sentence-transformers (a folder), onnx "
            "(a file), or faiss (an index of embedded images). The embeddings of IDX: arrow (Parquet for LanceDB, "
            "Qdrant, pgvector …, the default), faiss or usearch."
        ),
    ] = None,
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
    base_model: BaseModelOption = None,
    features: Annotated[
        Path | None, typer.Option(help="faiss: the folder that `clipalign embed` wrote with this model.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Of IDX: raw or aligned. Default: aligned if there is a band, else raw.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Export an aligned tower for serving without this package, or the embeddings of an index.

    The model is an aligned one written by [bold]clipalign trim[/], or any base model with a known or given band. The
    result compares images with images, or texts with texts; never an image with a text.

    Examples:

    [bold]clipalign export --model clip-b32-isoclip --to onnx --compact --out clip-b32.onnx[/]

    [bold]clipalign export --model mini:teacher --image-band 1,48 --to sentence-transformers --out teacher-st[/]

    [bold]clipalign export --model clip-b32-isoclip --to faiss --features photos-b32 --out photos-index[/]

    [bold]clipalign export photos.index --to arrow --out photos-vectors[/]
    """
    from hf_clipalign.hub import written_folder

    if index is not None:
        if model is None and (name := misplaced_model([str(index)])):
            raise ClipAlignError(f"{name!r} is a model: write --model {name}.")
        _export_index(index, to or "arrow", head, out, overwrite)
        return
    to = to or "stock"
    if to in ("arrow", "usearch"):
        raise ClipAlignError(f"--to {to} is for the embeddings of an index: clipalign export IDX --to {to}.")
    if head is not None:
        raise ClipAlignError("--head is for the embeddings of an index: clipalign export IDX --head HEAD.")
    if to not in _FORMATS:
        raise unknown_name("format", to, _FORMATS)
    allowed = ("image", "text", "both") if to == "sentence-transformers" else ("image", "text")
    if modality not in allowed:
        raise unknown_name("modality", modality, allowed, f" for {to}")
    if (features is None) == (to == "faiss"):
        raise ClipAlignError("--to faiss and --features FOLDER belong together: an index is made of embedded images.")
    bands = parse_band(image_band), parse_band(text_band)
    source = chosen_model(model)
    loaded, processor = load(source)
    check_band(loaded, source, base_model, bands)
    aligned = _aligned(loaded, *bands, base_model)
    check_modality(aligned, *(("image", "text") if modality == "both" else (modality,)))
    path = out or Path(f"{modality}.onnx" if to == "onnx" else f"{to}-{modality}")
    job = _Export(aligned, processor, modality, compact, dtype, features)
    if to == "onnx":
        console.print(_onnx(job, path, overwrite), soft_wrap=True)
        return
    with written_folder(path, to, source, features or "", overwrite=overwrite, option="--overwrite") as folder:
        words = _WRITERS[to](job, folder)
    console.print(words.format(path=path, quoted=repr(str(path))), soft_wrap=True)
    if to != "faiss":  # an index of the user's own images, which no push uploads
        next_step("clipalign", "push", path, "OWNER/NAME")


@dataclass(frozen=True)
class _Export:
    aligned: Any
    processor: Any
    modality: Any
    compact: bool
    dtype: str
    features: Path | None


def _export_index(index: Path, to: str, head: str | None, out: Path | None, overwrite: bool) -> None:
    from hf_clipalign.hub import export_index

    folder = export_index(index, out or Path(f"{to}-vectors"), to, head, overwrite=overwrite)
    facts = json.loads((folder / "index.json").read_text(encoding="utf-8"))["hf_clipalign"]
    console.print(
        f"{facts['vectors']:,} embeddings of dimension {facts['dimension']} (head {facts['head']}) in {folder}: "
        f"{', '.join(sorted(file.name for file in folder.iterdir()))}",
        soft_wrap=True,
    )


def _aligned(
    loaded: Any, image_band: tuple[int, int] | None, text_band: tuple[int, int] | None, base_model: str | None
) -> Any:
    from hf_clipalign.isoclip import IsoCLIPModel

    base = getattr(loaded, "aligned_backbone", None)
    if base is not None and image_band is None and text_band is None:
        return loaded
    return IsoCLIPModel.from_clip_pretrained(loaded if base is None else base, image_band, text_band, base_model)


def _stock(job: _Export, folder: Path) -> str:
    from hf_clipalign.hub import export_stock

    export_stock(job.aligned, folder, job.processor, job.modality, job.compact, job.dtype)
    class_name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    return f"stock checkpoint: {{path}}  (load it with transformers.{class_name}.from_pretrained)"


def _sentence_transformers(job: _Export, folder: Path) -> str:
    from hf_clipalign.hub import export_sentence_transformers

    export_sentence_transformers(job.aligned, folder, job.processor, job.modality, job.compact, job.dtype)
    return "sentence-transformers folder: {path}  (load it with SentenceTransformer({quoted}))"


def _faiss(job: _Export, folder: Path) -> str:
    from hf_clipalign.hub import export_faiss

    assert job.features is not None
    export_faiss(job.aligned, folder, job.features, job.modality, job.compact, job.dtype)  # type: ignore[arg-type]
    return "faiss index: {path}/index.faiss  (ids.json has the names by row)"


def _onnx(job: _Export, path: Path, overwrite: bool) -> str:
    from hf_clipalign.hub import check_onnx_file, export_onnx

    check_onnx_file(path, job.aligned, job.modality, overwrite=overwrite, option="--overwrite")
    file = export_onnx(job.aligned, path, job.modality, job.compact, job.dtype, processor=job.processor)
    return f"ONNX file: {file}  (batch size is dynamic; the processor is in {file.stem}-processor)"


_WRITERS = {"stock": _stock, "sentence-transformers": _sentence_transformers, "faiss": _faiss}
_FORMATS = ("stock", "sentence-transformers", "onnx", "faiss")
