"""Which requests reach the app at all."""

import asyncio
import json

import pytest

from hf_clipalign.app.serving.guard import MAX_BODY, Guard, is_local_host, is_plain

FILE = {"path": "http://192.0.2.1/x.png", "meta": {"_type": "gradio.FileData"}}


def ask(path, method="GET", headers=(), body=b"", is_local=True):
    """Status, headers and what the app behind the guard was given."""
    seen, sent = [], []

    async def app(scope, receive, send):
        seen.append((scope["path"], (await receive()).get("body")))
        start = {"type": "http.response.start", "status": 200, "headers": [(b"X-Content-Type-Options", b"off")]}
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    parts = [{"type": "http.request", "body": body[:7], "more_body": True}, {"type": "http.request", "body": body[7:]}]

    async def receive():
        return parts.pop(0)

    async def send(message):
        sent.append(message)

    given = {"host": "127.0.0.1:7860"} | dict(headers)
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(Guard(app, is_local)(scope, receive, send))
    start = sent[0]
    return start["status"], {name.decode().lower(): value.decode() for name, value in start["headers"]}, seen


ANSWERED = ["/", "/config", "/theme.css", "/assets/index-1.js", "/thumbnails/3", "/images/3", "/ui/app.js"]
ANSWERED += ["/gradio_api/info", "/gradio_api/heartbeat/abc1", "/gradio_api/queue/data", "/static/fonts/a/b.woff2"]
NOT_ANSWERED = ["/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/gradio_api/proxy=http://192.0.2.1/"]
NOT_ANSWERED += ["/file=x", "/login", "/docs", "/assets/../../etc/passwd", "/static/%2e%2e/x", "/thumbnails/../secret"]
NOT_ANSWERED += ["/thumbnails/-1", "/thumbnails/1/2", "/thumbnails//etc/passwd", "/images/a", "/ui/../server.py"]
NOT_ANSWERED += ["/monitoring", "/gradio_api/openapi.json", "/gradio_api/custom_component/x/client/y/z.js"]
NOT_ANSWERED += ["/gradio_api/vibe-code", "/gradio_api/run-history/buckets", "/gradio_api/upload_progress"]
NOT_ANSWERED += ["/gradio_api/stream/a/b/c/playlist.m3u8", "/thumbnails/1\n"]


@pytest.mark.parametrize("path", ANSWERED)
def test_the_page_gets_what_it_needs(path):
    status, headers, seen = ask(path)
    assert status == 200
    assert [one[0] for one in seen] == [path]
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", NOT_ANSWERED)
def test_nothing_else_is_answered(path):
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        status, _, seen = ask(path, method)
        assert (status, seen) == (404, [])


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/run/search", "/gradio_api/call/search", "/login"])
def test_no_other_way_in_for_posts(path):
    assert ask(path, "POST", body=b"{}")[0] == 404


def test_names_of_other_hosts_are_refused_when_bound_to_this_machine():
    assert ask("/", headers={"host": "evil.example"})[0] == 403
    assert ask("/", headers={"host": "127.0.0.1.evil.example:7860"})[0] == 403
    assert ask("/", headers={"host": "photos.lan:7860"}, is_local=False)[0] == 200
    assert [is_local_host(host) for host in ("localhost", "LOCALHOST:1", "[::1]:7860", "[::1]", "127.0.0.1")] == [
        True
    ] * 5
    assert not is_local_host("")


def test_pages_of_other_sites_cannot_ask_for_anything_to_be_done():
    headers = {"sec-fetch-site": "cross-site"}
    assert ask("/uploads", "POST", headers)[0] == 403
    assert ask("/gradio_api/queue/join", "POST", headers, b"{}")[0] == 403


@pytest.mark.parametrize(
    "data", [[FILE], [[FILE]], FILE, [{"a": 1}], "text", [["a"]], [{"url": "http://192.0.2.1/", "path": "x"}]]
)
def test_no_event_may_describe_a_file(data):
    body = json.dumps({"fn_index": 1, "data": data}).encode()
    status, _, seen = ask("/gradio_api/queue/join", "POST", body=body)
    assert (status, seen) == (400, [])


def test_an_event_of_the_page_comes_through_whole():
    body = json.dumps({"data": ["a red car", None, 3, 0.5, True], "fn_index": 1}).encode()
    status, _, seen = ask("/gradio_api/queue/join", "POST", body=body)
    assert status == 200
    assert seen == [("/gradio_api/queue/join", body)]


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"x"', b"[" * 100_000, b"\xff\xfe", b"7"])
def test_what_is_no_event_is_refused(body):
    assert ask("/gradio_api/queue/join", "POST", body=body)[0] == 400
    assert not is_plain(body)


def test_a_long_body_is_refused():
    body = json.dumps({"data": ["x" * MAX_BODY]}).encode()
    assert ask("/gradio_api/queue/join", "POST", body=body)[0] == 400


def test_uploads_are_left_to_the_one_that_counts_them():
    assert ask("/uploads", "POST", body=b"\x89PNG not json")[0] == 200
