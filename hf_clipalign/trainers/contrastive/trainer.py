"""Trains a dual encoder on images with captions, by a contrastive loss over the batch of all processes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_file
from hf_clipalign.backbones import tokenize
from hf_clipalign.data import ImageSource, from_dataset
from hf_clipalign.hub.export.common import processor_part
from hf_clipalign.losses import contrastive_loss, info_nce_loss, sigmoid_loss
from hf_clipalign.metrics import retrieval_metrics
from hf_clipalign.trainers.base import AlignmentTrainer, check_one_batch, check_setup
from hf_clipalign.trainers.cards import shown_model
from hf_clipalign.trainers.contrastive.arguments import ContrastiveTrainingArguments
from hf_clipalign.trainers.contrastive.data import Augmentation, ImageTextPairs, RandomCrop, collate_pairs
from hf_clipalign.trainers.contrastive.learner import ContrastiveLearner
from hf_clipalign.trainers.gather import gather_rows, gather_with_own, whole_loss
from hf_clipalign.trainers.images import holds_images

_LOSS_FILE = "loss.safetensors"
_RUN_FILE = "run.json"
_DECIDING = ("loss", "temperature", "temperature_mode", "image_term_weight", "positives", "captions")
_HIGHEST_SCALE = 100.0
_EVALUATED_AT = (1, 5)
_LOSSES = {"info_nce": "symmetric InfoNCE", "sigmoid": "pairwise sigmoid"}
_METHODS = {"info_nce": "clip", "sigmoid": "siglip"}
_FORGETTING = "What the base model knows about other images may be lost in part; that was not measured."
_OWN_TEMPERATURE = "The adapter does not hold the temperature of its training: logits have the base model's."
_OWN_BIAS = (
    "The bias of the sigmoid loss is not in the checkpoint, as its class has none: rankings and softmax scores do not "
    "need it."
)


class ContrastiveTrainer(AlignmentTrainer):
    """Fine-tunes a model with two towers on image–text pairs.

    The loss is `contrastive_loss` (symmetric InfoNCE) or `sigmoid_loss`, each over the images and texts of ALL
    processes, of which each computes the logits of its own rows; plus, if asked for, `info_nce_loss` between two
    augmented views of the images (the term of SimCLR, in the shared space without a head of its own; the first view
    is also the one that meets the text). Gradient accumulation averages over micro-batches, each with its own
    negatives; for the negatives of a big batch set `cache_chunk_size`.

    Args:
        model (`PreTrainedModel` or `PeftModel`): the model; all families of `as_dual_encoder` that save themselves.
        args (`ContrastiveTrainingArguments`): settings.
        processing_class (`ProcessorMixin`): the model's processor (tokenizer and images).
        train_dataset (`ImageSource`, `datasets.Dataset` or `torch.utils.data.Dataset`): captioned images. A torch
            data set gives what `ImageTextPairs` gives: a dict with `images`, `captions` and `group`.
        eval_dataset (the same, or a dict of them): evaluated by retrieval between images and first captions, over
            the whole set; `eval_loss` is that of single batches of one process.
        augmentation (`Callable`, *optional*): `(image, numpy generator) -> image`, for the training images.
            Default: a random crop if `args.augment`, else none.
        **kwargs: passed to `transformers.Trainer` (`callbacks`, `compute_metrics`, `optimizers`, …).

    Raises:
        `ClipAlignError`: no captions, a batch of one, too few images, two views without an augmentation, a model
            that cannot save itself.

    Example:
        ```python
        >>> from hf_clipalign.data import load_mini, with_captions
        >>> from hf_clipalign.trainers import ContrastiveTrainer, ContrastiveTrainingArguments
        >>> settings = ContrastiveTrainingArguments("runs/captions", max_steps=1)
        >>> pairs = with_captions(images, [f"an emoji of {images.class_names[label]}" for label in images.labels])
        >>> clip = load_mini().student
        >>> trainer = ContrastiveTrainer(clip, settings, processing_class=processor, train_dataset=pairs)
        >>> trainer.train().global_step
        {...}
        1
        ```
    """

    args: ContrastiveTrainingArguments
    _tag_names = ("contrastive-learning",)

    def __init__(
        self,
        model: Any,
        args: ContrastiveTrainingArguments | None = None,
        *,
        processing_class: Any,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        augmentation: Augmentation | None = None,
        **kwargs: Any,
    ):
        args = args or ContrastiveTrainingArguments(output_dir="contrastive")
        check_setup(args, processing_class)
        processor_part(processing_class, "tokenizer", "tokenizer")
        if not hasattr(model, "save_pretrained"):
            raise ClipAlignError(
                f"{type(model).__name__} cannot save itself as a checkpoint: convert it to transformers before "
                "(open_clip_to_transformers)"
            )
        learner = ContrastiveLearner(model, args.cache_chunk_size, with_bias=args.loss == "sigmoid")
        self._trainable = _trainable(model, args)
        self._highest_scale = _prepare(learner, args, self._trainable)
        self._processing_class = processing_class
        self._augmentation = augmentation
        if augmentation is None and args.augment:
            self._augmentation = RandomCrop(learner.encoder.image_size, args.crop_scale, args.flip)
        train_pairs = self._images(train_dataset, args, training=True)
        if train_pairs is not None:
            _check_batches(train_pairs, args)
        super().__init__(
            learner,
            args,
            data_collator=kwargs.pop("data_collator", collate_pairs),
            train_dataset=train_pairs,
            eval_dataset=self._eval_images(eval_dataset, args),
            processing_class=processing_class,
            compute_metrics=kwargs.pop("compute_metrics", retrieval_of_pairs),
            **kwargs,
        )

    @property
    def learner(self) -> ContrastiveLearner:
        """The module that is trained."""
        return cast(ContrastiveLearner, self.model)

    @property
    def clip(self) -> Any:
        """The two-tower model in it."""
        return self.learner.model

    # Data

    def _images(self, dataset: Any, args: ContrastiveTrainingArguments, training: bool) -> Any:
        """Model inputs of images and captions; a torch data set that gives them already is returned as it is."""
        if not holds_images(dataset, "images"):
            return dataset
        source = dataset if isinstance(dataset, ImageSource) else from_dataset(dataset, text_column=args.text_column)
        two_views = training and args.image_term_weight > 0
        if two_views and self._augmentation is None:
            raise ClipAlignError(
                "image_term_weight compares two random views of an image: set augment=True, or pass an augmentation"
            )
        return ImageTextPairs(
            source,
            self._processing_class,
            augmentation=self._augmentation if training else None,
            two_views=two_views,
            captions=args.captions if training else "first",
            positives=args.positives,
            seed=args.seed,
        )

    def _model_inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        texts = tokenize(
            self.learner.encoder, self._processing_class, batch["captions"], truncate=self.args.truncate_captions
        )
        inputs = {"images": batch["images"], "texts": texts}
        if self.args.image_term_weight > 0 and "second_views" in batch:
            inputs["second_views"] = batch["second_views"]
        return inputs

    # Training

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The contrastive loss of the batch of all processes; each computes the rows of its own images and texts."""
        outputs = model(**self._model_inputs(inputs))
        groups = {name: gather_with_own(inputs[name]) for name in ("image_groups", "text_groups")}
        gathered = {name: gather_rows(value) for name, value in outputs.items() if name.endswith("_embeds")}
        gathered |= {name: group.rows for name, group in groups.items()}
        if len(gathered["image_embeds"]) < 2:
            raise ClipAlignError("the batch holds one pair, which has no negatives: give two or more")
        scale = outputs["logit_scale"].item()
        if not 0 < scale < math.inf:
            raise self._diverged(f"the logit scale is {scale:g}")
        own = groups["image_groups"].own, groups["text_groups"].own
        shares = self._losses({**outputs, **gathered}, own)
        losses = {name: whole_loss(share) for name, share in shares.items()}
        self._keep_terms(losses)
        loss = losses["contrastive_loss"]
        if "image_loss" in losses:
            loss = loss + self.args.image_term_weight * losses["image_loss"]
        return (loss, outputs) if return_outputs else loss

    def _losses(
        self, outputs: dict[str, Any], own: tuple[slice, slice] = (slice(None), slice(None))
    ) -> dict[str, Tensor]:
        """The terms by name for the own images and texts, in float32 also where the towers run under autocast."""
        groups = outputs["image_groups"], outputs["text_groups"]
        pair = outputs["image_embeds"], outputs["text_embeds"], outputs["logit_scale"].float()
        with torch.autocast(self.args.device.type, enabled=False):
            if self.args.loss == "sigmoid":
                bias = outputs["logit_bias"].float()
                losses = {"contrastive_loss": sigmoid_loss(*pair, bias, groups=groups, own=own[0])}
            else:
                losses = {"contrastive_loss": contrastive_loss(*pair, groups=groups, own=own)}
            if "second_embeds" in outputs:
                views = torch.cat([outputs["image_embeds"], outputs["second_embeds"]])
                losses["image_loss"] = info_nce_loss(views, self.args.image_term_temperature, own=own[0])
        return losses

    def after_step(self) -> None:
        """Puts the scale back below its limit."""
        if self._highest_scale is not None:
            self.learner.clamp_scale(self._highest_scale)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the loss terms since the last log, and the scale, to the training loss."""
        if "loss" in logs and self._n_terms:
            logs = {**logs, "logit_scale": self.learner.encoder.logit_scale.item()}
        super().log(logs, start_time)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weight decay is on matrices only, as in CLIP: not on biases, norms, single vectors and the scale."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

    # Evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Retrieval between images and their first captions. See `transformers.Trainer.evaluate`."""
        return super().evaluate(self._chosen_images(eval_dataset), ignore_keys, metric_key_prefix)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Any, Any]:
        """The loss of the batch, and the embeddings of its images and texts."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**self._model_inputs(inputs))
            loss = self._losses({**outputs, **{n: inputs[n] for n in ("image_groups", "text_groups")}})
        embeds = outputs["image_embeds"].float(), outputs["text_embeds"].float()
        return loss["contrastive_loss"], None if prediction_loss_only else embeds, inputs["image_groups"]

    # Checkpoints and card

    def card_facts(self) -> dict[str, Any]:
        """The loss, the captions and the temperature."""
        args, source = self.args, getattr(self.train_dataset, "source", None)
        image_term = f", plus {args.image_term_weight:g} times the SimCLR loss of two views of the images"
        temperature = 1 / self.learner.encoder.logit_scale.item()
        limits = {_OWN_BIAS: self.learner.own_bias is not None, _OWN_TEMPERATURE: _is_adapter(self.clip)}
        return {
            "name": f"{shown_model(self.clip).rsplit('/', 1)[-1]}, fine-tuned on pairs",
            "method": _METHODS[args.loss],
            "description": f"Trained on images with captions by the {_LOSSES[args.loss]} loss"
            f"{image_term if args.image_term_weight else ''}.",
            "parameters": {
                "captions": "of the caller" if source is None else f"{sum(map(len, source.texts)):,}",
                "temperature": f"{temperature:.4g} ({args.temperature_mode})",
                "batch with common negatives": args.train_batch_size * args.world_size,
            },
            "limits": [_FORGETTING, *(limit for limit, holds in limits.items() if holds)],
        }

    def _write_model(self, folder: Path, checkpoint: bool) -> None:
        """A stock checkpoint with its processor; in a checkpoint also the rest of the loss, and which run it is of."""
        self.clip.save_pretrained(folder)
        self._processing_class.save_pretrained(folder)
        if not checkpoint:
            return
        if rest := self._rest_of_the_loss():
            with atomic_file(folder / _LOSS_FILE) as staging:
                save_file({name: value.detach().cpu() for name, value in rest.items()}, staging)
        (folder / _RUN_FILE).write_text(json.dumps(self._run(), indent=1), encoding="utf-8")

    def _rest_of_the_loss(self) -> dict[str, Tensor]:
        """Temperature and bias where the model's own checkpoint does not hold them: an adapter has neither."""
        learner, is_adapter = self.learner, _is_adapter(self.clip)
        rest: dict[str, Tensor] = {"log_logit_scale": learner.encoder.log_logit_scale} if is_adapter else {}
        if learner.bias is not None and (is_adapter or learner.own_bias is not None):
            rest["bias"] = learner.bias
        return rest

    def _run(self) -> dict[str, Any]:
        """What cannot be changed when a run is resumed."""
        pairs: Any = self.train_dataset
        return {
            "model": type(self.learner.encoder.model).__name__,
            "adapter": sorted(getattr(self.clip, "peft_config", ())),
            "parameters": sum(parameter.numel() for parameter in self.clip.parameters()),
            "trainable": self._trainable,
            **{name: getattr(self.args, name) for name in _DECIDING},
            "images": len(pairs) if hasattr(pairs, "__len__") else None,
        }

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        self._check_run(folder)
        self._load_weights(folder)

    def _check_run(self, folder: Path) -> None:
        try:
            there = json.loads((folder / _RUN_FILE).read_text(encoding="utf-8"))
            differing = [(name, there[name], value) for name, value in self._run().items() if there[name] != value]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClipAlignError(f"{folder} is not of this trainer: its {_RUN_FILE} cannot be read") from error
        if differing:
            name, old, new = differing[0]
            raise ClipAlignError(
                f"{folder} is of a run with {name} {old!r}, this one has {new!r}: resume with the same, or train from "
                "the start"
            )

    def _load_best_model(self) -> None:
        self._load_weights(Path(str(self.state.best_model_checkpoint)))

    def _load_weights(self, folder: Path) -> None:
        if _is_adapter(self.clip):
            from peft import load_peft_weights, set_peft_model_state_dict

            set_peft_model_state_dict(self.clip, load_peft_weights(str(folder)))
        else:
            saved = type(self.clip).from_pretrained(folder)
            self.clip.load_state_dict(saved.state_dict())
        if rest := self._rest_of_the_loss():
            saved_rest = load_file(folder / _LOSS_FILE)
            for name, value in rest.items():
                value.data.copy_(saved_rest[name])


def retrieval_of_pairs(prediction: Any) -> dict[str, float]:
    """Recall and mAP of texts searched by images and the reverse; a hit has the same group."""
    image_embeds, text_embeds = prediction.predictions
    groups = prediction.label_ids
    scores: dict[str, float] = {}
    for name, query, gallery in (
        ("image_to_text", image_embeds, text_embeds),
        ("text_to_image", text_embeds, image_embeds),
    ):
        found = retrieval_metrics(query, gallery, groups, groups, ks=_EVALUATED_AT)
        wanted = ("map", *(f"recall_at_{k}" for k in _EVALUATED_AT))
        scores |= {f"{name}_{metric}": float(found[metric]) for metric in wanted}
    return scores


def _is_adapter(model: Any) -> bool:
    return hasattr(model, "peft_config")


def _trainable(model: Any, args: ContrastiveTrainingArguments) -> str:
    """What is trained; of a PEFT model the adapter, as nothing else is saved."""
    chosen = args.trainable or ("given" if _is_adapter(model) else "all")
    if _is_adapter(model) and chosen != "given":
        raise ClipAlignError(
            f"trainable is {chosen!r}, but of a {type(model).__name__} only the adapter is saved: leave trainable "
            "out, or set it to 'given'"
        )
    return chosen


def _prepare(learner: ContrastiveLearner, args: ContrastiveTrainingArguments, trainable: str) -> float | None:
    """Sets what is trained and where temperature and bias start; gives the scale's upper limit, or None."""
    learner.train_parts(trainable, learn_scale=args.temperature_mode != "fixed")
    learner.start_at(args.temperature, args.logit_bias)
    if args.temperature_mode != "clamped":
        return None
    start = learner.encoder.logit_scale.item()
    if args.max_logit_scale is None:
        return max(_HIGHEST_SCALE, start)
    if start > args.max_logit_scale * (1 + 1e-6):
        raise ClipAlignError(
            f"the checkpoint's scale {start:g} is above max_logit_scale {args.max_logit_scale:g}: raise it, or give a "
            "temperature to start from"
        )
    return args.max_logit_scale


def _check_batches(pairs: Any, args: ContrastiveTrainingArguments) -> None:
    if args.train_batch_size * args.world_size < 2:
        raise ClipAlignError("a batch of one pair has no negatives: raise per_device_train_batch_size")
    if not hasattr(pairs, "__len__"):
        return
    check_one_batch(len(pairs), "pairs", args)
    # several processes fill an incomplete batch up with the first pairs
    if not args.dataloader_drop_last and args.world_size == 1 and len(pairs) % args.train_batch_size == 1:
        raise ClipAlignError(
            f"{len(pairs)} pairs in batches of {args.train_batch_size} leave one for the last, which has no "
            "negatives: pass dataloader_drop_last=True, or another per_device_train_batch_size"
        )
