"""A model that sorts images into known classes and classes that nobody named (SpectralGCD, ICLR 2026)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from hf_clipalign._checks.numbers import check_integer
from hf_clipalign._checks.sequences import as_list
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._hooks import push
from hf_clipalign._publishing import save_whole
from hf_clipalign.backbones import (
    DualEncoder,
    as_dual_encoder,
    encode_texts,
    load_image_processor,
    load_model,
    load_pretrained,
)
from hf_clipalign.data import fill
from hf_clipalign.data.texts.dictionary import check_names
from hf_clipalign.gcd.configuration import SpectralGCDConfig
from hf_clipalign.gcd.explanation import ProfileSums, concept_contributions, concept_labels, top_concepts
from hf_clipalign.gcd.head import ConceptHead
from hf_clipalign.gcd.prediction import ClassPrediction, predict_classes
from hf_clipalign.gcd.similarities import finite_rows, nonzero_rows

_N_NAMING = 3


@dataclass
class SpectralGCDOutput(ModelOutput):
    """Output of `SpectralGCDModel`.

    Args:
        logits (`Tensor [N, K]`): cosines with the class prototypes.
        embeddings (`Tensor [N, e]`): of the head's MLP, for the contrastive losses.
        cross_modal (`Tensor [N, C]`): cosines with the concepts, divided by the concept temperature; float32.
        projected (`Tensor [N, h]`): `cross_modal` after the concept projection.
        image_embeds (`Tensor [N, d]`): the backbone's image features, not normalised.

    Example:
        ```python
        >>> from hf_clipalign.gcd import SpectralGCDModel
        >>> gcd = SpectralGCDModel.from_student(model, ["fur", "wheel"], ["cat"], n_novel=2, processor=processor)
        >>> output = gcd(**processor(images=images.read(0), return_tensors="pt"))
        >>> output.logits.shape, output.cross_modal.shape
        (torch.Size([1, 3]), torch.Size([1, 2]))
        ```
    """

    logits: Tensor | None = None
    embeddings: Tensor | None = None
    cross_modal: Tensor | None = None
    projected: Tensor | None = None
    image_embeds: Tensor | None = None


class SpectralGCDModel(PreTrainedModel):
    """Image tower of a CLIP, similarities to concepts, and a head over known and novel classes (arXiv 2602.17395).

    The concepts' text features are fixed and part of the checkpoint, so the text tower is not: it is dropped where the
    family allows it (`DualEncoder.drop_text_tower`). The head sees the similarities minus `concept_means`: zero, as
    published, unless they were set (`SpectralGCDTrainingArguments.center_concepts`). Make a model with `from_student`,
    train it with `hf_clipalign.trainers.SpectralGCDTrainer`.

    Args:
        config (`SpectralGCDConfig`): sizes, concepts and classes; `from_student` makes it.

    Example:
        ```python
        >>> from hf_clipalign.gcd import SpectralGCDModel
        >>> gcd = SpectralGCDModel.from_student(model, ["fur", "wheel"], ["cat"], n_novel=2, processor=processor)
        >>> len(gcd.predict([images.read(0), images.read(1)])), gcd.config.n_classes
        (2, 3)
        ```
    """

    config_class = SpectralGCDConfig
    base_model_prefix = "spectralgcd"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    supports_gradient_checkpointing = True

    def __init__(self, config: SpectralGCDConfig):
        super().__init__(config)
        for tower in config.backbone_config.sub_configs:  # the first 5.x releases build a tower in its own dtype
            getattr(config.backbone_config, tower).dtype = torch.get_default_dtype()
        self.backbone: Any = AutoModel.from_config(config.backbone_config)
        encoder = as_dual_encoder(self.backbone)
        encoder.drop_text_tower()
        n_concepts, n_classes = len(config.concepts), config.n_classes
        self.head = ConceptHead(
            n_concepts, n_classes, config.hidden_size, config.mlp_hidden_size, config.bottleneck_size
        )
        self.concept_features: Tensor
        self.concept_means: Tensor
        self.class_profiles: Tensor
        self.overall_profile: Tensor
        self.register_buffer("concept_features", torch.zeros(n_concepts, encoder.embed_dim))
        self.register_buffer("concept_means", torch.zeros(n_concepts))
        self.register_buffer("class_profiles", torch.zeros(n_classes, n_concepts))
        self.register_buffer("overall_profile", torch.zeros(n_concepts))
        self._image_processor: Any = None
        self.post_init()

    @classmethod
    def from_student(
        cls,
        model_or_id: str | Path | nn.Module,
        concepts: Sequence[str],
        class_names: Sequence[str],
        n_novel: int,
        *,
        processor: Any,
        template: str = "a photo of a {} .",
        concept_features: Any = None,
        **config_kwargs: Any,
    ) -> SpectralGCDModel:
        """A new model around a CLIP, with an untrained head.

        Args:
            model_or_id (`str`, `Path` or `nn.Module`): the student; a loaded model is copied.
            concepts (`Sequence[str]`): what images are described by, for example those that `spectral_filter` kept.
            class_names (`Sequence[str]`): names of the known classes.
            n_novel (`int`): how many other classes there are; see `estimate_n_classes`.
            processor (`ProcessorMixin`): the student's: its tokenizer encodes the concepts, its image processor is
                saved with the model.
            template (`str`): prompt of the concepts.
            concept_features (`Tensor` or array `[C, d]`, *optional*): text features of the concepts. Default: the
                student's text tower computes them.
            **config_kwargs: further fields of `SpectralGCDConfig` (`hidden_size`, …).

        Raises:
            `ClipAlignError`: no concept, blank or double names; no class; concept features that are NaN or zero; no
                tokenizer; sizes that cannot be used; a model that is no two-tower CLIP.
        """
        check_integer("n_novel", n_novel, 0)
        concepts = check_names(concepts, "concepts")
        class_names = check_names(names, "class names") if (names := as_list(class_names, "class names")) else []
        if len(class_names) + n_novel < 2:
            raise ClipAlignError(f"{len(class_names)} known and {n_novel} novel classes: there must be 2 or more")
        base = copy.deepcopy(load_model(model_or_id))
        encoder = as_dual_encoder(base)
        if not isinstance(encoder.config, PreTrainedConfig):
            raise ClipAlignError(
                f"this {type(encoder.model).__name__} has no transformers configuration to save: convert it with "
                "hf_clipalign.backbones.open_clip_to_transformers"
            )
        if concept_features is None:
            with torch.no_grad():
                concept_features = encode_texts(encoder, fill(template, concepts), processor)
        concept_features = nonzero_rows(concept_features, "concept_features")
        name = str(model_or_id) if isinstance(model_or_id, (str, Path)) else encoder.config._name_or_path
        config = SpectralGCDConfig(
            encoder.config,
            concepts,
            class_names,
            n_novel,
            template,
            base_model_name_or_path=None if not name or Path(name).exists() else name,
            **config_kwargs,
        )
        config.dtype = encoder.dtype
        model = cls._around(config, encoder.model, concept_features)
        model._image_processor = getattr(processor, "image_processor", processor)
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Loads a saved model as transformers does. Arguments as there.

        Raises:
            `ClipAlignError`: the folder is damaged or holds another model; weights are missing, NaN or infinite.
        """
        return load_pretrained(super().from_pretrained, pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def _around(cls, config: SpectralGCDConfig, base: nn.Module, concept_features: Tensor) -> SpectralGCDModel:
        """The model without a second copy of the student's weights."""
        with torch.device("meta"):
            model = cls(config)
        encoder = as_dual_encoder(base)
        if concept_features.shape != model.concept_features.shape:
            raise ClipAlignError(
                f"concept_features are {tuple(concept_features.shape)}, but {len(config.concepts)} concepts in the "
                f"student's space are {tuple(model.concept_features.shape)}"
            )
        encoder.drop_text_tower()
        model.backbone = base
        model.config.backbone_config = encoder.config
        model.head.to_empty(device=encoder.device).to(encoder.dtype)
        model.head.reset_parameters()
        model.concept_features = F.normalize(concept_features.detach().to(encoder.device).float(), dim=-1)
        model.concept_means = torch.zeros(model.concept_means.shape, device=encoder.device)
        model.class_profiles = torch.zeros(model.class_profiles.shape, device=encoder.device)
        model.overall_profile = torch.zeros(model.overall_profile.shape, device=encoder.device)
        return model.eval()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ConceptHead):
            module.reset_parameters()

    @property
    def encoder(self) -> DualEncoder:
        """The view of the backbone; only its image side can be used."""
        return as_dual_encoder(self.backbone)

    @property
    def image_processor(self) -> Any:
        """The student's image processor, from memory or from where the model was loaded.

        Raises:
            `ClipAlignError`: there is none.
        """
        if self._image_processor is None:
            if not self.name_or_path:
                raise ClipAlignError(
                    "this model has no image processor: set model.image_processor, or give pixel_values"
                )
            self._image_processor = load_image_processor(self.name_or_path)
        return self._image_processor

    @image_processor.setter
    def image_processor(self, processor: Any) -> None:
        self._image_processor = getattr(processor, "image_processor", processor)

    def forward(
        self, pixel_values: Tensor, return_dict: bool | None = None, **kwargs: Any
    ) -> SpectralGCDOutput | tuple:
        """Class cosines and all that the losses need.

        Args:
            pixel_values (`Tensor [N, 3, H, W]`): as the student's processor returns them.
            return_dict (`bool`, *optional*): False for a tuple.
            **kwargs: passed to the image tower.
        """
        image_embeds = self.encoder.encode_image(pixel_values, **kwargs)
        # similarities of all images are nearly the same: in half precision their differences would be rounded away
        with torch.autocast(pixel_values.device.type, enabled=False):
            units = F.normalize(image_embeds.float(), dim=-1)
            cross_modal = units @ self.concept_features.float().T / self.config.concept_temperature
            projected, logits, embeddings = self.head(cross_modal - self.concept_means)
        output = SpectralGCDOutput(logits, embeddings, cross_modal, projected, image_embeds)
        return output.to_tuple() if return_dict is False else output

    def train_last_blocks(self, n_blocks: int = 1) -> None:
        """Freezes the backbone but for the last blocks of its image tower; the head stays trainable.

        Args:
            n_blocks (`int`): how many blocks to train. Default 1, as published; 0 trains the head alone.

        Raises:
            `ClipAlignError`: the tower has fewer blocks, or the family does not say where they are.
        """
        self.backbone.requires_grad_(False)
        self.head.requires_grad_(True)
        if n_blocks == 0:
            return
        paths = self.encoder.module_paths
        if paths is None:
            raise ClipAlignError(
                f"it is not known where {type(self.backbone).__name__} keeps its image blocks: train the head alone, "
                "with train_blocks=0 (n_blocks=0 in train_last_blocks)"
            )
        blocks: Any = self.backbone.get_submodule(paths.image_layers)
        if not 0 <= n_blocks <= len(blocks):
            raise ClipAlignError(f"{n_blocks} blocks cannot be trained: the image tower has {len(blocks)}")
        for block in blocks[len(blocks) - n_blocks :]:
            block.requires_grad_(True)

    @torch.no_grad()
    def describe_classes(self, cross_modal: Any, classes: Any) -> None:
        """Learns what sets the classes apart from concept similarities of images: names and explanations need it.

        Args:
            cross_modal (`Tensor` or array `[N, C]`): `SpectralGCDOutput.cross_modal` of the images, for example all
                that were trained on.
            classes (`LongTensor` or array `[N]`): what the model predicts for them.

        Raises:
            `ClipAlignError`: not one class for each image, a class that the model does not have, or similarities
                that are not over its concepts.
        """
        n_classes, n_concepts = self.config.n_classes, len(self.config.concepts)
        cross_modal = finite_rows(cross_modal, "cross_modal")
        classes = torch.as_tensor(classes, device=cross_modal.device)
        if cross_modal.shape[1] != n_concepts or classes.shape != cross_modal.shape[:1]:
            raise ClipAlignError(
                f"cross_modal has shape {list(cross_modal.shape)} and classes {list(classes.shape)}: give a row of "
                f"{n_concepts} similarities and one class for each image"
            )
        if classes.is_floating_point() or not bool(((classes >= 0) & (classes < n_classes)).all()):
            raise ClipAlignError(f"classes must be whole numbers from 0 to {n_classes - 1}")
        sums = ProfileSums(n_classes, n_concepts, cross_modal.device)
        sums.add(cross_modal.float().softmax(dim=-1), classes)
        self.set_profiles(sums)

    @torch.no_grad()
    def set_profiles(self, sums: ProfileSums) -> None:
        """Takes over concept profiles that were added up batch by batch; see `describe_classes`."""
        self.class_profiles.copy_(sums.profiles)
        self.overall_profile.copy_(sums.overall)

    def class_concepts(self, k: int = 10) -> list[list[tuple[str, float]]]:
        """The k concepts that set each class apart, best first, with their contributions.

        Raises:
            `ClipAlignError`: `describe_classes` has not been called.
        """
        if not bool(self.overall_profile.any()):
            raise ClipAlignError(
                "the classes have no concept profiles yet: train with SpectralGCDTrainer, or call describe_classes"
            )
        return top_concepts(concept_contributions(self.class_profiles, self.overall_profile), self.config.concepts, k)

    def class_labels(self) -> list[str]:
        """Readable names of all classes, all different: known names, and strongest concepts of novel classes."""
        names = self.config.names
        if not bool(self.overall_profile.any()):
            return names
        found = [[concept for concept, _ in row] for row in self.class_concepts(_N_NAMING + 1)]
        n_known = len(self.config.class_names)
        known = names[:n_known]
        return known + concept_labels(names[n_known:], found[n_known:], known, _N_NAMING)

    @torch.no_grad()
    def predict(
        self,
        images: Sequence[Any] | Any = None,
        pixel_values: Any = None,
        n_concepts: int = 5,
        batch_size: int = 64,
        temperature: float = 0.1,
    ) -> list[ClassPrediction]:
        """Classes of images, with names and the concepts that speak for them.

        Args:
            images (what `hf_clipalign.data.read_image` takes, or a sequence or an iterator of it, *optional*):
                images or their paths, such as the column of a `datasets.Dataset`.
            pixel_values (`Tensor` or array `[N, 3, H, W]`, *optional*): images as the processor returns them,
                instead.
            n_concepts (`int`, *optional*, defaults to `5`): concepts per image, at most.
            batch_size (`int`, *optional*, defaults to `64`): images per pass.
            temperature (`float`, *optional*, defaults to `0.1`): divides the class cosines for the probabilities.

        Returns:
            `list[ClassPrediction]`: one per image.

        Raises:
            `ClipAlignError`: neither or both inputs, or no image at all; an image that cannot be read; pixel values
                of another size; no processor; a number that cannot be used; a student that takes images of any
                shape.
        """
        return predict_classes(self, images, pixel_values, n_concepts, batch_size, temperature)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Saves configuration, weights and the image processor, as a whole. Arguments as in transformers."""
        save_whole(self, self._save_with_processor, save_directory, **kwargs)

    def _save_with_processor(self, folder: Path, **kwargs: Any) -> None:
        super().save_pretrained(folder, **kwargs)
        with contextlib.suppress(ClipAlignError):  # a model that has none is saved without
            self.image_processor.save_pretrained(folder)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:  # type: ignore[override]
        """Pushes model, image processor and card to the Hub in one commit.

        Args:
            repo_id (`str`): `owner/name`, made if it does not exist.
            **kwargs: `private`, `revision`, `commit_message`, `token`, `overwrite_card`, `info`, `evaluations`,
                `include`, as `hf_clipalign.hub.push_folder`.
        """
        return push("model", self, repo_id, **kwargs)


AutoConfig.register(SpectralGCDConfig.model_type, SpectralGCDConfig, exist_ok=True)
AutoModel.register(SpectralGCDConfig, SpectralGCDModel, exist_ok=True)
