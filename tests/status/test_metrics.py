"""/metrics: Prometheus can read it, its names follow the conventions, and its labels are bounded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from offset_common.relay.close_reason import CloseReason
from offset_common.relay.homes import FleetView, HostView
from offset_common.status.survey import Detail, Survey
from tests.commands import ROOT, run_python
from tests.relay.harness import Harness
from tests.status.promtool import run_promtool
from tests.status.relays import RelayWithStatus
from tests.support.node import Node, make_tunnel

parser = pytest.importorskip("prometheus_client.parser", reason="needs prometheus-client")


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the values by name and labels, as Prometheus' own parser reads them."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_accepts_the_format(relay: RelayWithStatus) -> None:
    reply = relay.get("/metrics")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert samples(reply.text)


def test_promtool_reports_no_problem(relay: RelayWithStatus) -> None:
    assert run_promtool("check", "metrics", stdin=relay.get("/metrics").text) == ""


def test_labels_are_roles_reasons_and_directions(relay: RelayWithStatus) -> None:
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        make_tunnel(caller, callee, callee.listen())
        labels = {label for _, labels in samples(relay.get("/metrics").text) for label in labels}
    assert {name for name, _ in labels} == {"role", "reason", "direction"}
    reasons = {value for name, value in labels if name == "reason"}
    assert reasons == {reason.name.lower() for reason in CloseReason}
    assert len(labels) == len(CloseReason) + 6 + 2


def test_counters_end_in_total_and_units_are_base_units(relay: RelayWithStatus) -> None:
    families = list(parser.text_string_to_metric_families(relay.get("/metrics").text))
    for family in families:
        assert family.documentation.endswith(".")
        assert re.fullmatch(r"(offset_relay|process)_[a-z_]+", family.name)
        assert not re.search(r"_(ms|milliseconds|kib|mib|kilobytes|percent)(_|$)", family.name)
        assert all(sample.name.endswith("_total") == (family.type == "counter") for sample in family.samples)


def test_all_metrics_are_documented(harness: Harness) -> None:
    survey: list[Any] = []
    harness.loop.call_soon(Survey(harness.relay, Detail.SUMS, survey.append).step)
    harness.run_until(lambda: bool(survey))
    (snapshot,) = survey
    other = HostView(
        "other", "192.0.2.1:4568", alive=True, forwarded_to=1, forwarded_from=1, received=1, sent=1
    )
    from offset_common.status.metrics import encode_metrics  # needs prometheus-client

    fleet = FleetView("this", "192.0.2.2:4568", "present", 1, 0, 1, [other])
    text = encode_metrics(snapshot._replace(fleet=fleet), 0.0).decode()
    names = {
        re.sub(r"^offset_relay_(used|limit)_.*", r"offset_relay_\1_NAME", name) for name, _ in samples(text)
    }
    page = (ROOT / "docs/status.md").read_text("utf-8")
    assert names == set(re.findall(r"`((?:offset_relay|process)_\w+)", page))


def test_traffic_is_counted(relay: RelayWithStatus) -> None:
    def received() -> float:
        found = samples(relay.get("/metrics").text)
        return found["offset_relay_traffic_bytes_total", (("direction", "received"),)]

    before = received()
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        near, far = make_tunnel(caller, callee, callee.listen())
        near.send(bytes(100_000))
        far.receive()
    relay.wait_for_end(near.port)
    relay.wait_for(lambda _: received() >= before + 100_000, "the traffic")


def test_old_releases_of_the_package_will_do() -> None:
    # Ubuntu 22.04 has version 0.9, which has no such class.
    program = (
        "import prometheus_client.registry as registry; del registry.Collector\n"
        "from offset_common.status.metrics import _gauge, _Once\n"
        "one = registry.CollectorRegistry()\n"
        "one.register(_Once([_gauge('one', 'A number.', 1)]))\n"
        "print(one.get_sample_value('offset_relay_one'))\n"
    )
    assert float(run_python("-c", program, directory=ROOT).out) == 1


def test_without_the_package_the_answer_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('not installed')\n")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from offset_common.status.request import Request\n"
        "from offset_common.status.routes import Routes\n"
        "routes = Routes(None, None, None, None, any_host=True)\n"
        "answer = routes.respond(Request('GET', '/metrics', {}))\n"
        "print(answer.status.value, answer.body.decode(), end='')\n"
    )
    out = run_python("-c", program, tmp_path, directory=ROOT).out
    assert out.startswith("501 metrics need the package prometheus-client")
    assert "pip install prometheus-client" in out
    assert "apt-get install python3-prometheus-client" in out
    assert out.count("\n") == 1
