"""Models of open_clip (extra `open-clip`): its own ViTs and ResNets, timm towers (EVA02, PE-Core, SigLIP), BERT texts.

open_clip itself is not imported here: the view looks at the model that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality, Projector
from hf_clipalign.backbones.linearization import linearize_pooling_head, residual_head
from hf_clipalign.backbones.registry import register_backbone

_IMAGE_PROJECTORS = ("proj", "head.proj", "head.mlp.fc2", "trunk.head", "attnpool.c_proj")
_POOLING_HEAD = "trunk.attn_pool"


@dataclass(frozen=True)
class OpenClipProcessor:
    """open_clip's image transform and tokenizer, as feature extraction takes them.

    Args:
        preprocess (`Callable`): the transform that `open_clip.create_model_and_transforms` gives for evaluation.
        tokenizer (`Callable`, *optional*): what `open_clip.get_tokenizer` gives.

    Example:
        ```python
        >>> import open_clip
        >>> from hf_clipalign.backbones import OpenClipProcessor
        >>> model, _, preprocess = open_clip.create_model_and_transforms("RN50", pretrained=None)
        >>> processor = OpenClipProcessor(preprocess, open_clip.get_tokenizer("RN50"))
        ```
    """

    preprocess: Callable[[Any], Tensor]
    tokenizer: Any = None

    def image_processor(self, images: Sequence[Any], **kwargs: Any) -> dict[str, Tensor]:
        """`pixel_values [N, 3, H, W]` of N RGB images (arrays or PIL)."""
        images = [Image.fromarray(np.asarray(image)) for image in images]
        return {"pixel_values": torch.stack([self.preprocess(image) for image in images])}


@register_backbone("open_clip")
class OpenClipEncoder(DualEncoder):
    """`open_clip.CLIP` and `open_clip.CustomTextCLIP`, as `open_clip.create_model` makes them.

    The projector is the last linear layer of a tower, wherever it sits. Features before it are taken by running the
    tower with an identity in its place, so nothing is re-implemented; two threads must not share one model. SigLIP's
    towers end in the residual MLP of their attention pooling: as in transformers, their `image_projector` is a
    linearisation, an APPROXIMATION, and `project_image` is exact. Texts are read at their full length, tokenized by
    open_clip's own tokenizer.
    """

    causal_text = False
    full_length_text = True

    def __init__(self, model: nn.Module):
        self.model: Any = model
        self.config: Any = SimpleNamespace(model_type="open_clip", _name_or_path="")
        missing = [name for name in ("visual", "encode_text") if not hasattr(model, name)]
        if missing:
            raise ClipAlignError(
                f"{type(model).__name__} has no {' and no '.join(missing)}: give the full two-tower model that "
                "open_clip.create_model makes."
            )
        self._image_path = self._find_image_projector()
        self._text_path = self._find_text_projector()
        self.exact_image_projector = self._image_path != _POOLING_HEAD

    @property
    def image_projector(self) -> Projector:
        if not self.exact_image_projector:
            return linearize_pooling_head(self._pooling_head)
        return _as_projector(_attribute(self.model.visual, self._image_path))

    @property
    def text_projector(self) -> Projector:
        return _as_projector(_attribute(self.model, self._text_path))

    @property
    def token_table(self) -> nn.Module | None:
        tables = (_attribute(self.model, path) for path in ("token_embedding", "text.token_embedding"))
        own = next((table for table in tables if table is not None), None)
        language_model = _attribute(self.model, "text.transformer")
        if own is None and hasattr(language_model, "get_input_embeddings"):
            return language_model.get_input_embeddings()
        return own

    @property
    def patch_table(self) -> nn.Module | None:
        visual = self.model.visual
        if isinstance(_attribute(visual, "trunk.patch_embed.norm"), (nn.Identity, type(None))):
            own = _attribute(visual, "trunk.patch_embed.proj")
        else:  # the patches are what the norm gives, of which there is no map
            own = None
        convolution = own if own is not None else getattr(visual, "conv1", None)
        return convolution if isinstance(convolution, nn.Conv2d) and _cuts_patches(convolution) else None

    @property
    def n_patches(self) -> int:
        table: Any = self.patch_table
        return 0 if table is None else (self.image_size // table.stride[0]) ** 2

    @property
    def image_size(self) -> int:
        size = self.model.visual.image_size
        return size if isinstance(size, int) else size[0]

    @property
    def max_text_length(self) -> int:
        return self.model.context_length

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale.exp()

    @property
    def logit_bias(self) -> Tensor | None:
        return self.model.logit_bias

    def image_outputs(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        if self.exact_image_projector:
            changes = _identity(self.model.visual, self._image_path)
        else:
            last = self._pooling_head.mlp.fc2
            changes = {
                f"{_POOLING_HEAD}.mlp.fc2.weight": torch.zeros_like(last.weight),
                f"{_POOLING_HEAD}.mlp.fc2.bias": torch.zeros_like(last.bias),
            }
        changes = {f"model.visual.{name}": value for name, value in changes.items()}
        return self._run("encode_image", changes, pixel_values)

    def text_outputs(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        changes = {f"model.{name}": value for name, value in _identity(self.model, self._text_path).items()}
        return self._run("encode_text", changes, input_ids)

    def project_image(self, features: Tensor, adapted: bool = True) -> Tensor:
        if self.exact_image_projector:
            return super().project_image(features, adapted)
        return residual_head(self._pooling_head, features)

    def stock_tower(self, modality: Modality, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
        raise ClipAlignError(
            "an open_clip model has no stock transformers tower: convert it first with "
            "hf_clipalign.backbones.open_clip_to_transformers, where its architecture allows."
        )

    @property
    def _pooling_head(self) -> Any:
        return _attribute(self.model.visual, _POOLING_HEAD)

    def _run(self, method: str, changes: dict[str, Tensor], inputs: Tensor) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        features = functional_call(_Method(self.model, method), changes, (inputs,))
        return BaseModelOutputWithPooling(pooler_output=features[0] if isinstance(features, tuple) else features)

    def _find_image_projector(self) -> str:
        visual = self.model.visual
        for path in _IMAGE_PROJECTORS:
            if isinstance(_attribute(visual, path), (nn.Linear, nn.Parameter)):
                return path
        head = _attribute(visual, _POOLING_HEAD)
        after = (_attribute(visual, path) for path in ("trunk.fc_norm", "trunk.head", "head"))
        if getattr(head, "mlp", None) is not None and all(_is_identity(module) for module in after):
            return _POOLING_HEAD
        tower = type(getattr(visual, "trunk", visual)).__name__
        raise ClipAlignError(
            f"the image tower {tower} of this open_clip model does not end in a linear projector (or SigLIP's pooling "
            "head), so there is nothing to align."
        )

    def _find_text_projector(self) -> str:
        text = getattr(self.model, "text", None)
        paths = ["text_projection"] if text is None else ["text.text_projection", "text.proj"]
        for path in paths:
            module = _attribute(self.model, path)
            if isinstance(module, (nn.Linear, nn.Parameter)):
                return path
            if isinstance(module, nn.Sequential) and len(module) and isinstance(module[-1], nn.Linear):
                return f"{path}.{len(module) - 1}"
        raise ClipAlignError(
            f"the text tower of this open_clip {type(self.model).__name__} does not end in a linear projector, so "
            "there is nothing to align."
        )


class _Method(nn.Module):
    """A method of a model as a module, for `functional_call`."""

    def __init__(self, model: nn.Module, name: str):
        super().__init__()
        self.model, self.name = model, name

    def forward(self, inputs: Tensor) -> Any:
        return getattr(self.model, self.name)(inputs)


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _cuts_patches(convolution: nn.Conv2d) -> bool:
    """Whether a convolution cuts an image into patches; a ResNet's first one does not."""
    return convolution.stride == convolution.kernel_size


def _is_identity(module: Any) -> bool:
    return module is None or isinstance(module, nn.Identity) or (isinstance(module, nn.Sequential) and not len(module))


def _as_projector(module: nn.Linear | nn.Parameter) -> Projector:
    """open_clip keeps some projectors as `[w, d]` parameters that features are multiplied with from the left."""
    if isinstance(module, nn.Linear):
        return Projector(module.weight, module.bias)
    return Projector(module.T)


def _identity(root: nn.Module, path: str) -> dict[str, Tensor]:
    """Parameters that make the projector at `path` give back its input."""
    module = _attribute(root, path)
    projector = _as_projector(module)
    width, like = projector.weight.shape[1], projector.weight
    eye = torch.eye(width, device=like.device, dtype=like.dtype)
    if not isinstance(module, nn.Linear):
        return {path: eye}
    bias = {} if module.bias is None else {f"{path}.bias": torch.zeros_like(eye[0])}
    return {f"{path}.weight": eye, **bias}
