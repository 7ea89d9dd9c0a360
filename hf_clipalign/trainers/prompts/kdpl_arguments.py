"""What can be set when prompts are distilled from a bigger model."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.trainers.prompts.arguments import PromptLearningTrainingArguments
from hf_clipalign.trainers.prompts.templates import read_templates


@dataclass
class KDPLTrainingArguments(PromptLearningTrainingArguments):
    """Settings of `KDPLTrainer`: those of `PromptLearningTrainingArguments`, and the ones below.

    Args:
        teacher_template (`str`, *optional*): the teacher's prompt, or a text file of several, one a line, whose mean
            text features it takes. Default: `template`, or "a photo of a {}." when there is none or `class_agnostic`.
        class_agnostic (`bool`): class names are unknown: candidates come from a dictionary.
        dictionary (`str`, *optional*): its file, see `hf_clipalign.data.load_dictionary`. Default: the shipped one.
        k_max (`int`, *optional*, defaults to `1000`): concepts kept per step, chosen over the whole batch of all
            processes.
        cache_dir (`str`, *optional*): where teacher features are kept between runs. Default: not kept.
        cache_image_features (`bool`, *optional*): take the teacher's image features once for all epochs. Default: when
            `augment` is off; impossible with it.

    Example:
        ```python
        >>> from hf_clipalign.trainers import KDPLTrainingArguments
        >>> KDPLTrainingArguments.preset("coop", output_dir="runs/kdpl", class_agnostic=True).k_max
        1000
        ```
    """

    teacher_template: str | None = field(
        default=None,
        metadata={"help": "The teacher's prompt, or a file of several; by default the template."},
    )
    class_agnostic: bool = field(
        default=False, metadata={"help": "Class names are unknown: choose among the concepts of a dictionary."}
    )
    dictionary: str | None = field(
        default=None, metadata={"help": "Text file or CSV of concepts; by default 20,000 from WordNet."}
    )
    k_max: int = field(
        default=1000, metadata={"help": "Concepts kept per step, chosen over the batch of all processes."}
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder where the teacher's features are kept between runs."}
    )
    cache_image_features: bool | None = field(
        default=None,
        metadata={"help": "Take the teacher's image features once; by default when augment is off."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache_image_features and self.augment:
            raise ClipAlignError(
                "teacher image features cannot be cached while images are augmented: pass augment=False, "
                "or cache_image_features=False"
            )
        if self.cache_image_features is None:
            self.cache_image_features = not self.augment
        if self.dictionary is not None and not self.class_agnostic:
            raise ClipAlignError("a dictionary is used only with class_agnostic=True: pass it, or no dictionary")
        if self.k_max < 2:
            raise ClipAlignError(f"k_max is {self.k_max}: keep at least 2 concepts")
        if self.teacher_template is not None:
            read_templates(self.teacher_template, "teacher_template")
