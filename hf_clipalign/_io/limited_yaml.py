"""Reading YAML that others wrote: plain values, no aliases, no name twice, and no number that takes long to read."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hf_clipalign._checks.quoting import short

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_LONGEST_NUMBER = 40
_DEEPEST = 50


def limited_yaml(text: str) -> Any:
    """The value of a YAML text.

    Args:
        text (`str`): of a size that a person writes; the caller limits it.

    Raises:
        `ValueError`: aliases (`*name`), which can make a small text large; a key that stands twice; a number of more
            than 40 characters. Errors of PyYAML, which are of many types.
        `RecursionError`: deeper than 50 levels.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                alias = short(f"*{self.peek_event().anchor}")
                raise ValueError(f"aliases such as {alias} are not read: write the values out")
            self.depth = getattr(self, "depth", 0) + 1
            if self.depth > _DEEPEST:
                raise RecursionError
            node = super().compose_node(parent, index)
            self.depth -= 1
            if node is not None and node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
                raise ValueError(f"{short(node.value)} is too long for a number: put it in quotes if it is a text")
            return node

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            require_once([key.value for key, _ in node.value])
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader)


def require_once(keys: list[Any]) -> None:
    """Refuses a key that stands twice.

    Raises:
        `ValueError`: with the key.
    """
    if twice := next((key for key, count in Counter(map(str, keys)).items() if count > 1), None):
        raise ValueError(f"{short(twice)} occurs twice")
