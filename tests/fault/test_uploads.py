"""Uploads in parts whose requests fail, between Forebay and a real S3 server; `test_retries.py` has streams."""

import asyncio
import itertools
import re

import pytest

from fault.conftest import BUCKET, MakeStore
from forebay.errors import Denied, FsError, NotFound, StaleVersion, Unavailable
from forebay.stores.base import PART_BYTES_MIN, Upload
from forebay.stores.s3 import S3Store
from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.faults import BEFORE_HEADERS, Cut, Fault, Refuse, Request, Rule, Script, Stall, reset
from forebay.testing.seaweed import SeaweedS3
from forebay.testing.store_contract import chunks_of, pattern
from forebay.types import ByteRange

OLD = pattern(PART_BYTES_MIN + 1)
FIRST = OLD[::-1]
LOST: list[Fault] = [reset(), Cut(BEFORE_HEADERS), Stall(), Refuse(503, reaches_server=True)]
"""The server did it, and its answer is lost."""
COMPLETE = "uploadId=(?!.*partNumber)"

_numbers = itertools.count()


@pytest.fixture
def key(seaweed: SeaweedS3) -> str:
    """An object of `OLD` that no other test knows."""
    key = f"uploads/{next(_numbers)}"
    assert seaweed.request("PUT", f"/{BUCKET}/{key}", OLD)[0] == 200
    return key


@pytest.fixture
async def store(make_store: MakeStore) -> S3Store:
    return make_store(3)


def bytes_in(seaweed: SeaweedS3, key: str) -> bytes | None:
    """What the server has, asked beside the proxy."""
    status, body = seaweed.request("GET", f"/{BUCKET}/{key}")
    return body if status == 200 else None


def uploads(seaweed: SeaweedS3, key: str) -> int:
    """How many uploads of that key are under way."""
    status, answer = seaweed.request("GET", f"/{BUCKET}?uploads=")
    assert status == 200
    return answer.decode().count(f"<Key>{key}</Key>")


async def begun(store: S3Store, key: str) -> Upload:
    """An upload that has all but its last part."""
    upload = await store.upload(key)
    await upload.send(1, FIRST)
    return upload


@pytest.mark.parametrize(
    "fault", [*LOST, Refuse(500), Refuse(503, code="SlowDown"), reset(reaches_server=False)], ids=str
)
async def test_a_part_whose_request_fails_is_sent_again(
    proxy: FaultProxy, store: S3Store, seaweed: SeaweedS3, key: str, fault: Fault
) -> None:
    upload = await store.upload(key)
    proxy.script = Script(Rule(fault, "PUT", "partNumber=1", times=1), Rule(fault, "PUT", "partNumber=2", times=1))
    version = (await store.head(key)).version
    await asyncio.gather(upload.send(1, FIRST), upload.copy(2, key, ByteRange(0, PART_BYTES_MIN), version))
    assert proxy.requests["PUT"] == 4
    await upload.complete()
    assert bytes_in(seaweed, key) == FIRST + OLD[:PART_BYTES_MIN]


@pytest.mark.parametrize("fault", LOST, ids=str)
async def test_a_completion_that_was_carried_out_does_not_meet_itself(
    proxy: FaultProxy, store: S3Store, seaweed: SeaweedS3, key: str, fault: Fault
) -> None:
    before = await store.head(key)
    for name, version in ((key, before.version), (f"{key}-new", None)):
        upload = await begun(store, name)
        proxy.script = Script(Rule(fault, "POST", COMPLETE, times=1))
        proxy.seen.clear()
        after = await upload.complete(if_version=version, if_absent=version is None)
        assert proxy.requests["POST"] == 1
        assert after.version == (await store.head(name)).version != before.version
        assert bytes_in(seaweed, name) == FIRST
        assert uploads(seaweed, name) == 0


@pytest.mark.parametrize("fault", [reset(reaches_server=False), Refuse(500)], ids=str)
async def test_a_completion_that_never_reached_the_server_is_sent_again(
    proxy: FaultProxy, store: S3Store, seaweed: SeaweedS3, key: str, fault: Fault
) -> None:
    upload = await begun(store, key)
    proxy.script = Script(Rule(fault, "POST", COMPLETE, times=1))
    await upload.complete(if_version=(await store.head(key)).version)
    assert bytes_in(seaweed, key) == FIRST


async def test_a_completion_that_fails_can_be_tried_again_or_aborted(
    proxy: FaultProxy, store: S3Store, seaweed: SeaweedS3, key: str
) -> None:
    proxy.script = Script(Rule(Refuse(500), "POST", COMPLETE))
    again, given_up = await begun(store, key), await begun(store, f"{key}-new")
    for upload in (again, given_up):
        with pytest.raises(Unavailable):
            await upload.complete()
    assert bytes_in(seaweed, key) == OLD
    proxy.script = Script()
    await again.complete()
    await given_up.abort()
    assert bytes_in(seaweed, key) == FIRST
    assert bytes_in(seaweed, f"{key}-new") is None
    assert uploads(seaweed, key) == 0


SAID_IN_A_SUCCESS: list[tuple[bytes, type[FsError]]] = [
    (b"<Error><Code>InternalError</Code></Error>", Unavailable),
    (b"<Error><Code>PreconditionFailed</Code></Error>", StaleVersion),
    (b"", Unavailable),
]


@pytest.mark.parametrize(("body", "kind"), SAID_IN_A_SUCCESS)
async def test_a_failure_that_comes_as_a_success_is_a_failure(
    proxy: FaultProxy, store: S3Store, seaweed: SeaweedS3, key: str, body: bytes, kind: type[FsError]
) -> None:
    """Amazon's status comes before the work is done."""
    upload = await begun(store, key)
    proxy.script = Script(
        Rule(Refuse(200, body=body), "POST", COMPLETE), Rule(Refuse(200, body=body), "PUT", "Number=2")
    )
    with pytest.raises(kind):
        await upload.complete()
    with pytest.raises(kind):
        await upload.copy(2, key, ByteRange(0, 5), (await store.head(key)).version)
    assert bytes_in(seaweed, key) == OLD
    await upload.abort()
    assert uploads(seaweed, key) == 0


@pytest.mark.parametrize("step", ["uploads=", "partNumber=1", COMPLETE], ids=["begin", "send", "complete"])
@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refuse(403, code="AccessDenied"), Denied),
        (Refuse(404, code="NoSuchBucket"), NotFound),
        (Refuse(404, code="NoSuchUpload"), Unavailable),
    ],
    ids=["denied", "gone bucket", "gone upload"],
)
async def test_a_refusal_at_any_step_is_told_by_its_kind_and_leaves_nothing(
    proxy: FaultProxy, store: S3Store, seaweed: SeaweedS3, key: str, step: str, refusal: Fault, kind: type[FsError]
) -> None:
    proxy.script = Script(*(Rule(refusal, method, step) for method in ("POST", "PUT")))
    with pytest.raises(kind):
        await store.put_stream(key, chunks_of(FIRST))
    assert bytes_in(seaweed, key) == OLD
    assert uploads(seaweed, key) == 0


async def test_an_abort_that_fails_is_no_error_and_may_be_tried_again(
    proxy: FaultProxy, store: S3Store, seaweed: SeaweedS3, key: str
) -> None:
    upload = await begun(store, key)
    proxy.script = Script(Rule(Refuse(403, code="AccessDenied"), "DELETE"))
    await upload.abort()
    assert uploads(seaweed, key) == 1
    proxy.script = Script()
    await upload.abort()
    assert uploads(seaweed, key) == 0


async def test_a_copy_from_a_server_that_heeds_no_condition_is_of_the_version_asked_for(
    proxy: FaultProxy, store: S3Store, seaweed: SeaweedS3, key: str
) -> None:
    """Ceph 16 is such a server: what is copied must be looked at."""
    before = await store.head(key)
    assert seaweed.request("PUT", f"/{BUCKET}/{key}", FIRST)[0] == 200
    upload = await store.upload(f"{key}-new")
    copied = Refuse(200, body=b"<CopyPartResult><ETag>&quot;abc&quot;</ETag></CopyPartResult>")
    proxy.script = Script(Rule(copied, "PUT", "partNumber"))
    with pytest.raises(StaleVersion, match=key):
        await upload.copy(1, key, ByteRange(0, 5), before.version)
    await upload.abort()


async def test_an_object_that_has_gone_is_another_version_to_who_replaces_it(
    proxy: FaultProxy, store: S3Store, key: str
) -> None:
    """Amazon says of its condition that there is no such key."""
    version = (await store.head(key)).version
    upload = await begun(store, key)
    gone = Refuse(404, code="NoSuchKey")
    proxy.script = Script(Rule(gone, "POST", COMPLETE), Rule(gone, "PUT"))
    for failing in (upload.complete(if_version=version), store.put(key, b"x", if_version=version)):
        with pytest.raises(StaleVersion):
            await failing
    await upload.abort()


class Watch(Fault):
    """Nothing goes wrong; what is asked is kept."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def ask(self, request: Request) -> Request:
        self.bodies.append(request.body)
        return request


async def test_parts_are_told_in_the_order_of_their_numbers(proxy: FaultProxy, store: S3Store, key: str) -> None:
    """Amazon refuses another order; the servers here would bring it in order themselves."""
    upload = await store.upload(key)
    for number in (10, 9, 1):
        await upload.send(number, FIRST)
    watch = Watch()
    proxy.script = Script(Rule(watch, "POST", COMPLETE))
    await upload.complete()
    assert re.findall(r"<PartNumber>(\d+)<", watch.bodies[0].decode()) == ["1", "9", "10"]
