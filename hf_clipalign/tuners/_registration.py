"""Makes the methods known to PEFT, whose list of methods is an Enum closed to other packages."""

from __future__ import annotations

from typing import Any

from peft import PeftType


class _StringPeftType(str):
    """Stands in for a `PeftType` member where the Enum cannot be extended."""

    __slots__ = ()

    @property
    def value(self) -> str:
        return str(self)

    @property
    def name(self) -> str:
        return str(self)


def peft_type(name: str) -> Any:
    """The `PeftType` member of that name, made if need be; a string that behaves like one if it cannot be made."""
    if name in PeftType.__members__:
        return PeftType[name]
    try:
        return _extended_peft_type(name)
    except (AttributeError, TypeError, ValueError):
        return _StringPeftType(name)


def register_method(name: str, config_cls: type, model_cls: type) -> None:
    """Registers a method with PEFT; its package calls this when it is imported. Calling it again does nothing.

    Args:
        name (`str`): lower-case name of the method's type, `"clip_coop"` for example.
        config_cls (`type`), model_cls (`type`): its configuration and its tuner.
    """
    from peft import mapping
    from peft.utils import register_peft_method

    kind = peft_type(name.upper())
    if kind in mapping.PEFT_TYPE_TO_CONFIG_MAPPING:
        return
    if isinstance(kind, PeftType):
        register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls)
        return
    methods: Any = mapping
    methods.PEFT_TYPE_TO_PREFIX_MAPPING[kind] = f"{name}_"
    methods.PEFT_TYPE_TO_CONFIG_MAPPING[kind] = config_cls
    methods.PEFT_TYPE_TO_TUNER_MAPPING[kind] = model_cls


def _extended_peft_type(name: str) -> Any:
    member: Any = str.__new__(PeftType, name)
    member._name_, member._value_, member.__objclass__ = name, name, PeftType
    member._sort_order_ = len(PeftType.__members__)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
    return member
