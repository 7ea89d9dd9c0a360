"""Configuration of CoOp."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.tuners._base import BARE_TEMPLATE, ContextConfig
from hf_clipalign.tuners._registration import peft_type

POSITIONS = ("end", "middle", "front")


@dataclass
class CoOpConfig(ContextConfig):
    """Configuration of CoOp (Zhou et al., 2022): context vectors take the place of the context words.

    With the class name at the end, the embeddings of the first `n_ctx` words of every prompt are replaced, whatever
    the words are. With the class name in the middle or in front, the prompts come from `build_prompts`, which marks
    the places with the start token.

    Args:
        n_ctx (`int`, *optional*, defaults to `4`): number of context vectors.
        ctx_init (`str`, *optional*): words that the context starts from. Default None: drawn from N(0, 0.02).
        class_token_position (`str`): `"end"` (default), `"middle"` or `"front"`.
        class_specific (`bool`, *optional*, defaults to `False`): one context per class instead of one for all.
        n_classes (`int`, *optional*): number of classes, for `class_specific`.
        class_names (`list[str]`, *optional*): their names, in the order of the contexts, which fit no other classes.
            Set by the trainers.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import CoOpConfig
        >>> model = get_peft_model(load_mini().student, CoOpConfig(n_ctx=4))
        >>> model.get_nb_trainable_parameters()[0]
        512
        ```
    """

    class_token_position: str = field(
        default="end", metadata={"help": "Where the class name stands: end, middle or front."}
    )
    class_specific: bool = field(default=False, metadata={"help": "One context per class."})
    n_classes: int | None = field(default=None, metadata={"help": "Number of classes, for `class_specific`."})

    class_names: list[str] | None = field(
        default=None, metadata={"help": "Names of the classes of `class_specific`, set by the trainers."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("CLIP_COOP")
        if self.class_token_position not in POSITIONS:
            raise ClipAlignError(
                f"class_token_position={self.class_token_position!r}: choose one of {', '.join(POSITIONS)}."
            )
        if self.class_specific and not self.n_classes:
            raise ClipAlignError("class_specific=True needs n_classes, the number of classes.")
        if self.n_classes and not self.class_specific:
            raise ClipAlignError("n_classes is for class_specific=True: set both or neither.")

    def automatic_template(self) -> str:
        """As for every context; a context around the name or behind it has its places from `build_prompts`."""
        return super().automatic_template() if self.class_token_position == "end" else BARE_TEMPLATE
