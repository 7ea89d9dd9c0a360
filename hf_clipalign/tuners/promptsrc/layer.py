"""PromptSRC's prompts in both towers."""

from hf_clipalign.tuners._layers import ImagePrompts, TextPrompts


class PromptSRCText(TextPrompts):
    """The token table or a text encoder layer with PromptSRC's prompts `[n, d_t]`."""

    adapter_layer_names = ("clip_promptsrc_context",)


class PromptSRCImage(ImagePrompts):
    """The image embeddings or an image encoder layer with PromptSRC's prompts `[n, d_v]`."""

    adapter_layer_names = ("clip_promptsrc_prompts",)
