"""Configuration of an aligned model."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from hf_clipalign.backbones.loading import backbone_configuration


class IsoCLIPConfig(PreTrainedConfig):
    """Configuration of `IsoCLIPModel`: the base model's configuration and the bands that its projectors keep.

    Args:
        clip_config (`PreTrainedConfig` or `dict`, *optional*): configuration of the base model. Default: CLIP's.
        image_band (`(int, int)`, *optional*): `(k_top, k_bottom)` for images; None if images are not aligned.
        text_band (`(int, int)`, *optional*): the same for texts.
        base_model_name_or_path (`str`, *optional*): where the base model came from, for the model card.
        projector_layout (`str`, *optional*, defaults to `"consistent"`): "reference" for a SigLIP that was aligned in
            the authors' layout of its linearised head (`SiglipEncoder(model, layout="reference")`).
        **kwargs: passed to `PreTrainedConfig`.

    Example:
        ```python
        >>> from hf_clipalign import IsoCLIPConfig
        >>> config = IsoCLIPConfig(model.config, image_band=(1, 48))
        >>> config.image_band, config.text_band
        ([1, 48], None)
        ```
    """

    model_type = "isoclip"
    sub_configs: ClassVar[dict[str, type]] = {"clip_config": AutoConfig}
    # the base's configuration is written in full: not every one can be compared with its defaults
    has_no_defaults_at_init = True

    def __init__(
        self,
        clip_config: PreTrainedConfig | dict[str, Any] | None = None,
        image_band: tuple[int, int] | None = None,
        text_band: tuple[int, int] | None = None,
        base_model_name_or_path: str | None = None,
        projector_layout: str = "consistent",
        **kwargs: Any,
    ):
        self.clip_config = backbone_configuration(clip_config)
        self.image_band = _as_band(image_band)
        self.text_band = _as_band(text_band)
        self.base_model_name_or_path = base_model_name_or_path
        self.projector_layout = projector_layout
        super().__init__(**kwargs)


def _as_band(band: Any) -> list[int] | None:
    """JSON has no tuples: a band is kept as a list, so that a loaded configuration equals the saved one."""
    return None if band is None else [int(count) for count in band]
