"""At least 20 kills each of what writes folders: started again, a run leaves what an uninterrupted one leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_clipalign.search import ImageIndex
from tests.drills import jobs
from tests.drills.kills import Killer, file_hashes
from tests.hub.local_hub import serve

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("DRILL_KILLS", "20"))


def test_embed(tmp_path):
    Killer(jobs.embed, tmp_path, prepare=jobs.write_images).kill_at_random(KILLS)


def test_embed_with_workers(tmp_path):
    Killer(jobs.embed_with_workers, tmp_path, prepare=jobs.write_images).kill_at_random(KILLS)


def indexed(folder: Path) -> dict[str, str]:
    """The features of every image of an index; where nothing was deleted and written anew, also their order."""
    index = ImageIndex.open(folder / "index")
    features, files, status = index.features(), index.files, index.status()
    values = features.read(0, len(features))
    assert (index.verify(), set(files.images.tolist())) == ([], set(range(len(index))))
    assert len(set(map(bytes, values))) == len(index)
    names = {path.name.partition("-")[0] for path in (folder / "index").iterdir()}
    assert names <= {"features", "heads.safetensors", "index.sqlite", ".index.lock"}
    found = {files.path(i): values[row].tobytes().hex() for i, row in enumerate(files.images)}
    if not (folder / "images" / "new").exists():
        found["order"] = str(files.images.tolist())
    return found | {"skipped": str(status.skipped)}


def searchable(whole):
    """A check that right after a kill the index is sound, and holds each image once with the features that it has."""

    def check(folder):
        if not (folder / "index" / "index.sqlite").exists():
            return
        index = ImageIndex.open(folder / "index")
        unrecorded = [problem for problem in index.verify() if "it is not recorded" not in problem]
        assert unrecorded == []
        features = index.features()
        values = [row.tobytes().hex() for row in features.read(0, len(features))]
        assert len(set(values)) == len(values)
        assert {*values} <= whole

    return check


@pytest.mark.parametrize("prepare", [jobs.write_images, jobs.index_to_update])
def test_index(prepare, tmp_path):
    """Nothing is lost, nothing is doubled: DRILL_KILLS=500 makes it a thousand."""
    killer = Killer(jobs.index, tmp_path / "drill", contents=indexed, prepare=prepare)
    known = set(killer.expected.values())
    if prepare is jobs.index_to_update:
        (tmp_path / "before").mkdir()
        jobs.write_images(tmp_path / "before")
        jobs.index(tmp_path / "before")
        known |= set(indexed(tmp_path / "before").values())
    killer.check = searchable(known)
    killer.kill_at_random(KILLS)


def test_ovi(tmp_path):
    Killer(jobs.ovi, tmp_path).kill_at_random(KILLS)


def one_model_in_a_folder(old, new):
    """A check that every exported folder is the old one or the new one as a whole, never files of both."""

    def check(folder):
        for name in ("aligned", "stock"):
            found = {file: value for file, value in file_hashes(folder).items() if file.startswith(f"{name}/")}
            versions = [
                {file: value for file, value in hashes.items() if file.startswith(f"{name}/")} for hashes in (old, new)
            ]
            assert found in versions, f"{name} holds files of both models, or not all of one"

    return check


def test_export_over_an_older_one(tmp_path):
    (tmp_path / "old").mkdir()
    jobs.old_export(tmp_path / "old")
    killer = Killer(jobs.export, tmp_path / "drill", prepare=jobs.old_export)
    killer.check = one_model_in_a_folder(file_hashes(tmp_path / "old"), killer.expected)
    killer.kill_at_random(KILLS)


def test_export_for_sentence_transformers(tmp_path):
    Killer(jobs.sentence_transformers, tmp_path).kill_at_random(KILLS)


def test_push(tmp_path):
    """The Hub has the repository's old state or the new one; in the end nothing staged is left."""
    with serve() as (hub, url):

        def prepare(folder):
            (folder / "hub.txt").write_text(url)
            (folder / "tmp").mkdir()
            hub.repos.clear()

        def pushed(folder):
            return file_hashes(folder) | {
                name: str(hash(data)) for name, data in hub.repos["tester/pushed"].files().items()
            }

        def check(folder):
            for repo in hub.repos.values():
                assert set(repo.files()) <= {".gitattributes", "README.md"} or "model.safetensors" in repo.files()

        killer = Killer(jobs.push, tmp_path, contents=pushed, check=check, prepare=prepare)
        killer.kill_at_random(KILLS)


def trained(folder: Path) -> dict[str, str]:
    """The weights at the end; checkpoints hold times and paths."""
    files = sorted((folder / "trained").rglob("*.safetensors"))
    assert files
    return {
        f"{file.name} {name}": value.tolist().__repr__() for file in files for name, value in load_file(file).items()
    }


@pytest.mark.parametrize("method", ["kdpl", "contrastive", "gcd"])
def test_training(method, tmp_path):
    Killer(getattr(jobs, method), tmp_path, contents=trained).kill_at_random(KILLS)


def test_retune(tmp_path):
    def learned(folder):
        state = json.loads((folder / "run" / "retune.json").read_text())
        return trained(folder) | {"findings": json.dumps([task.get("findings") for task in state["tasks"]])}

    Killer(jobs.retune, tmp_path, contents=learned).kill_at_random(KILLS)
