"""One view of every vision-language model with two towers and a shared embedding space."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_clipalign._errors import ClipAlignError

Modality = Literal["image", "text"]
Layout = Literal["consistent", "reference"]


@dataclass(frozen=True)
class ModulePaths:
    """Where prompt tuners find their places in the model, as dotted names.

    Args:
        token_embedding (`str`): the text tower's token table.
        text_layers (`str`): the list of its encoder layers.
        image_embeddings (`str`): the module that gives the image tokens `[N, P, d]` to the first norm or layer.
        image_layers (`str`): the list of the image tower's encoder layers.
        patch_embedding (`str`): the module that turns pixels into patch tokens, `[N, d, h, w]` or `[N, P, d]`.

    Example:
        ```python
        >>> encoder.module_paths.text_layers
        'text_model.encoder.layers'
        ```
    """

    token_embedding: str = "text_model.embeddings.token_embedding"
    text_layers: str = "text_model.encoder.layers"
    image_embeddings: str = "vision_model.embeddings"
    image_layers: str = "vision_model.encoder.layers"
    patch_embedding: str = "vision_model.embeddings.patch_embedding"


@dataclass(frozen=True)
class Projector:
    """The last linear map of a tower: `feature = weight @ preprojection + bias`.

    Args:
        weight (`Tensor [d, w]`): d is the shared embedding size, w the width of the tower before the projector.
        bias (`Tensor [d]`, *optional*): None for the families whose projector has no bias.

    Example:
        ```python
        >>> projector = encoder.image_projector
        >>> projector.weight.shape, projector.bias is None
        (torch.Size([128, 128]), True)
        ```
    """

    weight: Tensor
    bias: Tensor | None = None

    @property
    def matrix(self) -> Tensor:
        """The map as one matrix `[d, w]`, or `[d, w + 1]` with the bias as the last column."""
        return self.weight if self.bias is None else torch.cat([self.weight, self.bias[:, None]], dim=1)

    def lift(self, features: Tensor) -> Tensor:
        """Pre-projection features `[N, w]` as `matrix` takes them: a column of ones is added for a bias."""
        return features if self.bias is None else F.pad(features, (0, 1), value=1.0)


class DualEncoder(ABC):
    """What the alignment methods ask of a backbone, and nothing else.

    A view holds the model, copies nothing and owns no weights. Add a family by subclassing and decorating the class
    with `register_backbone` (CONTRIBUTING.md shows how).

    Args:
        model (`nn.Module`): the two-tower model.

    Example:
        ```python
        >>> from hf_clipalign.backbones import as_dual_encoder
        >>> encoder = as_dual_encoder(model)
        >>> encoder.embed_dim, encoder.vision_dim, encoder.text_dim
        (128, 128, 128)
        ```
    """

    causal_text: bool
    """Whether the text tower looks only backwards, so that padding after the end token may be cut off."""
    full_length_text: ClassVar[bool] = False
    """True where texts are padded to the full length and read without a mask, as the family was trained (SigLIP)."""
    exact_image_projector: bool = True
    """False where the image head is not linear: `image_projector` is then an approximation, `project_image` exact."""
    flexible_images: bool = False
    """True where images keep their own shape and come as patches, with a mask and their spatial shapes."""
    layout: Layout = "consistent"
    """How the projectors are stacked; see `linearize_pooling_head`."""
    module_paths: ClassVar[ModulePaths | None] = None
    """Where the towers keep their token table and layers; None: prompts cannot be learned for the family."""
    feature_heads: ClassVar[dict[Modality, str] | None] = None
    """For each modality the dotted name of the module whose output is the feature in the shared space, `[N, d]`; None
    where there is no such module. An adapter may be put in its place (`behind_head`)."""
    text_start_tokens: ClassVar[int] = 1
    """Number of tokens that the tokenizer puts before the first word: a learned context starts after them."""

    def __init__(self, model: nn.Module):
        self.model: Any = model
        self.config: Any = model.config

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({type(self.model).__name__}, embed_dim={self.embed_dim}, "
            f"vision_dim={self.vision_dim}, text_dim={self.text_dim})"
        )

    @property
    @abstractmethod
    def image_projector(self) -> Projector:
        """The image tower's projector `W_i [d, d_v]`."""

    @property
    @abstractmethod
    def text_projector(self) -> Projector:
        """The text tower's projector `W_t [d, d_t]`."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the square input image, in pixels."""

    @property
    @abstractmethod
    def max_text_length(self) -> int:
        """Longest prompt in tokens, start and end token included."""

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor:
        """The factor on cosines (after the exponential), a scalar tensor."""

    @property
    def log_logit_scale(self) -> nn.Parameter:
        """The model's parameter whose exponential is `logit_scale`."""
        return self.model.logit_scale

    @property
    def logit_bias(self) -> Tensor | None:
        """The offset added to scaled cosines (sigmoid-trained families), a scalar tensor, or None."""
        return None

    @property
    def prompt_strategies(self) -> tuple[str, ...]:
        """How the text tower may read prompts: `"packed"` and `"cut"` need causal attention, `"full"` always goes.

        Flash attention takes no mask of its own shape, nor does a tower that lays its causal mask over a given one
        (CLIPSeg in transformers 5.0): cut, never packed.
        """
        if not self.causal_text:
            return ("full",)
        attention = getattr(getattr(self.config, "text_config", self.config), "_attn_implementation", None)
        own_shape = "flash" not in str(attention) and not self._lays_over_causal_mask()
        return ("packed", "cut", "full") if own_shape else ("cut", "full")

    def _lays_over_causal_mask(self) -> bool:
        if self.module_paths is None:
            return False
        layers = self.model.get_submodule(self.module_paths.text_layers.rpartition(".")[0])
        return "causal_attention_mask" in inspect.signature(layers.forward).parameters

    @property
    def token_table(self) -> nn.Module | None:
        """The module that gives token embeddings `[N, T, w]` for ids; None: pseudo-tokens cannot be learned."""
        return None if self.module_paths is None else self.model.get_submodule(self.module_paths.token_embedding)

    @property
    def patch_table(self) -> nn.Module | None:
        """The module that gives patch embeddings, `[N, d, h, w]` or `[N, P, d]`; None: no pseudo-patches."""
        return None if self.module_paths is None else self.model.get_submodule(self.module_paths.patch_embedding)

    @property
    def n_patches(self) -> int:
        """Number P of patch tokens of an image of the model's own size."""
        return (self.config.vision_config.image_size // self.config.vision_config.patch_size) ** 2

    def blank_images(self, n: int) -> dict[str, Any]:
        """The image tower's inputs for n empty images of the model's own size: carriers for patch tokens."""
        side = self.image_size
        pixel_values = torch.zeros(1, 3, side, side, device=self.device, dtype=self.dtype)
        return {"pixel_values": pixel_values.expand(n, -1, -1, -1)}

    @property
    def embed_dim(self) -> int:
        """Size d of the shared embedding space."""
        return self.image_projector.weight.shape[0]

    @property
    def vision_dim(self) -> int:
        """Width d_v of the image tower before its projector."""
        return self.image_projector.weight.shape[1]

    @property
    def text_dim(self) -> int:
        """Width d_t of the text tower before its projector."""
        return self.text_projector.weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the projectors live: inputs are expected there."""
        return self.image_projector.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' floating-point type."""
        return self.image_projector.weight.dtype

    @abstractmethod
    def image_outputs(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        """Runs the image tower.

        Args:
            pixel_values (`Tensor [N, 3, H, W]`): images as the model's processor returns them.
            **kwargs: passed to the tower (`output_hidden_states`, `interpolate_pos_encoding`, …).

        Returns:
            `BaseModelOutputWithPooling` whose `pooler_output [N, d_v]` is the feature before the projector.
        """

    @abstractmethod
    def text_outputs(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Runs the text tower.

        Args:
            input_ids (`LongTensor [N, T]`): token ids with start and end token.
            attention_mask (`Tensor [N, T]`, *optional*): 1 for real tokens. Default: every token counts, as CLIP was
                trained.
            **kwargs: passed to the tower.

        Returns:
            `BaseModelOutputWithPooling` whose `pooler_output [N, d_t]` is the feature before the projector.
        """

    @abstractmethod
    def stock_tower(self, modality: Modality, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
        """One tower with another projector, as a stock transformers model that loads without this package.

        Args:
            modality (`"image"` or `"text"`): which tower.
            weight (`Tensor [k, w]`): the projector to put in; k becomes the `projection_dim`.
            bias (`Tensor [k]`, *optional*): its bias.

        Raises:
            `ClipAlignError`: transformers has no class for such a tower, or the class would drop the bias.
        """

    def image_feature_tower(self) -> nn.Module:
        """The image tower alone, as a stock model that `AutoModel` loads and whose `pooler_output` is `[N, d_v]`.

        Raises:
            `ClipAlignError`: there is no such class.
        """
        raise ClipAlignError(f"{type(self.model).__name__} has no stock class for its image tower alone.")

    def with_projectors(self, image: Projector | None = None, text: Projector | None = None) -> nn.Module:
        """A copy of the two-tower model, of its own class, with other projectors of the same size.

        Args:
            image (`Projector`, *optional*): for the image tower. Default: as it is.
            text (`Projector`, *optional*): for the text tower. Default: as it is.

        Raises:
            `ClipAlignError`: the class has no place for them.
        """
        raise ClipAlignError(f"the projectors of {type(self.model).__name__} cannot be replaced in its own class.")

    def with_layout(self, layout: Layout) -> DualEncoder:
        """The view with projectors stacked another way; only a linearised head knows one besides "consistent".

        Raises:
            `ClipAlignError`: there is no such layout for this family.
        """
        if layout != self.layout:
            raise ClipAlignError(f"{type(self).__name__} has no projector layout {layout!r}.")
        return self

    def drop_text_tower(self) -> bool:
        """Frees the text tower in place: texts cannot be encoded any more, everything about images stays.

        Returns:
            `bool`: whether that was done. Default False: a family that does not say how keeps its tower.
        """
        return False

    @property
    def true_end_token(self) -> int | None:
        """The id of the end token where the configuration holds a stand-in for it, else None."""
        return None

    def end_positions(self, input_ids: Tensor) -> Tensor:
        """Column of each row's last token that the text feature depends on, `LongTensor [N]`. Default: the last."""
        return torch.full((len(input_ids),), input_ids.shape[1] - 1, device=input_ids.device)

    def checked_end_positions(self, input_ids: Tensor) -> Tensor:
        """`end_positions` of texts that begin with their start token.

        Raises:
            `ClipAlignError`: where attention is causal, a row whose end comes first: it is padded on the left.
        """
        ends = self.end_positions(input_ids)
        if self.causal_text and input_ids.shape[1] > 1 and bool((ends == 0).any()):
            row = int((ends == 0).to(torch.int).argmax())
            raise ClipAlignError(
                f"text {row} begins with the end token or has none: the model would read nothing of it. Pad texts on "
                "the right (hf_clipalign.backbones.tokenize does), or give their attention_mask."
            )
        return ends

    def padded_behind(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Texts with their padding behind the tokens, as every family reads them, and their mask.

        Raises:
            `ClipAlignError`: attention is causal, and a text without a mask begins with its end token.
        """
        if attention_mask is not None:
            return padded_on_the_right(input_ids, attention_mask)
        if self.causal_text:
            self.checked_end_positions(input_ids)
        return input_ids, None

    def image_preprojection(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        """Image features before the projector, `[N, d_v]`, from `pixel_values [N, 3, H, W]`."""
        return self.image_outputs(pixel_values, **kwargs).pooler_output

    def text_preprojection(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Text features before the projector, `[N, d_t]`, from `input_ids [N, T]`.

        Padding is moved behind first (`padded_behind`, with its errors). Where attention is causal, columns after the
        last end token are cut off: the same features, faster.
        """
        input_ids, attention_mask = self.padded_behind(input_ids, attention_mask)
        if self.causal_text:
            length = int(self.checked_end_positions(input_ids).max()) + 1
            input_ids = input_ids[:, :length]
            attention_mask = None if attention_mask is None else attention_mask[:, :length]
        return self.text_outputs(input_ids, attention_mask).pooler_output

    def project_image(self, features: Tensor, adapted: bool = True) -> Tensor:
        """The model's own image head on features before it, `[N, d_v]` to `[N, d]`: exact, linear or not.

        An adapter behind the head (`behind_head`) takes part unless `adapted` is False.
        """
        projected = F.linear(features, self.image_projector.weight, self.image_projector.bias)
        return self.behind_head("image", projected) if adapted else projected

    def project_text(self, features: Tensor, adapted: bool = True) -> Tensor:
        """The text projector on features before it, `[N, d_t]` to `[N, d]`; `adapted` as in `project_image`."""
        projected = F.linear(features, self.text_projector.weight, self.text_projector.bias)
        return self.behind_head("text", projected) if adapted else projected

    def behind_head(self, modality: Modality, features: Tensor) -> Tensor:
        """What an adapter in the place of a head makes of the head's output; `features` themselves without one.

        Such an adapter keeps the head as `base_layer`, as PEFT's layers do, and has a method `adapt`.
        """
        if self.feature_heads is None:
            return features
        adapt = getattr(self.model.get_submodule(self.feature_heads[modality]), "adapt", None)
        return features if adapt is None else adapt(features)

    def encode_image(self, pixel_values: Tensor, normalize: bool = False, **kwargs: Any) -> Tensor:
        """Image features in the shared space, `[N, d]`; unit length if `normalize` (default False).

        Further arguments go to the image tower (`pixel_attention_mask`, `spatial_shapes`, …).
        """
        projected = self.project_image(self.image_preprojection(pixel_values, **kwargs))
        return F.normalize(projected, dim=-1) if normalize else projected

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None, normalize: bool = False) -> Tensor:
        """Text features in the shared space, `[N, d]`; unit length if `normalize` (default False)."""
        projected = self.project_text(self.text_preprojection(input_ids, attention_mask))
        return F.normalize(projected, dim=-1) if normalize else projected

    def projector(self, modality: Modality) -> Projector:
        """`image_projector` or `text_projector` by name."""
        return self.image_projector if modality == "image" else self.text_projector


def padded_on_the_right(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Texts `[N, T]` and their mask with the padding of every row behind its tokens."""
    first = attention_mask.to(torch.int).argmax(dim=1)
    if not bool(first.any()):
        return input_ids, attention_mask
    columns = (torch.arange(input_ids.shape[1], device=input_ids.device) + first[:, None]) % input_ids.shape[1]
    return input_ids.gather(1, columns), attention_mask.gather(1, columns)
