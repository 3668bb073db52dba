"""Which keys `stforward share` lets in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from offset_common.forward.peers import Peers, Rule
from offset_common.identity import Identity, encode_key
from tests.forward.programs import Setting


def test_unknown_key_is_rejected_with_the_line_to_add(setting: Setting) -> None:
    sharing = setting.start_share("9")
    sharing.wait_for_line("^waiting for connections$")
    program = setting.to("0")
    line = sharing.wait_for_line(
        f"^rejected {setting.laptop.key}: this key is unknown; to let it in, add the line "
    )
    program.wait_for_line(f"^not connected: .* does not let this key in: {setting.laptop.key}; trying again$")
    found = re.search("add the line '(.*)' to (.*)$", line)
    assert found
    Path(found[2]).write_text(found[1] + "\n")
    program.wait_for_line("^connected to ")


@pytest.mark.parametrize("option", ["--allow", "--allow-any"])
def test_option_lets_a_key_in(setting: Setting, option: str) -> None:
    options = (option, setting.laptop.key) if option == "--allow" else (option,)
    setting.start_share("9", *options)
    setting.to("0").wait_for_line("^connected to ")
    assert not (setting.home.directory.path / "peers").exists()


def test_allow_lets_in_no_other_key(setting: Setting) -> None:
    sharing = setting.start_share("9", "--allow", encode_key(Identity.generate().public_key))
    setting.to("0")
    sharing.wait_for_line(f"^rejected {setting.laptop.key}: this key is unknown")


def test_denied_key_is_rejected(setting: Setting) -> None:
    Peers(setting.home.directory).add(Rule.DENY, setting.laptop.identity.public_key, "")
    sharing = setting.start_share("9")
    setting.to("0")
    sharing.wait_for_line(f"^rejected {setting.laptop.key}: .*peers denies it$")


def test_damaged_list_of_peers_lets_nobody_in(setting: Setting) -> None:
    sharing = setting.share("9")
    (setting.home.directory.path / "peers").write_text(f"allow {setting.laptop.key}\nallwo x\n")
    setting.to("0")
    sharing.wait_for_line(
        f"^rejected {setting.laptop.key}: .*peers: line 2: it begins with 'allwo'; write allow or"
    )
