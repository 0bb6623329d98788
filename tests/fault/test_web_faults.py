"""A web server that fails, or answers something else than was asked for: the right error, and never wrong bytes."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from forebay.errors import Corrupt, FsError, Invalid, StaleVersion, TimedOut, Unavailable
from forebay.stores.web import WebStore
from forebay.stores.web_options import parse
from forebay.testing.fault_server import FaultServer, etag, fault_server
from forebay.testing.faults import Cut, Fault, OtherHeaders, OtherRange, Refuse, Rule, Script, Stall, Together, reset
from forebay.testing.store_contract import pattern
from forebay.types import ByteRange
from forebay.units import MIB

DATA = pattern(4 * MIB)
TAG = etag(DATA).strip('"')
SPAN = ByteRange(MIB, 3 * MIB)
SECRET = "TOPSECRETKEY0123456789"
DEADLINE_S = 1.2
PATIENT_S = 20.0  # where no time is to run out

Read = Callable[[WebStore], Awaitable[bytes]]


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with fault_server() as server:
        server.objects = {"big": DATA, "tab\t": DATA}
        yield server


@pytest.fixture
async def store(server: FaultServer) -> AsyncIterator[WebStore]:
    store = store_at(server)
    yield store
    await store.close()


@pytest.fixture
async def hasty(server: FaultServer) -> AsyncIterator[WebStore]:
    store = store_at(server, deadline_s=DEADLINE_S)
    yield store
    await store.close()


def store_at(server: FaultServer, *, deadline_s: float = PATIENT_S) -> WebStore:
    return WebStore(server.endpoint, parse({"http.token": SECRET}), deadline_s=deadline_s)


async def get(store: WebStore, key: str) -> bytes:
    return bytes(memoryview(await store.get(key, SPAN, version=TAG)))


async def stream(store: WebStore, key: str) -> bytes:
    chunks = store.stream(key, SPAN, version=TAG, chunk_bytes=MIB // 2)
    return b"".join([bytes(memoryview(chunk)) async for chunk in chunks])


READS: dict[str, Read] = {
    "get": lambda store: get(store, "bucket/big"),
    "stream": lambda store: stream(store, "bucket/big"),
    "get of an odd key": lambda store: get(store, "bucket/tab\t"),  # which obstore does not take
    "stream of an odd key": lambda store: stream(store, "bucket/tab\t"),
}
every_read = pytest.mark.parametrize("name", READS)


async def fails(store: WebStore, name: str) -> FsError:
    with pytest.raises(FsError) as failed:
        await READS[name](store)
    assert SECRET not in str(failed.value)
    return failed.value


@every_read
async def test_a_server_that_ignores_the_range_is_read_all_the_same(
    server: FaultServer, store: WebStore, name: str
) -> None:
    server.script = Script(Rule(OtherRange(None)))
    for _ in range(2):
        assert await READS[name](store) == DATA[SPAN.start : SPAN.stop]
    server.script = Script()
    assert await READS[name](store) == DATA[SPAN.start : SPAN.stop]


@every_read
async def test_another_range_than_was_asked_for_is_corrupt(server: FaultServer, store: WebStore, name: str) -> None:
    server.script = Script(Rule(OtherHeaders((("Content-Range", f"bytes 5-{SPAN.size + 4}/{len(DATA)}"),))))
    error = await fails(store, name)
    assert isinstance(error, Corrupt)
    assert "sent another range than was asked for" in str(error)


@every_read
@pytest.mark.parametrize("tag", ['"another"', f'W/"{TAG}"', ""])
async def test_another_version_is_stale_even_if_the_server_ignores_conditions(
    server: FaultServer, store: WebStore, name: str, tag: str
) -> None:
    for whole in (False, True):
        server.script = Script(Rule(Together((OtherHeaders((("ETag", tag),)), *([OtherRange(None)] if whole else [])))))
        assert isinstance(await fails(store, name), StaleVersion)


@every_read
@pytest.mark.parametrize("fault", [Refuse(500), Refuse(503), Refuse(429), reset()])
async def test_a_failure_that_passes_is_not_seen(server: FaultServer, store: WebStore, name: str, fault: Fault) -> None:
    server.faults.append(fault)
    assert await READS[name](store) == DATA[SPAN.start : SPAN.stop]


@pytest.mark.parametrize("name", ["get", "get of an odd key"])
async def test_an_answer_cut_short_is_asked_for_again(server: FaultServer, store: WebStore, name: str) -> None:
    for whole in (False, True):
        server.faults.append(Together((Cut(100_000), *([OtherRange(None)] if whole else []))))
        assert await READS[name](store) == DATA[SPAN.start : SPAN.stop]


async def test_a_stream_that_is_always_cut_says_so(server: FaultServer, store: WebStore) -> None:
    server.script = Script(Rule(Cut(0)))
    assert isinstance(await fails(store, "stream of an odd key"), Unavailable)


@every_read
async def test_a_server_that_hangs_is_a_timeout(
    server: FaultServer, store: WebStore, hasty: WebStore, name: str
) -> None:
    server.script = Script(Rule(Stall()))
    assert isinstance(await fails(hasty, name), TimedOut)
    server.script = Script()
    assert await READS[name](store) == DATA[SPAN.start : SPAN.stop]


@pytest.mark.parametrize(
    ("location", "kind", "says"),
    [
        ("", Corrupt, "nowhere"),
        ("http://[bad", Corrupt, "a URL that is none"),
        (f"http://me:{SECRET}@127.0.0.1/x", Corrupt, "nowhere"),
        ("ftp://127.0.0.1/x", Invalid, "from http to ftp, which is not followed"),
        ("http://127.0.0.1:1/gone", Unavailable, "cannot be reached.*leads on to 127.0.0.1:1, and it is there"),
    ],
)
async def test_a_redirect_that_leads_nowhere(
    server: FaultServer, store: WebStore, location: str, kind: type[FsError], says: str
) -> None:
    server.script = Script(Rule(Refuse(302, headers=(("Location", location),))))
    with pytest.raises(kind, match=says) as failed:
        await store.head("bucket/big")
    assert SECRET not in str(failed.value)


async def test_a_weak_etag_is_no_version(server: FaultServer, store: WebStore) -> None:
    server.script = Script(Rule(OtherHeaders((("ETag", 'W/"x"'),))))
    meta = await store.head("bucket/big")
    assert meta.version == f"{len(DATA)}-{meta.mtime_ns // 1_000_000_000}"
    assert bytes(memoryview(await store.get(meta.key, SPAN, version=meta.version))) == DATA[SPAN.start : SPAN.stop]


async def test_bytes_are_asked_for_as_they_are_stored(server: FaultServer, store: WebStore) -> None:
    for read in READS.values():
        await read(store)
    assert len(server.seen) == 4
    assert all(asked.headers["accept-encoding"] == "identity" for asked in server.seen)
    assert all(asked.headers["authorization"] == f"Bearer {SECRET}" for asked in server.seen)
    assert all(asked.headers["if-match"] == f'"{TAG}"' for asked in server.seen)
