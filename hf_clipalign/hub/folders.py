"""What a saved folder says about itself, for its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_read
from hf_clipalign._io.limited_json import MAX_BYTES, BadJson, checked_json, natural
from hf_clipalign.hub.cards import SPECTRUM_FILE, ModelCardInfo, on_hub
from hf_clipalign.hub.retune_folder import LIMITS, NOT_FOR_DIAGNOSIS, RETUNE_TYPE

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
_ADAPTER_BOOKKEEPING = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision"),
    *("task_type", "target_modules"),
)


def two_sizes(value: Any) -> bool:
    """Whether a value is a band, `[k_top, k_bottom]`."""
    return isinstance(value, list) and len(value) == 2 and all(map(natural, value))


_MODEL = {"architectures?": (None, [str]), "base_model_name_or_path?": (None, str)}
_ALIGNED = {
    **_MODEL,
    "image_band?": (None, two_sizes),
    "text_band?": (None, two_sizes),
    "clip_config?": (None, _MODEL),
}
_DISCOVERED = {**_MODEL, "class_names": [str], "n_novel": natural, "concepts": [str], "template": str}
_STOCK_FACTS = {"band": (None, two_sizes), "method": str, "modality": str, "compact": bool}
_STOCK = {
    **_MODEL,
    "projection_dim?": natural,
    "hf_clipalign": {**_STOCK_FACTS, "base_model_name_or_path?": (None, str)},
}
_ADAPTER = {"base_model_name_or_path?": (None, str), "learned?": (None, dict)}


def describe_folder(folder: str | Path, load_from: str | None = None) -> ModelCardInfo:
    """The facts for a card that lie in a saved folder itself.

    Args:
        folder (`str` or `Path`): written by `save_pretrained`, `save_stock` or `clipalign trim`; or a PEFT adapter.
        load_from (`str`, *optional*): Hub id for the snippets. Default: the folder.

    Returns:
        `ModelCardInfo`: change it with `dataclasses.replace`.

    Raises:
        `ClipAlignError`: the folder holds neither a model nor an adapter, or its JSON is broken.

    Example:
        ```python
        >>> from hf_clipalign.hub import describe_folder
        >>> aligned.save_pretrained("clip-b32-isoclip")
        >>> describe_folder("clip-b32-isoclip", load_from="me/clip-b32-isoclip").image_band
        (1, 48)
        ```
    """
    folder = Path(folder)
    common: dict[str, Any] = {
        "name": (load_from or str(folder)).rstrip("/").rsplit("/", 1)[-1],
        "load_from": load_from or str(folder),
        "has_processor": any((folder / name).is_file() for name in _PROCESSOR_FILES),
        "has_spectrum": (folder / SPECTRUM_FILE).is_file(),
    }
    kind = folder_kind(folder)
    if kind == "adapter":
        return _adapter(_read(folder / "adapter_config.json", _ADAPTER), common)
    if kind in ("onnx", "sentence-transformers"):
        raise ClipAlignError(
            f"{str(folder)!r} needs a README.md of its own: a card for {kind} cannot be made from it."
        )
    describe, schema = {
        "isoclip": (_aligned, _ALIGNED),
        "gcd": (_discovered, _DISCOVERED),
        "stock": (_stock, _STOCK),
        "clip": (_plain, _MODEL),
    }[kind]
    return describe(_read(folder / "config.json", schema), common)


def folder_kind(folder: str | Path) -> str:
    """What a folder holds, by its files.

    Args:
        folder (`str` or `Path`): any folder.

    Returns:
        `str`: `"adapter"`, `"isoclip"`, `"gcd"`, `"stock"`, `"sentence-transformers"`, `"onnx"` or `"clip"` (any other
        model of transformers).

    Raises:
        `ClipAlignError`: none of these, or its configuration cannot be read.

    Example:
        ```python
        >>> aligned.save_pretrained("clip-b32-isoclip")
        >>> folder_kind("clip-b32-isoclip")
        'isoclip'
        ```
    """
    folder = Path(folder)
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    if (folder / "modules.json").is_file() and (folder / "config_sentence_transformers.json").is_file():
        return "sentence-transformers"
    if (folder / "config.json").is_file():
        config = _read(folder / "config.json")
        named = {"isoclip": "isoclip", "spectralgcd": "gcd"}.get(str(config.get("model_type")))
        return named or ("stock" if "hf_clipalign" in config else "clip")
    if folder.is_dir() and any(folder.glob("*.onnx")):
        return "onnx"
    raise ClipAlignError(
        f"{str(folder)!r} holds no config.json and no adapter_config.json: give a folder that `clipalign trim` or "
        "save_pretrained wrote."
    )


def _plain(config: dict[str, Any], common: dict[str, Any]) -> ModelCardInfo:
    return ModelCardInfo(kind="clip", model_class=_model_class(config), **common)


def _aligned(config: dict[str, Any], common: dict[str, Any]) -> ModelCardInfo:
    image_band, text_band = _band(config.get("image_band")), _band(config.get("text_band"))
    modality = "image" if image_band else "text"
    return ModelCardInfo(
        kind="isoclip",
        method="isoclip",
        model_class=_tower_class(config.get("clip_config") or {}, modality),
        base_model=_hub_id(config.get("base_model_name_or_path")),
        modality=modality,
        image_band=image_band,
        text_band=text_band,
        **common,
    )


def _discovered(config: dict[str, Any], common: dict[str, Any]) -> ModelCardInfo:
    return ModelCardInfo(
        kind="gcd",
        method="spectralgcd",
        base_model=_hub_id(config.get("base_model_name_or_path")),
        parameters={
            "known classes": len(config["class_names"]),
            "novel classes": config["n_novel"],
            "concepts": len(config["concepts"]),
            "prompt of the concepts": config["template"],
        },
        **common,
    )


def _stock(config: dict[str, Any], common: dict[str, Any]) -> ModelCardInfo:
    facts = config["hf_clipalign"]
    band = _band(facts["band"])
    return ModelCardInfo(
        kind="stock",
        method=facts["method"],
        model_class=_model_class(config),
        base_model=_hub_id(facts.get("base_model_name_or_path")),
        modality=facts["modality"],
        image_band=band if facts["modality"] == "image" else None,
        text_band=band if facts["modality"] == "text" else None,
        compact=facts["compact"],
        parameters={"dimension": config["projection_dim"]} if "projection_dim" in config else {},
        **common,
    )


def _adapter(config: dict[str, Any], common: dict[str, Any]) -> ModelCardInfo:
    peft_type = str(config.get("peft_type"))
    shown = {
        name: value
        for name, value in sorted(config.items())
        if name not in _ADAPTER_BOOKKEEPING and isinstance(value, (int, float, str, list)) and value not in ("", [])
    }
    return ModelCardInfo(
        kind="adapter",
        base_model=_hub_id(config.get("base_model_name_or_path")),
        parameters={"adapter type": peft_type, **shown},
        needs_package=not _is_peft_own(peft_type),
        tags=[peft_type.lower()],
        **(_retune(config) if peft_type == RETUNE_TYPE else {}),
        **common,
    )


def _retune(config: dict[str, Any]) -> dict[str, Any]:
    findings = ", ".join(config.get("learned") or ["none"])
    description = f"{NOT_FOR_DIAGNOSIS} Findings that it learned: {findings}."
    return {"method": "retune", "description": description, "limits": LIMITS}


def _is_peft_own(peft_type: str) -> bool:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    config = PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type)  # type: ignore[call-overload]
    return config is not None and config.__module__.split(".")[0] == "peft"


def _read(path: Path, schema: Any = dict) -> dict[str, Any]:
    try:
        with explained_read(path):
            return checked_json(path.read_bytes(), schema, MAX_BYTES)
    except BadJson as error:
        raise ClipAlignError(f"cannot read {str(path)!r}: it {error}. Replace it.") from error


def _model_class(config: dict[str, Any]) -> str:
    return next(iter(config.get("architectures") or ["AutoModel"]))


def _tower_class(config: dict[str, Any], modality: str) -> str | None:
    """The class of transformers for one tower of a family, by the library's naming."""
    import transformers

    family = _model_class(config).removesuffix("Model")
    tower = f"{family}{'Vision' if modality == 'image' else 'Text'}Model"
    return next((name for name in (f"{tower}WithProjection", tower) if hasattr(transformers, name)), None)


def _band(value: Any) -> tuple[int, int] | None:
    return None if value is None else (int(value[0]), int(value[1]))


def _hub_id(name: Any) -> str | None:
    """A Hub id, never the path of a folder on this machine."""
    return name if on_hub(name) else None
