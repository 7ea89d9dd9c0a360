"""A base model with a second pair of projectors, for similarity within one modality."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._hooks import push
from hf_clipalign._io.files import atomic_folder
from hf_clipalign._publishing import not_of_a_model, save_whole
from hf_clipalign.backbones import (
    DualEncoder,
    Projector,
    as_dual_encoder,
    load_model,
    load_pretrained,
    load_processor,
)
from hf_clipalign.backbones.dual_encoder import Modality
from hf_clipalign.isoclip.bands import Band, resolve_bands
from hf_clipalign.isoclip.configuration import IsoCLIPConfig
from hf_clipalign.isoclip.heads import check_bias, empty_head, fill_head
from hf_clipalign.isoclip.spectrum import band_slice, compact_projectors, decompose, trim_projectors


class IsoCLIPModel(PreTrainedModel):
    """A CLIP whose image-image and text-text similarities use trimmed projectors (IsoCLIP, arXiv 2603.19862).

    `get_image_features` and `get_text_features` give the aligned features; `forward` gives the image-text logits of
    the untouched base model, bit for bit. Never compare an aligned image feature with a text feature.

    Args:
        config (`IsoCLIPConfig`): sizes and bands; `from_clip_pretrained` makes it.

    Example:
        ```python
        >>> from hf_clipalign import IsoCLIPModel
        >>> aligned = IsoCLIPModel.from_clip_pretrained(model, image_band=(1, 48))
        >>> pixels = processor(images=[images.read(0), images.read(1)], return_tensors="pt")
        >>> aligned.get_image_features(**pixels).pooler_output.shape
        torch.Size([2, 128])
        ```
    """

    config_class = IsoCLIPConfig
    base_model_prefix = "isoclip"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    supports_gradient_checkpointing = True

    def __init__(self, config: IsoCLIPConfig):
        super().__init__(config)
        self.clip: Any = AutoModel.from_config(config.clip_config)
        encoder = as_dual_encoder(self.clip)
        self.image_projection: Any = empty_head(encoder.image_projector) if config.image_band else None
        self.text_projection: Any = empty_head(encoder.text_projector) if config.text_band else None
        self.post_init()

    @classmethod
    def from_clip_pretrained(
        cls,
        model_or_id: str | Path | nn.Module,
        image_band: Band | None = None,
        text_band: Band | None = None,
        base_model: str | None = None,
        **from_pretrained_kwargs: Any,
    ) -> IsoCLIPModel:
        """Aligns a trained model: no data, no training, a fraction of a second.

        Args:
            model_or_id (`str`, `Path`, `nn.Module` or `DualEncoder`): Hub id, checkpoint folder, or a loaded model,
                which becomes part of the aligned one and is not copied.
            image_band (`(k_top, k_bottom)`, *optional*): singular directions to drop for images. Default: the
                published band of a known checkpoint, in the layout that it was chosen with
                (`IsoCLIPConfig.projector_layout`; a warning says so where that is not the usual one). If only the
                other band is given or known, images are left unaligned.
            text_band (`(k_top, k_bottom)`, *optional*): the same for texts.
            base_model (`str`, *optional*): Hub id of the published model that this one is a copy of, for the default
                bands. Default: found out, see `known_bands`.
            **from_pretrained_kwargs: passed to `AutoModel.from_pretrained` (`revision`, `dtype`, …).

        Returns:
            `IsoCLIPModel`: in evaluation mode.

        Raises:
            `ClipAlignError`: no band is given and none is published; a band that is negative or removes everything;
                a published band beside a given one of another layout; a model that is aligned already, or is no
                two-tower CLIP; broken weights.

        Example:
            ```python
            >>> from hf_clipalign import IsoCLIPModel
            >>> from hf_clipalign.data import load_mini
            >>> model = IsoCLIPModel.from_clip_pretrained(load_mini().student, image_band=(1, 48))
            >>> model.config.image_band
            [1, 48]
            ```
        """
        base = load_model(model_or_id, **from_pretrained_kwargs)
        _refuse_aligned(base, model_or_id)
        encoder = as_dual_encoder(base)
        if not isinstance(encoder.config, PreTrainedConfig):
            raise ClipAlignError(
                f"this {type(encoder.model).__name__} has no transformers configuration to save: convert it with "
                "hf_clipalign.backbones.open_clip_to_transformers, or use trim_projectors on as_dual_encoder(model)."
            )
        name = str(model_or_id) if isinstance(model_or_id, (str, Path)) else encoder.config._name_or_path
        encoder, image_band, text_band = resolve_bands(encoder, name, image_band, text_band, base_model)
        image, text = encoder.image_projector, encoder.text_projector
        spectrum = decompose(image.matrix, text.matrix)
        for band in filter(None, (image_band, text_band)):
            band_slice(len(spectrum.S), *band)
        config = IsoCLIPConfig(
            clip_config=encoder.config,
            image_band=image_band,
            text_band=text_band,
            base_model_name_or_path=base_model or (None if not name or Path(name).exists() else name),
            projector_layout=encoder.layout,
        )
        config.dtype = encoder.dtype
        model = cls._around(config, encoder.model)
        check_bias(encoder, "image", model.image_projection)
        check_bias(encoder, "text", model.text_projection)
        if image_band:
            fill_head(model.image_projection, trim_projectors(image.matrix, text.matrix, *image_band, spectrum)[0])
        if text_band:
            fill_head(model.text_projection, trim_projectors(image.matrix, text.matrix, *text_band, spectrum)[1])
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Loads an aligned model as transformers does. Arguments as there.

        Raises:
            `ClipAlignError`: the folder is damaged or is no aligned model; weights are missing, NaN or infinite.
        """
        return load_pretrained(super().from_pretrained, pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def _around(cls, config: IsoCLIPConfig, base: nn.Module) -> IsoCLIPModel:
        """The model without a second copy of the base's weights."""
        with torch.device("meta"):
            model = cls(config)
        model.clip = base
        encoder = as_dual_encoder(base)
        model.config.clip_config = encoder.config
        for head in filter(None, (model.image_projection, model.text_projection)):
            head.to_empty(device=encoder.device).to(encoder.dtype)
        return model

    @property
    def aligned_backbone(self) -> nn.Module:
        """The base model, as `as_dual_encoder` finds it."""
        return self.clip

    @property
    def encoder(self) -> DualEncoder:
        """The view of the base model."""
        return as_dual_encoder(self.clip).with_layout(self.config.projector_layout)

    def get_image_features(
        self, pixel_values: Tensor, return_dict: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling | tuple:
        """Aligned image features, for comparison with other aligned image features.

        Args:
            pixel_values (`Tensor [N, 3, H, W]`): as the base model's processor returns them.
            return_dict (`bool`, *optional*): False for a tuple.
            **kwargs: passed to the image tower.

        Returns:
            `BaseModelOutputWithPooling`: `pooler_output [N, d]`, not normalised.

        Raises:
            `ClipAlignError`: the model was made without an image band.
        """
        outputs = self.encoder.image_outputs(pixel_values, **kwargs)
        return self._aligned(outputs, self.image_projection, "image", return_dict)

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, return_dict: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling | tuple:
        """Aligned text features, for comparison with other aligned text features.

        Args:
            input_ids (`LongTensor [N, T]`): token ids.
            attention_mask (`Tensor [N, T]`, *optional*): 1 for real tokens.
            return_dict (`bool`, *optional*): False for a tuple.
            **kwargs: passed to the text tower.

        Returns:
            `BaseModelOutputWithPooling`: `pooler_output [N, d]`, not normalised.

        Raises:
            `ClipAlignError`: the model was made without a text band, or a text without a mask is padded on the left.
        """
        encoder = self.encoder
        outputs = encoder.text_outputs(*encoder.padded_behind(input_ids, attention_mask), **kwargs)
        return self._aligned(outputs, self.text_projection, "text", return_dict)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Image-text logits of the base model with its original projectors: arguments and outputs are the base's.

        Pixel values without token ids give `get_image_features`, which is what `pipeline("image-feature-extraction")`
        asks for.
        """
        if not args and kwargs.get("input_ids") is None and kwargs.get("pixel_values") is not None:
            return self.get_image_features(**{name: value for name, value in kwargs.items() if value is not None})
        return self.clip(*args, **kwargs)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, processor: Any = None, **kwargs: Any
    ) -> None:
        """Saves configuration, weights and processor as a whole: a crash leaves the old model there, or the new one.

        Other files in the folder stay.

        Args:
            save_directory (`str` or `Path`): the folder.
            processor (`ProcessorMixin`, *optional*): saved with it. Default: `known_processor()`.
            **kwargs: as in transformers.

        Raises:
            `ClipAlignError`: the folder cannot be written to.
        """
        processor = self.known_processor() if processor is None else processor
        save_whole(self, super().save_pretrained, save_directory, processor, **kwargs)

    def known_processor(self, **from_pretrained_kwargs: Any) -> Any:
        """The processor of the folder or Hub id that the model came from, or None.

        Args:
            **from_pretrained_kwargs: passed to `AutoProcessor.from_pretrained`. By default the Hub is not asked:
                the processor is found in a folder or in the local cache.
        """
        asked = {"local_files_only": True, **from_pretrained_kwargs}
        for name in (self.name_or_path, self.encoder.model.name_or_path, self.config.base_model_name_or_path):
            with contextlib.suppress(ClipAlignError):
                if name:
                    return load_processor(name, **asked)
        return None

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, processor: Any = None, max_shard_size: str | None = None, **kwargs: Any
    ) -> Any:
        """Pushes model, processor, card and spectrum plot to the Hub in one commit.

        Args:
            repo_id (`str`): `owner/name`, made if it does not exist.
            processor (`ProcessorMixin`, *optional*): pushed with it. Default: the base model's, if it can be found.
            max_shard_size (`str`, *optional*): as in `save_pretrained`.
            **kwargs: `private`, `revision`, `commit_message`, `token`, `overwrite_card`, `info`, `evaluations`,
                `include`, as `hf_clipalign.hub.push_folder`.

        Returns:
            `CommitInfo`: the commit; it reads as its address.

        Raises:
            `ClipAlignError`: the Hub or the disk refuses; a second try is always possible.
        """
        save_kwargs = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
        return push("isoclip", self, repo_id, processor=processor, save_kwargs=save_kwargs, **kwargs)

    def save_stock(
        self,
        path: str | Path,
        modality: Modality = "image",
        compact: bool = False,
        processor: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Writes the aligned tower as a checkpoint that stock transformers loads, without this package.

        It loads with `CLIPVisionModelWithProjection` (`image_embeds`) or `CLIPTextModelWithProjection`
        (`text_embeds`), or the same classes of the base's family; SigLIP's with `SiglipVisionModel` and
        `SiglipTextModel` (`pooler_output`). `config.json` names the class.

        Args:
            path (`str` or `Path`): folder to write to.
            modality (`"image"` or `"text"`, *optional*, defaults to `"image"`): which tower.
            compact (`bool`, *optional*, defaults to `False`): write the exact smaller embedding, r - k_top - k_bottom
                numbers instead of d, with the same cosines.
            processor (`ProcessorMixin`, *optional*): saved with it, so that the folder is complete. Default:
                `known_processor()`.
            dtype (`torch.dtype`, *optional*): of the saved weights, `torch.float16` for half the size. Default: the
                model's.

        Raises:
            `ClipAlignError`: that modality was not aligned, transformers has no class for the tower or one that would
                drop something, or the folder cannot be written.
        """
        projector = self.aligned_projector(modality, compact)
        stock: Any = self.encoder.stock_tower(modality, projector.weight, projector.bias)
        stock.config.hf_clipalign = self.export_facts("stock", modality, compact)
        processor = self.known_processor() if processor is None else processor
        with atomic_folder(path, keep=not_of_a_model) as staging:
            stock.to(dtype or stock.dtype).save_pretrained(staging)
            if processor is not None:
                processor.save_pretrained(staging)

    def export_facts(self, form: str, modality: str, compact: bool) -> dict[str, Any]:
        """What an export says about itself, as JSON can hold it.

        Args:
            form (`str`): the form of the export, for example `"stock"`.
            modality (`"image"`, `"text"` or `"both"`): what it embeds.
            compact (`bool`): as `save_stock`.

        Raises:
            `ClipAlignError`: that modality was not aligned.
        """
        bands: dict[str, list[int]] = {side: list(self._band(side)) for side in _SIDES if modality in (side, "both")}
        return {
            "method": "isoclip",
            "format": form,
            "modality": modality,
            "band": bands if modality == "both" else bands[modality],
            "compact": compact,
            "similarity": "cosine",
            "base_model_name_or_path": self.config.base_model_name_or_path,
        }

    def aligned_projector(self, modality: Modality, compact: bool = False) -> Projector:
        """The projector of aligned features.

        Args:
            modality (`"image"` or `"text"`): which tower's.
            compact (`bool`): the exact smaller one, `[k, w]` with k = r - k_top - k_bottom, with the same cosines.
                Default False: the trimmed one, `[d, w]`.

        Raises:
            `ClipAlignError`: that modality was not aligned.
        """
        band = self._band(modality)
        if not compact:
            head = getattr(self, f"{modality}_projection")
            return Projector(head.weight.detach(), None if head.bias is None else head.bias.detach())
        projectors = self.encoder.image_projector.matrix, self.encoder.text_projector.matrix
        matrix = compact_projectors(*projectors, *band)[0 if modality == "image" else 1]
        if self.encoder.projector(modality).bias is None:
            return Projector(matrix)
        return Projector(matrix[:, :-1], matrix[:, -1])

    def _band(self, modality: Modality) -> Band:
        if modality not in ("image", "text"):
            raise ClipAlignError(f"unknown modality {modality!r}: give 'image' or 'text'.")
        band = getattr(self.config, f"{modality}_band")
        if band is None:
            raise ClipAlignError(
                f"this model was made without a {modality} band: give {modality}_band=(k_top, k_bottom) to "
                "from_clip_pretrained. " + _HOW_TO_CHOOSE
            )
        return tuple(band)

    def _aligned(
        self, outputs: Any, head: Any, modality: Modality, return_dict: bool | None
    ) -> BaseModelOutputWithPooling | tuple:
        if head is None:
            self._band(modality)
        aligned = BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=head(outputs.pooler_output),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return aligned.to_tuple() if return_dict is False else aligned


_SIDES: tuple[Modality, ...] = ("image", "text")

_HOW_TO_CHOOSE = (
    "Choose one with hf_clipalign.evaluation.search_band on labelled images, look at the spectrum with "
    "`clipalign spectrum`, or start from suggest_band, which is only a guess."
)


def _refuse_aligned(model: Any, given: Any) -> None:
    """An aligned model holds what it was made from: aligning it again would drop its bands without a word."""
    if not hasattr(model, "aligned_backbone"):
        return
    bands = (f"{side} band {getattr(model.config, f'{side}_band')}" for side in ("image", "text"))
    name = repr(str(given)) if isinstance(given, (str, Path)) else "this model"
    source = model.config.base_model_name_or_path
    raise ClipAlignError(
        f"{name} is aligned already ({', '.join(bands)}): use it as it is (IsoCLIPModel.from_pretrained), or align "
        f"its base model{f' {source!r}' if source else ' (model.clip)'} anew."
    )


AutoConfig.register(IsoCLIPConfig.model_type, IsoCLIPConfig, exist_ok=True)
AutoModel.register(IsoCLIPConfig, IsoCLIPModel, exist_ok=True)
