"""When an object is due by the paces of several jobs; the rest of `coming` is tested against models, in tests/model."""

import random

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


@pytest.mark.parametrize("seed", range(20))
def test_what_is_announced_by_links_is_due_as_if_it_were_announced_itself(seed: int) -> None:
    chance = random.Random(seed)
    by_link, plain = Coming(), Coming()
    for coming in (by_link, plain):
        place = coming.numbers.place(Place("mem://s", "", DATASET, "/", 0))
        for name in ("target", "link", "other link"):
            for number in range(30):
                coming.numbers.add(place, f"{name} {number}")
        for _ in range(2):
            coming.add(Order())
    names = [[chance.choice((0, 30, 60)) + number for number in range(30)] for _ in range(2)]  # each job has its own

    def announce() -> None:
        for job, (order, other) in enumerate(zip(by_link.orders, plain.orders, strict=True)):
            epoch = chance.sample(range(30), 30)
            by_link.announce(order, [by_link.numbers.target(names[job][number]) for number in epoch])
            plain.announce(other, epoch)

    for _ in range(chance.randrange(1, 4)):
        announce()
    links = {name for job in names for name in job if name >= 30}
    for link in chance.sample(sorted(links), len(links)):
        by_link.lead(link, link % 30)
    for _ in range(3):
        announce()
        for _ in range(30):
            assert [by_link.due(number) for number in range(30)] == [plain.due(number) for number in range(30)]
            assert [by_link.due(link) for link in links] == [plain.due(link % 30) for link in links]
            for coming in (by_link, plain):
                for order in coming.orders:
                    coming.advance(order, order.at + 1)
                    coming.used(order.number(order.at - 1))
