"""The aligned model as a folder that sentence-transformers loads, without this package."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from hf_clipalign._checks.tensors import parse_dtype
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_folder
from hf_clipalign.backbones import Projector
from hf_clipalign.hub.export.common import EXPORT_DTYPES, compression, processor_part
from hf_clipalign.hub.uploads import ALLOWED, is_allowed
from hf_clipalign.isoclip import IsoCLIPModel

Contents = Literal["image", "text", "both"]

_MODULE = "sentence_transformers.base.modules"
_FIRST_VERSION = "5.4"
_IMAGE_ALONE = {"image": {"method": "forward", "method_output_name": "pooler_output"}}
_TWO_TOWERS = {
    "image": {"method": "get_image_features", "method_output_name": "pooler_output"},
    "text": {"method": "get_text_features", "method_output_name": "pooler_output"},
}


def export_sentence_transformers(
    model: IsoCLIPModel,
    path: str | Path,
    processor: Any = None,
    modality: Contents = "image",
    compact: bool = False,
    dtype: str | torch.dtype = "float32",
) -> Path:
    """Writes a folder for `SentenceTransformer(path)`: unit vectors from images, texts, or either.

    `"image"` writes the image tower alone, followed by the aligned projector. `"text"` and `"both"` write the
    two-tower model of the base's own class with aligned projectors. Compare image embeddings with image embeddings
    and texts with texts, NEVER an image with a text: for that take the base model. The folder's README.md says so too.

    Args:
        model (`IsoCLIPModel`): the aligned model.
        path (`str` or `Path`): folder to write to.
        processor (`ProcessorMixin`, *optional*): the base checkpoint's processor; for `"image"` its image processor
            will do. Default: `model.known_processor()`.
        modality (`"image"`, `"text"` or `"both"`, *optional*, defaults to `"image"`): what it can embed.
        compact (`bool`, *optional*, defaults to `False`): the exact smaller embedding with the same cosines (not for
            `"both"`: the two sides have different sizes).
        dtype (`"float32"` or `"float16"`, *optional*, defaults to `"float32"`): of the saved weights.

    Returns:
        `Path`: the folder. It needs sentence-transformers 5.4 or later.

    Raises:
        `ClipAlignError`: that modality was not aligned; the processor lacks a part; the combination cannot be written;
            or the folder cannot be written.

    Example:
        ```python
        >>> from sentence_transformers import SentenceTransformer
        >>> from hf_clipalign.hub import export_sentence_transformers
        >>> folder = export_sentence_transformers(aligned, "clip-images", processor, compact=True)
        >>> SentenceTransformer(str(folder)).encode([images.read(0)]).shape
        (1, 79)
        ```
    """
    if modality not in ("image", "text", "both"):
        raise ClipAlignError(f"unknown modality {modality!r}: give 'image', 'text' or 'both'.")
    if modality == "both" and compact:
        raise ClipAlignError(
            "compact image and text embeddings have different sizes and live in different spaces, but one folder "
            "gives one size: write two folders, modality='image' and modality='text'."
        )
    torch_dtype = parse_dtype(dtype, *EXPORT_DTYPES)
    processor = model.known_processor() if processor is None else processor
    facts = model.export_facts("sentence-transformers", modality, compact)
    with atomic_folder(path, keep=_is_foreign) as staging:
        if modality == "image":
            projector: Projector | None = _write_image_tower(model, staging, processor, facts, torch_dtype)
        else:
            projector = _write_two_towers(model, staging, processor, facts, torch_dtype)
        modules = [("", "transformer.Transformer")]
        if projector is not None:
            _write_dense(staging / "1_Dense", projector)
            modules.append(("1_Dense", "dense.Dense"))
        modules.append((f"{len(modules)}_Normalize", "normalize.Normalize"))
        _write_json(
            staging / modules[-1][0] / "config.json",
            {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"},
        )
        _write_modules(staging, modules)
        (staging / "README.md").write_text(_readme(model, modality, compact), encoding="utf-8")
    return Path(path)


def _is_foreign(name: str) -> bool:
    """Whether a file of the folder is of no earlier export, and stays."""
    return not is_allowed(name, ALLOWED["sentence-transformers"])


def _write_image_tower(
    model: IsoCLIPModel, folder: Path, processor: Any, facts: dict[str, Any], dtype: torch.dtype
) -> Projector:
    projector = model.aligned_projector("image", facts["compact"])
    image_processor = processor_part(processor, "image_processor", "image processor")
    tower: Any = model.encoder.image_feature_tower()
    tower = copy.deepcopy(tower).to(dtype)
    tower.config.hf_clipalign = facts
    tower.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    _write_transformer_config(folder, _IMAGE_ALONE, {})
    return projector


def _write_two_towers(
    model: IsoCLIPModel, folder: Path, processor: Any, facts: dict[str, Any], dtype: torch.dtype
) -> Projector | None:
    sides = ("image", "text") if facts["modality"] == "both" else ("text",)
    processor_part(processor, "tokenizer", "tokenizer")
    image_processor = processor_part(processor, "image_processor", "image processor")
    projectors = {side: model.aligned_projector(side) for side in sides}  # type: ignore[arg-type]
    towers: Any = model.encoder.with_projectors(**projectors)
    towers.config = copy.deepcopy(towers.config)
    towers.config.hf_clipalign = facts
    towers.to(dtype).save_pretrained(folder)
    processor.save_pretrained(folder)
    encoder = model.encoder
    text: dict[str, Any] = {"padding": True, "truncation": True, "max_length": encoder.max_text_length}
    if encoder.full_length_text:
        text |= {"padding": "max_length", "return_attention_mask": False}
    processing = {"text": text}
    if "image" in sides and hasattr(image_processor, "max_num_patches"):
        processing["image"] = {name: getattr(image_processor, name) for name in ("patch_size", "max_num_patches")}
    _write_transformer_config(folder, {side: _TWO_TOWERS[side] for side in sides}, processing)
    if not facts["compact"]:
        return None
    size = len(model.aligned_projector("text", compact=True).weight)
    return Projector(compression(projectors["text"], size).to(encoder.dtype))


def _write_transformer_config(folder: Path, modalities: dict[str, Any], processing: dict[str, Any]) -> None:
    config: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "modality_config": modalities,
        "module_output_name": "sentence_embedding",
    }
    _write_json(
        folder / "sentence_bert_config.json", config | ({"processing_kwargs": processing} if processing else {})
    )


def _write_dense(folder: Path, projector: Projector) -> None:
    """A linear layer; always float32, since sentence-transformers gives it float32."""
    size, width = projector.weight.shape
    tensors: dict[str, Tensor] = {"linear.weight": projector.weight.float().cpu().contiguous()}
    if projector.bias is not None:
        tensors["linear.bias"] = projector.bias.float().cpu().contiguous()
    config = {
        "in_features": width,
        "out_features": size,
        "bias": projector.bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
        "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
    }
    _write_json(folder / "config.json", config)
    save_file(tensors, folder / "model.safetensors")


def _write_modules(folder: Path, modules: list[tuple[str, str]]) -> None:
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": f"{_MODULE}.{name}"}
        for index, (path, name) in enumerate(modules)
    ]
    _write_json(folder / "modules.json", entries)
    _write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


_README = """---
library_name: sentence-transformers
pipeline_tag: {task}
tags: [clip, isoclip, {task}]
---
# {title}

Aligned for {sides} by IsoCLIP (arXiv 2603.19862) with hf_clipalign. Base model: {base}. Needs sentence-transformers \
{version} or later.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
embeddings = model.encode({example})
similarities = model.similarity(embeddings, embeddings)
```

Compare {sides} only. NEVER compare an image embedding with a text embedding of this model: its projectors were \
trimmed for similarity within one modality. For image-text similarity use the base model.
"""


def _readme(model: IsoCLIPModel, modality: Contents, compact: bool) -> str:
    sides = {"image": "images with images", "text": "texts with texts"}
    return _README.format(
        title=f"Aligned {'image and text' if modality == 'both' else modality} embeddings{', compact' * compact}",
        task="sentence-similarity" if modality == "text" else "image-feature-extraction",
        sides=" and ".join(sides.values()) if modality == "both" else sides[modality],
        base=model.config.base_model_name_or_path or type(model.clip).__name__,
        version=_FIRST_VERSION,
        example='["a red fox", "an old house"]' if modality == "text" else "images",
    )
