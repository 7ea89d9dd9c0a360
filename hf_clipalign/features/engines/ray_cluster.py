"""The Ray cluster that an extraction runs on: reached, compared with this process, and its CPUs shared out."""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hf_clipalign._checks.quoting import short, short_reason
from hf_clipalign._errors import ClipAlignError

_ANSWER_TIME = 10.0
"""Seconds within which an address answers, or does not."""
_PROBE_TIME = 180.0
"""Seconds within which a node starts a process."""
_PACKAGES = ("hf_clipalign", "torch", "transformers", "pillow")
"""What the bytes of a shard depend on."""
_FINEST = 1000


def imported_ray() -> Any:
    """The `ray` module with `ray.data`.

    Raises:
        `ClipAlignError`: it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ClipAlignError(
            "Ray is not installed: pip install 'hf_clipalign[ray]', here and on every node of the cluster."
        ) from error
    return ray


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Is connected to a cluster inside the block; one that the process is connected to already is used and stays.

    Args:
        address (`str`, *optional*): `"auto"` for the cluster that this machine belongs to, or where its head is.
            Default: what `RAY_ADDRESS` says, else a cluster of this machine alone, for as long as the block.

    Raises:
        `ClipAlignError`: the address does not answer.
    """
    ray = imported_ray()
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, logging_level="warning", log_to_driver=False)
    except Exception as error:
        where = "no Ray cluster" if address in (None, "auto") else f"no Ray cluster at {short(address)}"
        raise ClipAlignError(
            f"{where} ({short_reason(error)}): start one with `ray start --head`, give its address, or leave out "
            "address to use this machine alone."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str | None) -> None:
    """Refuses an address at which nothing listens; Ray itself would try for minutes.

    Raises:
        `ClipAlignError`: there is no answer, or it is no address.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    host, _, port = (address or "").rpartition("/")[2].rpartition(":")
    if not address or address in ("auto", "local"):
        return
    if not host or not port.isdecimal():
        raise ClipAlignError(
            f"{short(address)} is no address of Ray: write HOST:PORT, such as 10.0.0.1:6379, or auto."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_TIME).close()
    except (OSError, OverflowError) as error:
        raise ClipAlignError(
            f"nothing answers at {short(address)} ({short_reason(error)}): give the address that `ray start --head` "
            "printed."
        ) from error


def check_nodes() -> None:
    """Compares the packages on every node with those here: two versions of one may not fill one store.

    Raises:
        `ClipAlignError`: naming the first node where one is missing or has another version.
    """
    ray, ask = imported_ray(), _versions_of(_PACKAGES)
    answers = []
    for node in _living_nodes(ray):
        where = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answers.append((node, ray.remote(num_cpus=0, scheduling_strategy=where)(ask).remote()))
    for node, answer in answers:
        try:
            found = ray.get(answer, timeout=_PROBE_TIME)
        except ray.exceptions.RayError as error:
            if node["NodeID"] not in {one["NodeID"] for one in _living_nodes(ray)}:
                continue  # it has gone meanwhile, and takes no part
            name = node["NodeManagerAddress"]
            raise ClipAlignError(f"node {name} of the Ray cluster does not answer ({short_reason(error)}).") from error
        compare_versions(node["NodeManagerAddress"], found, ask())


def _living_nodes(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def compare_versions(node: str, there: dict[str, str | None], here: dict[str, str | None]) -> None:
    """Refuses a node with other packages.

    Raises:
        `ClipAlignError`: naming the node, the first package that differs, and what to install.
    """
    for package, version in here.items():
        if (found := there.get(package)) != version:
            has = f"{package} {found}" if found else f"no {package}"
            raise ClipAlignError(
                f"node {node} of the Ray cluster has {has}, this process has {package} {version}: install that there "
                f"(pip install {package}=={version}), or give all nodes one environment."
            )


def _versions_of(packages: Sequence[str]) -> Callable[[], dict[str, str | None]]:
    """A function that looks up versions; it travels to other nodes as code, as this package may be missing there."""

    def versions() -> dict[str, str | None]:
        import importlib.metadata

        found: dict[str, str | None] = {}
        for package in packages:
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = None
        return found

    return versions


def cpu_share(cpus: Sequence[float], n_actors: int) -> float:
    """How much of a CPU each of n actors may reserve, so that all of them find a place.

    Args:
        cpus (`Sequence[float]`): CPUs of each node.
        n_actors (`int`): actors of the stage.

    Raises:
        `ClipAlignError`: there are no CPUs, or far too few.
    """
    for parts in range(1, _FINEST + 1):
        if sum(math.floor(count * parts + 1e-6) for count in cpus) >= n_actors:
            return math.floor(1e4 / parts) / 1e4
    raise ClipAlignError(f"the Ray cluster has {sum(cpus):g} CPUs, too few for {n_actors} workers: ask for fewer.")
