"""The illustrated page in a real browser, opened from a file without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offset_common.illustrate.story import Story
from tests.status.browser import PHONE, WIDE, browser, complaints, emulate

pytestmark = pytest.mark.timeout(240)

CONTRAST = """
function channels(text) { return text.match(/[\\d.]+/g).map(Number); }
function luminance([r, g, b]) {
  return [r, g, b].map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
}
function background(element) {
  for (let each = element; each; each = each.parentElement) {
    const found = channels(getComputedStyle(each).backgroundColor);
    if (found.length < 4 || found[3] === 1) return found;
  }
  return [255, 255, 255];
}
const low = new Set();
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  if (!own || !element.getClientRects().length || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
  const [one, two] = [channels(getComputedStyle(element).color), background(element)].map(luminance);
  const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  if (ratio < 4.5) low.add(element.outerHTML.slice(0, 120));
}
return [...low];
"""


class Scene:
    """The page in a browser."""

    def __init__(self, driver: Any, path: Path) -> None:
        self.driver = driver
        self.url = path.as_uri()

    def run(self, script: str, *arguments: object) -> Any:
        """Return what a script returns."""
        return self.driver.execute_script(script, *arguments)

    def open(self, number: int) -> None:
        """Open a frame and move it into view."""
        self.run(f"const f = document.getElementById('frame-{number}'); f.open = true; f.scrollIntoView()")

    def find(self, script: str) -> Any:
        """Return the element that an expression finds, in view."""
        element = self.run(f"return {script}")
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        return element

    def point_at(self, element: Any) -> None:
        """Move the mouse to an element."""
        actions = pytest.importorskip("selenium.webdriver.common.action_chains").ActionChains
        actions(self.driver).move_to_element(element).perform()

    def press(self, *keys: str) -> None:
        """Press keys, by their names in selenium."""
        actions = pytest.importorskip("selenium.webdriver.common.action_chains").ActionChains
        names = pytest.importorskip("selenium.webdriver.common.keys").Keys
        for key in keys:
            actions(self.driver).send_keys(getattr(names, key)).perform()

    def hot(self, number: int) -> list[str]:
        """Return the highlighted bytes of each layer of a frame, packed as they are on the wire."""
        script = (
            f"return [...document.querySelectorAll('#frame-{number} .bytes')].map("
            "row => [...row.querySelectorAll('.hot')].map(each => each.textContent).join(' '))"
        )
        return list(self.run(script))

    @property
    def name(self) -> str:
        """The first line of the bar."""
        return str(self.run("return document.getElementById('name').textContent"))

    @property
    def path(self) -> str:
        """The second line of the bar."""
        return str(self.run("return document.getElementById('path').textContent"))


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory, page: str) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("page")
    (directory / "page.html").write_text(page, "utf-8")
    with browser(directory / "profile") as driver:
        yield Scene(driver, directory / "page.html")


@pytest.fixture
def scene(window: Scene) -> Scene:
    """The page as it is when it was just opened."""
    window.driver.get("about:blank")
    window.driver.get(window.url)
    emulate(window.driver, "light", WIDE)
    return window


def number_of(story: Story, name: str) -> int:
    return next(frame.number for frame in story.frames if frame.name == name)


def value(number: int, name: str) -> str:
    """Return an expression for the value of a field in a frame."""
    return (
        f"[...document.querySelectorAll('#frame-{number} dt')].find(each => each.textContent === '{name}')"
        ".nextElementSibling.firstElementChild"
    )


def test_every_arrow_opens_its_frame(scene: Scene, story: Story) -> None:
    arrows = scene.run("return [...document.querySelectorAll('.arrow')].map(each => each.hash)")
    assert arrows == [f"#frame-{frame.number}" for frame in story.frames]
    number = number_of(story, "IncomingConnection")
    scene.find(f"document.querySelector('.arrow[href=\"#frame-{number}\"]')").click()
    assert scene.run("return [...document.querySelectorAll('.frame[open]')].map(each => each.id)") == [
        f"frame-{number}"
    ]
    assert (
        0 <= scene.run(f"return document.getElementById('frame-{number}').getBoundingClientRect().top") < 500
    )


def test_an_address_with_a_frame_opens_it(scene: Scene) -> None:
    scene.driver.get("about:blank")
    scene.driver.get(f"{scene.url}#frame-9")
    assert scene.run("return document.getElementById('frame-9').open")
    assert scene.run("return document.getElementById('frame-9').getBoundingClientRect().top") < 500


def test_a_field_lights_up_in_every_layer(scene: Scene, story: Story) -> None:
    frame = next(each for each in story.frames if each.name == "InitConnection connect")
    scene.open(frame.number)
    scene.point_at(scene.find(value(frame.number, "publicKey")))
    key = frame.layer.chain()[-1].fields[0].value
    on_the_wire = b"".join(key[at : at + 8][::-1] for at in range(0, 32, 8)).hex(" ")
    ciphertext, *plaintexts = scene.hot(frame.number)
    assert plaintexts == [on_the_wire] * 3
    assert len(ciphertext.split()) == 32
    assert scene.name.startswith("publicKey in InitConnection. 32 bytes")


def test_bytes_name_their_field(scene: Scene, story: Story) -> None:
    number = number_of(story, "end-to-end message")
    scene.open(number)
    # A piece of the outermost ciphertext that carries a part of the text.
    text = scene.run(f"return {value(number, 'text')}.dataset.k")
    scene.point_at(scene.find(f"document.querySelector('#frame-{number} .bytes [data-k~=\"{text}\"]')"))
    assert scene.name.startswith("text in Data between the nodes. In UTF-8: hello from the connector")
    assert scene.path == "inside ciphertext › user › message › ciphertext › user › message"
    assert [len(each.split()) for each in scene.hot(number)] == [24] * 7


def test_packing_is_explained_at_the_byte(scene: Scene, story: Story) -> None:
    number = number_of(story, "ExchangeRandNonce")
    scene.open(number)
    scene.point_at(scene.find(f"document.querySelector('#frame-{number} .layer:last-child .pk')"))
    assert scene.name == (
        "tag 0x10 in ExchangeRandNonce. "
        "In binary 00010000: byte 4 of the word follows, the other seven are zero."
    )


def test_the_keyboard_moves_through_the_bytes(scene: Scene, story: Story) -> None:
    number = number_of(story, "ExchangeDh")
    scene.open(number)
    scene.run(f"document.querySelector('#frame-{number} summary').focus()")
    scene.press("TAB")
    assert scene.name.startswith("length in Frame.")
    scene.press("ARROW_RIGHT", "ARROW_RIGHT")
    assert scene.name.startswith("segment table in ExchangeDh.")
    scene.press("ARROW_LEFT")
    assert scene.name.startswith("tag 0x10 in ExchangeDh.")
    scene.press("TAB")
    assert "in ExchangeDh" in scene.name
    scene.press("ESCAPE")
    assert scene.name.startswith("Point at bytes") and not any(scene.hot(number))


def test_a_click_holds_the_highlight(scene: Scene, story: Story) -> None:
    number = number_of(story, "ExchangeDh")
    scene.open(number)
    field = scene.find(value(number, "signature"))
    field.click()
    held = scene.hot(number)
    assert [len(each.split()) for each in held] == [64, 64]
    scene.point_at(scene.find(value(number, "keySalt")))
    assert scene.hot(number) == held
    scene.find(value(number, "signature")).click()
    scene.point_at(scene.find(value(number, "keySalt")))
    assert scene.name.startswith("keySalt")


def test_a_link_in_a_computation_opens_the_frame(scene: Scene) -> None:
    link = scene.find(
        "(() => { const group = document.querySelector('.group'); group.open = true;"
        " return group.querySelector('a[href^=\"#frame\"]'); })()"
    )
    target = scene.run("return arguments[0].hash.slice(1)", link)
    link.click()
    assert scene.run("return document.getElementById(arguments[0]).open", target)


def test_all_links_inside_the_page_have_a_target(scene: Scene) -> None:
    missing = scene.run(
        "return [...document.querySelectorAll('a[href^=\"#\"]')].filter("
        "each => !document.getElementById(each.hash.slice(1))).map(each => each.hash)"
    )
    assert missing == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast(scene: Scene, story: Story, scheme: str) -> None:
    emulate(scene.driver, scheme, WIDE)
    for name in ("ExchangeRandNonce", "ExchangeDh", "end-to-end message"):
        scene.open(number_of(story, name))
    scene.run(
        "document.querySelectorAll('.frame[open] details, .group').forEach(each => { each.open = true })"
    )
    scene.run(f"{value(number_of(story, 'ExchangeDh'), 'signature')}.focus()")
    assert scene.run("return document.querySelectorAll('.hot').length") > 5
    assert scene.run(CONTRAST) == []


def test_a_phone_needs_no_sideways_scrolling(scene: Scene) -> None:
    emulate(scene.driver, "light", PHONE)
    scene.run("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert scene.run("return document.documentElement.scrollWidth") <= PHONE[0]
    wide = scene.run(
        "return [...document.querySelectorAll('main *')].filter("
        "each => each.getBoundingClientRect().right > innerWidth + 0.5)"
        ".map(each => each.outerHTML.slice(0, 100))"
    )
    assert wide == []


def test_all_frames_and_steps_are_printed(scene: Scene) -> None:
    closed = "return document.querySelectorAll('.frame:not([open]), .group:not([open])').length"
    before = scene.run(closed)
    scene.run("dispatchEvent(new Event('beforeprint'))")
    assert scene.run(closed) == 0
    scene.run("dispatchEvent(new Event('afterprint'))")
    assert scene.run(closed) == before > 0
    emulated = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    scene.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
    shown = scene.run(
        "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        " getComputedStyle(document.getElementById('bar')).display]"
    )
    assert shown == ["rgb(255, 255, 255)", "rgb(29, 36, 48)", "none"]


def test_nothing_is_requested_and_no_error_is_reported(scene: Scene, page: str) -> None:
    scene.run("document.querySelectorAll('details').forEach(each => { each.open = true })")
    names = scene.run("return performance.getEntriesByType('resource').map(each => each.name)")
    assert set(names) <= {"data:,"}
    assert complaints(scene.driver) == []
    assert "src=" not in page
    assert len(page.encode()) < 1_000_000


def test_the_relay_sees_neither_text_nor_the_same_frame(scene: Scene) -> None:
    says, sends, sees, forwards, reads = scene.run(
        "return [...document.querySelectorAll('.journey .bytes')].map(each => each.textContent)"
    )
    assert says == reads == "hello from the connector"
    assert len({sends, sees, forwards}) == 3
    assert b"hello".hex(" ") not in sends + sees + forwards
