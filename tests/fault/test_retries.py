"""Requests that fail and are tried again, between Forebay and a real server: when, for how long, and never blindly."""

import asyncio
import itertools
import random
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fault.conftest import BUCKET, MakeStore
from forebay.errors import AlreadyExists, FsError, StaleVersion, Throttled, TimedOut, Unavailable
from forebay.stores import http_calls
from forebay.stores.s3 import S3Store
from forebay.stores.uploads import PART_BYTES
from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.faults import BEFORE_HEADERS, Cut, Fault, Late, Refuse, Rule, Script, Stall, Trickle, reset
from forebay.testing.seaweed import SeaweedS3
from forebay.testing.store_contract import chunks_of, keys_of, pattern
from forebay.types import ByteRange
from forebay.units import MIB

DATA = pattern(3 * MIB)
BIG = pattern(PART_BYTES + 1)
SMALL = b"some bytes"

Call = Callable[[S3Store, str], Awaitable[object]]

_numbers = itertools.count()


@pytest.fixture
def key(seaweed: SeaweedS3) -> str:
    """An object of `DATA` that no other test knows."""
    key = f"retries/{next(_numbers)}"
    assert seaweed.request("PUT", f"/{BUCKET}/{key}", DATA)[0] == 200
    return key


async def read_stream(store: S3Store, key: str) -> bytes:
    meta = await store.head(key)
    chunks = store.stream(key, ByteRange(0, meta.size), version=meta.version, chunk_bytes=MIB)
    return b"".join([bytes(memoryview(chunk)) async for chunk in chunks])


def bytes_in(seaweed: SeaweedS3, key: str) -> bytes | None:
    """What the server has, asked beside the proxy."""
    status, body = seaweed.request("GET", f"/{BUCKET}/{key}")
    return body if status == 200 else None


def pauses(proxy: FaultProxy) -> list[float]:
    """Seconds between the requests that came."""
    return [later.at_s - earlier.at_s for earlier, later in itertools.pairwise(proxy.seen)]


# ---------------------------------------------------------------------- when


@pytest.mark.parametrize("status", [429, 503])
async def test_no_request_comes_before_the_time_that_the_store_named(
    proxy: FaultProxy, make_store: MakeStore, key: str, status: int
) -> None:
    store = make_store(10)
    proxy.faults.extend([Refuse(status, headers=(("Retry-After", "1"),))] * 2)
    assert key in await keys_of(store, key[:-1])
    assert len(pauses(proxy)) == 2
    assert min(pauses(proxy)) >= 1


async def test_a_read_through_obstore_hears_the_time_with_its_second_request(
    proxy: FaultProxy, make_store: MakeStore, key: str
) -> None:
    """obstore keeps the headers of a refusal to itself: the first repeat is ours, and may come early."""
    store = make_store(10)
    proxy.faults.extend([Refuse(429, headers=(("Retry-After", "1"),))] * 2)
    assert bytes(memoryview(await store.get(key))) == DATA
    _, second = pauses(proxy)
    assert second >= 1

    proxy.seen.clear()
    proxy.faults.extend([Refuse(429, headers=(("Retry-After", "1"),))])
    assert bytes(memoryview(await store.get(key))) == DATA  # this store is known to ask for patience by now
    assert min(pauses(proxy)) >= 1


async def test_a_time_that_the_store_names_as_a_date_is_one_too(
    proxy: FaultProxy, make_store: MakeStore, key: str
) -> None:
    dates = (("Date", "Tue, 03 Jun 2025 10:00:00 GMT"), ("Retry-After", "Tue, 03 Jun 2025 10:00:01 GMT"))
    proxy.faults.append(Refuse(503, headers=dates))
    await keys_of(make_store(10), key)
    assert min(pauses(proxy)) >= 1


async def test_a_time_beyond_the_deadline_is_not_waited_for(proxy: FaultProxy, make_store: MakeStore, key: str) -> None:
    """Beyond what is left of it: the second pause would fit the deadline if the first had not been."""
    store = make_store(1.5)
    proxy.script = Script(Rule(Refuse(429, headers=(("Retry-After", "1"),))))
    began = time.monotonic()
    with pytest.raises(Throttled):
        await keys_of(store, key)
    assert len(proxy.seen) == 2
    assert time.monotonic() - began < 1.5  # told at once, not at the deadline


async def test_pauses_grow_and_differ_by_chance(
    proxy: FaultProxy, make_store: MakeStore, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", lambda: 1.0)
    proxy.script = Script(Rule(Refuse(500)))
    with pytest.raises(Unavailable):
        await keys_of(make_store(10), key)
    longest = [http_calls.backoff_s(tried, 1.0) for tried in range(http_calls.RETRIES_MAX)]
    assert longest == sorted(set(longest))
    assert all(pause >= least for pause, least in zip(pauses(proxy), longest, strict=True))
    assert http_calls.backoff_s(3, 0.25) < http_calls.backoff_s(3, 0.5)


# ---------------------------------------------------------------------- for how long


NEVER_RIGHT: list[tuple[Fault, Any]] = [
    (Stall(), TimedOut),
    (Stall(0), TimedOut),
    (Stall(MIB), TimedOut),
    (Cut(BEFORE_HEADERS), Unavailable),
    (reset(), Unavailable),
    (reset(MIB), Unavailable),
    (Late(60), TimedOut),
    (Refuse(500), Unavailable),
    (Refuse(503, "SlowDown"), Unavailable | Throttled),  # HEAD has no body
    (Refuse(429, headers=(("Retry-After", "1"),)), Throttled),
]
DEADLINE_S = 1.5
MARGIN_S = 1.0  # for a busy machine


@pytest.mark.parametrize("call", [S3Store.get, S3Store.head, read_stream], ids=["get", "head", "stream"])
async def test_one_deadline_bounds_all_tries_of_a_call(
    proxy: FaultProxy, make_store: MakeStore, seaweed: SeaweedS3, call: Call
) -> None:
    """All faults at once, each at an object of its own."""
    keys = [f"retries/never-{number}" for number in range(len(NEVER_RIGHT))]
    for key in keys:
        assert seaweed.request("PUT", f"/{BUCKET}/{key}", DATA)[0] == 200
    method = "HEAD" if call is S3Store.head else "GET"
    rules = [Rule(fault, method, f"{key}$") for key, (fault, _) in zip(keys, NEVER_RIGHT, strict=True)]
    proxy.script = Script(*rules)

    async def ends(key: str, fault: Fault, kind: Any) -> None:
        began = time.monotonic()
        failed: FsError | None = None
        try:
            await call(store, key)
        except FsError as error:
            failed = error
        assert time.monotonic() - began < DEADLINE_S + MARGIN_S, fault
        if call is S3Store.get or not isinstance(fault, Stall | Cut) or fault.at < 0:  # else: no body, or gone on with
            assert isinstance(failed, kind), (fault, failed)

    store = make_store(DEADLINE_S)
    await asyncio.gather(*(ends(key, *case) for key, case in zip(keys, NEVER_RIGHT, strict=True)))


async def test_a_stream_that_breaks_goes_on_where_it_was(proxy: FaultProxy, make_store: MakeStore, key: str) -> None:
    store = make_store(10)
    proxy.faults.extend([None, Cut(MIB + 5), reset(700_000), Stall(5)])
    assert await read_stream(store, key) == DATA
    starts = [int(re.findall(r"\d+", asked.headers["range"])[0]) for asked in proxy.seen if asked.method == "GET"]
    assert starts == sorted(starts)
    assert starts[0] == 0 < starts[-1]


async def test_a_stream_whose_every_answer_breaks_comes_whole_if_each_brings_something(
    proxy: FaultProxy, make_store: MakeStore, key: str
) -> None:
    proxy.script = Script(Rule(Cut(900_000), "GET"))  # less than the megabyte that is asked for at a time
    assert await read_stream(make_store(10), key) == DATA


async def test_bytes_that_come_slowly_are_no_failure(proxy: FaultProxy, make_store: MakeStore, key: str) -> None:
    proxy.script = Script(Rule(Trickle(2 * MIB), method="GET"))
    assert bytes(memoryview(await make_store(1).get(key))) == DATA  # longer than the deadline: the caller limits that
    assert await read_stream(make_store(1), key) == DATA


# ---------------------------------------------------------------------- never blindly


LOST = [reset(), Cut(BEFORE_HEADERS), Stall(), Refuse(500, reaches_server=True), Refuse(503, reaches_server=True)]
"""The server did it, and its answer is lost."""


@pytest.mark.parametrize("fault", LOST, ids=str)
async def test_a_put_that_was_carried_out_is_not_sent_again(
    proxy: FaultProxy, make_store: MakeStore, seaweed: SeaweedS3, key: str, fault: Fault
) -> None:
    store = make_store(3)
    proxy.faults.append(fault)
    meta = await store.put(key, SMALL)
    assert proxy.requests["PUT"] == 1
    assert meta == await store.head(key)
    assert bytes_in(seaweed, key) == SMALL


@pytest.mark.parametrize("fault", LOST, ids=str)
async def test_a_conditional_put_that_was_carried_out_does_not_meet_itself(
    proxy: FaultProxy, make_store: MakeStore, seaweed: SeaweedS3, key: str, fault: Fault
) -> None:
    store = make_store(3)
    before = await store.head(key)
    proxy.faults.append(fault)
    after = await store.put(key, SMALL, if_version=before.version)
    assert after.version != before.version
    with pytest.raises(StaleVersion):
        await store.put(key, b"another", if_version=before.version)

    proxy.seen.clear()
    proxy.faults.append(fault)
    await store.put(f"{key}-new", SMALL, if_absent=True)
    assert proxy.requests["PUT"] == 1
    with pytest.raises(AlreadyExists):
        await store.put(f"{key}-new", b"another", if_absent=True)
    assert bytes_in(seaweed, f"{key}-new") == bytes_in(seaweed, key) == SMALL


async def test_a_put_that_never_reached_the_server_is_sent_again(
    proxy: FaultProxy, make_store: MakeStore, seaweed: SeaweedS3, key: str
) -> None:
    store = make_store(3)
    proxy.faults.append(reset(reaches_server=False))
    meta = await store.put(key, SMALL)
    assert bytes_in(seaweed, key) == SMALL
    proxy.faults.append(reset(reaches_server=False))
    await store.put(key, b"another", if_version=meta.version)
    assert bytes_in(seaweed, key) == b"another"


async def test_a_put_that_was_still_under_way_when_it_was_looked_for_is_found_afterwards(
    proxy: FaultProxy, make_store: MakeStore, seaweed: SeaweedS3, key: str
) -> None:
    """The look finds nothing yet; the repeat meets the first try, and that is ours."""
    store = make_store(3)
    version = (await store.head(key)).version
    proxy.faults.extend([reset(), Refuse(404)])
    await store.put(key, SMALL, if_version=version)
    assert proxy.requests["PUT"] == 2
    assert bytes_in(seaweed, key) == SMALL


async def test_what_cannot_be_known_of_a_conditional_put_is_said(
    proxy: FaultProxy, make_store: MakeStore, seaweed: SeaweedS3, key: str
) -> None:
    """Ours was carried out, its answer was lost, and another wrote before we could look."""
    store = make_store(6)
    version = (await store.head(key)).version
    proxy.faults.extend([reset(), Stall()])
    putting = asyncio.create_task(store.put(key, SMALL, if_version=version))
    while proxy.requests["HEAD"] < 2:
        await asyncio.sleep(0.01)
    assert seaweed.request("PUT", f"/{BUCKET}/{key}", b"another's")[0] == 200
    with pytest.raises(Unavailable, match="it is not known whether ours"):
        await putting
    assert bytes_in(seaweed, key) == b"another's"


@pytest.mark.parametrize("fault", LOST, ids=str)
async def test_an_upload_that_was_completed_is_not_completed_again(
    proxy: FaultProxy, make_store: MakeStore, seaweed: SeaweedS3, key: str, fault: Fault
) -> None:
    proxy.script = Script(Rule(fault, method="POST", target="uploadId=", times=1))
    meta = await make_store(3).put_stream(key, chunks_of(BIG))
    assert proxy.requests["POST"] == 2  # one begins, one completes
    assert meta.size == len(BIG)
    assert bytes_in(seaweed, key) == BIG
    assert uploads(seaweed, key) == 0


async def test_an_upload_whose_completion_was_looked_for_too_early_is_whole(
    proxy: FaultProxy, make_store: MakeStore, seaweed: SeaweedS3, key: str
) -> None:
    proxy.script = Script(
        Rule(reset(), method="POST", target="uploadId=", times=1), Rule(Refuse(404), method="HEAD", times=1)
    )
    await make_store(3).put_stream(key, chunks_of(BIG))
    assert bytes_in(seaweed, key) == BIG
    assert uploads(seaweed, key) == 0


@pytest.mark.parametrize("fault", LOST, ids=str)
async def test_a_part_that_is_sent_twice_is_there_once(
    proxy: FaultProxy, make_store: MakeStore, seaweed: SeaweedS3, key: str, fault: Fault
) -> None:
    proxy.script = Script(Rule(fault, method="PUT", target="partNumber=1", times=1))
    await make_store(3).put_stream(key, chunks_of(BIG))
    assert proxy.requests["PUT"] == 3
    assert bytes_in(seaweed, key) == BIG


@pytest.mark.parametrize("fault", LOST, ids=str)
async def test_removing_and_copying_come_to_the_same_when_they_are_done_twice(
    proxy: FaultProxy, make_store: MakeStore, seaweed: SeaweedS3, key: str, fault: Fault
) -> None:
    store = make_store(3)
    proxy.script = Script(Rule(fault, method="PUT", times=1), Rule(fault, method="DELETE", times=1))
    await store.copy(key, f"{key}-copy")
    await store.delete(key)
    assert (proxy.requests["PUT"], proxy.requests["DELETE"]) == (2, 2)
    assert bytes_in(seaweed, f"{key}-copy") == DATA
    assert bytes_in(seaweed, key) is None


def uploads(seaweed: SeaweedS3, key: str) -> int:
    """How many uploads of that key are under way."""
    status, answer = seaweed.request("GET", f"/{BUCKET}?uploads=")
    assert status == 200
    return answer.decode().count(f"<Key>{key}</Key>")
