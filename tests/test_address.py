"""Addresses: which texts are valid, and how invalid ones are reported."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offset_common.address import (
    Address,
    parse_address,
    parse_listen_address,
    parse_public_address,
    parse_ticket_address,
)
from offset_common.errors import UsageError

LONGEST_NAME = ".".join(["a" * 63] * 3 + ["b" * 55])  # 247 bytes: 253 with a port of five digits


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("relay.example.com:1337", "relay.example.com", 1337),
        ("relay.example.com.:65535", "relay.example.com.", 65535),
        ("my_relay:80", "my_relay", 80),
        ("127.0.0.1:8900", "127.0.0.1", 8900),
        ("[2001:db8::1]:1337", "2001:db8::1", 1337),
        ("[::ffff:192.0.2.1]:1", "::ffff:192.0.2.1", 1),
        ("xn--mnchen-3ya.example:1337", "xn--mnchen-3ya.example", 1337),
        (f"{'a' * 63}.example:1337", f"{'a' * 63}.example", 1337),
        (f"{LONGEST_NAME}:12345", LONGEST_NAME, 12345),
    ],
)
@pytest.mark.parametrize("parse", [parse_address, parse_ticket_address, parse_listen_address])
def test_str_restores_the_parsed_text(parse, text, host, port):
    address = parse(text)
    assert address == Address(host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["0.0.0.0:4567", "[::]:4567", "127.0.0.1:0", "[fe80::1%eth0]:4567", "localhost:0"]
)
def test_some_addresses_are_for_listening_only(text):
    assert str(parse_listen_address(text)) == text
    with pytest.raises(UsageError):
        parse_address(text)


INVALID = [
    ("", "is empty"),
    ("relay.example.com", "has no port"),
    ("relay.example.com:", "has no port after the ':'"),
    (":1337", "has no host"),
    ("relay:http", "has the port 'http', which is not a number"),
    ("relay:+80", "has the port '+80', which is not a number"),
    ("relay:٨٠", "has the port '٨٠', which is not a number"),
    ("relay:080", "starts with a zero"),
    ("relay:65536", "has the port 65536; use a port from "),
    ("::1:1337", "put an IPv6 address in brackets"),
    ("host:80:90", "more than one ':'"),
    ("[::1]", "has no port; write it as in [2001:db8::1]:4567"),
    ("[::1", "has a '[' but no ']'"),
    ("[::1]1337", "after the ']'"),
    ("[::g]:1337", "'::g' in brackets, which is not an IPv6 address"),
    ("[127.0.0.1]:1337", "'127.0.0.1' in brackets, which is not an IPv6 address"),
    ("a" * 252 + ":1337", "is 257 bytes long; the maximum is 256"),
    ("ü" * 126 + ":1337", "is 257 bytes long; the maximum is 256"),
    (LONGEST_NAME + "b" * 7 + ":1", "has a host name of 254 bytes; the DNS maximum is 253"),
    ("a" * 64 + ".example:1337", "has a host name part of 64 bytes; the DNS maximum is 63"),
    ("relay example:1337", "contains a space"),
    ("relay:1337\n", "contains a space"),
    ("relay\x00:1337", "contains a space or an unprintable character"),
    ("relay\u00a0x:1337", "contains a space"),
    ("http://relay.example.com:1337", "is a URL"),
    ("relay.example.com:1337/", "contains a '/'"),
    ("relay..com:1337", "has a host name with an empty part"),
    ("user@relay:1337", "has '@' in its host name"),
    ("*:1337", "has '*' in its host name"),
    ("-relay.com:1337", "starts or ends with '-'"),
    ("relay-.com:1337", "starts or ends with '-'"),
    ("1.2.3.256:1337", "is not an IPv4 address"),
    ("1.2.3:1337", "is not an IPv4 address"),
    ("relay.123:1337", "is not an IPv4 address"),
    ("ü..example:1337", "that is not valid in DNS"),
    ("\u2100.example:1337", "has '/' in its host name"),  # nameprep turns this character into a/c
]


@pytest.mark.parametrize("parse", [parse_address, parse_listen_address])
@pytest.mark.parametrize(("text", "reason"), INVALID)
def test_an_invalid_address_is_explained(parse, text, reason):
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
        ("relay:0", "has port 0; use a port from 1 to 65535"),
        ("0.0.0.0:1337", "can only be used for listening"),
        ("[::]:1337", "can only be used for listening"),
        ("[fe80::1%eth0]:1337", "has an IPv6 zone"),
        ("5001", "is only a port; write a host before it, as in relay.example.com:5001"),
    ],
)
def test_a_ticket_rejects_addresses_for_listening(text, reason):
    with pytest.raises(UsageError, match="the address ") as caught:
        parse_address(text)
    assert reason in str(caught.value)


def test_a_link_local_address_is_refused_where_it_cannot_work():
    with pytest.raises(UsageError, match=r"valid on one link only .*another address"):
        parse_public_address("[fe80::1]:4567")
    with pytest.raises(UsageError, match=r"add the interface of this link, as in \[fe80::1%eth0\]:4567"):
        parse_listen_address("[fe80::1]:4567")
    assert parse_ticket_address("[fe80::1]:4567") == Address("fe80::1", 4567)


@pytest.mark.parametrize("parse", [parse_public_address, parse_listen_address])
@pytest.mark.parametrize("text", ["224.0.0.1:4567", "255.255.255.255:4567", "[ff05::1]:4567"])
def test_multicast_and_broadcast_addresses_are_refused(text, parse):
    with pytest.raises(UsageError, match="is a multicast or broadcast address, which nobody can connect to"):
        parse(text)
    assert parse_ticket_address(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0.0.0.0", "has no port; write it as in 0.0.0.0:4567"),
        (":http", "has no host; write 0.0.0.0 or [::] before the port"),
        (
            "5001",
            "has no host; write 0.0.0.0:5001 to listen on every IPv4 address, or [::]:5001",
        ),
        (
            ":5001",
            "has no host; write 0.0.0.0:5001 to listen on every IPv4 address, or [::]:5001",
        ),
        ("*:4567", "has '*' in its host name; write 0.0.0.0:4567 to listen on every IPv4 address"),
        ("localhost:65536", "has the port 65536; use a port from 0 to 65535"),
    ],
)
def test_a_listen_address_is_corrected(text, reason):
    with pytest.raises(UsageError, match=re.escape(reason)):
        parse_listen_address(text)


# The ASCII forms by IDNA 2008 are from RFC 5891 examples and UTS 46, table 1.
@pytest.mark.parametrize("parse", [parse_address, parse_ticket_address, parse_listen_address])
@pytest.mark.parametrize(
    ("host", "forms"),
    [
        ("relay-bücher.example", ["write xn--relay-bcher-zhb.example"]),
        ("bücher。example", ["xn--bcher-kva.example"]),
        ("☃.example", ["write xn--n3h.example"]),
        ("ꞷx.example", ["write xn--x-e53e.example"]),  # a letter newer than IDNA 2003
        ("ΣΑΣ.example", ["write xn--mxa9ab.example"]),
        ("straße.example", ["xn--strae-oqa.example (IDNA 2008)", "strasse.example (IDNA 2003)"]),
        ("faß.de", ["xn--fa-hia.de (IDNA 2008)", "fass.de (IDNA 2003)"]),
        ("βόλος.com", ["xn--nxasmm1c.com (IDNA 2008)", "xn--nxasmq6b.com (IDNA 2003)"]),
    ],
)
def test_a_name_outside_ascii_is_refused_with_its_ascii(parse, host, forms):
    with pytest.raises(UsageError, match="which released nodes cannot resolve") as caught:
        parse(f"{host}:4567")
    for form in forms:
        assert form in str(caught.value)


def test_an_underscore_is_refused_in_new_tickets():
    with pytest.raises(UsageError, match="has '_' in its host name, which not every resolver accepts"):
        parse_public_address("my_relay.example:80")
    assert parse_public_address("my-relay.example:80") == Address("my-relay.example", 80)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("2001:db8::1:1337", "2001:db8::1", 1337),
        ("::1:80", "::1", 80),
        ("::ffff:192.0.2.1:1", "::ffff:192.0.2.1", 1),
    ],
)
def test_a_bare_ipv6_address_in_a_ticket_is_read(text, host, port):
    assert parse_ticket_address(text) == Address(host, port)
    with pytest.raises(UsageError, match=r"in brackets, as in \[") as caught:
        parse_address(text)
    assert f"as in [{host}]:{port}" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["2001:db8::", "host:80:90", "1:2:3:4:5:6:7:8", "::1:x", "::1:0", "::1", ":::1"]
)
def test_other_texts_with_colons_are_refused_in_a_ticket(text):
    with pytest.raises(UsageError):
        parse_ticket_address(text)


@given(st.text(alphabet="ab1.-_:[]%/@ 0ü\x00\udcff", max_size=40) | st.text(max_size=300))
def test_any_text_is_restored_or_a_usage_error(text):
    for parse in (parse_address, parse_ticket_address, parse_listen_address):
        try:
            address = parse(text)
        except UsageError:
            continue
        assert str(address) == text or (parse is parse_ticket_address and ":" in address.host)
        assert parse(str(address)) == address
