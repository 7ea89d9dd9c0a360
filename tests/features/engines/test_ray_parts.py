"""What the Ray engine is made of, where Ray need not be installed."""

from __future__ import annotations

import socket
import sys

import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.data import ImageSource, image_folder
from hf_clipalign.features import extract_with_ray
from hf_clipalign.features.engines.plan import Plan
from hf_clipalign.features.engines.ray_cluster import check_address, compare_versions, cpu_share
from hf_clipalign.features.engines.ray_stages import Reader, Tower, pack, source_rows, unpack
from hf_clipalign.features.reading import ImageBatch
from tests.features.engines.ways import SIZES, make_images
from tests.tiny_models import tiny_clip, tiny_image_processor


class Once:
    """Attempts of which each is the first."""

    class begin:
        @staticmethod
        def remote(work):
            return 1


@pytest.fixture
def no_cluster(monkeypatch):
    """As much of Ray as the stages use, which is to wait for a number."""
    import types

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(get=lambda value: value))


def test_without_ray_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    images = make_images(tmp_path / "images")
    with pytest.raises(ClipAlignError, match=r"Ray is not installed: pip install 'hf_clipalign\[ray\]'"):
        extract_with_ray(tiny_clip(), images, tiny_image_processor(), tmp_path / "out", num_workers=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("cpus", "n_actors", "share"),
    [([8], 4, 1.0), ([2], 3, 0.5), ([1, 1], 3, 0.5), ([1, 1, 1], 4, 0.5), ([1], 3, 0.3333), ([0, 4], 5, 0.5)],
)
def test_all_actors_find_a_place(cpus, n_actors, share):
    assert cpu_share(cpus, n_actors) == share
    assert sum(int(count / share + 1e-3) for count in cpus) >= n_actors


def test_a_cluster_without_cpus_is_refused():
    with pytest.raises(ClipAlignError, match="has 0 CPUs, too few for 2 workers"):
        cpu_share([0, 0], 2)


def test_an_address_at_which_nothing_listens(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(ClipAlignError, match=r"nothing answers at '.*ray start --head") as caught:
            check_address(address)
        assert "\n" not in str(caught.value)
    for address in ("here", "127.0.0.1", "127.0.0.1:", ":99", "host:port"):
        with pytest.raises(ClipAlignError, match="is no address of Ray: write HOST:PORT"):
            check_address(address)
    for address in (None, "auto", "local"):
        check_address(address)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(ClipAlignError, match="nothing answers at"):
        check_address(None)


def test_a_node_with_other_versions_is_named():
    here = {"hf_clipalign": "1.0", "torch": "2.5"}
    compare_versions("10.0.0.2", dict(here), here)
    with pytest.raises(ClipAlignError, match=r"node 10\.0\.0\.2 .* has torch 2\.4, this process has torch 2\.5"):
        compare_versions("10.0.0.2", {**here, "torch": "2.4"}, here)
    with pytest.raises(ClipAlignError, match=r"has no hf_clipalign, .*pip install hf_clipalign==1\.0"):
        compare_versions("10.0.0.2", {"hf_clipalign": None, "torch": "2.5"}, here)


def test_a_batch_travels_as_it_is():
    batch = ImageBatch(3, 2, [7], ["ca\udce9"], None, [b"\x00\xff"], [False], None, [("b", 'no "image"')])
    tensors = {"pixel_values": torch.randn(2, 3, 4), "mask": torch.tensor([[True, False]])}
    again, there = unpack(pack(batch, tensors))
    assert again == batch
    assert there.keys() == tensors.keys()
    assert all(torch.equal(there[name], tensor) for name, tensor in tensors.items())
    assert unpack(pack(batch._replace(labels=[1]), {}))[0].labels == [1]


def test_the_stages_make_the_batches_of_the_plan(tmp_path, no_cluster):
    """Whether the images travel with their shard or are held by the reader."""
    source = image_folder(make_images(tmp_path / "images"))
    plan, model = Plan.of(source, "key", SIZES["shard_size"]), tiny_clip()
    held = ImageSource(tuple(source.items), ids=source.ids, labels=source.labels, name=source.name)
    answers = []
    for one in (source, held):
        shell, rows = source_rows(one, plan, [0, 2, 4])
        assert [len(shell), bool(rows[0]["part"])] == ([0, True] if one is source else [18, False])
        reader = Reader(Once, (shell, tiny_image_processor(), frozenset()), SIZES["batch_size"])
        tower = Tower(Once, as_dual_encoder(model), "cpu", 1)
        answers.append([tower(batch) for row in rows for batch in reader(row)])
    assert [(row["shard"], row["place"], row["n_places"]) for row in answers[0]] == [
        *((0, 0, 2), (0, 1, 2)),
        *((2, 0, 2), (2, 1, 2)),
        (4, 0, 1),
    ]
    first = unpack(answers[0][0]["data"])[0]
    assert (first.rows, first.ids, [name for name, _ in first.failures]) == (
        [0, 1],
        ["cat/00.png", "cat/01.png"],
        ["cat/02.png"],
    )
    # a source that is no list of paths calls its images by their rows
    paths = [unpack(row["data"]) for row in answers[0]]
    held_ones = [unpack(row["data"]) for row in answers[1]]
    for (batch, tensors), (other, others) in zip(paths, held_ones, strict=True):
        assert batch == other
        assert torch.equal(tensors["features"], others["features"])


def test_an_error_is_a_row_and_passes_the_tower(no_cluster):
    class Broken:
        def __getitem__(self, row):
            raise MemoryError("too large")

        def __len__(self):
            return 4

    broken = ImageSource(Broken(), ids=list("abcd"), fingerprint=str)
    shell, rows = source_rows(broken, Plan.of(broken, "key", 4), [0])
    (row,) = Reader(Once, (shell, tiny_image_processor(), frozenset()), 2)(rows[0])
    assert row["error"] == "MemoryError: too large"
    assert Tower(Once, as_dual_encoder(tiny_clip()), "cpu", 1)(row) is row
