"""A Ray cluster of nodes that are processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a second node of two CPUs each; the test's process is connected to it."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    sizes = {"num_cpus": 2, "object_store_memory": 200 * 2**20}
    nodes = Cluster(initialize_head=True, head_node_args={**sizes, "include_dashboard": False})
    nodes.second = nodes.add_node(**sizes)
    nodes.wait_for_nodes()
    ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    yield nodes
    ray.shutdown()
    nodes.shutdown()
