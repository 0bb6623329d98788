"""What Google Cloud Storage says by its documentation and the emulator does not: refusals, halves, tokens of a copy."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from forebay.errors import (
    AlreadyExists,
    Corrupt,
    Denied,
    FsError,
    Invalid,
    NotFound,
    StaleVersion,
    Throttled,
    TimedOut,
    Unavailable,
)
from forebay.stores.gcs import GcsStore
from forebay.stores.gcs_options import parse
from forebay.stores.gcs_upload import PART_BYTES, STALLS_MAX
from forebay.testing.scripted_http import Answer, ScriptedHttp, Seen, scripted_http
from forebay.testing.store_contract import chunks_of, keys_of, pages_of, pattern
from forebay.types import ByteRange
from forebay.units import KIB, MIB

DEADLINE_S = 20.0  # no test waits for it
TOKEN = "ya29.TOPSECRETTOKEN"
OBJECT = {"name": "k", "size": "10", "timeCreated": "2025-06-03T10:00:00.123Z", "generation": "1700000000000001"}
MODIFIED = "Tue, 03 Jun 2025 10:00:00 GMT"
SESSION = "/upload/storage/v1/b/bucket/o?uploadType=resumable&upload_id=SESSION"


@pytest.fixture
async def server() -> AsyncIterator[ScriptedHttp]:
    async with scripted_http() as server:
        yield server


@pytest.fixture
async def store(server: ScriptedHttp) -> AsyncIterator[GcsStore]:
    store = store_at(server)
    yield store
    await store.close()


def store_at(server: ScriptedHttp, **more: str) -> GcsStore:
    options = {"gs.endpoint": server.endpoint} | ({} if "anon" in more else {"gs.token": TOKEN}) | more
    return GcsStore("bucket", parse(options), deadline_s=DEADLINE_S)


def json_error(status: int, reason: str, message: str) -> Answer:
    """An error of the JSON API."""
    errors = [{"domain": "global", "reason": reason, "message": message}]
    return Answer(status, {"error": {"code": status, "message": message, "errors": errors}})


def xml_error(status: int, code: str) -> Answer:
    """An error of the XML API, which obstore speaks."""
    return Answer(status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>.</Message></Error>".encode())


def media(data: bytes, span: ByteRange, generation: str) -> Answer:
    """A part of an object."""
    headers = {
        "Content-Range": f"bytes {span.start}-{span.stop - 1}/{len(data)}",
        "ETag": '"e"',
        "Last-Modified": MODIFIED,
        "x-goog-generation": generation,
    }
    return Answer(206, data[span.start : span.stop], headers)


async def fails(call: Awaitable[object]) -> FsError:
    with pytest.raises(FsError) as failed:
        await call
    assert TOKEN not in str(failed.value)
    assert TOKEN not in repr(failed.value.__cause__)
    assert "gs://bucket" in str(failed.value)
    return failed.value


# ------------------------------------------------------------------ refusals

LACKS = "me@p.iam.gserviceaccount.com does not have storage.objects.list access to the Google Cloud Storage bucket."
REFUSALS: list[tuple[Answer, type[FsError], str]] = [
    (json_error(404, "notFound", "The specified bucket does not exist."), NotFound, "no such bucket"),
    (json_error(403, "forbidden", LACKS), Denied, "the access token of gs.token lacks storage.objects.list"),
    (json_error(401, "authError", "Invalid Credentials"), Denied, "wrong or has expired; mount again with a new gs.to"),
    (
        json_error(400, "required", "Bucket is requester pays bucket but no user project provided."),
        Invalid,
        "add --option gs.userProject=PROJECT",
    ),
    (
        json_error(403, "forbidden", "me does not have serviceusage.services.use access to the project."),
        Denied,
        "may not let the project of gs.userProject pay",
    ),
    (json_error(403, "insufficientPermissions", "Insufficient Permission"), Denied, "scope devstorage.read_write"),
    (json_error(403, "accountDisabled", "The account is disabled."), Denied, "no working billing account"),
    (json_error(403, "rateLimitExceeded", "Slow down."), Throttled, "asks for fewer requests"),
    (json_error(429, "rateLimitExceeded", "Slow down."), Throttled, "asks for fewer requests"),
    (json_error(503, "backendError", "Backend Error"), Unavailable, "the store failed (503 backendError)"),
    (json_error(400, "invalid", f"Bad token {TOKEN}"), Invalid, "refused the request (400 invalid)"),
]


@pytest.mark.parametrize(("answer", "kind", "says"), REFUSALS)
async def test_a_refusal_says_what_is_wrong_and_what_to_do(
    server: ScriptedHttp, store: GcsStore, answer: Answer, kind: type[FsError], says: str
) -> None:
    server.always = answer
    for call in (store.probe("p/"), keys_of(store, "")):
        error = await fails(call)
        assert isinstance(error, kind)
        assert says in str(error)
    error = await fails(store.head("k"))
    assert isinstance(error, kind)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (xml_error(404, "NoSuchBucket"), NotFound, "no such bucket"),
        (xml_error(404, "NoSuchKey"), NotFound, "no such object"),
        (xml_error(403, "AccessDenied"), Denied, "lacks the right to do this"),
        (xml_error(401, "AuthenticationRequired"), Denied, "wrong or has expired"),
        (xml_error(400, "UserProjectMissing"), Invalid, "gs.userProject"),
        (xml_error(403, "UserProjectAccessDenied"), Denied, "gs.userProject"),
        (xml_error(429, "SlowDown"), Throttled, "asks for fewer requests"),
        (xml_error(503, "ServiceUnavailable"), Unavailable, "the store failed"),
    ],
)
async def test_a_refused_read_says_so_too(
    server: ScriptedHttp, store: GcsStore, answer: Answer, kind: type[FsError], says: str
) -> None:
    server.always = answer
    error = await fails(store.get("k"))
    assert isinstance(error, kind)
    assert says in str(error)


async def test_a_bucket_that_is_not_public_says_so_to_an_anonymous_caller(server: ScriptedHttp) -> None:
    server.always = json_error(401, "required", "Anonymous caller does not have storage.objects.list access.")
    store = store_at(server, anon="true")
    error = await fails(store.probe(""))
    assert isinstance(error, Denied)
    assert "not public; give credentials" in str(error)
    assert "authorization" not in server.seen[-1].headers
    await store.close()


@pytest.mark.parametrize("key", ["new\nline", "x" * 1025, "not \udcff utf-8"])
async def test_a_name_that_no_object_can_have_is_not_found_and_cannot_be_written(
    server: ScriptedHttp, store: GcsStore, key: str
) -> None:
    server.always = json_error(400, "invalid", "Disallowed name.")
    assert isinstance(await fails(store.head(key)), NotFound)
    assert isinstance(await fails(store.get(key)), NotFound)
    assert await keys_of(store, key + "/") == []
    error = await fails(store.put(key, b"x"))
    assert isinstance(error, Invalid)
    assert "no object can have that key" in str(error)


async def test_a_failure_that_passes_is_not_seen(server: ScriptedHttp, store: GcsStore) -> None:
    server.answers.extend([Answer(503), Answer(429), Answer(408), Answer(200, OBJECT)])
    assert (await store.head("k")).version == OBJECT["generation"]
    assert not server.answers


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(server: ScriptedHttp, store: GcsStore) -> None:
    server.always = Answer(429, headers={"Retry-After": "3600"})
    assert isinstance(await fails(store.head("k")), Throttled)
    assert len(server.seen) == 1


# ------------------------------------------------------------------ versions


@pytest.mark.parametrize("key", ["k", "odd//k"])
async def test_a_read_names_the_generation_so_that_the_store_itself_refuses_others(
    server: ScriptedHttp, store: GcsStore, key: str
) -> None:
    data, span = pattern(100), ByteRange(10, 20)
    server.always = media(data, span, "7")
    assert bytes(memoryview(await store.get(key, span, version="7"))) == data[10:20]
    assert server.seen[-1].query["generation"] == "7"
    assert server.seen[-1].headers["accept-encoding"] == "gzip", "objects that are stored compressed stay so"
    assert isinstance(await fails(store.get(key, span, version="6")), StaleVersion), "a server that heeds no generation"


@pytest.mark.parametrize("key", ["k", "odd//k"])
@pytest.mark.parametrize("way", ["get", "stream"])
async def test_a_generation_that_has_gone_is_told_from_an_object_that_has(
    server: ScriptedHttp, store: GcsStore, key: str, way: str
) -> None:
    gone = Answer(404, b"No such object")

    async def read() -> None:
        if way == "get":
            await store.get(key, ByteRange(0, 5), version="7")
        else:
            await anext(store.stream(key, ByteRange(0, 5), version="7", chunk_bytes=MIB))

    server.answers.extend([gone, Answer(200, OBJECT)])
    assert isinstance(await fails(read()), StaleVersion)
    server.answers.extend([gone, json_error(404, "notFound", "No such object: bucket/k")])
    assert isinstance(await fails(read()), NotFound)
    server.answers.extend([gone, json_error(403, "forbidden", LACKS)])
    assert isinstance(await fails(read()), Denied)
    assert not server.answers


@pytest.mark.parametrize("key", ["k", "odd//k"])
@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, pattern(100), {"ETag": '"e"', "Last-Modified": MODIFIED, "x-goog-generation": "7"}),
        media(pattern(100), ByteRange(11, 20), "7"),
        media(pattern(100), ByteRange(10, 21), "7"),
    ],
    ids=["whole", "another start", "another end"],
)
async def test_another_range_than_was_asked_for_is_corrupt(
    server: ScriptedHttp, store: GcsStore, key: str, answer: Answer
) -> None:
    server.always = answer
    assert isinstance(await fails(store.get(key, ByteRange(10, 20), version="7")), Corrupt)
    stream = store.stream(key, ByteRange(10, 20), version="7", chunk_bytes=MIB)
    assert isinstance(await fails(anext(stream)), Corrupt)


async def test_the_time_of_an_object_is_that_of_its_bytes(server: ScriptedHttp, store: GcsStore) -> None:
    server.always = Answer(200, OBJECT | {"updated": "2026-01-01T00:00:00Z"})
    assert (await store.head("k")).mtime_ns == 1748944800123000000


async def test_who_pays_is_told_with_every_request(server: ScriptedHttp) -> None:
    store = store_at(server, user_project="payer")
    server.answers.extend([Answer(200, OBJECT), media(pattern(10), ByteRange(0, 5), "7")])
    await store.head("k")
    await store.get("k", ByteRange(0, 5))
    assert [seen.headers["x-goog-user-project"] for seen in server.seen] == ["payer", "payer"]
    assert [seen.headers["authorization"] for seen in server.seen] == [f"Bearer {TOKEN}"] * 2
    await store.close()


# ------------------------------------------------------------------ listings


async def test_a_listing_goes_on_by_token_and_leaves_out_where_it_starts(server: ScriptedHttp, store: GcsStore) -> None:
    named = [OBJECT | {"name": name} for name in ("p/a", "p/b", "p/d")]
    server.answers.extend(
        [
            Answer(200, {"items": named[:2], "nextPageToken": "T1"}),
            Answer(200, {"prefixes": ["p/c/"], "items": named[2:]}),
        ]
    )
    pages = await pages_of(store, "p/", start_after="p/a")
    assert [([meta.key for meta in page.objects], page.folders) for page in pages] == [
        (["p/b"], []),
        (["p/d"], ["p/c/"]),
    ]
    first, second = (seen.query for seen in server.seen)
    assert (first["startOffset"], first["delimiter"], first["maxResults"]) == ("p/a", "/", "1000")
    assert "items(name,size,timeCreated,generation)" in first["fields"]
    assert second["pageToken"] == "T1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>welcome</html>",
        [],
        {"items": [{"name": "p/a"}]},
        {"items": 5},
        {"items": [OBJECT | {"name": "elsewhere/a"}]},
    ],
)
async def test_a_listing_that_is_none_is_corrupt(server: ScriptedHttp, store: GcsStore, body: Any) -> None:
    server.always = Answer(200, body)
    assert isinstance(await fails(keys_of(store, "p/")), Corrupt)
    assert isinstance(await fails(store.probe("p/")), Invalid)


async def test_a_listing_that_goes_in_circles_is_corrupt(server: ScriptedHttp, store: GcsStore) -> None:
    server.always = Answer(200, {"nextPageToken": "again"})
    assert isinstance(await fails(keys_of(store, "")), Corrupt)


# ------------------------------------------------------------------ writes


async def test_a_conditional_put_is_not_repeated_when_its_outcome_is_unknown(
    server: ScriptedHttp, store: GcsStore
) -> None:
    for status in (500, 503):
        server.always = Answer(status)
        server.seen.clear()
        assert isinstance(await fails(store.put("k", b"x", if_absent=True)), Unavailable)
        assert isinstance(await fails(store.put("k", b"x", if_version="7")), Unavailable)
        sent = [seen.query["ifGenerationMatch"] for seen in server.seen if seen.method == "POST"]
        assert sent == ["0", "7"]


async def test_a_conditional_put_that_was_surely_not_carried_out_is_repeated(
    server: ScriptedHttp, store: GcsStore
) -> None:
    server.answers.extend([Answer(429), Answer(200, OBJECT)])
    assert (await store.put("k", b"x", if_absent=True)).version == OBJECT["generation"]


async def test_a_copy_goes_on_until_the_store_has_done_it(server: ScriptedHttp, store: GcsStore) -> None:
    server.answers.extend(
        [
            Answer(200, {"done": False, "rewriteToken": "T1"}),
            Answer(200, {"done": False, "rewriteToken": "T2"}),
            Answer(200, {"done": True, "resource": OBJECT}),
        ]
    )
    assert (await store.copy("from/a", "to/k")).version == OBJECT["generation"]
    assert {seen.path for seen in server.seen} == {"/storage/v1/b/bucket/o/from%2Fa/rewriteTo/b/bucket/o/to%2Fk"}
    assert [seen.query.get("rewriteToken") for seen in server.seen] == [None, "T1", "T2"]


class Session:
    """A resumable upload as Google documents it, which keeps of each part as many bytes as the script says."""

    def __init__(self, keeps: list[int]) -> None:
        self.data = bytearray()
        self.ended = False
        self.largest = 0
        self._keeps = keeps

    def __call__(self, seen: Seen) -> Answer:
        if seen.method == "POST":
            return Answer(200, headers={"Location": f"http://elsewhere.invalid{SESSION}"})
        if seen.method == "DELETE":
            self.ended = True
            return Answer(499)
        self.largest = max(self.largest, len(seen.body))
        span, _, total = seen.headers["content-range"].removeprefix("bytes ").partition("/")
        start = len(self.data) if span == "*" else int(span.partition("-")[0])
        assert start <= len(self.data), "no byte is left out"
        fresh = seen.body[len(self.data) - start :]
        self.data += fresh[: self._keeps.pop(0) if self._keeps else len(fresh)]
        if total != "*" and len(self.data) == int(total):
            return Answer(200, OBJECT | {"size": total})
        return Answer(308, headers={"Range": f"bytes=0-{len(self.data) - 1}"} if self.data else {})


UPLOADED = pattern(2 * PART_BYTES + 5)


def is_same(one: bytearray, other: bytes) -> bool:
    """Without a picture of the difference, which takes pytest minutes."""
    return one == other


@pytest.mark.parametrize(
    "keeps",
    [[], [0], [256 * KIB], [PART_BYTES, 0, 256 * KIB], [PART_BYTES, PART_BYTES, 3], [0] * STALLS_MAX],
    ids=["all", "nothing at first", "a piece", "less and less", "the end in two", "nothing for long"],
)
async def test_an_upload_goes_on_where_the_store_says(server: ScriptedHttp, store: GcsStore, keeps: list[int]) -> None:
    server.always = session = Session(keeps)
    meta = await store.put_stream("k", chunks_of(UPLOADED[:MIB], UPLOADED[MIB:]))
    assert is_same(session.data, UPLOADED)
    assert meta.size == len(UPLOADED)
    assert session.largest == PART_BYTES, "memory is bounded"
    assert not session.ended


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1])
async def test_an_upload_of_any_size_ends(server: ScriptedHttp, store: GcsStore, size: int) -> None:
    server.always = session = Session([])
    assert (await store.put_stream("k", chunks_of(UPLOADED[:size]))).size == size
    assert is_same(session.data, UPLOADED[:size])


async def test_a_part_is_sent_again_when_its_answer_is_lost(server: ScriptedHttp, store: GcsStore) -> None:
    session = Session([])
    failed: list[Answer] = []

    def lose_an_answer(seen: Seen) -> Answer:
        answer = session(seen)
        if seen.method == "PUT" and not failed:
            failed.append(answer)
            return Answer(503)
        return answer

    server.always = lose_an_answer
    await store.put_stream("k", chunks_of(UPLOADED))
    assert is_same(session.data, UPLOADED)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(410), Unavailable),
        (Answer(404), Unavailable),
        (Answer(308, headers={"Range": "bytes=0-99999999"}), Corrupt),
        (Answer(308), Unavailable),
        (json_error(403, "forbidden", LACKS), Denied),
    ],
    ids=["ended", "unknown", "more than was sent", "no progress", "denied"],
)
async def test_an_upload_that_cannot_go_on_is_ended(
    server: ScriptedHttp, store: GcsStore, answer: Answer, kind: type[FsError]
) -> None:
    session = Session([])
    server.always = lambda seen: answer if seen.method == "PUT" else session(seen)
    assert isinstance(await fails(store.put_stream("k", chunks_of(UPLOADED))), kind)
    assert session.ended
    assert server.seen[-1].query["upload_id"] == "SESSION"


@pytest.mark.parametrize("refused", ["POST", "PUT"])  # Google may look at the beginning, and does so at the end
async def test_an_upload_whose_condition_does_not_hold_is_ended(
    server: ScriptedHttp, store: GcsStore, refused: str
) -> None:
    session = Session([])
    not_met = json_error(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
    server.always = lambda seen: not_met if seen.method == refused else session(seen)
    with pytest.raises(AlreadyExists, match="'k' exists already"):
        await store.put_stream("k", chunks_of(UPLOADED), if_absent=True)
    with pytest.raises(StaleVersion):
        await store.put_stream("k", chunks_of(UPLOADED), if_version="7")
    sent = [seen.query.get("ifGenerationMatch") for seen in server.seen if seen.method == "POST"]
    assert sent == ["0", "7"]
    assert session.ended == (refused == "PUT")


async def test_an_upload_whose_writer_fails_is_ended(server: ScriptedHttp, store: GcsStore) -> None:
    server.always = session = Session([])
    with pytest.raises(ConnectionResetError):
        await store.put_stream("k", chunks_of(UPLOADED, then=ConnectionResetError("the writer is gone")))
    assert session.ended


async def test_an_upload_that_is_cancelled_is_ended(server: ScriptedHttp, store: GcsStore) -> None:
    server.always = session = Session([])
    waiting = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield UPLOADED
        waiting.set()
        await asyncio.Event().wait()

    uploading = asyncio.ensure_future(store.put_stream("k", chunks()))
    await waiting.wait()
    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await uploading
    assert session.ended


# ------------------------------------------------------------------ every way to a failure

CALLS: dict[str, Callable[[GcsStore], Awaitable[object]]] = {
    "head": lambda store: store.head("k"),
    "get": lambda store: store.get("k"),
    "get of an odd key": lambda store: store.get("odd//k"),
    "list": lambda store: keys_of(store, ""),
    "put": lambda store: store.put("k", b"x"),
    "put_stream": lambda store: store.put_stream("k", chunks_of(b"x")),
    "copy": lambda store: store.copy("k", "l"),
    "delete": lambda store: store.delete("k"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_server_that_nobody_reaches_is_unavailable(name: str) -> None:
    store = GcsStore("bucket", parse({"gs.endpoint": "http://127.0.0.1:1", "gs.token": TOKEN}), deadline_s=1)
    error = await fails(CALLS[name](store))
    assert isinstance(error, Unavailable | TimedOut)
    assert "127.0.0.1:1" in str(error)
    await store.close()
