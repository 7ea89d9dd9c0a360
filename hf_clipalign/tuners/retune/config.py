"""Configuration of RE-tune's adapters."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftConfig

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.tuners._registration import peft_type

ADAPTERS = ("mlp", "linear")
SIDES = ("both", "shared", "image", "text")


@dataclass
class RETuneConfig(PeftConfig):
    """Configuration of RE-tune (Mistretta and Bagdanov, 2024): adapters behind the image and the text projector.

    There is no residual connection and nothing is normalised inside, as published, so a fresh adapter starts from
    random features. `identity_start` starts from the model's own: the linear map as the identity, the MLP with
    `x = relu(x) - relu(-x)`, which its 2d hidden units hold exactly.

    Args:
        adapter (`str`): `"mlp"` (default), d → 2d → d with ReLU, or `"linear"`, d → d; both with biases.
        sides (`str`): `"both"` (default), an adapter for each projector; `"shared"`, one set of weights for both;
            `"image"` or `"text"` alone.
        identity_start (`bool`): begin with the identity instead of random weights. Default False, as published.
        target_modules (`str`, *optional*): the heads that are wrapped, a regular expression. Set at creation.
        modules_to_save (`list[str]`, *optional*): further modules to train and save. Default None.
        image_head, text_head (`str`, *optional*): names of the wrapped heads. Set at creation.
        embed_dim (`int`, *optional*): size d of the shared space. Set at creation.
        learned (`dict`): the findings that the adapter has learned, and the prompts that each was learned with:
            `{finding: {"positive": [...], "negative": [...]}}`. Set by training.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import RETuneConfig
        >>> model = get_peft_model(load_mini().student, RETuneConfig())
        >>> model.get_nb_trainable_parameters()[0]
        131840
        ```
    """

    adapter: str = field(default="mlp", metadata={"help": "mlp (d, 2d, d with ReLU) or linear (d, d)."})
    sides: str = field(default="both", metadata={"help": "Which projectors: both, shared, image or text."})
    identity_start: bool = field(default=False, metadata={"help": "Start as the identity; published: random."})
    target_modules: str | None = field(default=None, metadata={"help": "Heads that are wrapped; set at creation."})
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Further modules to train and save with the adapters."}
    )
    image_head: str | None = field(default=None, metadata={"help": "Name of the image head; set at creation."})
    text_head: str | None = field(default=None, metadata={"help": "Name of the text head; set at creation."})
    embed_dim: int | None = field(default=None, metadata={"help": "Size of the shared space; set at creation."})
    learned: dict[str, dict[str, list[str]]] = field(
        default_factory=dict, metadata={"help": "Findings that were learned, with their prompts; set by training."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type("CLIP_RETUNE")
        for name, allowed in (("adapter", ADAPTERS), ("sides", SIDES)):
            if getattr(self, name) not in allowed:
                raise ClipAlignError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(allowed)}.")
