"""What the running server hands out, asked without a browser's good manners. Run by `make test-app`."""

import asyncio
import http.client
import io
import json
import socket
import threading
import time

import pytest
from PIL import Image

from hf_clipalign.app.serving import server as module
from hf_clipalign.app.serving.server import MOST_UPLOADS
from hf_clipalign.app.serving.uploads import Uploads
from tests.app.conftest import SECRET
from tests.app.servers import PATIENCE, served
from tests.app.test_queries import png_bomb

pytestmark = pytest.mark.app


@pytest.fixture(scope="module")
def server(index_path, tmp_path_factory):
    with served([index_path], tmp_path_factory.mktemp("record") / "connections") as running:
        for _ in range(10 * PATIENCE):
            if ask(running, "GET", "/thumbnails/0")[0] == 200:
                break
            time.sleep(0.1)
        yield running
        assert running.outgoing == []


def ask(server, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def join(server, data, **more):
    body = json.dumps({"data": data, "fn_index": 0, "session_hash": "abc", **more}).encode()
    return ask(server, "POST", "/gradio_api/queue/join", body, {"Content-Type": "application/json"})


def test_thumbnails_are_small_images_of_the_collection(server, workspace, number_of):
    number, generation = number_of("noto/cat.png"), workspace.view.generation
    status, data, headers = ask(server, "GET", f"/thumbnails/{number}?v={generation}")
    assert status == 200
    assert headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        assert max(image.size) <= 256


@pytest.mark.parametrize("kind", ["thumbnails", "images"])
def test_a_link_out_of_the_collection_is_found_but_not_shown(server, number_of, kind):
    status, data, _ = ask(server, "GET", f"/{kind}/{number_of('outside.png')}")
    assert status == 404
    assert b"JFIF" not in data
    assert json.loads(data)["error"] == "this file is a link that leads out of the collection: it is not shown."
    assert SECRET == (255, 0, 255), "the image that the link leads to"


def escapes(photos):
    secret = str(photos.parent / "secret.png")
    prefixes = ["/gradio_api/file=", "/file=", "/gradio_api/file/", "/gradio_api/proxy=", "/thumbnails/", "/images/"]
    paths = [secret, f"/{secret}", "/etc/passwd", "../secret.png", "..%2f..%2fetc%2fpasswd", f"file://{secret}"]
    yield from (f"{prefix}{path}" for prefix in prefixes for path in paths)
    yield from ("/assets/../../../../etc/passwd", "/assets/..%2f..%2f..%2fetc/passwd", "/static/%2e%2e/etc/passwd")
    yield from ("/ui/../server.py", "/ui/..%2fserver.py", "/../../etc/passwd", "//etc/passwd", "/%2e%2e/etc/passwd")
    yield from ("/thumbnails/1%00.png", "/thumbnails/0x1", "/thumbnails/99999", "/thumbnails/99999999999999999999")
    yield from ("/gradio_api/file=http://192.0.2.1/x.png", "/gradio_api/proxy=http://192.0.2.1/x.png")
    yield from ("/custom_component/x", "/svelte/../../etc/passwd", "/monitoring", "/gradio_api/vibe-code", "/docs")


def test_no_path_leads_out_of_the_collection(server, photos):
    for path in escapes(photos):
        for method in ("GET", "HEAD", "POST"):
            status, data, _ = ask(server, method, path)
            assert status in (400, 404), (method, path)
            assert b"root:" not in data
            assert b"PNG" not in data


def test_nothing_can_be_uploaded_through_gradio(server):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert ask(server, "POST", "/gradio_api/upload", body, headers)[0] == 404


@pytest.mark.parametrize("path", ["http://192.0.2.1/x.png", "/etc/passwd", "../secret.png"])
def test_a_described_file_is_neither_fetched_nor_read(server, path):
    file = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
    for data in ([file], [[file]], [{"deep": [file]}]):
        status, text, _ = join(server, data)
        assert status == 400
        assert json.loads(text) == {"error": "this request is not one of the page."}
    assert server.outgoing == []


def test_every_answer_forbids_other_hosts(server):
    for path in ("/", "/config", "/ui/app.js", "/thumbnails/0", "/nothing"):
        _, _, headers = ask(server, "GET", path)
        lower = {name.lower(): value for name, value in headers.items()}
        assert "default-src 'self'" in lower["content-security-policy"]
        assert "access-control-allow-origin" not in lower


def test_the_page_names_no_other_host_to_load_from(server):
    html = ask(server, "GET", "/")[1].decode()
    assert "fonts.googleapis" not in html
    assert "fonts.gstatic" not in html
    assert "cdn" not in html.lower().replace("cdnjs", "cdn") or "//cdn" not in html
    assert '"analytics_enabled":false' in html.replace(" ", "")
    assert "fonts.googleapis" not in ask(server, "GET", "/theme.css")[1].decode()


def test_only_this_machine_is_answered(server):
    assert ask(server, "GET", "/", headers={"Host": "evil.example"})[0] == 403
    assert ask(server, "POST", "/uploads", b"x", {"Sec-Fetch-Site": "cross-site"})[0] == 403
    with open("/proc/net/tcp") as table:
        listening = {line.split()[1] for line in table.readlines()[1:] if line.split()[3] == "0A"}
    assert f"0100007F:{server.port:04X}" in listening
    assert f"00000000:{server.port:04X}" not in listening


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "empty"),
        (b"hello", 400, "is not an image"),
        (png_bomb(), 400, "megapixels"),
        (b"\x89PNG" + b"x" * (20 * 2**20), 413, "more than 20 MB"),
    ],
)
def test_bad_images_are_refused(server, body, status, says):
    answer, text, _ = ask(server, "POST", "/uploads", body, {"X-File-Name": "a%3Cb%3E%0A.png"})
    assert answer == status
    assert says in json.loads(text)["error"]
    assert ask(server, "GET", "/")[0] == 200


def test_thumbnails_of_a_page_of_long_ago_are_not_those_of_other_images(server, workspace, number_of):
    number, now = number_of("noto/cat.png"), workspace.view.generation
    assert ask(server, "GET", f"/thumbnails/{number}?v={now}")[0] == 200
    for generation in (now + 5, "x", "-1", 10**30, "٣".encode().hex()):
        status, data, _ = ask(server, "GET", f"/thumbnails/{number}?v={generation}")
        assert status == 404
        assert b"JFIF" not in data
    assert b"search again" in ask(server, "GET", f"/images/{number}?v={now + 5}")[1]


def test_an_image_that_never_arrives_keeps_nobody_out_for_long(server, photos):
    """More than are taken in at once, each only begun: the next one is told so, and is served when they are gone."""
    data, begun = (photos / "noto" / "cat.png").read_bytes(), []
    try:
        for _ in range(MOST_UPLOADS):
            begun.append(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            begun[-1].sendall(b"POST /uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nx")
        for _ in range(100):
            status, text, _ = ask(server, "POST", "/uploads", data)
            if status == 503:
                break
            time.sleep(0.05)
        assert status == 503
        assert "try again in a moment" in json.loads(text)["error"]
        assert ask(server, "GET", "/thumbnails/0")[0] == 200
    finally:
        for connection in begun:
            connection.close()
    for _ in range(100):
        status, text, _ = ask(server, "POST", "/uploads", data)
        if status != 503:
            break
        time.sleep(0.05)
    assert status == 200, text


def test_an_upload_that_takes_too_long_is_given_up(workspace, monkeypatch):
    from fastapi import FastAPI

    monkeypatch.setattr(module, "UPLOAD_SECONDS", 0.05)
    app, sent = FastAPI(), []
    module._add_routes(app, workspace, Uploads(lambda data, name: None), None)

    async def receive():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    headers = [(b"x-file-name", b"slow.png")]
    scope = {"type": "http", "method": "POST", "path": "/uploads", "headers": headers, "query_string": b""}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"] == "slow.png took longer than 0.05 s: try again."


def test_many_people_at_once_each_get_their_own_answer(server, number_of):
    """Twenty windows: thumbnails, uploads and queries beside each other."""
    found, errors = {}, []

    def person(number):
        try:
            status, data, _ = ask(server, "GET", f"/thumbnails/{number}")
            kind, text, _ = ask(server, "POST", "/uploads", noise(number), {"X-File-Name": f"{number}.png"})
            found[number] = (status, len(data), kind, json.loads(text).get("name"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=person, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    outside = number_of("outside.png")
    for number, (status, _, kind, name) in found.items():
        assert status == (404 if number == outside else 200)
        assert (kind, name) in {(200, f"{number}.png"), (503, None)}
    assert sum(kind == 200 for _, _, kind, _ in found.values()) >= MOST_UPLOADS


def noise(seed):
    buffer = io.BytesIO()
    Image.effect_noise((40 + seed, 40), 50).save(buffer, format="PNG")
    return buffer.getvalue()


def test_the_server_printed_no_traceback(server):
    assert not any("Traceback" in line for line in server.lines)
