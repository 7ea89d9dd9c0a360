"""The app as people meet it: the real command, the real server, a real browser. Run by `make test-app`."""

import base64
import csv
import io

import pytest
from PIL import Image

from tests.app.conftest import HOSTILE
from tests.app.servers import User, chromium, served

pytestmark = pytest.mark.app
PLAIN, ALIGNED = "Plain CLIP", "Aligned head"


@pytest.fixture(scope="module")
def server(index_path, tmp_path_factory):
    with served([index_path], tmp_path_factory.mktemp("record") / "connections") as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def person(server, browser):
    """Opens windows; afterwards no window has asked another host for anything or met an error."""
    users = []

    def opened(**size):
        users.append(User(browser, server.base, **size).open())
        return users[-1]

    yield opened
    for user in users:
        assert user.elsewhere == []
        assert user.errors == []
        user.context.close()
    assert server.outgoing == []


def test_the_page_begins_with_the_band_of_the_index_and_its_spectrum(person):
    page = person().page
    page.wait_for_function("document.querySelector('.ca-spectrum').innerText.includes('79 of 128')")
    values = [page.locator(f"#{name} input[type=number]").input_value() for name in ("ca-k-top", "ca-k-bottom")]
    assert values == ["1", "48"]
    assert "mini:student is a tiny model of emoji and icons, not for photographs" in page.inner_text("body")
    assert page.title() == "clipalign"


def test_an_image_is_answered_by_both_heads_and_the_hits_can_be_exported(person, photos):
    user = person()
    user.give(photos / "fluent" / "cactus.png")
    text = user.results("Export hits as CSV")
    assert "cactus.png" in text
    assert user.names(PLAIN)[0] == user.names(ALIGNED)[0] == "fluent/cactus.png"
    assert len(user.names(PLAIN)) == len(user.names(ALIGNED)) == 12
    marks = user.page.locator(".ca-column[aria-label^='Aligned'] .ca-mark").all_inner_texts()
    assert any(mark.startswith("▲") for mark in marks)
    with user.page.expect_download() as download:
        user.page.click(".ca-csv")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert next(row["path"] for row in rows if row["head"] == "raw") == str(photos / "fluent" / "cactus.png")
    user.page.wait_for_function(
        "[...document.querySelectorAll('.ca-image img')].filter(i => i.complete && i.naturalWidth > 0).length > 12"
    )
    user.picture("image")


def test_words_are_answered_by_plain_clip(person):
    user = person()
    user.write('"an emoji of red heart" - "sailboat"')
    text = user.results("Words are answered by plain CLIP")
    assert '"an emoji of red heart" − "sailboat"' in text
    assert user.names(ALIGNED) == []
    assert "heart" in user.names(PLAIN)[0]
    user.picture("words")


def test_sliders_act_at_once(person, number_of):
    user = person()
    user.write("noto/cactus.png")
    user.results("band 1,48")
    before = user.names(ALIGNED)
    user.page.focus("#ca-k-top input[type=range]")
    for _ in range(12):
        user.page.keyboard.press("ArrowRight")
    user.results("band 13,48")
    user.page.wait_for_function("document.querySelector('.ca-spectrum').innerText.includes('67 of 128')")
    assert user.names(ALIGNED) != before
    user.page.fill("#ca-k-bottom input[type=number]", "127")
    user.page.keyboard.press("Enter")
    assert "removes all 128 singular directions" in user.results("removes all")


def test_everything_can_be_reached_with_the_keyboard(person):
    user = person()
    page = user.page
    page.focus("#ca-line textarea, #ca-line input")
    page.keyboard.type("cat")
    page.keyboard.press("Enter")
    user.results("Words are answered")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.ca-image')"):
            break
    name = page.evaluate("document.activeElement.dataset.caName")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline != "0px", "the focus can be seen"
    page.keyboard.press("Enter")
    assert name in user.results("Aligned head")
    for _ in range(3):
        page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.tagName") != "BODY"
    assert page.evaluate("document.querySelector('#ca-file').tabIndex") == 0


@pytest.mark.parametrize("kind", ["broken", "text", "too many bytes"])
def test_an_image_that_cannot_be_used_gets_a_line(person, tmp_path, kind):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(buffer, format="PNG")
    contents = {"broken": buffer.getvalue()[:200], "text": b"hello", "too many bytes": b"\x89PNG" * (6 * 2**20)}
    says = {"broken": "damaged or truncated", "text": "is not an image", "too many bytes": "more than 20 MB"}
    (tmp_path / "given.png").write_bytes(contents[kind])
    user = person()
    user.give(tmp_path / "given.png")
    user.page.wait_for_selector(".ca-drop-message.ca-error")
    line = user.page.inner_text(".ca-drop-message")
    assert says[kind] in line
    assert "given.png" in line
    assert "Traceback" not in user.page.inner_text("body")
    user.write('"cat" - other/secret.png')
    assert "no image 'other/secret.png' in this collection" in user.results("no image")
    user.picture("error")
    user.write("cat")
    user.results("Plain CLIP")


def test_a_hostile_file_name_is_only_a_name(person):
    user = person()
    alerts = []
    user.page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    user.write(HOSTILE)
    user.results("Aligned head")
    assert HOSTILE in user.page.inner_text("#ca-results")
    assert user.page.locator("img[src='x']").count() == 0
    assert alerts == []


def test_a_narrow_window(person, photos):
    user = person(width=390, height=844)
    page = user.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    user.picture("phone-start")
    user.give(photos / "noto" / "sailboat.png")
    user.results("Aligned head")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.wait_for_function(
        "document.querySelector('#ca-results').getBoundingClientRect().top < window.innerHeight / 2"
    )
    boxes = [page.locator(f".ca-column >> nth={number}").bounding_box() for number in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"], "the heads stand side by side"
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    user.picture("phone")


def test_two_users_at_once_do_not_meet(person, photos):
    first, second = person(), person()
    first.give(photos / "noto" / "cat.png")
    second.write("red heart")
    first.results("Aligned head")
    second.results("Words are answered")
    first.page.fill("#ca-k-top input[type=number]", "5")
    first.page.keyboard.press("Enter")
    first.results("band 5,48")
    second.write("fluent/umbrella.png")
    second.results("band 1,48")
    assert "cat.png" in first.page.inner_text("#ca-results")
    assert first.names(PLAIN) != second.names(PLAIN)
    assert not second.page.is_visible("#ca-given")


def test_duplicates_and_what_is_in_the_folder(person):
    user = person()
    page = user.page
    page.get_by_role("tab", name="Duplicates").click()
    page.get_by_role("button", name="Find duplicates").click()
    page.wait_for_selector(".ca-group")
    group = page.locator(".ca-group").filter(has_text="cat again.png").first.inner_text()
    assert "noto/cat.png" in group
    assert "worth keeping" in group
    user.picture("duplicates")
    page.get_by_role("tab", name="What is in this folder").click()
    words = ["heart", "cat", "boat", "train", "apple", "umbrella", "cactus"]
    page.get_by_label("Words to look for, separated by commas").fill(", ".join(words))
    page.get_by_role("button", name="Look").click()
    page.wait_for_selector("section[aria-label='Groups of images']")
    concepts = page.locator("section[aria-label='What tells the images apart'] h3").all_inner_texts()
    assert set(concepts) <= set(words)
    assert len(concepts) >= 4
    address = page.locator("a[download='concepts.csv']").get_attribute("href")
    assert base64.b64decode(address.partition(",")[2]).startswith(b"concept,importance\n")
    user.picture("folder")
    page.locator("section[aria-label='Groups of images'] .ca-image").first.click()
    user.results("Aligned head")
    assert page.is_visible("#ca-results"), "the search panel is shown"


def test_a_folder_is_embedded_while_the_page_shows_how_far_it_is(browser, photos, tmp_path):
    copies = tmp_path / "many"
    for number in range(30):
        copies.mkdir(exist_ok=True)
        Image.effect_noise((24 + number, 24), 60).save(copies / f"{number}.png")
    record = tmp_path / "connections"
    with served([copies, "--model", "mini:student", "--out", tmp_path / "made.index"], record) as server:
        user = User(browser, server.base).open()
        assert "Embedding images" not in user.page.inner_text("body")
        user.write("3.png")
        user.results("Aligned head")
        assert (user.elsewhere, user.errors, server.outgoing) == ([], [], [])
        user.context.close()
    assert (tmp_path / "made.index" / "index.sqlite").is_file()
    assert (tmp_path / "made.index" / "thumbnails").is_dir()
