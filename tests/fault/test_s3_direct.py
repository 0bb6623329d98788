"""Small objects on connections of our own: used again, given up when anything is odd, and then asked for otherwise."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forebay.errors import Denied, FsError, NotFound, StaleVersion, Unavailable
from forebay.stores.direct_gets import FAILURES_MAX, HEAD_BYTES_MAX
from forebay.stores.http_calls import CONNECTIONS_MAX
from forebay.stores.s3 import S3Store
from forebay.stores.s3_direct import S3Direct
from forebay.stores.s3_http import S3Http
from forebay.stores.s3_options import parse
from forebay.testing.certificates import make_certificate
from forebay.testing.fault_server import FaultServer, etag, fault_server
from forebay.testing.faults import (
    BEFORE_HEADERS,
    Cut,
    Fault,
    Late,
    OtherBody,
    OtherHeaders,
    OtherRange,
    Refuse,
    Rule,
    Script,
    Short,
    Stall,
    Trickle,
    WrongLength,
    reset,
)
from forebay.testing.store_contract import pattern
from forebay.types import ByteRange
from forebay.units import KIB

DATA = pattern(110 * KIB)
VERSION = etag(DATA).strip('"')
SPAN = ByteRange(1_000, 90_000)


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with fault_server() as server:
        server.objects = {"small": DATA, "odd//small": DATA}
        yield server


@asynccontextmanager
async def store_at(
    endpoint: str, more: dict[str, str] | None = None, *, deadline_s: float = 3
) -> AsyncIterator[S3Store]:
    options = {"s3a.accessKeyID": "ID", "s3a.secretKey": "SECRET", "s3.endpoint": endpoint} | (more or {})
    store = S3Store(FaultServer.bucket, parse(options), deadline_s=deadline_s)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(server: FaultServer) -> AsyncIterator[S3Store]:
    async with store_at(server.endpoint) as store:
        yield store


async def read(store: S3Store, key: str = "small") -> bytes:
    return bytes(await store.get(key, version=VERSION))


def direct_in(server: FaultServer) -> list[bool]:
    """Which requests came the direct way."""
    return [request.headers.get("user-agent") == "forebay" for request in server.seen]


async def test_a_small_object_and_a_part_of_one_are_one_request_each_whatever_the_key(
    server: FaultServer, store: S3Store
) -> None:
    for key in server.objects:
        assert await read(store, key) == DATA
        assert bytes(await store.get(key, SPAN, version=VERSION)) == DATA[slice(*SPAN)]
    assert direct_in(server) == [True] * 4
    assert {request.headers["if-match"] for request in server.seen} == {etag(DATA)}


async def test_an_empty_object_is_one_too(server: FaultServer, store: S3Store) -> None:
    server.objects["small"] = b""
    for _ in range(2):
        assert bytes(await store.get("small", version=etag(b"").strip('"'))) == b""
    assert direct_in(server) == [True] * 2


async def test_a_large_object_and_one_of_unknown_version_go_another_way(server: FaultServer, store: S3Store) -> None:
    large = server.objects["large"] = pattern(5 << 20)
    assert bytes(await store.get("small")) == DATA
    whole = ByteRange(0, len(large))
    assert bytes(await store.get("large", whole, version=etag(large).strip('"'))) == large
    assert not any(direct_in(server))


async def test_a_connection_that_the_server_closed_meanwhile_is_replaced_unseen(
    server: FaultServer, store: S3Store
) -> None:
    server.faults.extend([None, Cut(BEFORE_HEADERS), None, reset(), Cut(len(DATA))])
    for _ in range(5):
        assert await read(store) == DATA
    assert direct_in(server) == [True] * 7


ODD: list[Fault] = [
    Refuse(500),
    Refuse(503, "SlowDown"),
    Refuse(429),
    reset(),
    reset(50),
    Cut(BEFORE_HEADERS),
    Cut(3),
    Cut(50_000),
    Stall(),
    Stall(50_000),
    Short(0, is_chunked=True),
    WrongLength(9),
    OtherHeaders((("ETag", "W/" + etag(DATA)),)),
    OtherHeaders((("ETag", '"other"'),)),
    OtherHeaders((("X-Long", "x" * HEAD_BYTES_MAX),)),
]


@pytest.mark.parametrize("fault", ODD, ids=lambda fault: str(fault)[:60])
async def test_an_answer_that_is_odd_once_is_asked_for_in_the_ordinary_way(
    server: FaultServer, store: S3Store, fault: Fault
) -> None:
    server.faults.append(fault)
    assert await read(store) == DATA
    assert direct_in(server) == [True, False]
    assert await read(store) == DATA
    assert direct_in(server) == [True, False, True]


OTHER: list[Fault] = [
    OtherRange(16),
    OtherRange(None),
    OtherHeaders((("Content-Range", "no"),)),
    Short(7),
    OtherBody(DATA),
    WrongLength(9),
    WrongLength(-9),
]


@pytest.mark.parametrize("fault", OTHER, ids=lambda fault: str(fault)[:60])
async def test_another_range_is_asked_for_in_the_ordinary_way(
    server: FaultServer, store: S3Store, fault: Fault
) -> None:
    server.faults.append(fault)
    assert bytes(await store.get("small", SPAN, version=VERSION)) == DATA[slice(*SPAN)]
    assert direct_in(server) == [True, False]


Change = Callable[[FaultServer], object]
REFUSALS: list[tuple[Change, type[FsError]]] = [
    (lambda server: server.objects.pop("small"), NotFound),
    (lambda server: server.objects.update(small=b"another"), StaleVersion),
    (lambda server: setattr(server, "script", Script(Rule(Refuse(403, "AccessDenied")))), Denied),
    (lambda server: setattr(server, "script", Script(Rule(reset()))), Unavailable),
]


@pytest.mark.parametrize(("change", "kind"), REFUSALS)
async def test_what_fails_for_good_is_told_as_ever(
    server: FaultServer, store: S3Store, change: Change, kind: type[FsError]
) -> None:
    assert await read(store) == DATA
    change(server)
    with pytest.raises(kind):
        await read(store)


async def test_a_server_whose_answers_are_always_odd_is_soon_asked_in_the_ordinary_way_alone(
    server: FaultServer, store: S3Store
) -> None:
    server.script = Script(Rule(OtherHeaders((("ETag", "W/" + etag(DATA)),))))
    for _ in range(FAILURES_MAX + 3):
        assert await read(store) == DATA
    assert direct_in(server) == [True, False] * FAILURES_MAX + [False] * 3


async def test_a_cancelled_read_leaves_no_answer_to_the_next_one(server: FaultServer, store: S3Store) -> None:
    other = server.objects["other"] = DATA[::-1]
    assert await read(store) == DATA
    server.faults.append(Late(0.3))
    reading = asyncio.create_task(read(store))
    while len(server.seen) < 2:
        await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert bytes(await store.get("other", version=etag(other).strip('"'))) == other
    assert direct_in(server) == [True] * 3


async def test_bytes_that_come_slowly_are_no_silence(server: FaultServer, store: S3Store) -> None:
    data = server.objects["slow"] = pattern(640 * KIB)
    server.faults.append(Trickle(400 * KIB))  # for longer than a connection may be silent
    assert bytes(await store.get("slow", version=etag(data).strip('"'))) == data
    assert direct_in(server) == [True]


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ANSWER = b"HTTP/1.1 200 OK\r\netag: %b\r\nCONTENT-LENGTH:%d \r\n\r\n%b" % (etag(DATA).encode(), len(DATA), DATA)


@asynccontextmanager
async def bare_server(serve: Serve) -> AsyncIterator[str]:
    async def until_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    server = await asyncio.start_server(until_the_end, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_there_are_only_so_many_connections_and_who_finds_none_goes_another_way() -> None:
    count, has_direct_way, go_on = CONNECTIONS_MAX + 20, list[bool](), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        has_direct_way.append(b"User-Agent: forebay" in await reader.readuntil(b"\r\n\r\n"))
        if len(has_direct_way) == count:
            go_on.set()
        await go_on.wait()
        writer.write(ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        await writer.drain()

    async with bare_server(serve) as endpoint, store_at(endpoint, deadline_s=60) as store:
        assert await asyncio.gather(*(read(store) for _ in range(count))) == [DATA] * count
    assert has_direct_way.count(True) == CONNECTIONS_MAX


async def test_an_answer_may_come_in_any_pieces() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for size in (1, 7, 100, 4_000, 60_000):
            assert b"User-Agent: forebay" in await reader.readuntil(b"\r\n\r\n")
            few = ANSWER[: 40 * size]
            for piece in [few[at : at + size] for at in range(0, len(few), size)] + [ANSWER[len(few) :]]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)

    async with bare_server(serve) as endpoint, store_at(endpoint) as store:
        for _ in range(5):
            assert await read(store) == DATA


@pytest.mark.parametrize("extra", [b"x", ANSWER.replace(DATA, DATA[::-1])], ids=["a byte", "another answer"])
async def test_a_connection_that_brings_more_than_its_answer_is_not_used_again(extra: bytes) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)
            await writer.drain()
            writer.write(extra)
            await writer.drain()

    async with bare_server(serve) as endpoint, store_at(endpoint) as store:
        for count in range(1, 4):
            assert await read(store) == DATA
            await asyncio.sleep(0.05)  # for the bytes that are too many
            assert connections >= count


async def test_tls_is_checked_as_the_mount_says(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate.public, certificate.private)
    async with fault_server(tls) as server:
        server.objects = {"small": DATA}
        for more in ({"s3.tls.caFile": str(certificate.authority)}, {"s3.tls.verify": "false"}):
            async with store_at(server.endpoint, more) as store:
                assert [await read(store) for _ in range(3)] == [DATA] * 3
        assert direct_in(server) == [True] * 6
        async with store_at(server.endpoint) as store:
            with pytest.raises(Unavailable, match="TLS"):
                await read(store)
        assert len(server.seen) == 6


async def test_no_key_or_signature_goes_out_with_anonymous_access(server: FaultServer) -> None:
    store = S3Store(FaultServer.bucket, parse({"s3.endpoint": server.endpoint, "s3.anonymous": "true"}), deadline_s=3)
    assert await read(store) == DATA
    assert direct_in(server) == [True]
    assert "authorization" not in server.seen[0].headers
    await store.close()


async def test_a_session_token_and_who_pays_are_told_and_signed(server: FaultServer) -> None:
    more = {"s3.sessionToken": "TOKEN", "s3.requesterPays": "true"}
    async with store_at(server.endpoint, more) as store:
        assert await read(store) == DATA
    asked = server.seen[0].headers
    assert (asked["x-amz-security-token"], asked["x-amz-request-payer"]) == ("TOKEN", "requester")
    assert "x-amz-request-payer;x-amz-security-token" in asked["authorization"]


def test_where_the_environment_names_a_proxy_that_is_used_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    def takes() -> bool:
        http = S3Http("bucket", parse({"s3.endpoint": "http://store.example"}), "s3://bucket", deadline_s=3)
        return S3Direct(http, requester_pays=False).takes(None, VERSION)

    monkeypatch.delenv("http_proxy", raising=False)
    assert takes()
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    assert not takes()
    monkeypatch.setenv("no_proxy", "store.example")
    assert takes()
