"""How models call the room that pushes, which lies above theirs: it registers a hook by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_clipalign._errors import ClipAlignError

_hooks: dict[str, Callable[..., Any]] = {}
_loaders: list[Callable[[], Any]] = []


def register_push(kind: str, push: Callable[..., Any]) -> None:
    """Says what pushes a kind of model: `push(model, repo_id, **kwargs)`."""
    _hooks[kind] = push


def before_first_push(load: Callable[[], Any]) -> None:
    """Says what to call when no hook is registered yet."""
    _loaders.append(load)


def push(kind: str, model: Any, repo_id: str, **kwargs: Any) -> Any:
    """Pushes a model by the hook of its kind.

    Raises:
        `ClipAlignError`: nobody has registered one; or what the hook raises.
    """
    if kind not in _hooks:
        for load in _loaders:
            load()
    if kind not in _hooks:
        raise ClipAlignError(f"cannot push a {type(model).__name__}: import hf_clipalign.hub.push first.")
    return _hooks[kind](model, repo_id, **kwargs)
