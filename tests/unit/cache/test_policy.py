"""`keep`: take room only from the idle, longest idle first; `lru`: then from oneself."""

import random

import pytest

from forebay.cache.policy import IDLE_S, IDLE_SAME_MOUNT_S, Dataset, Use, plan_eviction
from forebay.testing.simulation import Read, best, epochs, hits_announced, hits_of, in_turns

NOW = 100_000.0
ME, OTHER, THIRD = Dataset("s3://me/", ""), Dataset("s3://other/", "train"), Dataset("s3://third/", "")


def test_keep_never_takes_from_the_asking_data_set() -> None:
    assert plan_eviction(ME, 1, [Use(ME, 100, 0.0)], now_s=NOW, policy="keep") is None


def test_keep_does_not_admit_while_every_other_data_set_is_in_use() -> None:
    uses = [Use(ME, 100, NOW), Use(OTHER, 100, NOW - IDLE_S + 1)]
    assert plan_eviction(ME, 1, uses, now_s=NOW, policy="keep") is None


def test_the_longest_idle_data_set_gives_first_and_only_what_is_needed() -> None:
    uses = [Use(OTHER, 100, NOW - IDLE_S), Use(THIRD, 30, NOW - IDLE_S - 5), Use(ME, 100, NOW)]
    assert plan_eviction(ME, 50, uses, now_s=NOW, policy="keep") == [(THIRD, 30), (OTHER, 20)]


def test_a_sibling_folder_of_the_same_mount_must_be_idle_for_longer() -> None:
    train, val = Dataset("s3://me/", "train"), Dataset("s3://me/", "val")
    young, old = Use(val, 10, NOW - IDLE_S), Use(val, 10, NOW - IDLE_SAME_MOUNT_S)
    assert plan_eviction(train, 5, [young], now_s=NOW, policy="keep") is None
    assert plan_eviction(train, 5, [old], now_s=NOW, policy="keep") == [(val, 5)]


def test_lru_takes_from_itself_after_the_idle() -> None:
    uses = [Use(ME, 100, NOW), Use(OTHER, 10, NOW - IDLE_S)]
    assert plan_eviction(ME, 50, uses, now_s=NOW, policy="lru") == [(OTHER, 10), (ME, 40)]


def test_nothing_is_evicted_in_vain() -> None:
    uses = [Use(OTHER, 10, 0.0)]
    assert plan_eviction(ME, 50, uses, now_s=NOW, policy="keep") is None


COUNT = 200
FIRST, SECOND = range(COUNT), range(COUNT, 2 * COUNT)
PATTERNS: dict[
    str, tuple[list[list[list[Read]]], int]
] = {  # what is read, by epoch and job; and how much is not counted
    "one job": (epochs(FIRST, 6), COUNT),
    "a change of data": (epochs(FIRST, 3) + epochs(SECOND, 3, seed=2), 4 * COUNT),
    "two jobs, two data sets": (
        [a + b for a, b in zip(epochs(FIRST, 5), epochs(SECOND, 5, seed=2, first_job=1), strict=True)],
        2 * COUNT,
    ),
}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(
    ("pattern", "behind"), [("one job", 0.01), ("a change of data", 0.03), ("two jobs, two data sets", 0.03)]
)
def test_what_is_kept_hits_as_often_as_with_all_of_the_future_known(pattern: str, behind: float, share: float) -> None:
    orders, skipped = PATTERNS[pattern]
    trace = [read for epoch in orders for read in in_turns(epoch)]
    size = int(share * COUNT)
    counted = len(trace) - skipped
    most = best(trace, size)[skipped:].count(True) / counted
    assert most - hits_of(trace, size, "keep", per_set=COUNT)[skipped:].count(True) / counted <= behind
    assert most - hits_announced(orders, size, known=1, per_set=COUNT)[skipped:].count(True) / counted <= behind


def test_what_is_read_often_hits_more_with_s3fifo_than_with_lru() -> None:
    chance = random.Random(1)
    often = [(0, chance.randrange(20)) if chance.random() < 0.5 else (0, 20 + index % 500) for index in range(5_000)]
    ratios = {policy: hits_of(often, 60, policy, per_set=1_000).count(True) / 5_000 for policy in ("lru", "s3fifo")}
    assert ratios["s3fifo"] > ratios["lru"]
