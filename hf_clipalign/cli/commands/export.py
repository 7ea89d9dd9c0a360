"""`clipalign export`: an aligned tower, or the embeddings of an index, in a form that other libraries load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import counted
from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.commands.push import OverwriteOption
from hf_clipalign.cli.models import check_band, check_modality, chosen_model, load
from hf_clipalign.cli.names import is_stored, misplaced_model
from hf_clipalign.cli.options import (
    BaseModelOption,
    ImageBandOption,
    ModelOption,
    TextBandOption,
    console,
    next_step,
    parse_band,
)
from hf_clipalign.cli.store_commands.export_store import StoreExport, export_store


def export(
    index: Annotated[
        str | None,
        typer.Argument(
            metavar="[IDX]",
            show_default=False,
            help="An index, or a folder or URL of features or embeddings, to export those, not a tower.",
        ),
    ] = None,
    model: ModelOption = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="A tower: stock (a checkpoint for transformers, the default), sentence-transformers (a folder), onnx "
            "(a file), or faiss (an index of embedded images). The embeddings of an index: arrow (Parquet for "
            "LanceDB, Qdrant, pgvector …, the default), faiss or usearch. Features or embeddings: arrow (a .parquet "
            "or .arrow file, the default), embeddings (features through a head), clip-retrieval (its folders), store "
            "(a copy behind a URL)."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder, file for onnx and tables, or URL. Default: named after the format and the modality."
        ),
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

    [bold]clipalign export photos-b32 --to clip-retrieval --out for-clip-retrieval[/]
    """
    from hf_clipalign.hub import written_folder

    if index is not None:
        if is_stored(index):
            bands = parse_band(image_band), parse_band(text_band)
            export_store(StoreExport(index, to or "arrow", out, model, head, bands, base_model, overwrite))
            return
        if model is None and (name := misplaced_model([index])):
            raise ClipAlignError(f"{name!r} is a model: write --model {name}.")
        _refuse_options_of_towers(model, base_model, modality, compact, dtype, image_band, text_band, features)
        _export_index(Path(index), to or "arrow", head, out, overwrite)
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
    for name, band in (("image", image_band), ("text", text_band)):
        if band is not None and modality not in (name, "both"):
            raise ClipAlignError(f"--{name}-band changes nothing with --modality {modality}: leave it out.")
    path = Path(out or (f"{modality}.onnx" if to == "onnx" else f"{to}-{modality}"))
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


def _refuse_options_of_towers(
    model: str | None,
    base_model: str | None,
    modality: str,
    compact: bool,
    dtype: str,
    image_band: str | None,
    text_band: str | None,
    features: Path | None,
) -> None:
    """Refuses what would change nothing about the embeddings of an index: its model and band were chosen before.

    Raises:
        `ClipAlignError`: the first such option, with what to type instead.
    """
    given = {
        "--model": model is not None,
        "--base-model": base_model is not None,
        "--modality": modality != "image",
        "--compact": compact,
        "--dtype": dtype != "float32",
        "--image-band": image_band is not None,
        "--text-band": text_band is not None,
        "--features": features is not None,
    }
    ways_out = {
        "--model": "the embeddings are those of its own model, leave --model out",
        "--image-band": "set the band with `clipalign index IDX --head K_TOP,K_BOTTOM`, and choose with --head",
    }
    for option, is_given in given.items():
        if is_given:
            way_out = ways_out.get(option, f"leave {option} out")
            raise ClipAlignError(f"{option} is for the export of a tower, not of an index: {way_out}.")


def _export_index(index: Path, to: str, head: str | None, out: str | None, overwrite: bool) -> None:
    from hf_clipalign.hub import export_index

    folder = export_index(index, out or f"{to}-vectors", to, head, overwrite=overwrite)
    facts = json.loads((folder / "index.json").read_text(encoding="utf-8"))["hf_clipalign"]
    console.print(
        f"{counted(facts['vectors'], 'embedding')} of dimension {facts['dimension']} (head {facts['head']}) in "
        f"{folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}",
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
