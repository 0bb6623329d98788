"""A disk is waited for by all only after it was quick for a while, and longer after each stall."""

from forebay.vfs.quickness import QUICK_S, RUN_MAX, RUN_MIN, STALL_S, Quickness


def syncs_until_quick(quickness: Quickness, each_s: float) -> int | None:
    """How many more syncs of that length it takes; None: as many as ever count do not do."""
    for count in range(8 * RUN_MAX):
        if quickness.is_quick:
            return count
        quickness.took(each_s)
    return None


def test_a_disk_that_nobody_knows_is_not_waited_for_until_it_was_quick_for_a_while() -> None:
    assert syncs_until_quick(Quickness(), 0.0) == RUN_MIN


def test_a_disk_that_always_takes_a_little_too_long_is_never_waited_for() -> None:
    assert syncs_until_quick(Quickness(), 1.1 * QUICK_S) is None


def test_a_disk_that_becomes_slow_without_stalls_is_waited_for_no_more() -> None:
    quickness = Quickness()
    assert syncs_until_quick(quickness, 0.0) is not None
    for _ in range(32):
        quickness.took(2 * QUICK_S)
    assert not quickness.is_quick


def test_each_stall_makes_it_longer_up_to_a_bound_and_a_long_time_without_one_shorter() -> None:
    quickness = Quickness()
    waits = []
    for _ in range(8):
        quickness.took(STALL_S)
        waits.append(syncs_until_quick(quickness, 0.0))
    assert waits[0] == 2 * RUN_MIN
    assert waits[-3:] == [RUN_MAX] * 3
    for _ in range(16 * RUN_MAX):
        quickness.took(0.0)
    quickness.took(STALL_S)
    assert syncs_until_quick(quickness, 0.0) == waits[0]
