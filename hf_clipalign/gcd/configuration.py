"""Configuration of a model that sorts images into known and newly found classes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from hf_clipalign._checks.numbers import check_integer, check_number
from hf_clipalign._checks.sequences import as_list
from hf_clipalign.backbones.loading import backbone_configuration


class SpectralGCDConfig(PreTrainedConfig):
    """Configuration of `SpectralGCDModel` (SpectralGCD, arXiv 2602.17395).

    Args:
        backbone_config (`PreTrainedConfig` or `dict`, *optional*): configuration of the student. Default: CLIP's.
        concepts (`Sequence[str]`): the C concepts that an image is described by.
        class_names (`Sequence[str]`): names of the known classes, numbers 0 … len − 1 of the output.
        n_novel (`int`): how many further classes there are.
        template (`str`): prompt of the concepts, with one `{}`. Default "a photo of a {} .", space included, as the
            reference has it.
        hidden_size (`int`, *optional*, defaults to `768`): width of the concept projection.
        mlp_hidden_size (`int`, *optional*, defaults to `2048`): width of the MLP's inner layers.
        bottleneck_size (`int`, *optional*, defaults to `256`): size of the contrastive embedding.
        concept_temperature (`float`, *optional*, defaults to `0.01`): divides the cosines to the concepts.
        base_model_name_or_path (`str`, *optional*): where the student came from, for the model card.
        **kwargs: passed to `PreTrainedConfig`.

    Raises:
        `ClipAlignError`: a size, a number of classes or a temperature that cannot be used.

    Example:
        ```python
        >>> from hf_clipalign.gcd import SpectralGCDConfig
        >>> SpectralGCDConfig(model.config, concepts=["fur", "wheel"], class_names=["cat"], n_novel=2).n_classes
        3
        ```
    """

    model_type = "spectralgcd"
    sub_configs: ClassVar[dict[str, type]] = {"backbone_config": AutoConfig}
    # the backbone's configuration is written in full: not every one can be compared with its defaults
    has_no_defaults_at_init = True

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict[str, Any] | None = None,
        concepts: Sequence[str] = (),
        class_names: Sequence[str] = (),
        n_novel: int = 0,
        template: str = "a photo of a {} .",
        hidden_size: int = 768,
        mlp_hidden_size: int = 2048,
        bottleneck_size: int = 256,
        concept_temperature: float = 0.01,
        base_model_name_or_path: str | None = None,
        **kwargs: Any,
    ):
        sizes = {"hidden_size": hidden_size, "mlp_hidden_size": mlp_hidden_size, "bottleneck_size": bottleneck_size}
        for name, size in sizes.items():
            check_integer(name, size)
        check_integer("n_novel", n_novel, 0)
        check_number("concept_temperature", concept_temperature, "a number above 0", above=0)
        self.backbone_config = backbone_configuration(backbone_config)
        self.concepts = as_list(concepts, "concepts")
        self.class_names = as_list(class_names, "class_names")
        self.n_novel = n_novel
        self.template = template
        self.hidden_size = hidden_size
        self.mlp_hidden_size = mlp_hidden_size
        self.bottleneck_size = bottleneck_size
        self.concept_temperature = concept_temperature
        self.base_model_name_or_path = base_model_name_or_path
        super().__init__(**kwargs)

    @property
    def n_classes(self) -> int:
        """Known and novel classes together."""
        return len(self.class_names) + self.n_novel

    @property
    def names(self) -> list[str]:
        """Names of all classes, all different: the known ones, then "novel-1", "novel-2", …"""
        numbered = (f"novel-{number}" for number in count(1))
        return [*self.class_names, *islice((name for name in numbered if name not in self.class_names), self.n_novel)]
