"""What failed waits longer each time, up to a minute, and not for others."""

from forebay.clock import FakeClock
from forebay.vfs.retries import RETRY_MAX_S, RETRY_S, Retries


def test_each_failure_doubles_the_pause_up_to_a_minute() -> None:
    retries = Retries(FakeClock())
    pauses = [retries.failed("a") for _ in range(9)]
    assert pauses == [RETRY_S * 2**n for n in range(6)] + [RETRY_MAX_S] * 3
    retries.forget("a")
    assert retries.is_due("a")
    assert retries.failed("a") == RETRY_S


def test_a_thing_is_due_when_its_pause_is_over_and_with_another_when_both_are() -> None:
    clock = FakeClock()
    retries = Retries(clock)
    assert retries.wait_s() is None
    retries.failed("a")
    clock.advance(0.5)
    retries.failed("b")
    assert retries.wait_s() == 0.5
    assert (retries.is_due("a"), retries.is_due("other")) == (False, True)
    clock.advance(0.5)
    assert (retries.is_due("a"), retries.is_due("a", "b")) == (True, False)
    clock.advance(0.5)
    assert retries.is_due("a", "b")
    assert retries.wait_s() is None
