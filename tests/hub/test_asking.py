"""What the Hub is asked for, and limits and defaults that the docs promise."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hf_clipalign import ClipAlignError, IsoCLIPModel
from hf_clipalign.hub import push_stock
from hf_clipalign.hub.connection import check_push_access, open_repo
from hf_clipalign.hub.export import onnx


class Api:
    """Notes what it is asked."""

    def __init__(self, private: bool, role: str = "write"):
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.answers = {
            "model_info": SimpleNamespace(private=private),
            "whoami": {"name": "me", "auth": {"accessToken": {"role": role}}},
        }

    def __getattr__(self, name: str) -> Any:
        def ask(*args: Any, **kwargs: Any) -> Any:
            self.asked.append((name, args, kwargs))
            return self.answers.get(name)

        return ask


@pytest.mark.parametrize("private", [True, False, None])
def test_a_repository_is_made_as_it_is_asked_for(private: bool | None) -> None:
    api: Any = Api(bool(private))
    open_repo(api, "me/model", private, "v1")
    asked = {name: (args, kwargs) for name, args, kwargs in api.asked}
    assert asked["create_repo"] == (("me/model",), {"private": private})
    assert asked["create_branch"] == (("me/model",), {"branch": "v1", "exist_ok": True})
    without: Any = Api(bool(private))
    open_repo(without, "me/model", private, None)
    assert "create_branch" not in {name for name, *_ in without.asked}


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_of_the_other_kind_is_refused(private: bool) -> None:
    api: Any = Api(not private)
    with pytest.raises(ClipAlignError, match="is public" if private else "is private"):
        open_repo(api, "me/model", private, None)


def test_a_push_is_checked_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_clipalign.hub import connection

    for repo_id, role, message in (
        ("", "write", "where to push"),
        ("me/model", "read", "the token may only read"),
        ("me/no good", "write", "no good"),
    ):
        monkeypatch.setattr(connection, "open_api", lambda token, role=role: Api(True, role))
        with pytest.raises(ClipAlignError, match=message):
            check_push_access(repo_id, None)
    check_push_access("me/model", None)


def test_the_stock_model_is_pushed_as_it_is_saved() -> None:
    pushed, saved = (inspect.signature(function).parameters for function in (push_stock, IsoCLIPModel.save_stock))
    assert {name: pushed[name].default for name in ("modality", "compact", "processor")} == {
        name: saved[name].default for name in ("modality", "compact", "processor")
    }


@pytest.mark.parametrize(("more", "refused"), [(0, False), (1, True)])
def test_an_onnx_file_holds_two_gigabytes(more: int, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    weights = [torch.nn.Parameter(torch.empty(size, device="meta")) for size in (500_000_000, more)]
    tower = SimpleNamespace(parameters=lambda: weights, encoder=SimpleNamespace(full_length_text=True))
    program = SimpleNamespace(model=SimpleNamespace(graph=SimpleNamespace(all_nodes=list)))
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: program)
    if refused:
        with pytest.raises(ClipAlignError, match=r"2\.0 GB of weights, but an ONNX file holds at most 2 GB"):
            onnx.trace_onnx(tower, {"pixel_values": torch.zeros(1)}, "image_embeds")
    else:
        assert onnx.trace_onnx(tower, {"pixel_values": torch.zeros(1)}, "image_embeds") is program
