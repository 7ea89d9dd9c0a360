"""The places of VPT's tokens."""

from hf_clipalign.tuners._layers import ImagePrompts


class VPTPrompts(ImagePrompts):
    """The image embeddings or an encoder layer with VPT's tokens `[n, d_v]`."""

    adapter_layer_names = ("clip_vpt_prompts",)
