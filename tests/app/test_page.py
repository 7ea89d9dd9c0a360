"""The app as people meet it: the real command, the real server, a real browser. Run by `make test-app`."""

import base64
import csv
import io
import shutil

import pytest
from PIL import Image

from hf_clipalign.data import load_mini
from hf_clipalign.gcd import SpectralGCDModel
from hf_clipalign.search import ImageIndex
from tests.app.conftest import HOSTILE
from tests.app.servers import User, chromium, served

pytestmark = pytest.mark.app
N_MANY = 1500
PLAIN, ALIGNED = "Plain CLIP", "Aligned head"
FOLDER, CLUSTERS = "Contents", "section[aria-label='Groups of images']"


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


def test_a_huge_file_is_refused_before_it_is_sent(person, tmp_path):
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(300 * 2**20)
    user = person()
    sent = []
    user.page.on("request", lambda request: sent.append(request.url))
    user.give(tmp_path / "huge.png")
    user.page.wait_for_selector(".ca-drop-message.ca-error")
    assert user.page.inner_text(".ca-drop-message") == (
        "huge.png: more than 20 MB; make the image smaller, or save it as JPEG."
    )
    assert not any("uploads" in url for url in sent)


def test_images_below_the_least_confidence_are_left_out_at_once(person):
    user = person()
    user.write("noto/cactus.png")
    user.results("% sure")
    page = user.page
    page.fill("#ca-least input[type=number]", "100")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.ca-column') && !document.querySelector('.ca-tile')")
    text = page.inner_text("#ca-results")
    assert text.count("no good match: the best image has a confidence of") == 2
    user.picture("no-match")
    page.fill("#ca-k-top input[type=number]", "2")
    page.keyboard.press("Enter")
    user.results("so none of these images is left out")
    assert len(user.names(ALIGNED)) == 12


def test_a_table_of_some_megabytes_can_be_saved(person):
    """Browsers refuse to save an address of that length."""
    user = person()
    user.page.evaluate("""() => {
        const link = document.createElement("a");
        link.className = "ca-csv";
        link.id = "long";
        link.download = "long.csv";
        link.textContent = "Export";
        link.href = "data:text/csv;charset=utf-8;base64," + btoa("path\\n" + "x".repeat(4e6));
        document.querySelector("#ca-results").append(link);
    }""")
    with user.page.expect_download() as download:
        user.page.click("#long")
    assert download.value.suggested_filename == "long.csv"
    assert download.value.path().read_text() == "path\n" + "x" * 4_000_000


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
    for tab, button, found in (("Duplicates", "Find duplicates", ".ca-group"), (FOLDER, "Look", CLUSTERS)):
        page.get_by_role("tab", name=tab).click()
        if tab == FOLDER:
            page.get_by_label("Words to look for, separated by commas").fill("heart, cat, boat, apple, cactus")
        page.get_by_role("button", name=button, exact=True).click()
        page.wait_for_selector(found)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        user.picture(f"phone-{tab.split()[0].lower()}")


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
    page.get_by_role("tab", name=FOLDER).click()
    words = ["heart", "cat", "boat", "train", "apple", "umbrella", "cactus"]
    page.get_by_label("Words to look for, separated by commas").fill(", ".join(words))
    page.get_by_role("button", name="Look").click()
    page.wait_for_selector(CLUSTERS)
    concepts = page.locator("section[aria-label='What tells the images apart'] h3").all_inner_texts()
    assert set(concepts) <= set(words)
    assert len(concepts) >= 4
    address = page.locator("a[download='concepts.csv']").get_attribute("href")
    assert base64.b64decode(address.partition(",")[2]).startswith(b"concept,importance\n")
    user.picture("folder")
    page.locator(f"{CLUSTERS} .ca-image").first.click()
    user.results("Aligned head")
    assert page.is_visible("#ca-results"), "the search panel is shown"


def test_a_folder_is_embedded_while_the_page_shows_how_far_it_is(browser, tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(N_MANY):
        Image.effect_noise((24 + number % 40, 24 + number // 40), 60).save(tmp_path / "many" / f"{number}.png")
    record = tmp_path / "connections"
    with served([tmp_path / "many", "--model", "mini:student", "--out", tmp_path / "made.index"], record) as server:
        user = User(browser, server.base)
        user.page.goto(server.base)
        bar = user.page.wait_for_selector("progress.ca-progress")
        assert 0 <= float(bar.get_attribute("value")) < 100
        assert f"of {N_MANY:,}. The page becomes searchable when it is done." in user.page.inner_text("body")
        user.picture("embedding")
        user.page.wait_for_selector(".ca-spectrum")
        assert "Embedding images" not in user.page.inner_text("body")
        user.write("3.png")
        user.results("Aligned head")
        assert (user.elsewhere, user.errors, server.outgoing) == ([], [], [])
        user.context.close()
    assert (tmp_path / "made.index" / "index.sqlite").is_file()
    assert (tmp_path / "made.index" / "thumbnails").is_dir()


def test_the_index_changes_and_goes_while_the_app_runs(browser, photos, tmp_path):
    shutil.copytree(photos / "noto", tmp_path / "shop")
    index = ImageIndex.create(tmp_path / "shop", load_mini().student_path, tmp_path / "shop.index", head=(1, 48))
    index.update(progress=False, num_workers=0)
    with served([index.path], tmp_path / "connections") as server:
        user = User(browser, server.base).open()
        user.write("a heart")
        user.results("red heart.png")
        shutil.copy(photos / "fluent" / "cactus.png", tmp_path / "shop" / "a new one.png")
        index.update(progress=False, num_workers=0)
        user.page.locator("[data-ca-name='red heart.png']").click()  # of the old page, whose numbers have moved on
        assert user.results("Aligned head").startswith("red heart.png")
        assert "a new one.png" in user.names(PLAIN)
        (tmp_path / "shop.index").rename(tmp_path / "moved.index")
        user.write("a cat")
        text = user.results("has gone")
        assert "put it back, or start the app again" in text
        user.picture("gone")
        (tmp_path / "moved.index").rename(tmp_path / "shop.index")
        user.write("a boat")
        user.results("sailboat.png")
        assert (user.elsewhere, user.errors, server.outgoing) == ([], [], [])
        assert not any("Traceback" in line for line in server.lines)
        user.context.close()


def test_the_groups_of_a_folder_are_the_classes_of_a_discovered_model(browser, index_path, tmp_path):
    mini = load_mini()
    sizes = {"hidden_size": 16, "mlp_hidden_size": 16, "bottleneck_size": 8}
    concepts, classes = ["heart", "wheel"], ["hearts", "vehicles"]
    SpectralGCDModel.from_student(
        mini.student, concepts, classes, 0, processor=mini.student_processor, **sizes
    ).save_pretrained(tmp_path / "found" / "model")
    with served([index_path, "--discovery", tmp_path / "found"], tmp_path / "connections") as server:
        user = User(browser, server.base).open()
        page = user.page
        page.get_by_role("tab", name=FOLDER).click()
        assert "the classes that found sorts them into" in page.inner_text("body")
        page.get_by_label("Words to look for, separated by commas").fill("heart, cat, boat, apple, cactus")
        page.get_by_role("button", name="Look", exact=True).click()
        page.wait_for_selector(CLUSTERS)
        titles = page.locator(f"{CLUSTERS} h3").all_inner_texts()
        assert set(titles) <= set(classes)
        assert "a known class of the model" in page.inner_text(CLUSTERS)
        user.picture("classes")
        with page.expect_download() as download:
            page.click("a[download='groups.csv']")
        rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
        assert {row["group"] for row in rows} == set(titles)
        assert (user.elsewhere, user.errors, server.outgoing) == ([], [], [])
        user.context.close()
