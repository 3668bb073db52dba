"""The answers of the status server: the page, /status.json, /metrics and /healthz."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from http import HTTPStatus
from importlib import resources
from ipaddress import ip_address
from typing import Any

from offset_common.status.recent_log import RecentLog
from offset_common.status.report import (
    COLUMNS,
    MAX_ROWS,
    NameOf,
    RelayFacts,
    Selection,
    status_report,
)
from offset_common.status.request import Answer, Request, RequestError, sentence
from offset_common.status.snapshots import NoSnapshotError, Snapshots
from offset_common.status.survey import ROLES, Detail, Snapshot

JSON = "application/json"
PAGE = resources.files("offset_common.status").joinpath("page.html")  # works in a zip file too
MAX_TEXT = 100  # characters to search connections for
MAX_HEALTHY_SHARE = 0.95  # of a limit; over that, /healthz reports that the relay is full
NEEDS_CLIENT = (
    "metrics need the package prometheus-client; install it in the virtual environment of the relay"
    " (.venv/bin/pip install prometheus-client), or as Debian's package"
    " (apt-get install python3-prometheus-client), and restart the relay"
)


class Routes:
    """Returns the answer to each request.

    Args:
        facts: the facts that do not change while the relay runs.
        snapshots: the state.
        log: the latest log lines.
        name_of: returns the name of a key.
        any_host: whether to accept any host name in a request. A server on a loopback address rejects
            others, because a stranger's web page could point its own name here (DNS rebinding).
    """

    def __init__(
        self, facts: RelayFacts, snapshots: Snapshots, log: RecentLog, name_of: NameOf, any_host: bool
    ) -> None:
        self._facts = facts
        self._snapshots = snapshots
        self._log = log
        self._name_of = name_of
        self._any_host = any_host
        self._page = _page_answer(PAGE.read_text("utf-8"))
        self._paths: dict[str, Callable[[Request], Answer]] = {
            "/": lambda request: self._page,
            "/status.json": self._status,
            "/metrics": self._metrics,
            "/healthz": self._health,
        }

    def respond(self, request: Request) -> Answer:
        """Return the answer.

        Raises:
            RequestError: there is no such page, or the request is not for this server.
        """
        if not self._any_host and not _is_local(request.host):
            raise RequestError(
                HTTPStatus.FORBIDDEN,
                "only localhost and IP addresses are valid host names here; use one in the URL, or let the"
                " proxy in front of the relay set the Host header to localhost",
            )
        if request.path not in self._paths:
            raise RequestError(HTTPStatus.NOT_FOUND, f"the only paths are {', '.join(self._paths)}")
        try:
            return self._paths[request.path](request)
        except NoSnapshotError as error:
            return sentence(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

    def _status(self, request: Request) -> Answer:
        selection = read_selection(request.query) if "list" in request.query else None
        snapshot = self._snapshots.get(Detail.SUMS if selection is None else Detail.ROWS)
        report = status_report(self._facts, snapshot, self._log.lines(), self._name_of, selection)
        return _json_answer(HTTPStatus.OK, report)

    def _metrics(self, request: Request) -> Answer:
        try:
            # Optional, and slow to import: only the first scrape pays for it.
            from offset_common.status.metrics import CONTENT_TYPE, encode_metrics
        except ImportError:
            return sentence(HTTPStatus.NOT_IMPLEMENTED, NEEDS_CLIENT)
        snapshot = self._snapshots.get(Detail.SUMS)
        body = encode_metrics(snapshot, self._facts.started_at)
        return Answer(HTTPStatus.OK, CONTENT_TYPE, body)

    def _health(self, request: Request) -> Answer:
        snapshot = self._snapshots.get(Detail.HEALTH)
        problem = health_problem(snapshot)
        report: dict[str, Any] = {
            "healthy": not problem,
            "problem": problem,
            "limits": [use._asdict() for use in snapshot.limits if use.for_all],
        }
        return _json_answer(HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK, report)


def health_problem(snapshot: Snapshot) -> str:
    """Return why a relay should not get more clients, or an empty string."""
    if snapshot.draining:
        return "the relay is stopping"
    full = [use for use in snapshot.limits if use.for_all and use.used > use.limit * MAX_HEALTHY_SHARE]
    return "; ".join(f"{use.title}: {use.used} of {use.limit}" for use in full)


def read_selection(query: dict[str, str]) -> Selection:
    """Return the connections to list: list=COUNT, text=, role=, sort=, order=asc or desc.

    Raises:
        RequestError: a value is not valid.
    """
    count, text = query["list"], query.get("text", "")
    role, sort, order = query.get("role", ""), query.get("sort", "since"), query.get("order", "asc")
    problem = ""
    if not (count.isascii() and count.isdigit() and len(count) < 6 and int(count) <= MAX_ROWS):
        problem = f"list must be a whole number up to {MAX_ROWS}"
    elif len(text) > MAX_TEXT:
        problem = f"text must have at most {MAX_TEXT} characters"
    elif role and role not in ROLES:
        problem = f"role must be one of {', '.join(ROLES)}"
    elif sort not in COLUMNS:
        problem = f"sort must be one of {', '.join(COLUMNS)}"
    elif order not in ("asc", "desc"):
        problem = "order must be asc or desc"
    if problem:
        raise RequestError(HTTPStatus.BAD_REQUEST, problem)
    return Selection(int(count), text, role, sort, order == "desc")


def _is_local(host: str) -> bool:
    """Return whether a Host header has an IP address or localhost, with or without a port."""
    name = host.rpartition(":")[0] if re.search(r":[0-9]*$", host) and not host.endswith("]") else host
    if name.lower() in ("", "localhost"):
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _json_answer(status: HTTPStatus, value: object) -> Answer:
    return Answer(status, JSON, json.dumps(value, separators=(",", ":")).encode() + b"\n")


def _page_answer(page: str) -> Answer:
    """Return the page, with a policy by which a browser uses only the page's own script and style."""
    policy = ["default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'"]
    policy += ["form-action 'none'", "frame-ancestors 'none'"]
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        policy.append(f"{tag}-src 'sha256-{digest}'")
    headers = (("Content-Security-Policy", "; ".join(policy)), ("Referrer-Policy", "no-referrer"))
    return Answer(HTTPStatus.OK, "text/html; charset=utf-8", page.encode(), headers)
