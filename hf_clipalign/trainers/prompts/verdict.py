"""What a trained adapter is worth beside the plain student, on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.evaluation import Verdict, paired_verdict, zero_shot_logits
from hf_clipalign.trainers.cards import shown_model
from hf_clipalign.trainers.images import drop_unreadable

_PLAIN_TEMPLATE = "a photo of a {}."


def adapter_verdict(
    trainer: Any, source: Any, class_names: Sequence[str] | None = None, template: str | Sequence[str] | None = None
) -> Verdict:
    """Compares the adapter with the plain student, by labels, or else by the teacher's opinion.

    Args:
        trainer (`PromptLearningTrainer`): holds the trained adapter, and the teacher if there is one.
        source (`ImageSource`): held-out images.
        class_names (`Sequence[str]`, *optional*): what to choose from. Default: the source's, else the trainer's.
        template (`str` or `Sequence[str]`, *optional*): the plain student's and the teacher's prompt. Default: the
            student's `template`, else the words that the context started from, else `a photo of a {}.`.

    Raises:
        `ClipAlignError`: neither labels nor a teacher.
    """
    source = drop_unreadable(source) if trainer.args.skip_unreadable else source
    teacher: Any = getattr(trainer, "teacher", None)
    if source.labels is None and teacher is None:
        raise ClipAlignError(f"{source.name}: neither labels nor a teacher, so nothing can be compared")
    names = class_names if class_names is not None else source.class_names or trainer.class_names
    template = template or trainer.args.template or _start(trainer)
    model, processor = trainer.peft_model, trainer.processing_class
    was_training = model.training
    model.eval()
    adapted = zero_shot_logits(model, processor, source, names, trainer.learner.template)
    with model.disable_adapter():
        plain = zero_shot_logits(model, processor, source, names, template)
    model.train(was_training)
    if source.labels is not None:
        return paired_verdict(adapted, plain, source.labels)
    opinion = zero_shot_logits(teacher.model, teacher.processor, source, names, template).argmax(dim=1)
    return paired_verdict(adapted, plain, opinion, teacher=shown_model(teacher.model))


def _start(trainer: Any) -> str:
    words = getattr(trainer.peft_model.peft_config[trainer.learner.adapter_name], "ctx_init", None)
    return f"{words} {{}}." if words else _PLAIN_TEMPLATE
