"""Which published model a folder or a loaded model is a copy of, and whether its sizes say so too."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hf_clipalign._checks.quoting import short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.limited_json import read_json
from hf_clipalign._io.limited_yaml import limited_yaml
from hf_clipalign.backbones import as_dual_encoder

_CACHE_FOLDER = re.compile(r"^models--(?P<owner>[^/]+?)--(?P<name>[^/]+)$")
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_LONGEST_CARD = 2**18
_OTHER_WEIGHTS = ("finetune", "adapter", "merge", "quantized")


class Sizes(NamedTuple):
    """What tells architectures apart.

    Attributes:
        projection_dim (`int`): size of the shared space.
        vision_width (`int`), text_width (`int`): hidden sizes of the towers.
        vision_layers (`int`), text_layers (`int`): their numbers of layers.
        patch_size (`int`): side of the image tower's patches, in pixels.

    Example:
        ```python
        >>> from hf_clipalign.isoclip import known_bands
        >>> known_bands("openai/clip-vit-base-patch32").sizes
        Sizes(projection_dim=512, vision_width=768, text_width=512, vision_layers=12, text_layers=12, patch_size=32)
        ```
    """

    projection_dim: int
    vision_width: int
    text_width: int
    vision_layers: int
    text_layers: int
    patch_size: int


def origin_of(model_or_path: Any, known: Collection[str]) -> str | None:
    """The published model that something is or was copied from.

    Args:
        model_or_path (`str`, `Path`, `nn.Module` or `DualEncoder`): Hub id, folder, or loaded model.
        known (`Collection[str]`): Hub ids to look for, in lower case.

    Returns:
        `str`: the first of its names that is known, or None.
    """
    return next((name for name in map(_plain, _names(model_or_path)) if name in known), None)


def check_sizes(model_or_path: Any, published: Sizes, base_model: str | None = None) -> None:
    """Refuses a model that has the name of a published one and other sizes; an id alone is not looked at.

    Raises:
        `ClipAlignError`: names the first size that differs.
    """
    found = _sizes(model_or_path)
    for field in Sizes._fields:
        size, expected = getattr(found, field, None), getattr(published, field)
        if size is not None and size != expected:
            raise ClipAlignError(
                f"{_label(model_or_path)} is named as a copy of {base_model or 'a published model'}, but its {field} "
                f"is {size} instead of {expected}: the published band is not for it. Give a band yourself."
            )


def _plain(name: str) -> str:
    return name.lower().removeprefix("hf-hub:").strip("/")


def _names(model_or_path: Any) -> Iterator[str]:
    """Names from the surest to the least sure."""
    if not isinstance(model_or_path, (str, Path)):
        name = getattr(as_dual_encoder(model_or_path).config, "_name_or_path", None)
        if name:
            yield from _names(str(name))
        return
    yield str(model_or_path)
    folder = Path(model_or_path)
    if folder.is_dir():
        yield from _names_of_cache(folder)
        yield from _names_in_config(folder)
        yield from _names_in_card(folder)


def _names_of_cache(folder: Path) -> Iterator[str]:
    for part in folder.resolve().parts:
        if match := _CACHE_FOLDER.match(part):
            yield f"{match['owner']}/{match['name']}"


def _names_in_config(folder: Path) -> Iterator[str]:
    config = _config(folder)
    for name in (config.get("_name_or_path"), config.get("name_or_path")):
        if isinstance(name, str):
            yield name


def _names_in_card(folder: Path) -> Iterator[str]:
    card = folder / "README.md"
    if not card.is_file():
        return
    with open(card, encoding="utf-8", errors="replace") as file:
        match = _FRONT_MATTER.match(file.read(_LONGEST_CARD))
    if match is None:
        return
    try:
        facts = limited_yaml(match[1])
    except Exception:  # PyYAML also raises AttributeError and IndexError on odd scalars
        return
    if isinstance(facts, dict) and facts.get("base_model_relation") not in _OTHER_WEIGHTS:
        for key in ("model_id", "base_model"):
            names = facts.get(key)
            yield from (name for name in (names if isinstance(names, list) else [names]) if isinstance(name, str))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return read_json(path) if path.is_file() else {}


def _sizes(model_or_path: Any) -> Any:
    if isinstance(model_or_path, (str, Path)):
        folder = Path(model_or_path)
        return _sizes_of_config(_config(folder)) if (folder / "config.json").is_file() else None
    encoder = as_dual_encoder(model_or_path)
    config = encoder.config.to_dict() if hasattr(encoder.config, "to_dict") else {}
    return _sizes_of_config(config)._replace(projection_dim=encoder.embed_dim)


def _sizes_of_config(config: dict[str, Any]) -> Any:
    """The sizes that a configuration gives, completed by the defaults of its class; None for those it does not."""
    if config.get("model_type"):
        from transformers import AutoConfig

        values = {name: value for name, value in config.items() if name != "model_type"}
        try:
            config = AutoConfig.for_model(config["model_type"], **values).to_dict()
        except Exception as error:  # odd values raise errors of any kind
            raise ClipAlignError(f"the config.json cannot be read: {short_reason(error)}") from error
    parts = [config.get(f"{tower}_config") for tower in ("vision", "text")]
    vision, text = (part if isinstance(part, dict) else {} for part in parts)
    shared: Any = config.get("projection_dim") or text.get("projection_size")
    widths = vision.get("hidden_size"), text.get("hidden_size")
    layers = vision.get("num_hidden_layers"), text.get("num_hidden_layers")
    found: Any = (shared, *widths, *layers, vision.get("patch_size"))
    return Sizes(*found)


def _label(model_or_path: Any) -> str:
    if isinstance(model_or_path, (str, Path)):
        return repr(str(model_or_path))
    return f"this {type(as_dual_encoder(model_or_path).model).__name__}"
