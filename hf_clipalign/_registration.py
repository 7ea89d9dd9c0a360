"""Makes the package's models known to the Auto classes without importing transformers for it."""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_AUTO_CLASSES = "transformers.models.auto.modeling_auto"
_waiting: list[str] = []
"""Modules that register models, each named by the room that it lies in."""


def register_with_auto_classes(module: str) -> None:
    """Imports a module that registers its models as soon as the Auto classes are imported: now, or right after.

    A room calls it in its `__init__`, so that it stays cheap to import, and `AutoModel.from_pretrained` of a saved
    model works after `import hf_clipalign`.

    Args:
        module (`str`): dotted name, in the room that calls.
    """
    if _AUTO_CLASSES in sys.modules:
        importlib.import_module(module)
        return
    _waiting.append(module)
    if not any(isinstance(finder, _AfterAutoClasses) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterAutoClasses())


class _AfterAutoClasses(MetaPathFinder):
    """Steps in once, when the module of the Auto classes is imported."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != _AUTO_CLASSES:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(Loader):
    """The module's own loader, followed by the registration."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        while _waiting:
            importlib.import_module(_waiting.pop())
