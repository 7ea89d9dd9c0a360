"""Answers of the Hub that are rare: each is waited for, understood, or told in one line."""

from __future__ import annotations

import email.utils
import json
import logging
import time

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.hub import connection, push_folder
from tests.hub.conftest import pushes_to
from tests.hub.local_hub import Fault, serve

COMMIT = "/tester/model/commit/"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "architectures": ["CLIPModel"]}))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def hub(monkeypatch):
    with serve() as (hub, url):
        pushes_to(url, monkeypatch)
        hub.url = url
        yield hub


@pytest.fixture
def waits(monkeypatch):
    """The waits that were asked for, without waiting."""
    asked = []
    monkeypatch.setattr(connection.time, "sleep", asked.append)
    return asked


def commits(hub):
    return [tree for tree in hub.repos["tester/model"].commits.values() if tree]


def test_a_repository_that_exists_needs_no_address_in_the_answer(folder, hub):
    hub.add("tester/model")
    hub.faults = [Fault("POST", "/api/repos/create", 409, body={"error": "You already created this model repo"})]
    push_folder(folder, "tester/model")
    assert len(commits(hub)) == 1


def test_a_name_that_is_taken_but_not_shown_is_told(folder, hub):
    hub.faults = [Fault("POST", "/api/repos/create", 409, body={"error": "name is taken"})]
    with pytest.raises(ClipAlignError, match=r"refused the push to 'tester/model' \(409\): .*name is taken"):
        push_folder(folder, "tester/model")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/repos/create"), ("GET", "/api/models/tester/model"), ("POST", COMMIT)],
)
def test_too_many_requests_are_waited_for_and_told(folder, hub, waits, caplog, method, path):
    hub.faults = [Fault(method, path, 429, times=2, headers={"Retry-After": "7"})]
    with caplog.at_level(logging.WARNING, "hf_clipalign"):
        push_folder(folder, "tester/model")
    assert waits == [7.0, 7.0]
    assert [line for line in caplog.messages if "(429): waiting 7 s" in line][1:]
    assert len(commits(hub)) == 1


def test_a_wait_until_a_date(folder, hub, waits):
    until = email.utils.formatdate(time.time() + 100, usegmt=True)
    hub.faults = [Fault("POST", COMMIT, 429, headers={"Retry-After": until})]
    push_folder(folder, "tester/model")
    assert len(waits) == 1
    assert 1 <= waits[0] <= 101


@pytest.mark.parametrize("header", [{}, {"Retry-After": "soon"}])
def test_a_wait_of_no_stated_length(folder, hub, waits, header):
    hub.faults = [Fault("POST", COMMIT, 429, headers=header)]
    push_folder(folder, "tester/model")
    assert waits == [60.0]


def test_a_wait_has_an_end(folder, hub, waits):
    hub.faults = [Fault("POST", COMMIT, 429, times=99, headers={"Retry-After": "250"})]
    with pytest.raises(ClipAlignError, match=r"\(429\) and wants a wait of 250 seconds: nothing was pushed"):
        push_folder(folder, "tester/model")
    assert waits == [250.0, 250.0]
    assert commits(hub) == []


@pytest.mark.parametrize("name", ["tester/model", "tester/model-lfs"])
def test_a_commit_whose_answer_is_lost_has_arrived(folder, hub, caplog, name):
    hub.faults = [Fault("POST", f"/{name}/commit/", 0, done=True)]
    with caplog.at_level(logging.WARNING, "hf_clipalign"):
        commit = push_folder(folder, name)
    (sha,) = [sha for sha, tree in hub.repos[name].commits.items() if tree]
    assert (commit.oid, str(commit)) == (sha, f"{hub.url}/{name}/commit/{sha}")
    assert any("the commit has arrived" in line for line in caplog.messages)


def test_a_commit_that_did_not_arrive_is_told(folder, hub):
    hub.faults = [Fault("POST", COMMIT, 0)]
    with pytest.raises(ClipAlignError, match=r"the connection to the Hub broke .*: try again"):
        push_folder(folder, "tester/model")
    assert commits(hub) == []


def test_the_commit_of_somebody_else_is_not_taken_for_ours(folder, hub, monkeypatch):
    repo = hub.add("tester/model")
    fault_for = hub.fault_for

    def meanwhile(method, path):
        fault = fault_for(method, path)
        if fault is not None:
            repo.commit({"other.txt": b"theirs"}, "theirs")
        return fault

    monkeypatch.setattr(hub, "fault_for", meanwhile)
    hub.faults = [Fault("POST", COMMIT, 0)]
    with pytest.raises(ClipAlignError, match="the connection to the Hub broke"):
        push_folder(folder, "tester/model")


def test_the_old_commit_of_the_same_files_is_not_the_new_one(folder, hub):
    push_folder(folder, "tester/model")
    hub.faults = [Fault("POST", COMMIT, 0)]
    with pytest.raises(ClipAlignError, match="the connection to the Hub broke"):
        push_folder(folder, "tester/model", commit_message="again")


@pytest.mark.slow
def test_a_hub_that_cannot_be_asked_leaves_it_open(folder, hub):
    hub.faults = [Fault("POST", COMMIT, 0, done=True), Fault("GET", "/tester/model/tree/", 500, times=99)]
    with pytest.raises(ClipAlignError, match=r"cannot be asked whether the commit arrived: look at http"):
        push_folder(folder, "tester/model")
