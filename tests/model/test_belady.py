"""What jobs announce against models so simple that they cannot be wrong: lists, and Belady's MIN by looking ahead."""

from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.cache.coming import NEVER, Coming, Order
from forebay.cache.numbers import Numbers, Place
from forebay.cache.policy import Dataset
from forebay.testing.simulation import Read, best, epochs, hits_announced, in_turns

DATASET = Dataset("mem://0/", "")
traces = st.lists(st.integers(0, 6), min_size=1, max_size=40)


def brute_force(trace: list[int], size: int) -> int:
    """The most hits that any choice of evictions can give, by trying them all at each step."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for found in trace:
        after: dict[frozenset[int], int] = {}
        for state, hits in states.items():
            kept = [state] if found in state else [state, *((state | {found}) - {each} for each in state)]
            if found not in state and len(state) < size:
                kept = [state | {found}]
            for each in kept:
                after[each] = max(after.get(each, 0), hits + (found in state))
        states = after
    return max(states.values())


@given(trace=st.lists(st.integers(0, 5), min_size=1, max_size=14), size=st.integers(1, 4))
def test_the_bound_is_what_trying_everything_gives(trace: list[int], size: int) -> None:
    reads: list[Read] = [(0, found) for found in trace]
    assert best(reads, size).count(True) == brute_force(trace, size)


@given(trace=traces, size=st.integers(1, 5))
def test_with_an_announced_order_the_cache_is_as_good_as_the_bound(trace: list[int], size: int) -> None:
    reads: list[Read] = [(0, found) for found in trace]
    assert hits_announced([[reads]], size, known=1, per_set=100).count(True) >= best(reads, size).count(True)


@settings(deadline=None)
@given(count=st.integers(10, 30), size=st.integers(2, 30), seed=st.integers(0, 1000))
def test_two_jobs_of_which_all_is_known_reach_the_bound(count: int, size: int, seed: int) -> None:
    orders = epochs(range(count), 3, jobs=2, seed=seed)
    trace = [read for epoch in orders for read in in_turns(epoch)]
    most = best(trace, size).count(True)
    assert most - 2 <= hits_announced(orders, size, known=3, per_set=100).count(True) <= most, "turns are not seen"


@given(
    told=st.lists(traces, min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.booleans()), max_size=40),
)
def test_an_object_is_due_when_the_first_of_the_orders_comes_to_it(
    told: list[list[int]], steps: list[tuple[int, int, bool]]
) -> None:
    coming = Coming()
    place = coming.numbers.place(Place("mem://0", "", DATASET, "/", 0))
    for number in range(7):
        coming.numbers.add(place, str(number))
    orders = [Order() for _ in told]
    rests = [list(numbers) for numbers in told]
    for order, numbers in zip(orders, told, strict=True):
        coming.add(order)
        coming.announce(order, numbers)
    for job, number, ends in steps:
        if not orders:
            break
        order, rest = orders[job % len(orders)], rests[job % len(orders)]
        if ends:
            coming.remove(order)
            orders.remove(order)
            del rests[job % len(rests)]
        elif rest:
            coming.advance(order, order.at + 1, behind=0)
            del rest[0]
        uses = [rest.index(number) for rest in rests if number in rest]
        distances = [order.distance(number) for order in orders]
        known = [distance for distance, rest in zip(distances, rests, strict=True) if number in rest]
        assert known == uses
        is_known_at_all = any(distance is not None for distance in distances)
        assert (coming.due(number) < NEVER) == is_known_at_all


@given(
    changes=st.lists(st.tuples(st.sampled_from(["hold", "release", "announce", "pop"]), st.integers(0, 9)), max_size=60)
)
def test_what_is_popped_is_needed_last_and_is_cached(changes: list[tuple[str, int]]) -> None:
    coming = Coming()
    place = coming.numbers.place(Place("mem://0", "", DATASET, "/", 0))
    for number in range(10):
        coming.numbers.add(place, str(number))
    order = Order()
    coming.add(order)
    held: set[int] = set()
    for change, number in changes:
        if change == "hold":
            coming.hold("disk", number, number + 1)
            held.add(number)
        elif change == "release":
            coming.release(number, number + 1)
            held.discard(number)
        elif change == "announce":
            coming.announce(order, [number])
        else:
            dues = {each: coming.due(each) for each in held}
            last = coming.pop("disk", [DATASET], -1)
            assert (last is None) == (not held)
            if last is not None:
                assert dues[last] == max(dues.values())
                coming.release(last, last + 1)
                held.discard(last)


@given(names=st.lists(st.tuples(st.sampled_from(["a", "a/b", ""]), st.text(max_size=3)), max_size=50))
def test_numbers_are_those_of_a_dictionary(names: list[tuple[str, str]]) -> None:
    numbers, model = Numbers(), dict[tuple[str, str], int]()
    for folder, text in names:
        name = text.replace("/", "_")
        place = numbers.place(Place("mem://s", folder, DATASET, f"/m/{folder}", 0))
        assert numbers.add(place, name) == model.setdefault((folder, name), len(model))
    for (folder, name), number in model.items():
        assert numbers.find("mem://s", f"{folder}/{name}" if folder else name) == number
        assert numbers.path(number) == f"/m/{folder}".rstrip("/") + f"/{name}"
