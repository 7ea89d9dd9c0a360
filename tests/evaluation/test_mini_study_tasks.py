"""Which concepts choose the bands of the demo, and which are scored: with random features."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hf_clipalign.data import load_mini
from hf_clipalign.evaluation import mini_study


class Enough(Exception):
    """Everything that is looked at has been asked for."""


def test_bands_are_chosen_on_known_concepts_and_novel_ones_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_on: list[Any] = []
    scored: list[Any] = []
    encoded: list[list[str]] = []
    model = load_mini(share_alike=True).student

    def images(given: Any, source: Any, processor: Any, progress: bool) -> Any:
        return SimpleNamespace(values=torch.randn(len(source), 4))

    def texts(given: Any, lines: list[str], processor: Any, **settings: Any) -> Any:
        assert type(given) is type(model)
        assert settings == {"truncate": True, "progress": False}
        encoded.append(lines)
        return SimpleNamespace(values=torch.randn(len(lines), 4))

    def search(tasks: Any, encoder: Any, modality: str = "image") -> Any:
        chosen_on.extend(tasks if isinstance(tasks, list) else [tasks])
        return SimpleNamespace(band=(1, 2))

    def compare(heads: Any, tasks: dict[str, Any], seed: int) -> None:
        scored.extend(tasks.values())
        if "keywords → names" in tasks:
            raise Enough

    for name, stand_in in (
        ("extract_image_features", images),
        ("extract_text_features", texts),
        ("search_band", search),
        ("compare_heads", compare),
        ("_with_texts", lambda *given: []),
    ):
        monkeypatch.setattr(mini_study, name, stand_in)
    with pytest.raises(Enough):
        mini_study.run_mini_study("student", progress=False)
    mini = load_mini(share_alike=True)
    for tasks, novel in ((chosen_on, False), (scored, True)):
        allowed = set(mini.emoji_subset(novel=novel)["emoji_id"][:])
        assert len(tasks) == 4
        assert all(len(task.query) > 50 for task in tasks)
        assert all({*task.query_labels, *task.gallery_labels} <= allowed for task in tasks)
    for lines in encoded:
        queries, names = lines[: len(lines) // 2], lines[len(lines) // 2 :]
        assert all(1 <= query.count(", ") <= 3 for query in queries)
        assert all(name.startswith("an emoji of ") for name in names)
