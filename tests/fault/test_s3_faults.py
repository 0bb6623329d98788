"""A store that fails in every way that stores fail: the right error within the deadline, and later calls work."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from forebay.errors import Corrupt, Denied, FsError, Invalid, NotFound, StaleVersion, Throttled, TimedOut, Unavailable
from forebay.stores.s3 import S3Store
from forebay.stores.s3_options import parse
from forebay.testing.fault_server import FaultServer, etag, fault_server
from forebay.testing.faults import Cut, Fault, OtherBody, OtherHeaders, OtherRange, Refuse, Rule, Script, Stall, reset
from forebay.testing.store_contract import StoreContract, chunks_of, keys_of, pattern
from forebay.types import Attributes, ByteRange
from forebay.units import MIB

DEADLINE_S = 1.2
PATIENT_S = 20.0  # where no time is to run out
DATA = pattern(4 * MIB)
SMALL = b"some bytes"
SECRET = "TOPSECRETKEY0123456789"

Call = Callable[[S3Store], Awaitable[object]]


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with fault_server() as server:
        server.objects = {"small": SMALL, "big": DATA, "odd//small": SMALL, "odd//big": DATA}
        yield server


@pytest.fixture
async def store(server: FaultServer) -> AsyncIterator[S3Store]:
    store = store_at(server.endpoint)
    yield store
    await store.close()


@pytest.fixture
async def hasty(server: FaultServer) -> AsyncIterator[S3Store]:
    store = store_at(server.endpoint, deadline_s=DEADLINE_S)
    yield store
    await store.close()


def store_at(endpoint: str, deadline_s: float = PATIENT_S, **more: str) -> S3Store:
    options = {"s3a.accessKeyID": "ID", "s3a.secretKey": SECRET, "s3.endpoint": endpoint, **more}
    return S3Store(FaultServer.bucket, parse(options), deadline_s=deadline_s)


async def read_stream(store: S3Store, key: str, version: str | None = None) -> bytes:
    chunks = store.stream(key, ByteRange(0, len(DATA)), version=version or etag(DATA).strip('"'), chunk_bytes=MIB)
    return b"".join([bytes(memoryview(chunk)) async for chunk in chunks])


READS: dict[str, Call] = {
    "head": lambda store: store.head("small"),
    "get": lambda store: store.get("small"),
    "get of a range": lambda store: store.get("small", ByteRange(1, 5), version=etag(SMALL).strip('"')),
    "stream": lambda store: read_stream(store, "big"),
    "list": lambda store: keys_of(store, ""),
    "head of an odd key": lambda store: store.head("odd//small"),
    "get of an odd key": lambda store: store.get("odd//small"),
    "stream of an odd key": lambda store: read_stream(store, "odd//big"),
}
WRITES: dict[str, Call] = {
    "put": lambda store: store.put("new", b"x"),
    "delete": lambda store: store.delete("small"),
    "put_stream": lambda store: store.put_stream("new", chunks_of(b"x")),
}
ALL = READS | WRITES
EACH_WAY = ("get", "list", "put", "stream of an odd key")  # one for each way that a request can take
REFUSALS: list[tuple[Fault, type[FsError]]] = [
    (Refuse(403, code="AccessDenied"), Denied),
    (Refuse(403), Denied),
    (Refuse(401), Denied),
    (Refuse(404, code="NoSuchBucket"), NotFound),
    (Refuse(400, code="BadRequest"), Invalid),
]
BEYOND = (("Retry-After", "3600"),)  # every deadline
PASSING: list[tuple[Fault, type[FsError]]] = [
    (Refuse(500, code="InternalError"), Unavailable),
    (Refuse(503, code="ServiceUnavailable", headers=BEYOND), Unavailable),
    (Refuse(503, code="SlowDown", headers=BEYOND), Throttled),
    (Refuse(429), Throttled),
    (reset(reaches_server=False), Unavailable),
]
CASES = [(name, *case) for case in REFUSALS for name in ALL] + [(name, *case) for case in PASSING for name in EACH_WAY]


async def fails(store: S3Store, call: Call) -> FsError:
    """The error of a call, which must come in time and tell no secret."""
    with pytest.raises(FsError) as failed:
        await asyncio.wait_for(call(store), PATIENT_S)
    assert SECRET not in str(failed.value)
    assert SECRET not in repr(failed.value.__cause__)
    return failed.value


@pytest.mark.parametrize(("name", "fault", "kind"), CASES)
async def test_a_refusal_is_told_by_its_kind_and_later_calls_work(
    server: FaultServer, store: S3Store, name: str, fault: Fault, kind: type[FsError]
) -> None:
    server.script = Script(Rule(fault))
    if name == "delete" and isinstance(fault, Refuse) and fault.status == 404:
        return  # what is not there needs no deletion
    error = await fails(store, ALL[name])
    if "head" in name and isinstance(fault, Refuse) and fault.code in ("SlowDown", "NoSuchBucket"):
        assert isinstance(error, kind | Unavailable)  # HEAD has no body that could say why
    else:
        assert isinstance(error, kind), error
    server.script = Script()
    assert bytes(memoryview(await store.get("small"))) == SMALL


@pytest.mark.parametrize("name", EACH_WAY)
async def test_a_server_that_hangs_is_a_timeout_within_the_deadline(
    server: FaultServer, store: S3Store, hasty: S3Store, name: str
) -> None:
    server.script = Script(Rule(Stall()))
    assert isinstance(await fails(hasty, ALL[name]), TimedOut)
    server.script = Script()
    assert bytes(memoryview(await store.get("small"))) == SMALL


@pytest.mark.parametrize("name", EACH_WAY)
@pytest.mark.parametrize(
    "fault",
    [Refuse(500), Refuse(503, code="SlowDown"), Refuse(429), reset(reaches_server=False)],
    ids=["500", "SlowDown", "429", "reset"],
)
async def test_a_failure_that_passes_is_not_seen(server: FaultServer, store: S3Store, name: str, fault: Fault) -> None:
    server.faults.extend([fault, fault])
    await ALL[name](store)
    assert not server.faults


@pytest.mark.parametrize("name", ["get", "get of a range", "stream", "get of an odd key", "stream of an odd key"])
@pytest.mark.parametrize("fault", [Cut(0), Stall(0)], ids=["cut", "stalled"])
async def test_a_body_that_never_comes_whole_is_an_error(
    server: FaultServer, store: S3Store, hasty: S3Store, name: str, fault: Fault
) -> None:
    server.script = Script(Rule(fault))
    assert isinstance(await fails(hasty, READS[name]), Unavailable | TimedOut)
    server.script = Script()
    await READS[name](store)


@pytest.mark.parametrize("name", ["get", "get of a range", "stream", "get of an odd key"])
async def test_a_body_that_is_cut_once_is_fetched_to_its_end(server: FaultServer, store: S3Store, name: str) -> None:
    server.faults.append(Cut(3))
    await READS[name](store)


async def test_a_put_whose_time_is_known_is_one_request_and_tells_the_version_of_the_object(
    server: FaultServer, store: S3Store
) -> None:
    put = await store.put("new", b"12345", attributes=Attributes(mtime_ns=1_700_000_000_000_000_007))
    assert server.requests == {"PUT": 1}
    assert (put.size, put.mtime_ns) == (5, 1_700_000_000_000_000_007)
    assert put.version == (await store.head("new")).version


@pytest.mark.parametrize("name", ["get of a range", "stream", "stream of an odd key"])
@pytest.mark.parametrize(
    "fault",
    [
        OtherRange(None),
        OtherHeaders((("Content-Range", f"bytes 0-1/{len(DATA)}"),)),
        OtherHeaders((("Content-Range", "bytes 7-9/10"),)),
        OtherHeaders((("Content-Range", "nonsense"),)),
    ],
    ids=["whole", "other length", "other range", "nonsense"],
)
async def test_another_range_than_was_asked_for_is_corrupt(
    server: FaultServer, store: S3Store, name: str, fault: Fault
) -> None:
    if isinstance(fault, OtherRange) and name != "get of a range":
        pytest.skip("the whole is what these ask for")
    server.script = Script(Rule(fault))
    assert isinstance(await fails(store, READS[name]), Corrupt)
    server.script = Script()
    await READS[name](store)


@pytest.mark.parametrize("key", ["small", "odd//small"])
@pytest.mark.parametrize("body", [b"", b"some", b"some bytes and more"])
async def test_a_body_of_another_length_than_was_asked_for_never_comes_back(
    server: FaultServer, store: S3Store, key: str, body: bytes
) -> None:
    server.script = Script(Rule(OtherBody(body)))
    span, version = ByteRange(0, len(SMALL)), etag(SMALL).strip('"')
    assert isinstance(await fails(store, lambda store: store.get(key, span, version=version)), Corrupt | Unavailable)
    server.script = Script()
    assert bytes(memoryview(await store.get(key, span, version=version))) == SMALL


@pytest.mark.parametrize("name", ["get of a range", "stream", "stream of an odd key"])
async def test_another_etag_in_the_answer_is_stale_even_if_the_server_ignores_conditions(
    server: FaultServer, store: S3Store, name: str
) -> None:
    server.script = Script(Rule(OtherHeaders((("ETag", '"other"'),))))
    assert isinstance(await fails(store, READS[name]), StaleVersion)


async def test_a_weak_etag_is_the_same_version(server: FaultServer, store: S3Store) -> None:
    server.script = Script(Rule(OtherHeaders((("ETag", "W/" + etag(SMALL)),))))
    for key in ("small", "odd//small"):
        meta = await store.head(key)
        assert meta.version == etag(SMALL).strip('"')
        assert bytes(memoryview(await store.get(key, version=meta.version))) == SMALL


async def test_without_etags_size_and_time_are_the_version(server: FaultServer, store: S3Store) -> None:
    server.script = Script(Rule(OtherHeaders((("ETag", ""),))))
    for key in ("small", "odd//small"):
        meta = await store.head(key)
        assert meta.version.startswith(f"{len(SMALL)}-")
        assert bytes(memoryview(await store.get(key, version=meta.version))) == SMALL
        server.objects[key] = b"changed its size"
        with pytest.raises(StaleVersion):
            await store.get(key, version=meta.version)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>welcome</html>",
        b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>elsewhere/x</Key><Size>1</Size></Contents></ListBucketResult>",
        b"<ListBucketResult>",
    ],
)
async def test_a_listing_that_is_none_is_corrupt(server: FaultServer, store: S3Store, body: bytes) -> None:
    server.script = Script(Rule(OtherBody(body)))
    assert isinstance(await fails(store, lambda store: keys_of(store, "folder/")), Corrupt)
    if body != b"":
        error = await fails(store, lambda store: store.probe("folder/"))
        assert "s3.endpoint" in str(error)


async def test_a_listing_that_goes_in_circles_is_corrupt(server: FaultServer, store: S3Store) -> None:
    again = b"<NextContinuationToken>again</NextContinuationToken><IsTruncated>true</IsTruncated>"
    server.script = Script(Rule(OtherBody(b"<ListBucketResult>" + again + b"</ListBucketResult>")))
    assert isinstance(await fails(store, lambda store: keys_of(store, "")), Corrupt)


async def test_a_listing_goes_on_after_a_failed_page(server: FaultServer, store: S3Store) -> None:
    server.objects = {f"k{number:02}": b"x" for number in range(25)}
    server.page_keys = 10
    server.faults.extend([None, Refuse(503), None, reset(reaches_server=False)])
    assert await keys_of(store, "") == sorted(server.objects)


async def test_a_listing_asks_once_for_each_page_and_not_beyond_what_is_read(
    server: FaultServer, store: S3Store
) -> None:
    server.objects = {f"k{number:02}": b"x" for number in range(25)}
    server.page_keys = 10
    pages = store.list("")
    await anext(pages)
    assert server.requests["GET"] == 1
    assert len([page async for page in pages]) == 2
    assert server.requests["GET"] == 3


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(server: FaultServer, store: S3Store) -> None:
    server.script = Script(Rule(Refuse(503, code="SlowDown", headers=BEYOND)))
    assert isinstance(await fails(store, lambda store: keys_of(store, "")), Throttled)
    assert server.requests["GET"] == 1


async def test_a_whole_object_is_one_request_and_so_is_a_stream(server: FaultServer, store: S3Store) -> None:
    for call in ("get", "get of a range", "stream", "get of an odd key", "stream of an odd key"):
        server.seen.clear()
        await READS[call](store)
        assert server.requests == {"GET": 1}, call


@pytest.mark.parametrize("name", ["get of a range", "stream", "stream of an odd key"])
async def test_a_version_is_asked_of_the_store_so_that_no_other_bytes_travel(
    server: FaultServer, store: S3Store, name: str
) -> None:
    await READS[name](store)
    assert server.seen[-1].headers["if-match"] in (etag(SMALL), etag(DATA))


async def test_slow_bytes_are_no_silence(server: FaultServer) -> None:
    """A stream whose reader takes its time is not cut off by the deadline of one step."""
    store = store_at(server.endpoint, deadline_s=1.0)
    chunks = store.stream("big", ByteRange(0, len(DATA)), version=etag(DATA).strip('"'), chunk_bytes=MIB)
    got = [bytes(memoryview(await anext(chunks)))]
    await asyncio.sleep(1.2)  # the reader, not the server, lets the deadline pass
    got += [bytes(memoryview(chunk)) async for chunk in chunks]
    assert b"".join(got) == DATA
    await store.close()


class TestOddKeys:
    """Keys as only a server that takes any key can hold them."""

    odd_keys = ("a//b", "a/../b", "/a", "./a", "a/.", "a/b//", "..", "new\nline/", "\udcff\udcfe")
    in_key_order = True
    names_of_files_and_folders_meet = True
    empty_folders_go = True
    names = StoreContract.names
    fill = StoreContract.fill
    assert_nothing_is_left = StoreContract.assert_nothing_is_left
    test_keys_that_no_path_can_say_come_whole = StoreContract.test_keys_that_no_path_can_say_come_whole
    test_keys_come_in_the_order_of_their_bytes = StoreContract.test_keys_come_in_the_order_of_their_bytes
    test_any_name_that_a_file_can_have_is_a_key = StoreContract.test_any_name_that_a_file_can_have_is_a_key
    test_an_empty_folder = StoreContract.test_an_empty_folder_is_an_empty_object_whose_key_ends_in_a_slash

    @pytest.fixture(autouse=True)
    def empty(self, server: FaultServer) -> None:
        server.objects.clear()
