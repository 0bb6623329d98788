"""Counting: histograms, waiting, rows of ten seconds, and how many different files there were."""

import pytest

from forebay.clock import FakeClock
from forebay.observe.distinct import Distinct
from forebay.observe.ledger import Ledger
from forebay.observe.series import KEPT, Row, Series
from forebay.observe.traffic import BOUNDS_S, Histogram, Stall, Traffic


def test_a_duration_falls_under_the_first_bound_that_holds_it() -> None:
    times = Histogram()
    for seconds in (0.0, 0.001, 0.0011, 60.0, 61.0):
        times.add(seconds)
    assert (times.counts[0], times.counts[1], times.counts[-2], times.counts[-1]) == (2, 1, 1, 1)
    assert times.count == 5
    assert times.sum_s == pytest.approx(121.0021)
    assert list(BOUNDS_S) == sorted(BOUNDS_S)


def test_waiting_is_summed_over_readers_and_once_for_all_of_them() -> None:
    stall = Stall()
    stall.begin(10.0)
    stall.begin(12.0)
    stall.end(13.0)
    stall.advance(15.0)
    assert (stall.sum_s, stall.any_s, stall.waiting) == (2 + 2 + 2, 5, 1)
    stall.end(16.0)
    stall.begin(100.0)
    assert (stall.sum_s, stall.any_s) == (7, 6)


def test_waiting_ends_with_what_waited_be_it_by_an_error() -> None:
    clock, traffic = FakeClock(), Traffic()

    def read_in_vain() -> None:
        clock.advance(2.0)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"), traffic.waits_for_bytes(clock.monotonic):
        read_in_vain()
    with traffic.waits_for_name(clock.monotonic):
        clock.advance(1.0)
    assert (traffic.stall.waiting, traffic.stall.sum_s) == (0, 3.0)
    assert (traffic.read_waits.sum_s, traffic.lookup_waits.sum_s) == (2.0, 1.0)


def test_a_row_holds_what_went_on_in_its_time_alone_and_quiet_times_have_none() -> None:
    traffic = Traffic()
    series = Series(traffic, 0.0)
    traffic.hits, traffic.read_from_cache, traffic.bytes_from_store = 3, 100, 7
    traffic.stall.begin(4.0)
    series.tick(10.0)
    traffic.stall.end(11.0)
    series.tick(20.0)
    series.tick(30.0)
    traffic.misses, traffic.read_from_store = 1, 50
    series.tick(40.0)
    assert series.since(0.0) == [
        Row(10.0, 10.0, hits=3, from_cache=100, fetched=7, stall_s=6.0, stalled_s=6.0),
        Row(20.0, 10.0, stall_s=1.0, stalled_s=1.0),
        Row(40.0, 10.0, misses=1, from_store=50),
    ]
    assert series.since(20.0) == series.since(0.0)[2:]


def test_a_day_is_kept_and_no_more() -> None:
    traffic = Traffic()
    series = Series(traffic, 0.0)
    for tick in range(1, KEPT + 1001):
        traffic.hits += tick
        series.tick(10.0 * tick)
    found = series.since(0.0)
    assert len(found) == len(series) == KEPT
    assert [found[0].hits, found[-1].hits] == [1001, KEPT + 1000]


@pytest.mark.parametrize("count", [1, 100, 200_000])
def test_different_files_are_counted_once_with_their_sizes(count: int) -> None:
    opened = Distinct()
    assert opened.since() == (0, 0)
    for _ in range(2):
        for index in range(count):
            opened.add((f"key {index}", "v1"), 1000)
    assert opened.since().number == pytest.approx(count, rel=0.01)
    assert opened.since().size == pytest.approx(count * 1000, rel=0.01)


def test_different_files_are_counted_since_any_moment_of_the_last_day() -> None:
    opened = Distinct()
    turns = {10.0: range(100), 20.0: range(50, 150), 30.0: range(0), 40.0: range(10)}
    for end_s, numbers in turns.items():
        for _ in range(2):
            for number in numbers:
                opened.add(number, 1000 + number)
        opened.end_turn(end_s)
    for from_s in (-1.0, 9.0, 10.0, 19.0, 20.0, 39.0, 40.0):
        since = {number for end_s, numbers in turns.items() if end_s > from_s for number in numbers}
        assert opened.since(from_s) == (len(since), sum(1000 + number for number in since)), from_s


def test_what_was_opened_more_than_a_day_ago_is_known_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.observe.distinct.KEPT", 3)
    opened = Distinct()
    for turn in range(10):
        opened.add(turn, 1)
        opened.add("each time", 1)
        opened.end_turn(float(turn))
    assert opened.since().number == 11
    assert [opened.since(8.0 - back).number for back in range(2)] == [2, 11]


def test_what_was_counted_at_a_mount_that_is_gone_stays_in_the_total() -> None:
    ledger, first, second = Ledger(), Traffic(hits=5), Traffic(misses=2)
    ledger.open("/b", second, 0.0)
    ledger.open("/a", first, 0.0)
    assert [path for path, _ in ledger] == ["/a", "/b"]
    ledger.close("/a")
    assert [path for path, _ in ledger] == ["/b"]
    assert (ledger.counts()["hits"], ledger.counts()["misses"]) == (5, 2)
    ledger.open("/a", Traffic(hits=1), 10.0)
    assert ledger.counts()["hits"] == 6


def test_asking_brings_the_rows_up_to_now() -> None:
    ledger, traffic = Ledger(), Traffic()
    ledger.open("/a", traffic, 0.0)
    traffic.hits = 1
    assert ledger.since("/a", 0.0, 4.0) == [Row(4.0, 4.0, hits=1)]
