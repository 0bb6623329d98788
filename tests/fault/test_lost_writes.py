"""Writes to Google and Azure that were carried out though their answers were lost: none is sent again blindly.

`test_retries.py` has the same for S3, in more ways.
"""

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from forebay.errors import AlreadyExists
from forebay.stores.azure import AzureStore
from forebay.stores.azure_options import Place
from forebay.stores.azure_options import parse as parse_azure
from forebay.stores.base import Store
from forebay.stores.gcs import GcsStore
from forebay.stores.gcs_options import parse as parse_gcs
from forebay.testing.azurite import Azurite
from forebay.testing.fakegcs import FakeGcs
from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.faults import BEFORE_HEADERS, Cut, Fault, Refuse, Rule, Script, Stall, reset
from forebay.testing.store_contract import chunks_of

WRITES = ("POST", "PUT")
LOST = [reset(), Cut(BEFORE_HEADERS), Stall(), Refuse(503, reaches_server=True)]
"""The server did it, and its answer is lost."""

_numbers = itertools.count()


@pytest.fixture(scope="module")
def fakegcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGcs]:
    with FakeGcs(tmp_path_factory.mktemp("fakegcs")) as server:
        server.make_bucket("writes")
        yield server


@pytest.fixture(params=["gcs", "azure"])
def proxy(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    server = request.getfixturevalue("fakegcs" if request.param == "gcs" else "azurite")
    with FaultProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def store(request: pytest.FixtureRequest, proxy: FaultProxy) -> AsyncIterator[Store]:
    store: GcsStore | AzureStore
    if request.node.callspec.params["proxy"] == "gcs":
        store = GcsStore("writes", parse_gcs({"gs.endpoint": proxy.endpoint, "gs.anonymous": "true"}), deadline_s=3)
    else:
        azurite: Azurite = request.getfixturevalue("azurite")
        name = f"writes-{next(_numbers)}"
        azurite.make_container(name)
        options = azurite.options | {"azure.endpoint": f"{proxy.endpoint}/{azurite.account}"}
        store = AzureStore(name, parse_azure(Place(name), options), deadline_s=3)
    yield store
    await store.close()


def new_key() -> str:
    """One that our own requests read: obstore's way to Google's emulator knows its port, and not the proxy's."""
    return f"odd//{next(_numbers)}"


def writes(proxy: FaultProxy) -> int:
    return sum(proxy.requests[method] for method in WRITES)


@pytest.mark.parametrize("fault", LOST, ids=str)
async def test_a_write_that_was_carried_out_is_not_sent_again(proxy: FaultProxy, store: Store, fault: Fault) -> None:
    key = new_key()
    proxy.script = Script(*(Rule(fault, method, times=1) for method in WRITES))
    meta = await store.put(key, b"once")
    assert writes(proxy) == 1
    assert meta == await store.head(key)


@pytest.mark.parametrize("fault", LOST, ids=str)
async def test_a_conditional_write_that_was_carried_out_does_not_meet_itself(
    proxy: FaultProxy, store: Store, fault: Fault
) -> None:
    key = new_key()
    proxy.script = Script(*(Rule(fault, method, times=1) for method in WRITES))
    await store.put(key, b"once", if_absent=True)
    assert writes(proxy) == 1
    with pytest.raises(AlreadyExists):
        await store.put(key, b"twice", if_absent=True)
    assert bytes(memoryview(await store.get(key))) == b"once"


async def test_a_write_that_never_reached_the_server_is_sent_again(proxy: FaultProxy, store: Store) -> None:
    key = new_key()
    proxy.script = Script(*(Rule(reset(reaches_server=False), method, times=1) for method in WRITES))
    await store.put(key, b"once", if_absent=True)
    assert writes(proxy) == 2
    assert bytes(memoryview(await store.get(key))) == b"once"


@pytest.mark.parametrize("proxy", ["azure"], indirect=True)  # Google's emulator forgets an upload that is complete
async def test_a_stream_whose_last_answer_is_lost_is_stored_whole(proxy: FaultProxy, store: Store) -> None:
    key = new_key()
    proxy.script = Script(Rule(reset(), "PUT", target="blocklist", times=1))
    meta = await store.put_stream(key, chunks_of(b"some", b"thing"))
    assert meta.size == 9
    assert bytes(memoryview(await store.get(key, version=meta.version))) == b"something"
