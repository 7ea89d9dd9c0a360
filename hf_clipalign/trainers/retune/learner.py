"""RE-tune's adapters with the prompts of the findings: one module that gives logits of image embeddings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_clipalign._checks.tensors import check_tensors, not_finite_rows
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder, encode_texts
from hf_clipalign.data import FindingPrompts
from hf_clipalign.features import backbone_hash
from hf_clipalign.losses.retune import retune_cosines, retune_labels, retune_scores
from hf_clipalign.trainers.base import check_trainable
from hf_clipalign.tuners import EmbeddingSpace, adapt_image, adapt_text


class RETuneLearner(nn.Module):
    """A `PeftModel` with RE-tune's adapter, and the frozen text embeddings of all prompts.

    Args:
        model (`PeftModel`): a CLIP, or an `EmbeddingSpace`, with a RE-tune adapter.
        encoder (`DualEncoder`, *optional*): the backbone that reads the prompts. Default: that of `model`.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`, *optional*): the backbone's.
        encode_prompts (`Callable`, *optional*): gives `[M, d]` for M texts, in the place of encoder and tokenizer.

    Raises:
        `ClipAlignError`: another kind of model, or nothing in it is trainable.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import FindingPrompts, load_mini
        >>> from hf_clipalign.trainers import RETuneLearner
        >>> from hf_clipalign.tuners import RETuneConfig
        >>> learner = RETuneLearner(get_peft_model(load_mini().student, RETuneConfig()), tokenizer=processor)
        >>> learner.set_prompts(FindingPrompts.published(["Edema"]))
        >>> learner.findings
        ['Edema']
        ```
    """

    accepts_loss_kwargs = False
    texts: Tensor
    means: Tensor

    def __init__(
        self,
        model: Any,
        encoder: Any = None,
        tokenizer: Any = None,
        encode_prompts: Callable[[list[str]], Tensor] | None = None,
    ):
        super().__init__()
        config = getattr(model, "peft_config", {}).get(getattr(model, "active_adapter", None))
        if config is None or str(config.peft_type.value) != "CLIP_RETUNE":
            raise ClipAlignError(
                f"the model is a {type(model).__name__} without a RE-tune adapter: wrap it with "
                "get_peft_model(model, RETuneConfig())."
            )
        if config.modules_to_save:
            raise ClipAlignError(
                f"modules_to_save={list(config.modules_to_save)!r} would stay as they are: RE-tune learns its adapter "
                "alone, from embeddings of the frozen towers. Leave them out."
            )
        check_trainable(model)
        has_towers = not isinstance(model.get_base_model(), EmbeddingSpace)
        if encoder is None and encode_prompts is None and not has_towers:
            raise ClipAlignError(
                "an EmbeddingSpace has no towers to read the prompts: pass the backbone as encoder, or encode_prompts."
            )
        self.model = model
        self.adapter_config = config
        self.tokenizer = tokenizer
        self.encode_prompts = encode_prompts
        has_encoder = encoder is not None or has_towers
        # in a list: it is not trained
        self._encoder = [as_dual_encoder(model if encoder is None else encoder) if has_encoder else None]
        self.findings: list[str] = []
        self.register_buffer("texts", torch.empty(0, config.embed_dim), persistent=False)
        self.register_buffer("means", torch.empty(2, 0, 0), persistent=False)

    @property
    def encoder(self) -> Any:
        """The view of the backbone; None where there is only `encode_prompts`."""
        return self._encoder[0]

    @property
    def adapter_name(self) -> str:
        """The adapter that is trained."""
        return self.model.active_adapter

    def set_prompts(self, prompts: FindingPrompts) -> None:
        """Encodes the prompts, once: packed, without gradient, before the adapter and not of unit length.

        Raises:
            `ClipAlignError`: no tokenizer, or a prompt that is too long.
        """
        sentences: list[str] = []
        owners: list[tuple[int, int]] = []
        for column, name in enumerate(prompts.findings):
            for polarity, kind in enumerate((prompts.positive, prompts.negative)):
                sentences += kind[name]
                owners += [(polarity, column)] * len(kind[name])
        embeds = self._encoded(sentences)
        polarity_of, column_of = torch.tensor(owners).T
        means = torch.zeros(2, len(prompts.findings), len(sentences))
        means[polarity_of, column_of, torch.arange(len(sentences))] = 1.0
        self.findings = prompts.findings
        self.texts = embeds.to(self.texts.device)
        self.means = (means / means.sum(dim=-1, keepdim=True)).to(self.texts.device)

    @torch.no_grad()
    def _encoded(self, sentences: list[str]) -> Tensor:
        """Text embeddings `[M, d]` before the adapter."""
        if self.encode_prompts is None:
            if self.tokenizer is None:
                raise ClipAlignError("prompts need a tokenizer: pass processing_class, the backbone's processor.")
            with self.model.disable_adapter():
                return encode_texts(self.encoder, sentences, self.tokenizer, normalize=False).float()
        embeds = self.encode_prompts(sentences)
        expected = (len(sentences), self.adapter_config.embed_dim)
        if tuple(embeds.shape) != expected or not_finite_rows(embeds):
            raise ClipAlignError(
                f"encode_prompts must give finite numbers of shape {expected} for {len(sentences)} texts, got "
                f"{tuple(embeds.shape)}."
            )
        return embeds.float()

    def columns(self, findings: Sequence[str]) -> Tensor:
        """Places of findings among all, `LongTensor [F]`.

        Raises:
            `ClipAlignError`: one has no prompts, or a text in the place of a list.
        """
        if isinstance(findings, str):
            raise ClipAlignError(f"findings is the text {findings!r}: give a list, [{findings!r}].")
        missing = [name for name in findings if name not in self.findings]
        if missing:
            raise ClipAlignError(
                f"no prompts for {', '.join(missing)}: there are {', '.join(self.findings) or 'none'}."
            )
        return torch.tensor([self.findings.index(name) for name in findings], device=self.texts.device)

    def forward(self, image_embeds: Tensor, columns: Tensor) -> Tensor:
        """Logits `[N, F]` of image embeddings `[N, d]` for the findings at `columns [F]`."""
        positive, negative = self.cosines(image_embeds, columns)
        return positive - negative

    def cosines(self, image_embeds: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines with the positive and the negative prompts, `[N, F]` each."""
        used = self.means[:, columns]  # the prompts of other findings need not be adapted
        rows = used.any(dim=1).any(dim=0).nonzero().flatten()
        positive, negative = used[:, :, rows] @ adapt_text(self.model, self.texts[rows])
        return retune_cosines(adapt_image(self.model, image_embeds), positive, negative)

    @torch.no_grad()
    def scores(
        self, embeds: Tensor, findings: Sequence[str] | None, score: str, block_rows: int, adapted: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Scores in [0, 1] and hard labels of image embeddings, on the CPU; see `RETuneTrainer.scores`."""
        check_tensors(embeds=embeds)
        columns = self.columns(self.findings if findings is None else findings)
        scores, labels = [], []
        with contextlib.nullcontext() if adapted else self.model.disable_adapter():
            for block in embeds.split(block_rows):
                if not_finite_rows(block):
                    raise ClipAlignError("embeds hold NaN or infinite values: make them again or leave the rows out.")
                positive, negative = self.cosines(block.to(self.texts.device).float(), columns)
                scores.append(retune_scores(positive, negative, score).cpu())
                labels.append(retune_labels(positive, negative).cpu())
        return torch.cat(scores), torch.cat(labels)

    def identity(self) -> dict[str, dict[str, Any]]:
        """What must be the same in all runs of a folder: the model's weights and the adapter's shape."""
        encoder, config = self.encoder, self.adapter_config
        loaded_from = None if encoder is None else getattr(encoder.config, "_name_or_path", None)
        adapter = {key: getattr(config, key) for key in ("adapter", "sides", "embed_dim")}
        weights = None if encoder is None else backbone_hash(encoder)
        return {
            "model": {"name": loaded_from or config.base_model_name_or_path or None, "weights": weights},
            "adapter": adapter,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Saves the adapter that is trained, and nothing else; also one with a name lies in the folder itself."""
        folder = Path(folder)
        self.model.save_pretrained(str(folder), selected_adapters=[self.adapter_name])
        named = folder / self.adapter_name
        if named.is_dir():
            for file in named.iterdir():
                os.replace(file, folder / file.name)
            named.rmdir()
