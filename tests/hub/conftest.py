"""One local Hub, one process that pushes and two that load, for all tests of the round trip."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hub.local_hub import Fault, Hub, serve

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
ASSETS = REPOSITORY / "hf_clipalign" / "assets" / "mini" / "student"
_SETTINGS = ("HF_", "HUGGING", "TRANSFORMERS_")
OWN_CARD = b"---\nlicense: mit\n---\nWritten by hand.\n"


@dataclass
class Site:
    """The Hub after all pushes, and the folder with the reports."""

    hub: Hub
    url: str
    folder: Path

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Starts a fresh process that knows only this Hub."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))
        }
        home = self.folder / f"home-{'-'.join((script, *arguments))}"
        own = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        path = os.pathsep.join([str(REPOSITORY), inherited.get("PYTHONPATH", "")])
        return subprocess.Popen(
            [sys.executable, str(HERE / script), str(self.folder), *arguments],
            env={**inherited, **own, "PYTHONPATH": path, "TMPDIR": str(self.folder / "tmp"), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def report(self, name: str = "report") -> dict[str, Any]:
        return json.loads((self.folder / f"{name}.json").read_text())


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The Hub after `author.py`."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "tmp").mkdir()
    with serve() as (hub, url):
        card = b"---\nlicense: apache-2.0\n---\nThe base.\n"
        hub.add(
            "tester/mini-student", {path.name: path.read_bytes() for path in ASSETS.iterdir()} | {"README.md": card}
        )
        hub.add("tester/kept", {"README.md": OWN_CARD})
        hub.add("tester/replaced", {"README.md": OWN_CARD})
        hub.faults = [
            Fault("POST", "/tester/commit-500/commit/", 500),
            Fault("POST", "/tester/commit-cut/commit/", 0),
            Fault("GET", "/api/models/tester/info-500", 500),
            Fault("PUT", "/lfs/tester/object-cut-lfs/", 0),
        ]
        (folder / "evaluation.json").write_text(json.dumps(_evaluation()))
        finish(Site(hub, url, folder).run("author.py", HF_TOKEN="hf_writer"))
        yield Site(hub, url, folder)


@pytest.fixture(scope="session")
def readers(site: Site) -> Site:
    """The site after both readers, which run side by side."""
    processes = [site.run("reader.py", side) for side in ("with", "without")]
    for process in processes:
        finish(process)
    return site


def _evaluation() -> dict[str, Any]:
    """A `results.json` as `clipalign evaluate` writes it."""
    scores = [_score("raw", 128, 0.25), _score("isoclip", 128, 0.5)]
    comparison = {"scores": scores, "tasks": ["data"], "n_queries": 9, "n_without_positive": 0, "without_positive": []}
    return {"model": "m", "data": "/home/me/photos", "task": "image-image", "band": [1, 48], "comparison": comparison}


def _score(head: str, width: int, value: float) -> dict[str, Any]:
    interval = [value - 0.1, value + 0.1]
    measured = {"metrics": {"map": value, "recall_at_1": value}, "map_interval": interval, "per_task": {"data": value}}
    return {"head": head, "width": width, "gain": value - 0.25, "gain_interval": [0.0, 0.1], **measured}


def pushes_to(url: str, monkeypatch: pytest.MonkeyPatch, token: str = "hf_writer") -> None:
    """Lets this process push to a local Hub."""
    from huggingface_hub import constants

    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    settings = {"ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_OFFLINE": False}
    for name, value in {**settings, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", token)
