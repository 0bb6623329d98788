"""When an object is due by the paces of several jobs; the rest of `coming` is tested against models, in tests/model."""

import pytest

from forebay.cache.coming import Coming, Order
from forebay.cache.numbers import Place
from forebay.cache.policy import Dataset

COUNT = 20_000
DATASET = Dataset("mem://s/", "")


@pytest.fixture
def coming() -> Coming:
    """Two jobs, each of which has announced half of the objects."""
    coming = Coming()
    place = coming.numbers.place(Place("mem://s", "", DATASET, "/", 0))
    numbers = [coming.numbers.add(place, str(number)) for number in range(COUNT)]
    for half in (numbers[: COUNT // 2], numbers[COUNT // 2 :]):
        order = Order()
        coming.add(order)
        coming.announce(order, half)
    return coming


def take(coming: Coming, *counts: int) -> None:
    """Each job takes so many samples."""
    for order, count in zip(coming.orders, counts, strict=True):
        coming.advance(order, order.at + count)


def waits(coming: Coming) -> list[int]:
    """After how many samples of all jobs what each reads 1,000 samples later is due."""
    clock = sum(order.at for order in coming.orders)
    return [coming.due(order.number(order.at + 1_000)) - clock for order in coming.orders if order.end]


def test_a_job_that_is_twice_as_fast_comes_twice_as_soon_to_what_it_reads(coming: Coming) -> None:
    assert waits(coming) == [2_000, 2_000]
    for _ in range(400):
        take(coming, 20, 10)
    assert waits(coming) == pytest.approx([1_500, 3_000], rel=0.15)


def test_a_job_that_is_ahead_for_a_moment_is_not_taken_for_a_faster_one(coming: Coming) -> None:
    for _ in range(200):
        take(coming, 10, 10)
    take(coming, 1_100, 0)
    assert waits(coming) == pytest.approx([2_000, 2_000], rel=0.2)


def test_a_job_that_comes_later_is_taken_to_be_as_fast_as_the_others(coming: Coming) -> None:
    take(coming, 3_000, 3_000)
    coming.add(Order())
    assert waits(coming) == [3_000, 3_000]


def test_a_job_that_is_left_alone_takes_all_samples(coming: Coming) -> None:
    take(coming, 2_000, 1_000)
    leaving, staying = coming.orders
    coming.remove(leaving)
    assert coming.due(staying.number(2_000)) == 3_000 + 1_000
