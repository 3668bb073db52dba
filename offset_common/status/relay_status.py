"""`stmgr relay-status`: the status of a relay in a terminal."""

from __future__ import annotations

import base64
import http.client
import json
import math
import socket
import ssl
import sys
import time
from typing import Any, Optional
from urllib.parse import SplitResult, unquote, urlsplit

from offset_common.command_line import printable
from offset_common.errors import ServiceError, UsageError, os_error_sentence
from offset_common.tools.terminal import Style, is_terminal, print_line, styled, wants_colour

TIMEOUT = 10.0  # seconds
MAX_SIZE = 1 << 20  # bytes of an answer
WATCH_INTERVAL = 2.0  # seconds
BAR_WIDTH = 20  # characters
LOG_LINES = 8
DEFAULT_PORT = 80
LOOPBACK = "127.0.0.1"
_PAGES = frozenset({"", "status.json", "metrics", "healthz"})
_NO_TLS = "WRONG_VERSION_NUMBER"  # OpenSSL's reason if an answer is not TLS
CLEAR = "\033[H\033[2J"


class Source:
    """The status server to read from.

    Args:
        url: http://host:port, host:port, or only a port of this machine. It may have the path at which a
            proxy serves the page, and user:password@ before the host.

    Raises:
        UsageError: it is invalid.
    """

    def __init__(self, url: str) -> None:
        if url.isascii() and url.removeprefix(":").isdigit():
            url = f"{LOOPBACK}:{url.removeprefix(':')}"
        self.url = url
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            self._host, port = parts.hostname or "", parts.port
        except ValueError:
            self._host, port = "", None
        if not self._host or parts.scheme not in ("http", "https") or not url.isprintable() or " " in url:
            raise UsageError(f"{url!r} is not the address of a status page; write http://127.0.0.1:9090")
        self._secure = parts.scheme == "https"
        self._port = port if port is not None else 443 if self._secure else DEFAULT_PORT
        directory, _, page = parts.path.rpartition("/")
        self._path = (directory if page in _PAGES else parts.path) + "/status.json"
        self._headers = _authorization(parts)
        if "@" in parts.netloc:
            self.url = self.url.replace(f"{parts.netloc.rpartition('@')[0]}@", "", 1)  # for messages

    def fetch(self) -> dict[str, Any]:
        """Return the current status.

        Raises:
            ServiceError: there is no answer, or it is not the status of a relay.
        """
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=TIMEOUT)
        try:
            # With traffic by key and address.
            connection.request("GET", f"{self._path}?list=0", headers=self._headers)
            response = connection.getresponse()
            body = response.read(MAX_SIZE)
        except http.client.HTTPException:
            raise ServiceError(f"{self.url} does not use HTTP; give the address of --status") from None
        except socket.gaierror:
            raise ServiceError(f"the name {self._host!r} does not resolve; check its spelling") from None
        except ssl.SSLError as error:
            if error.reason != _NO_TLS:
                raise ServiceError(f"no secure connection to {self.url}: {error.reason or error}") from None
            plain = self.url.replace("https", "http", 1)
            raise ServiceError(f"the page at {self.url} uses HTTP without TLS; write {plain}") from None
        except (OSError, UnicodeError) as error:
            reason = os_error_sentence(error) if isinstance(error, OSError) else "not a host name"
            raise ServiceError(
                f"no answer from {self.url}: {reason}; check that strelay runs with --status"
            ) from None
        finally:
            connection.close()
        if response.status == http.client.UNAUTHORIZED:
            advice = "give its user and password, as in https://USER:PASSWORD@HOST/"
            raise ServiceError(f"{self.url} refuses access; {advice}")
        if response.status // 100 == 3 and response.headers["Location"]:
            raise ServiceError(f"{self.url} leads to {response.headers['Location']}; give that address")
        if response.status != http.client.OK:
            # The relay's errors are plain text; those of other servers are often pages.
            text = body[:200].decode("utf-8", "replace").strip()
            if not text or text.startswith("<"):
                text = response.reason
            raise ServiceError(f"{self.url} answers {response.status}: {text}")
        try:
            status = json.loads(body)
            status_lines(status, colour=False)  # raises an error if a field is missing or wrong
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            raise ServiceError(
                f"the answer of {self.url} is not the status of a relay; give the address of --status"
            ) from None
        assert isinstance(status, dict)
        return status


def _authorization(parts: SplitResult) -> dict[str, str]:
    """Return the header with the user and the password of a URL, or nothing."""
    if parts.username is None:
        return {}
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}


def show_status(url: str, watch: bool) -> None:
    """Print the status of a relay, once or repeatedly.

    Raises:
        OperatorError: the address is invalid, or the first request fails.
    """
    source = Source(url)
    status = source.fetch()
    colour = wants_colour(sys.stdout)
    _print(status_lines(status, colour), watch)
    while watch:
        time.sleep(WATCH_INTERVAL)
        previous = status
        try:
            status = source.fetch()
        except ServiceError as error:
            _print([_text(error)], watch)  # the relay may come back
        else:
            _print(status_lines(status, colour, previous), watch)


def _print(lines: list[str], watch: bool) -> None:
    if watch and is_terminal(sys.stdout):
        sys.stdout.write(CLEAR)
    elif watch:
        lines = [*lines, ""]
    for line in lines:
        print_line(line)


def status_lines(
    status: dict[str, Any], colour: bool, previous: Optional[dict[str, Any]] = None
) -> list[str]:
    """Return the status as lines of text.

    Args:
        status: what /status.json returned.
        colour: use colours.
        previous: an earlier status, for rates.
    """

    def heading(text: str) -> str:
        return styled(text, Style.HEADING, colour)

    totals = status["totals"]
    running = styled("stopping", Style.BAD, colour) if status["draining"] else "running"
    lines = [
        f"{heading('relay')} {_text(status['public_key'])}, {running}",
        f"version {_text(status['version'])}, up {duration(status['uptime_seconds'])},"
        f" listening on {', '.join(_text(each) for each in status['addresses'])}",
        "",
        heading("limits"),
        *(_limit_line(use, colour) for use in status["limits"]),
        "",
        heading("connections"),
        "  "
        + ", ".join(f"{_text(role).replace('_', ' ')}: {count:,}" for role, count in status["roles"].items()),
        f"  since startup: {totals['connections']:,} connections, {totals['tunnels']:,} tunnels,"
        f" {byte_text(totals['received_bytes'])} received, {byte_text(totals['sent_bytes'])} sent",
    ]
    if previous is not None:
        lines += _rate_lines(status, previous)
    for title, groups, name in (("keys", "keys", "key"), ("addresses", "addresses_in_use", "address")):
        if status[groups]:
            lines += ["", heading(f"{title} with the most connections")]
            lines += [_group_line(group, name) for group in status[groups][:5]]
    if "fleet" in status:
        lines += ["", heading("fleet"), *_fleet_lines(status["fleet"])]
    if status["ended"]:
        lines += ["", heading("why connections ended")]
        lines += [f"  {each['count']:>8,}  {_text(each['text'])}" for each in status["ended"]]
    if status["log"]:
        lines += ["", heading("last log lines that matter")]
        lines += [_log_line(line, colour) for line in status["log"][:LOG_LINES]]
    return lines


def _limit_line(use: dict[str, Any], colour: bool) -> str:
    share = min(1.0, use["used"] / use["limit"]) if use["limit"] else 0.0
    filled = math.ceil(share * BAR_WIDTH)
    style = Style.BAD if share > 0.95 else None
    bar = styled("#" * filled, style, colour) + "." * (BAR_WIDTH - filled)
    show = byte_text if use["unit"] == "bytes" else "{:,}".format
    title = _text(use["title"]) + ("" if use["for_all"] else ", at most")
    return f"  [{bar}] {show(use['used'])} of {show(use['limit'])} {title}"


def _rate_lines(status: dict[str, Any], previous: dict[str, Any]) -> list[str]:
    seconds = status["uptime_seconds"] - previous["uptime_seconds"]
    if seconds <= 0 or status["started"] != previous["started"]:
        return []
    names = ("received_bytes", "sent_bytes", "tunnels")
    received, sent, tunnels = (
        (status["totals"][name] - previous["totals"][name]) / seconds for name in names
    )
    return [f"  now: {byte_text(received)}/s received, {byte_text(sent)}/s sent, {tunnels:.1f} new tunnels/s"]


def _group_line(group: dict[str, Any], name: str) -> str:
    named = f" ({_text(group['name'])})" if group.get("name") else ""
    traffic = byte_text(group["received"] + group["sent"])
    return f"  {group['connections']:>8,}  {_text(group[name])}{named}, {traffic}"


def _fleet_lines(fleet: dict[str, Any]) -> list[str]:
    own = f"{_text(fleet['name'])} at {_text(fleet['address'])}, directory {_text(fleet['directory'])}"
    lines = [f"  this host: {own}, {fleet['listeners']:,} listeners ({fleet['unclaimed']:,} unclaimed)"]
    for host in fleet["hosts"]:
        gone = "" if host["alive"] else ", gone"
        forwarded = f"{host['forwarded_to']:,} forwarded to it, {host['forwarded_from']:,} from it"
        traffic = byte_text(host["sent"] + host["received"])
        lines.append(f"  {_text(host['name'])} at {_text(host['address'])}{gone}: {forwarded}, {traffic}")
    return lines


def _log_line(line: dict[str, Any], colour: bool) -> str:
    style = {"warning": Style.BAD, "error": Style.BAD}.get(line["level"])
    when = time.strftime("%H:%M:%S", time.localtime(line["time"]))
    details = " ".join(f"{name}={value}" for name, value in line["fields"].items())
    times = f" ({line['times']} times)" if line["times"] > 1 else ""
    event = styled(_text(line["event"]), style, colour)
    return f"  {when} {event}{': ' if details else ''}{_text(details)}{times}"


def _text(value: object) -> str:
    return printable(str(value))


def byte_text(size: float) -> str:
    """Return a number of bytes as people read it: 640 B, 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def duration(seconds: float) -> str:
    """Return a time in its largest sensible unit: 90 s, 3 h, 12 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
