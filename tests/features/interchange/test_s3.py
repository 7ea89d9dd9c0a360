"""A real S3 server on this machine: the protocol, and what is said when it refuses."""

import logging
import socket
import urllib.request

import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.features import FeatureStore, copy_store
from tests.features.interchange.test_remote import write_store

pytest.importorskip("s3fs")
boto3 = pytest.importorskip("boto3")
server = pytest.importorskip("moto.server")

SECRET = "a-secret-that-nobody-may-see"
URL = "s3://shop/features"


@pytest.fixture(scope="module")
def address():
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def credentials(address, monkeypatch, tmp_path):
    """What a user has in the environment, and a bucket."""
    import s3fs

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="shop")
    yield monkeypatch
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_in_a_bucket(credentials, tmp_path):
    store = write_store(tmp_path / "features")
    copy_store(store.folder, URL)
    remote = FeatureStore.open(URL)
    assert torch.equal(remote.values(), store.values())
    assert (remote.ids, remote.skipped) == (store.ids, store.skipped)
    copy_store(store.folder, URL)
    with pytest.raises(ClipAlignError, match="'s3://shop/nothing' holds no features"):
        FeatureStore.open("s3://shop/nothing")
    with pytest.raises(ClipAlignError, match="s3://no-such-bucket"):
        FeatureStore.open("s3://no-such-bucket/features")


def test_damage_in_a_bucket_is_named(credentials, address, tmp_path):
    store = write_store(tmp_path / "features")
    copy_store(store.folder, URL, overwrite=True)
    name = store.manifest["shards"][0]["file"]
    client = boto3.client("s3", endpoint_url=address)
    content = bytearray(client.get_object(Bucket="shop", Key=f"features/{name}")["Body"].read())
    content[-1] ^= 1
    client.put_object(Bucket="shop", Key=f"features/{name}", Body=bytes(content))
    with pytest.raises(ClipAlignError, match=f"{name}: its content has changed"):
        FeatureStore.open(URL).values()
    client.delete_object(Bucket="shop", Key=f"features/{name}")
    with pytest.raises(ClipAlignError, match=f"{name}: it is missing"):
        FeatureStore.open(URL)


def one_line(failure, caplog):
    text = str(failure.value)
    assert "\n" not in text
    assert SECRET not in text + caplog.text
    assert failure.value.__suppress_context__


def test_missing_credentials_are_one_line(credentials, caplog):
    import s3fs

    credentials.delenv("AWS_ACCESS_KEY_ID")
    credentials.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(ClipAlignError, match=r"no access to 's3://shop/features' .*AWS_ACCESS_KEY_ID") as failure,
    ):
        FeatureStore.open(URL)
    one_line(failure, caplog)


def test_a_server_that_does_not_answer_is_one_line(credentials, caplog):
    import s3fs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    credentials.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    credentials.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(ClipAlignError, match="'s3://shop/features' does not answer") as failure,
    ):
        FeatureStore.open(URL)
    one_line(failure, caplog)


def test_refused_credentials_are_one_line(credentials, address, caplog):
    def known_keys_only(after):
        header = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{address}/moto-api/reset-auth", data=after, headers=header, method="POST")
        urllib.request.urlopen(request).close()

    known_keys_only(b"0")
    try:
        with (
            caplog.at_level(logging.INFO),
            pytest.raises(ClipAlignError, match=r"no access to 's3://shop/features' .*AWS_ACCESS_KEY_ID") as failure,
        ):
            FeatureStore.open(URL)
    finally:
        known_keys_only(b"inf")
    one_line(failure, caplog)
