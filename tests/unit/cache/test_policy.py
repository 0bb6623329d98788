"""`keep`: take room only from the idle, longest idle first; `lru`: then from oneself."""

from forebay.cache.policy import IDLE_S, IDLE_SAME_MOUNT_S, Dataset, Use, plan_eviction

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
