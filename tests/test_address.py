"""Addresses: what is one, what is not, and what the person is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offset_common.address import Address, parse_address, parse_listen_address
from offset_common.errors import UsageError

LONGEST_NAME = ".".join(["a" * 63] * 3 + ["b" * 55])  # 247 bytes: 253 with a port of five digits


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("relay.example.com:1337", "relay.example.com", 1337),
        ("localhost:1", "localhost", 1),
        ("relay.example.com.:65535", "relay.example.com.", 65535),
        ("my_relay:80", "my_relay", 80),
        ("127.0.0.1:8900", "127.0.0.1", 8900),
        ("1.2.3.example:8900", "1.2.3.example", 8900),
        ("[2001:db8::1]:1337", "2001:db8::1", 1337),
        ("[2001:DB8::1]:1337", "2001:DB8::1", 1337),
        ("[::ffff:192.0.2.1]:1", "::ffff:192.0.2.1", 1),
        ("münchen.example:1337", "münchen.example", 1337),
        ("xn--mnchen-3ya.example:1337", "xn--mnchen-3ya.example", 1337),
        (f"{'a' * 63}.example:1337", f"{'a' * 63}.example", 1337),
        (f"{LONGEST_NAME}:12345", LONGEST_NAME, 12345),
    ],
)
@pytest.mark.parametrize("parse", [parse_address, parse_listen_address])
def test_an_address_is_taken_apart_and_str_gives_its_text_back(parse, text, host, port):
    address = parse(text)
    assert address == Address(host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["0.0.0.0:4567", "[::]:4567", "127.0.0.1:0", "[fe80::1%eth0]:4567", "localhost:0"]
)
def test_a_relay_may_listen_where_nobody_could_connect_to(text):
    assert str(parse_listen_address(text)) == text
    with pytest.raises(UsageError):
        parse_address(text)


REFUSED = [
    ("", "is empty"),
    ("relay.example.com", "has no port"),
    ("1337", "has no port"),
    ("relay.example.com:", "has no port after the ':'"),
    (":1337", "has no host"),
    ("relay:http", "has the port 'http', which is not a number"),
    ("relay:-1", "has the port '-1', which is not a number"),
    ("relay:+80", "has the port '+80', which is not a number"),
    ("relay:1_0", "has the port '1_0', which is not a number"),
    ("relay:٨٠", "has the port '٨٠', which is not a number"),
    ("relay:080", "starts with a zero"),
    ("relay:00", "starts with a zero"),
    ("relay:65536", "ports are 1 to 65535"),
    ("relay:99999999999999999999", "ports are 1 to 65535"),
    ("::1:1337", "an IPv6 address goes in brackets"),
    ("2001:db8::1", "an IPv6 address goes in brackets"),
    ("host:80:90", "more than one ':'"),
    ("[::1]", "has no port; write it as in [2001:db8::1]:1337"),
    ("[::1", "has a '[' without a ']'"),
    ("[::1]1337", "after the ']'"),
    ("[::1]:", "has no port after the ':'"),
    ("[]:1337", "'' in the brackets, which is not an IPv6 address"),
    ("[::g]:1337", "'::g' in the brackets, which is not an IPv6 address"),
    ("[127.0.0.1]:1337", "'127.0.0.1' in the brackets, which is not an IPv6 address"),
    ("[relay.example.com]:1337", "in the brackets, which is not an IPv6 address"),
    ("[1:2:3:4:5:6:7:8:9]:1337", "in the brackets, which is not an IPv6 address"),
    ("a" * 252 + ":1337", "has 257 bytes; 256 is the most"),
    ("ü" * 126 + ":1337", "has 257 bytes; 256 is the most"),
    (LONGEST_NAME + "b" * 7 + ":1", "has a host name of 254 bytes; 253 is the most"),
    ("a" * 64 + ".example:1337", "has 64 bytes between two dots; 63 is the most"),
    ("relay example:1337", "has a space"),
    (" relay:1337", "has a space"),
    ("relay:1337 ", "has a space"),
    ("relay\t:1337", "has a space"),
    ("relay:1337\n", "has a space"),
    ("relay\x00:1337", "has a space or a character that cannot be printed"),
    ("relay\u00a0x:1337", "has a space"),
    ("relay\udcff:1337", "cannot be printed"),
    ("http://relay.example.com:1337", "is a URL"),
    ("relay.example.com:1337/", "has a '/' in it"),
    ("relay..com:1337", "nothing before, after or between its dots"),
    (".relay:1337", "nothing before, after or between its dots"),
    (".:1337", "nothing before, after or between its dots"),
    ("relay.com..:1337", "nothing before, after or between its dots"),
    ("user@relay:1337", "has '@' in its host name"),
    ("a,b:1337", "has ',' in its host name"),
    ("relay]:1337", "has ']' in its host name"),
    ("*:1337", "has '*' in its host name"),
    ("fe80::1%eth0:1337", "an IPv6 address goes in brackets"),
    ("-relay.com:1337", "has a '-' at the start or end"),
    ("relay-.com:1337", "has a '-' at the start or end"),
    ("1.2.3.256:1337", "is meant as IPv4 but is not four numbers"),
    ("1.2.3:1337", "is meant as IPv4"),
    ("1.2.3.4.:1337", "is meant as IPv4"),
    ("1.2.3.4.5:1337", "is meant as IPv4"),
    ("relay.123:1337", "is meant as IPv4"),
    ("127.1:1337", "is meant as IPv4"),
    ("ü..example:1337", "which DNS cannot hold"),
    ("ü" * 60 + ".example:1337", "which DNS cannot hold"),
    ("\u2100.example:1337", "has '/' in its host name"),  # one sign that nameprep writes as a/c
]


@pytest.mark.parametrize("parse", [parse_address, parse_listen_address])
@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_what_cannot_be_an_address_is_refused_with_a_sentence_that_says_why(parse, text, reason):
    with pytest.raises(UsageError) as caught:
        parse(text)
    sentence = str(caught.value)
    assert reason in sentence
    assert sentence.startswith("the address ")
    assert sentence.isprintable()
    assert len(sentence) < 300


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("relay:0", "has port 0; ports are 1 to 65535"),
        ("0.0.0.0:1337", "is for listening on every interface; nobody can connect to it"),
        ("[::]:1337", "is for listening on every interface"),
        ("[0:0::0]:1337", "is for listening on every interface"),
        ("[fe80::1%eth0]:1337", "has a zone"),
    ],
)
def test_a_ticket_cannot_hold_what_only_a_listener_can_use(text, reason):
    with pytest.raises(UsageError, match="the address ") as caught:
        parse_address(text)
    assert reason in str(caught.value)


def test_a_listen_address_without_a_host_is_told_how_to_mean_every_interface():
    with pytest.raises(UsageError, match=r"for every interface write 0\.0\.0\.0 or \[::\]"):
        parse_listen_address(":4567")


@given(st.text(alphabet="ab1.-_:[]%/@ 0ü\x00\udcff", max_size=40) | st.text(max_size=300))
def test_any_text_is_an_address_that_gives_the_text_back_or_a_usage_error(text):
    for parse in (parse_address, parse_listen_address):
        try:
            address = parse(text)
        except UsageError:
            continue
        assert str(address) == text
