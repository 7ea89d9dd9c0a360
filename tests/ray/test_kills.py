"""Workers, actors, a node and the driver are killed at random points; the store is the plain one, byte for byte.

`RAY_KILLS` says how often each is killed. Nothing is computed twice but what was in flight.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hf_clipalign.data import image_folder
from hf_clipalign.features import extract_to_store
from tests.features.engines.ways import store_files
from tests.ray.drive import SIZES, embed
from tests.ray.towers import NotingEncoder, SlowProcessor, n_computed, write_images

pytestmark = pytest.mark.ray
DRIVE = Path(__file__).with_name("drive.py")
KILLS = int(os.environ.get("RAY_KILLS", "3"))
N_IMAGES = 60 + 60 * KILLS
IN_FLIGHT = 10 * SIZES["shard_size"]
"""Images that may be computed again after one kill: shards of which a batch was read, computed or on its way."""
PATIENCE = 600.0


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("kills") / "images", N_IMAGES)


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    model, source = NotingEncoder(str(folder / "notes")), image_folder(images)
    store = extract_to_store(model, source, SlowProcessor(), folder / "plain", num_workers=0, progress=False, **SIZES)
    return store_files(store.folder)


def wait_until(condition: Callable[[], Any], ended: Callable[[], bool] = lambda: False) -> bool:
    """Whether a condition came true before what is watched has ended."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        if ended():
            return False
        time.sleep(0.01)
    return True


def kill_points(seed: int) -> list[int]:
    """How many images are computed when the kills come, at random and not before the last has an effect."""
    generator = random.Random(seed)
    step = N_IMAGES // (KILLS + 1)
    return [number * step + generator.randrange(step) for number in range(KILLS)]


def kills_during(run: Callable[[], Any], notes: Path, points: list[int], kill: Callable[[], bool]) -> int:
    """How often something was killed while a run went its way in a thread; nodes start in the main thread only.

    The kills come when as many images are computed as the points say; what is not there yet is waited for.
    """
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(run)
        done = 0
        for point in points:
            wait_until(lambda at=point: n_computed(notes) >= at, running.done)
            wait_until(kill, running.done)
            done += not running.done()
        running.result(timeout=PATIENCE)
    return done


def processes_of_ray(cluster: Any, name: str) -> list[int]:
    """Workers of the cluster's nodes whose title has a name in it."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError, IndexError):
                title = (folder / "cmdline").read_bytes().decode(errors="replace")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in raylets and title.startswith("ray::") and name in title:
                    found.append(int(folder.name))
    return found


def killer_of(cluster: Any, name: str, seed: int) -> Callable[[], bool]:
    generator = random.Random(seed)

    def kill() -> bool:
        found = sorted(processes_of_ray(cluster, name))
        with suppress(ProcessLookupError, IndexError):
            os.kill(generator.choice(found), signal.SIGKILL)
            return True
        return False

    return kill


@pytest.mark.parametrize("name", ["Reader", "Tower", ""], ids=["a reader", "a tower", "any worker"])
def test_killed_processes(cluster, images, expected, tmp_path, name):
    """Actors of either stage, and any process that Ray has started for us, its own helpers among them."""
    notes, out = tmp_path / "notes", tmp_path / "out"
    run, kill = partial(embed, images, out, notes, None), killer_of(cluster, name, len(name))
    assert kills_during(run, notes, kill_points(len(name)), kill) == KILLS
    assert store_files(out) == expected
    assert n_computed(notes) <= N_IMAGES + KILLS * IN_FLIGHT


def test_killed_nodes(cluster, images, expected, tmp_path):
    """The second node dies with all that it has read and computed, and another one joins."""
    notes, out = tmp_path / "notes", tmp_path / "out"

    def kill() -> bool:
        cluster.remove_node(cluster.second, allow_graceful=False)
        cluster.second = cluster.add_node(num_cpus=2, object_store_memory=200 * 2**20)
        return True

    assert kills_during(partial(embed, images, out, notes, None), notes, kill_points(11), kill) == KILLS
    assert store_files(out) == expected
    assert n_computed(notes) <= N_IMAGES + KILLS * IN_FLIGHT


def test_killed_drivers(cluster, images, expected, tmp_path):
    """What the next one does not find written, it computes again; nothing is left of the killed one."""
    notes, out = tmp_path / "notes", tmp_path / "out"
    command = [sys.executable, str(DRIVE), str(images), str(out), str(notes), cluster.address]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    kills = 0
    for point in kill_points(12):
        written = {file.name: file.stat().st_mtime_ns for file in out.glob("features-*")}
        driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if wait_until(lambda at=point: n_computed(notes) >= at, lambda one=driver: one.poll() is not None):
            driver.kill()
            kills += 1
        _, errors = driver.communicate()
        assert driver.returncode in (-signal.SIGKILL, 0), errors[-3000:]
        assert all((out / name).stat().st_mtime_ns == when for name, when in written.items())
    assert kills == KILLS
    embed(images, out, notes, None)
    assert store_files(out) == expected
    assert n_computed(notes) <= N_IMAGES + KILLS * IN_FLIGHT
