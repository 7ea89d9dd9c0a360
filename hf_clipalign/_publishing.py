"""Where a model's `push_to_hub` meets the room that publishes: models lie below it and do not import it themselves."""

from __future__ import annotations

from typing import Any


def push_aligned(model: Any, repo_id: str, **kwargs: Any) -> Any:
    """`hf_clipalign.hub.push_isoclip`, imported on use."""
    from hf_clipalign.hub import push_isoclip

    return push_isoclip(model, repo_id, **kwargs)
