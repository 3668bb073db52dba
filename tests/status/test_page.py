"""The live page in a real browser: what it shows, in light and dark, and at the width of a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from offset_common.identity import encode_key
from tests.status.browser import PHONE, WIDE, browser, complaints, emulate
from tests.status.relays import RelayWithStatus
from tests.support.node import Node, make_tunnel
from tests.support.peer import Peer
from tests.support.process import wait_until

pytestmark = pytest.mark.timeout(240)


class Scene(NamedTuple):
    """A page in a browser, and the relay that it shows."""

    page: Any
    relay: RelayWithStatus
    listener: Node
    caller: Node
    tunnel: tuple[Peer, Peer]

    def text(self, selector: str) -> str:
        """Return the text of the first element that a selector finds."""
        return str(
            self.page.execute_script("return document.querySelector(arguments[0]).innerText", selector)
        )

    def rows(self) -> list[str]:
        """Return the texts of the rows of the table of connections."""
        script = "return [...document.querySelectorAll('#list tbody tr')].map(each => each.innerText)"
        return list(self.page.execute_script(script))

    def column(self, number: int) -> list[str]:
        """Return the texts of one column of that table."""
        return [row.split("\t")[number] for row in self.rows()]

    def shows(self, condition: Callable[[], object]) -> None:
        """Wait until the page shows something."""
        wait_until(condition, f"{self.text('body')!r}: what the page should show")

    def style(self, selector: str, name: str) -> str:
        """Return a computed style."""
        script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        return str(self.page.execute_script(script, selector, name))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A browser that shows a relay with a listener and a tunnel."""
    directory = tmp_path_factory.mktemp("page")
    with browser(directory / "profile") as page:
        relay = RelayWithStatus(directory)
        try:
            with Node(relay.endpoint()) as listener, Node(relay.endpoint()) as caller:
                tunnel = make_tunnel(caller, listener, listener.listen())
                page.get(relay.url + "/")
                emulate(page, "light", WIDE)
                scene = Scene(page, relay, listener, caller, tunnel)
                scene.shows(lambda: len(scene.rows()) == 3)
                yield scene
        finally:
            relay.kill()


def test_roles_are_counted(scene: Scene) -> None:
    scene.shows(lambda: scene.text("[data-role=listener]").split() == ["1", "listener"])
    assert scene.text("[data-role=tunnel]").split() == ["2", "tunnel"]


def test_a_bar_shows_the_use_of_each_limit(scene: Scene) -> None:
    names = scene.page.execute_script(
        "return [...document.querySelectorAll('.limit')].map(each => each.dataset.name)"
    )
    assert names == [use["name"] for use in scene.relay.status()["limits"]]
    assert "3 of" in scene.text("[data-name=connections]")
    track = scene.page.execute_script("return document.querySelector('.track').clientWidth")
    limit = scene.relay.status()["limits"][0]["limit"]
    assert float(scene.style(".fill", "width")[:-2]) == pytest.approx(track * 3 / limit, abs=0.5)


def test_traffic_moves_the_plot(scene: Scene) -> None:
    near, far = scene.tunnel

    def heights() -> set[str]:
        points = scene.page.execute_script(
            "return document.querySelector('#throughput .one').getAttribute('points')"
        )
        return {point.split(",")[1] for point in (points or "").split()}

    def exchange() -> bool:
        for _ in range(20):
            near.send(bytes(10_000))
            far.receive()
        return any(unit in scene.text("#received-now") for unit in ("KiB/s", "MiB/s"))

    scene.shows(exchange)
    scene.shows(lambda: len(heights()) > 1)


def test_the_list_can_be_filtered_by_key(scene: Scene) -> None:
    key = encode_key(scene.caller.public_key)
    field = scene.page.find_element("id", "text")
    field.send_keys(key[5:20])
    scene.shows(lambda: scene.column(0) == [key])
    assert scene.text("#matching") == "1 of 1 shown"
    field.clear()
    field.send_keys(f"127.0.0.1:{scene.tunnel[0].port}")
    scene.shows(lambda: scene.column(1) == [f"127.0.0.1:{scene.tunnel[0].port}"])
    field.send_keys(" ")
    field.clear()
    field.send_keys("\b")
    scene.shows(lambda: len(scene.rows()) == 3)


def test_the_list_can_be_filtered_by_role(scene: Scene) -> None:
    select = pytest.importorskip("selenium.webdriver.support.select").Select
    choice = select(scene.page.find_element("id", "role"))
    choice.select_by_value("listener")
    scene.shows(lambda: scene.column(2) == ["listener"])
    choice.select_by_value("")
    scene.shows(lambda: len(scene.rows()) == 3)


def test_a_click_on_a_title_sorts(scene: Scene) -> None:
    near, far = scene.tunnel
    near.send(bytes(50_000))
    far.receive()
    scene.page.find_element("css selector", "[data-sort=received]").click()
    scene.shows(lambda: scene.column(1)[0] == f"127.0.0.1:{near.port}")
    assert "▼" in scene.text("[data-sort=received]")
    scene.page.find_element("css selector", "[data-sort=received]").click()
    scene.shows(lambda: scene.column(1)[-1] == f"127.0.0.1:{near.port}")
    assert "▲" in scene.text("[data-sort=received]")


def test_ends_and_log_lines_are_shown(scene: Scene) -> None:
    scene.shows(lambda: "relay ready" in scene.text("#log"))
    assert "connection ended" not in scene.text("#log")
    stranger = scene.caller.dial()
    stranger.send_bytes(b"<b>not Offset</b> at all")
    scene.shows(lambda: "not an Offset peer" in scene.text("#ended"))


def test_the_colours_follow_the_preference(scene: Scene) -> None:
    emulate(scene.page, "dark", WIDE)
    dark = scene.style("body", "backgroundColor"), scene.style("body", "color")
    emulate(scene.page, "light", WIDE)
    light = scene.style("body", "backgroundColor"), scene.style("body", "color")
    assert brightness(dark[0]) < 50 < 200 < brightness(dark[1])
    assert brightness(light[1]) < 50 < 200 < brightness(light[0])


def brightness(colour: str) -> float:
    """Return the mean of a colour's parts, as in "rgb(1, 2, 3)"."""
    parts = [int(part) for part in colour[4:-1].split(",")]
    return sum(parts) / 3


def test_a_phone_needs_no_sideways_scrolling(scene: Scene) -> None:
    emulate(scene.page, "light", PHONE)
    try:
        wide = scene.page.execute_script(
            "return [...document.querySelectorAll('body *')].filter("
            "each => each.getBoundingClientRect().right > innerWidth + 0.5).map(each => each.outerHTML)"
        )
        assert wide == []
        assert scene.page.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
    finally:
        emulate(scene.page, "light", WIDE)


def test_the_browser_reports_no_error(scene: Scene) -> None:
    """The content security policy lets the page's own script and style run, and nothing is missing."""
    assert complaints(scene.page) == []


def test_nothing_is_loaded_from_elsewhere(scene: Scene) -> None:
    names = scene.page.execute_script(
        "return performance.getEntriesByType('resource').map(each => each.name)"
    )
    assert names
    assert {name.split("?")[0] for name in names} <= {f"{scene.relay.url}/status.json", "data:,"}


def test_a_browser_without_scripts_is_told_what_to_do(scene: Scene) -> None:
    page = scene.page
    page.switch_to.new_window("tab")
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    page.get(scene.relay.url + "/")
    root = page.execute_cdp_cmd("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
    found = page.execute_cdp_cmd("DOM.querySelector", {"nodeId": root, "selector": "#state"})
    state = page.execute_cdp_cmd("DOM.getOuterHTML", found)["outerHTML"]
    page.close()
    page.switch_to.window(page.window_handles[0])
    assert "This page needs JavaScript" in state
    assert "stmgr.py relay-status shows the same" in state


def test_a_relay_that_is_gone_is_reported(scene: Scene, tmp_path: Path) -> None:
    page, first = scene.page, scene.page.current_window_handle
    page.switch_to.new_window("tab")
    relay = RelayWithStatus(tmp_path)
    try:
        page.get(relay.url + "/")
        state = page.find_element("id", "state")
        wait_until(lambda: state.text == "running", "the state")
        relay.kill()
        wait_until(lambda: state.text.startswith("no answer"), "the loss of the relay")
    finally:
        relay.kill()
        page.close()
        page.switch_to.window(first)
    assert complaints(page), "read them here, so that no other test finds them"
