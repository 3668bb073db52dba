"""/metrics: the state of a relay in the text format of Prometheus.

No label has a value that a stranger can choose: there are only roles, reasons, directions
and the names of hosts of a fleet.

Source: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from offset_common.relay.close_reason import CloseReason
from offset_common.relay.homes import FleetView
from offset_common.status.report import process_report
from offset_common.status.survey import Snapshot, Use

# New releases of the package announce version 1.0.0, which is only for clients that ask for it. All names
# here are valid in both versions.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "offset_relay_"


class _Once:
    """Hands metrics to a registry, which accepts any object with `collect`."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._metrics


def encode_metrics(snapshot: Snapshot, started_at: float) -> bytes:
    """Return the text of all metrics.

    Args:
        snapshot: the state.
        started_at: seconds of the system's clock.
    """
    registry = CollectorRegistry(auto_describe=False)
    metrics = [*_relay(snapshot), *_limits(snapshot.limits), *_process(started_at)]
    if snapshot.fleet is not None:
        metrics += _fleet(snapshot.fleet)
    registry.register(_Once(metrics))
    return generate_latest(registry)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _relay(snapshot: Snapshot) -> Iterator[Metric]:
    yield _gauge("draining", "Whether the relay is stopping (1) or not (0).", int(snapshot.draining))
    yield _gauge(
        "loop_delay_seconds",
        "Time that the event loop took to start this snapshot.",
        snapshot.loop_delay,
    )
    roles = GaugeMetricFamily(PREFIX + "connections", "Connections by role.", labels=["role"])
    for role, count in snapshot.roles.items():
        roles.add_metric([role], count)
    yield roles
    ended = CounterMetricFamily(
        PREFIX + "connections_ended", "Connections that ended or were refused, by reason.", labels=["reason"]
    )
    for reason in CloseReason:
        ended.add_metric([reason.name.lower()], snapshot.ended.get(reason, 0))
    yield ended
    traffic = CounterMetricFamily(
        PREFIX + "traffic_bytes", "Bytes received from peers and sent to them.", labels=["direction"]
    )
    traffic.add_metric(["received"], snapshot.traffic.received)
    traffic.add_metric(["sent"], snapshot.traffic.sent)
    yield traffic
    yield _counter("connection_attempts", "Connections accepted or refused.", snapshot.attempts)
    yield _counter("handshakes", "Handshakes completed.", snapshot.handshakes)
    yield _counter("tunnels", "Tunnels created.", snapshot.tunnels)
    yield _counter("bugs", "Errors in the relay that ended a connection.", snapshot.bugs)
    yield _gauge("queued_bytes", "Bytes that peers have not read yet.", snapshot.queued)
    yield _gauge(
        "waiting_for_buffers",
        "Connections that are not read until there is memory.",
        snapshot.waiting_for_buffers,
    )


def _limits(limits: Iterable[Use]) -> Iterator[Metric]:
    for use in limits:
        unit = f"_{use.unit}" if use.unit else ""
        whose = "" if use.for_all else " (the highest)"
        yield _gauge(f"used_{use.name}{unit}", f"In use: {use.title}{whose}.", use.used)
        yield _gauge(f"limit_{use.name}{unit}", f"Limit: {use.title}.", use.limit)


def _fleet(fleet: FleetView) -> Iterator[Metric]:
    present = int(fleet.directory != "away")
    yield _gauge("fleet_directory_present", "Whether the directory answers (1) or not (0).", present)
    yield _gauge(
        "fleet_hosts",
        "Hosts in the directory, including this one.",
        1 + sum(host.alive for host in fleet.hosts),
    )
    yield _gauge("fleet_listeners", "Listeners whose home is this host.", fleet.listeners)
    yield _gauge(
        "fleet_unclaimed_listeners", "Listeners that the directory does not have yet.", fleet.unclaimed
    )
    yield _gauge("fleet_links", "Open connections with other hosts.", fleet.links)
    forwarded = CounterMetricFamily(
        PREFIX + "fleet_forwarded",
        "Connects and accepts forwarded to other hosts and received from them.",
        labels=["host", "direction"],
    )
    traffic = CounterMetricFamily(
        PREFIX + "fleet_traffic_bytes",
        "Bytes exchanged with other hosts, on connections that this host opened.",
        labels=["host", "direction"],
    )
    counts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for host in fleet.hosts:  # after a restart, two of them have the same name
        counts.update({(host.name, "to"): host.forwarded_to, (host.name, "from"): host.forwarded_from})
        sizes.update({(host.name, "to"): host.sent, (host.name, "from"): host.received})
    for metric, sums in ((forwarded, counts), (traffic, sizes)):
        for labels, value in sums.items():
            metric.add_metric(labels, value)
        yield metric


def _process(started_at: float) -> Iterator[Metric]:
    # Named as in the client libraries of Prometheus, whose own collector opens every descriptor's entry.
    process = process_report()
    yield CounterMetricFamily(
        "process_cpu_seconds", "Processor time of the process.", value=process["cpu_seconds"]
    )
    if "resident_bytes" in process:
        yield GaugeMetricFamily(
            "process_resident_memory_bytes", "Resident memory.", value=process["resident_bytes"]
        )
    yield GaugeMetricFamily("process_start_time_seconds", "When the relay started.", value=started_at)
