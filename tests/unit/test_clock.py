"""The two clocks agree on what they are asked."""

import pytest

from forebay.clock import Clock, FakeClock, SystemClock


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()])
def test_a_clock_does_not_go_back(clock: Clock) -> None:
    first = (clock.monotonic(), clock.time_ns())
    second = (clock.monotonic(), clock.time_ns())
    assert second[0] >= first[0]
    assert second[1] >= first[1]


def test_a_fake_clock_moves_by_hand_only() -> None:
    clock = FakeClock(now_s=10.0)
    assert (clock.monotonic(), clock.time_ns()) == (10.0, 10_000_000_000)
    clock.advance(2.5)
    assert (clock.monotonic(), clock.time_ns()) == (12.5, 12_500_000_000)
