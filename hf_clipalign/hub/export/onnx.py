"""The aligned tower as an ONNX file, for serving without torch."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_clipalign._checks.tensors import parse_dtype
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_file, atomic_folder
from hf_clipalign.backbones import DualEncoder, Projector, as_dual_encoder
from hf_clipalign.backbones.dual_encoder import Modality
from hf_clipalign.hub.export.common import EXPORT_DTYPES, describe_preprocessing, example_inputs
from hf_clipalign.isoclip import IsoCLIPModel


def export_onnx(
    model: IsoCLIPModel,
    path: str | Path,
    modality: Modality = "image",
    compact: bool = False,
    dtype: str | torch.dtype = "float32",
    normalize: bool = False,
    processor: Any = None,
) -> Path:
    """Writes an aligned tower as one ONNX file with a dynamic batch size (extra `onnx`).

    Inputs are those of the processor: `pixel_values` (float32), or `input_ids` and, where the family takes one,
    `attention_mask`, with a dynamic text length unless the family is read at its full length. The output is
    `image_embeds` or `text_embeds`, float32, `[N, d]`: as `get_image_features` gives them. Compare image embeddings
    with image embeddings only, texts with texts only.

    The file's metadata say how to use it: `hf_clipalign` (band, dimension, whether vectors are normalised, cosine) and
    `preprocessing` (sizes, mean and standard deviation; or text length and padding), both as JSON. The processor is
    saved beside it, for `AutoProcessor.from_pretrained("NAME-processor")`.

    Args:
        model (`IsoCLIPModel`): the aligned model.
        path (`str` or `Path`): the file to write; the ending `.onnx` is added where it is missing.
        modality (`"image"` or `"text"`, *optional*, defaults to `"image"`): which tower.
        compact (`bool`, *optional*, defaults to `False`): the exact smaller embedding with the same cosines.
        dtype (`"float32"` or `"float16"`, *optional*, defaults to `"float32"`): of the weights and the computation
            inside.
        normalize (`bool`, *optional*, defaults to `False`): give unit vectors.
        processor (`ProcessorMixin`, *optional*): saved beside it. Default: `model.known_processor()`.

    Returns:
        `Path`: the file.

    Raises:
        `ClipAlignError`: that modality was not aligned, a package is missing, the tower cannot be traced, or the file
            cannot be written.

    Example:
        ```python
        >>> import onnxruntime
        >>> from hf_clipalign.hub import export_onnx
        >>> file = export_onnx(aligned, "clip-image.onnx", compact=True)
        >>> session = onnxruntime.InferenceSession(file)
        >>> pixels = processor(images=images.read(0), return_tensors="np")["pixel_values"]
        >>> session.run(None, {"pixel_values": pixels})[0].shape
        (1, 79)
        ```
    """
    projector = model.aligned_projector(modality, compact)
    tower = _AlignedTower(model, modality, projector, parse_dtype(dtype, *EXPORT_DTYPES), normalize)
    inputs = example_inputs(tower.encoder, modality)
    if modality == "image" and tower.encoder.flexible_images:
        raise ClipAlignError(
            f"{type(model.clip).__name__} resizes its position table for every image shape, which ONNX cannot "
            "express. Export a checkpoint of fixed resolution (model_type siglip) instead."
        )
    processor = model.known_processor() if processor is None else processor
    facts = {
        **model.export_facts("onnx", modality, compact),
        **{"dimension": len(projector.weight), "normalized": normalize, "output": f"{modality}_embeds"},
    }
    preprocessing = describe_preprocessing(tower.encoder, modality, processor)
    file = onnx_path(path)
    with atomic_file(file) as staging:
        program = trace_onnx(tower.eval(), inputs, f"{modality}_embeds")
        program.model.metadata_props["hf_clipalign"] = json.dumps(facts)
        program.model.metadata_props["preprocessing"] = json.dumps(preprocessing)
        program.save(str(staging), external_data=False)
        if processor is not None:
            with atomic_folder(file.with_name(f"{file.stem}-processor")) as folder:
                processor.save_pretrained(folder)
    return file


def onnx_path(path: str | Path) -> Path:
    """The file that is written for a path: its ending is `.onnx`.

    Raises:
        `ClipAlignError`: it is a folder.
    """
    path = Path(path)
    file = path if path.suffix.lower() == ".onnx" else path.with_name(f"{path.name}.onnx")
    for taken in (path, file):
        if taken.is_dir():
            raise ClipAlignError(f"{str(taken)!r} is a folder: give a file, for example {str(path / 'image.onnx')!r}.")
    return file


def onnx_facts(file: str | Path) -> dict[str, Any] | None:
    """What an exported file says about itself: band, dimension, base model … None for any other file.

    Args:
        file (`str` or `Path`): an ONNX file.

    Example:
        ```python
        >>> from hf_clipalign.hub import export_onnx, onnx_facts
        >>> onnx_facts(export_onnx(aligned, "clip-image.onnx", compact=True))["dimension"]
        79
        ```
    """
    import onnx

    try:
        metadata = {entry.key: entry.value for entry in onnx.load(str(file), load_external_data=False).metadata_props}
        facts = json.loads(metadata.get("hf_clipalign", "null"))
    except Exception:  # protobuf's errors have no common class that onnx documents
        return None
    return facts if isinstance(facts, dict) else None


class _AlignedTower(nn.Module):
    """One tower of a copy of the model in the wanted number format, and its aligned projector."""

    def __init__(
        self, model: IsoCLIPModel, modality: Modality, projector: Projector, dtype: torch.dtype, normalize: bool
    ):
        super().__init__()
        self.base = copy.deepcopy(model.clip).to(dtype)
        self.modality, self.dtype, self.normalize = modality, dtype, normalize
        size, width = projector.weight.shape
        self.head = nn.Linear(width, size, bias=projector.bias is not None, device=projector.weight.device)
        self.head.load_state_dict({name: value for name, value in vars(projector).items() if value is not None})
        self.head.to(dtype)

    @property
    def encoder(self) -> DualEncoder:
        return as_dual_encoder(self.base)

    def forward(self, first: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self.modality == "image":
            features = self.encoder.image_outputs(first.to(self.dtype)).pooler_output
        else:
            features = self.encoder.text_outputs(first, attention_mask).pooler_output
        embeds = self.head(features).float()
        return F.normalize(embeds, dim=-1) if self.normalize else embeds


def trace_onnx(tower: Any, inputs: dict[str, Tensor], output_name: str) -> Any:
    """The program of a tower with one output.

    Args:
        tower (`nn.Module`): takes the inputs by position; its attribute `encoder` is the view of its model.
        inputs (`dict[str, Tensor]`): an example of each.
        output_name (`str`): what the output is called.

    Raises:
        `ClipAlignError`: a package is missing, the tower is too large for a file, or cannot be traced.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ClipAlignError(
            f"writing ONNX needs the package {error.name}: pip install 'hf_clipalign[onnx]'."
        ) from error
    size = sum(parameter.numel() * parameter.element_size() for parameter in tower.parameters())
    if size > _LARGEST_FILE:
        raise ClipAlignError(
            f"this model has {size / 1e9:.1f} GB of weights, but an ONNX file holds at most 2 GB: try dtype='float16'."
        )
    with torch.no_grad(), _quiet():
        try:
            program = torch.onnx.export(
                tower,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=[output_name],
                dynamic_shapes=_dynamic_shapes(tower, inputs),
                dynamo=True,
            )
            assert program is not None  # None is for the exporter before dynamo
            for node in program.model.graph.all_nodes():  # each names the lines of code that it comes from
                node.metadata_props.clear()
            return program
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ClipAlignError(f"the tower cannot be traced for ONNX: {reason}") from error


_LARGEST_FILE = 2_000_000_000


def _dynamic_shapes(tower: Any, inputs: dict[str, Tensor]) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("batch", min=1)
    if "pixel_values" in inputs or tower.encoder.full_length_text:
        return tuple({0: batch} for _ in inputs)
    length = torch.export.Dim("length", min=2, max=tower.encoder.max_text_length)
    return tuple({0: batch, 1: length} for _ in inputs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns about its own insides: none of it is for the user."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
