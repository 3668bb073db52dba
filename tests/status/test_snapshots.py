"""How the status thread asks the event loop: at most once a second, and never for long."""

from __future__ import annotations

import threading
from typing import Callable

import pytest

from offset_common.status import snapshots
from offset_common.status.snapshots import NoSnapshotError, Snapshots
from offset_common.status.survey import Detail
from tests.relay.harness import Harness


class ServedRelay:
    """A relay whose loop runs in a thread while another one asks."""

    def __init__(self, harness: Harness) -> None:
        self.snapshots = Snapshots(harness.relay)
        self.harness = harness
        self.asked = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> ServedRelay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.harness.loop.run_once()


@pytest.fixture
def count_calls(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """The tasks that other threads have given to the loop."""
    calls: list[Callable[[], None]] = []
    original = harness.loop.call_soon_threadsafe

    def record(task: Callable[[], None]) -> None:
        calls.append(task)
        original(task)

    monkeypatch.setattr(harness.loop, "call_soon_threadsafe", record)
    return calls


def test_a_second_request_gets_the_same_snapshot(harness: Harness, count_calls: list[object]) -> None:
    with ServedRelay(harness) as served:
        first = served.snapshots.get(Detail.SUMS)
        assert served.snapshots.get(Detail.SUMS) is first
        assert len(count_calls) == 1


def test_more_detail_answers_less(harness: Harness, count_calls: list[object]) -> None:
    with ServedRelay(harness) as served:
        rows = served.snapshots.get(Detail.ROWS)
        assert served.snapshots.get(Detail.SUMS) is rows
        assert served.snapshots.get(Detail.HEALTH) is rows
        assert len(count_calls) == 1


def test_less_detail_does_not_answer_more(harness: Harness) -> None:
    with ServedRelay(harness) as served:
        assert served.snapshots.get(Detail.HEALTH).roles == {}
        assert served.snapshots.get(Detail.SUMS).roles != {}


def test_an_old_snapshot_is_replaced(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    with ServedRelay(harness) as served:
        first = served.snapshots.get(Detail.SUMS)
        monkeypatch.setattr(snapshots, "MAX_AGE", 0.0)
        assert served.snapshots.get(Detail.SUMS) is not first


def test_a_stuck_loop_is_reported_once_a_second(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, count_calls: list[object]
) -> None:
    monkeypatch.setattr(snapshots, "PATIENCE", 0.05)
    monkeypatch.setattr(snapshots, "MAX_AGE", 60.0)  # seconds: however slow this machine is
    stuck = Snapshots(harness.relay)
    for _ in range(20):
        with pytest.raises(NoSnapshotError, match="did not answer within"):
            stuck.get(Detail.HEALTH)
    assert len(count_calls) == 1
