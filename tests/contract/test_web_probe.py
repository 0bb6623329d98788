"""Web servers as they are: what a mount's URL may name, credentials, redirects, and what servers leave out."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import pytest

from forebay.config.settings import Settings
from forebay.errors import (
    Corrupt,
    Denied,
    FsError,
    Invalid,
    NotFound,
    StaleVersion,
    Throttled,
    TimedOut,
    Unavailable,
    Unsupported,
)
from forebay.stores.registry import open_store
from forebay.stores.web import WebStore
from forebay.testing.certificates import make_certificate
from forebay.testing.nginx import Nginx
from forebay.testing.store_contract import keys_of, pages_of, pattern
from forebay.types import ByteRange, FolderMeta, ObjectMeta
from forebay.units import MIB

DATA = pattern(3 * MIB)
SECRET = "notTheSecretOfThisServer"
FILES = {"one": b"the first file", "folder/two": b"the second", "folder/big": DATA, "folder/forbidden": b"no"}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Another server, to which `site` leads."""
    with Nginx(tmp_path_factory.mktemp("other")) as server:
        fill(server)
        yield server


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, other: Nginx) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("site"), elsewhere=other.url) as server:
        fill(server)
        yield server


def fill(server: Nginx) -> None:
    for key, data in FILES.items():
        path = server.root / key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


@asynccontextmanager
async def opened(
    url: str, options: Mapping[str, str] = MappingProxyType({}), *, deadline_s: float = 5
) -> AsyncIterator[tuple[WebStore, str]]:
    """A store, and the prefix in it."""
    store, prefix = open_store(url, options, settings=Settings(home=Path("/nowhere"), store_deadline_s=deadline_s))
    assert isinstance(store, WebStore)
    try:
        yield store, prefix
    finally:
        await store.close()


async def refused(url: str, options: Mapping[str, str] = MappingProxyType({}), *, deadline_s: float = 5) -> FsError:
    """The error of a probe, which names the server and no secret."""
    with pytest.raises(FsError) as failed:
        async with opened(url, options, deadline_s=deadline_s) as (store, prefix):
            await store.probe(prefix)
    assert url.split("/")[2] in failed.value.message
    assert SECRET not in str(failed.value)
    return failed.value


async def assert_reads(url: str, options: Mapping[str, str] = MappingProxyType({})) -> WebStore:
    """All that a mount does with the files works at that URL; the store, closed."""
    async with opened(url, options) as (store, prefix):
        await store.probe(prefix)
        assert await keys_of(store, prefix) == [prefix + "folder/", prefix + "one"]
        assert await keys_of(store, prefix, recursive=True) == [prefix + key for key in sorted(FILES)]
        big, one = prefix + "folder/big", prefix + "one"
        meta = await store.head(big)
        assert meta.size == len(DATA)
        assert isinstance(await store.stat(prefix + "folder"), FolderMeta)
        assert bytes(memoryview(await store.get(one, version=(await store.head(one)).version))) == FILES["one"]
        span = ByteRange(MIB + 1, 2 * MIB + 5)
        assert bytes(memoryview(await store.get(big, span, version=meta.version))) == DATA[span.start : span.stop]
        chunks = [
            bytes(memoryview(chunk))
            async for chunk in store.stream(big, span, version=meta.version, chunk_bytes=MIB // 2)
        ]
        assert b"".join(chunks) == DATA[span.start : span.stop]
        with pytest.raises(NotFound):
            await store.head(prefix + "nothing")
    return store


# ---------------------------------------------------------------- what a URL may name


async def test_a_folder_is_read_with_and_without_the_slash_at_its_end(site: Nginx) -> None:
    for url in (f"{site.url}/folder/", f"{site.url}/folder"):
        async with opened(url) as (store, prefix):
            await store.probe(prefix)
            assert prefix == "folder/"
            assert await keys_of(store, prefix) == ["folder/big", "folder/forbidden", "folder/two"]
            assert (await store.head("folder/two")).size == len(FILES["folder/two"])
    await assert_reads(site.url)
    await assert_reads(f"{site.url}/")


async def test_the_url_of_one_file_shows_a_folder_with_that_file(site: Nginx) -> None:
    async with opened(f"{site.url}/folder/big") as (store, prefix):
        assert prefix == "folder/big/"
        meta = await store.head("folder/big/big")  # the first question after a restart need not be `probe`
        await store.probe(prefix)
        for recursive in (False, True):
            assert [page.objects for page in await pages_of(store, prefix, recursive=recursive)] == [[meta]]
        assert await keys_of(store, prefix, start_after=meta.key) == []
        assert await store.stat(meta.key) == meta
        assert isinstance(await store.stat("folder/big"), FolderMeta)
        for version in (None, meta.version):
            assert bytes(memoryview(await store.get(meta.key, ByteRange(5, 9), version=version))) == DATA[5:9]
        for key in ("folder/big/two", "folder/two", "folder/big/big/big"):
            with pytest.raises(NotFound, match="the mount shows one file"):
                await store.head(key)


async def test_a_url_at_which_nothing_is(site: Nginx) -> None:
    for path in ("nothing", "nothing/", "folder/nothing"):
        assert isinstance(await refused(f"{site.url}/{path}"), NotFound)


async def test_paths_are_percent_encoded_once(site: Nginx) -> None:
    (site.root / "sp ace %41").mkdir(exist_ok=True)
    (site.root / "sp ace %41" / "f#").write_bytes(b"x")
    try:
        for url in (f"{site.url}/sp%20ace%20%2541/", f"{site.url}/sp ace %2541/"):
            async with opened(url) as (store, prefix):
                assert await keys_of(store, prefix) == ["sp ace %41/f#"]
                version = (await store.head("sp ace %41/f#")).version
                assert bytes(memoryview(await store.get("sp ace %41/f#", version=version))) == b"x"
    finally:
        (site.root / "sp ace %41" / "f#").unlink()
        (site.root / "sp ace %41").rmdir()


# ---------------------------------------------------------------- pages that are no index


async def test_a_folder_without_an_index_is_read_by_name_if_the_mount_says_so(site: Nginx) -> None:
    error = await refused(f"{site.url}/-/unlisted/")
    assert isinstance(error, Denied)
    assert "add --option http.index=none to read files by name" in str(error)
    async with opened(f"{site.url}/-/unlisted/", {"http.index": "none"}) as (store, prefix):
        await store.probe(prefix)
        assert (await store.head(prefix + "folder/two")).size == len(FILES["folder/two"])
        assert isinstance(await store.stat(prefix + "folder"), FolderMeta)
        with pytest.raises(Unsupported, match="files are found by name only"):
            await keys_of(store, prefix)


async def test_an_ordinary_page_is_not_taken_for_an_index_unless_the_mount_says_so(site: Nginx) -> None:
    error = await refused(f"{site.url}/-/site/")
    assert isinstance(error, Unsupported)
    assert "http.index=none to read files by name, or http.index=links" in str(error)
    async with opened(f"{site.url}/-/site/", {"http.index": "links"}) as (store, prefix):
        await store.probe(prefix)
        assert await keys_of(store, prefix) == [prefix + "data.bin"]


async def test_a_file_that_may_not_be_read_is_listed_and_its_read_is_denied(site: Nginx) -> None:
    async with opened(f"{site.url}/folder/") as (store, prefix):
        [page] = await pages_of(store, prefix)
        [meta] = [meta for meta in page.objects if meta.key == "folder/forbidden"]
        with pytest.raises(Denied, match="forbids it"):
            await store.get(meta.key, ByteRange(0, meta.size), version=meta.version)


async def test_a_server_that_leads_round_in_its_folders_is_given_up(site: Nginx) -> None:
    (site.root / "loop").symlink_to(".")
    try:
        async with opened(site.url) as (store, prefix):
            assert "loop/" in await keys_of(store, prefix)
            with pytest.raises(Unsupported, match="folders in folders without an end"):
                await keys_of(store, prefix, recursive=True)
    finally:
        (site.root / "loop").unlink()


# ---------------------------------------------------------------- credentials


async def test_a_user_and_a_password(site: Nginx) -> None:
    url = f"{site.url}/-/private/"
    error = await refused(url)
    assert isinstance(error, Denied)
    assert "asks for credentials; add --option http.user=" in str(error)
    error = await refused(url, {"http.user": site.user, "http.password": SECRET})
    assert isinstance(error, Denied)
    assert "does not take these credentials" in str(error)
    await assert_reads(url, {"http.user": site.user, "http.password": site.password})


async def test_a_token_and_a_header_of_the_mount_s_own(site: Nginx) -> None:
    url = f"{site.url}/-/keyed/"
    assert isinstance(await refused(url, {"http.header.X-Key": SECRET}), Denied)
    store = await assert_reads(url, {"http.header.X-Key": site.secret, "http.token": SECRET})
    assert SECRET not in repr(store)
    assert site.secret not in repr(vars(store)["_http"])
    sent = [line for line in site.requests() if line.endswith(f"Bearer {SECRET} {site.secret}")]
    assert any(line.startswith("GET /-/keyed/folder/big 206") for line in sent)


async def test_netrc_does_not_mix_in(site: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login someone password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    await assert_reads(f"{site.url}/-/private/", {"http.user": site.user, "http.password": site.password})
    await assert_reads(site.url)
    assert site.requests()[-1].endswith(" - -")


# ---------------------------------------------------------------- redirects


async def test_redirects_are_followed(site: Nginx) -> None:
    await assert_reads(f"{site.url}/-/moved/")


async def test_credentials_are_not_sent_to_the_server_that_a_redirect_leads_to(site: Nginx, other: Nginx) -> None:
    url, before = f"{site.url}/-/elsewhere/", len(other.requests())
    await assert_reads(url, {"http.token": SECRET})
    await assert_reads(url, {"http.token": SECRET, "http.header.X-Key": SECRET})
    asked = other.requests()[before:]
    assert any(line.startswith("GET /folder/big 206") for line in asked)
    assert not [line for line in asked if SECRET in line]


async def test_a_redirect_that_never_ends(site: Nginx) -> None:
    error = await refused(f"{site.url}/-/circle/")
    assert isinstance(error, Corrupt)
    assert "more than 10 times" in str(error)


# ---------------------------------------------------------------- what servers leave out


async def test_a_server_without_head(site: Nginx) -> None:
    before = len(site.requests())
    await assert_reads(f"{site.url}/-/no-head/")
    assert sum(line.startswith("HEAD ") for line in site.requests()[before:]) <= len(FILES)  # then it is known
    (site.root / "empty").touch()
    try:
        async with opened(f"{site.url}/-/no-head/") as (store, prefix):
            assert (await store.head(prefix + "empty")).size == 0
    finally:
        (site.root / "empty").unlink()


async def test_a_server_without_ranges(site: Nginx) -> None:
    await assert_reads(f"{site.url}/-/no-ranges/")


async def test_without_etags_size_and_time_are_the_version(site: Nginx) -> None:
    store = await assert_reads(f"{site.url}/-/no-tags/")
    assert store.capabilities.conditional_get
    async with opened(f"{site.url}/-/no-tags/") as (store, prefix):
        meta = await store.head(prefix + "one")
        assert meta.version == f"{meta.size}-{meta.mtime_ns // 1_000_000_000}"
        older = f"{meta.size}-{meta.mtime_ns // 1_000_000_000 - 1}"
        with pytest.raises(StaleVersion):
            await store.get(meta.key, version=older)
    assert site.requests()[-1].startswith("GET /-/no-tags/one 412")  # the server itself refused


async def test_a_server_that_tells_sizes_only_is_known_to_show_no_change_that_keeps_the_size(site: Nginx) -> None:
    store = await assert_reads(f"{site.url}/-/sizes-only/")
    assert not store.capabilities.conditional_get


async def test_a_file_of_unknown_length_cannot_be_read(site: Nginx) -> None:
    async with opened(f"{site.url}/-/no-length/") as (store, prefix):
        with pytest.raises(Unsupported, match="does not say how long it is"):
            await store.head(prefix + "one")
        [page] = await pages_of(store, prefix + "folder/")
        meta = page.objects[0]
        with pytest.raises(Unsupported, match="does not say how long it is"):
            await store.get(meta.key, ByteRange(0, meta.size), version=meta.version)


# ---------------------------------------------------------------- servers that fail


async def test_a_server_that_refuses_or_fails(site: Nginx) -> None:
    assert isinstance(await refused(f"{site.url}/-/429/", deadline_s=1), Throttled)
    error = await refused(f"{site.url}/-/500/", deadline_s=1)
    assert isinstance(error, Unavailable)
    assert "(500)" in str(error)


async def test_nobody_listens_there_and_no_such_host() -> None:
    assert "cannot be reached: 127.0.0.1:1" in str(await refused("http://127.0.0.1:1/"))
    assert "no such host: no-such-host.invalid" in str(await refused("https://no-such-host.invalid/data/"))


async def test_a_server_that_hangs_is_a_timeout(tmp_path: Path) -> None:
    with Nginx(tmp_path) as server:
        (server.root / "one").write_bytes(b"x")
        async with opened(f"{server.url}/", deadline_s=1) as (store, prefix):
            version = (await store.head("one")).version
            server.pause()
            for call in (store.probe(prefix), store.get("one", version=version), store.head("one")):
                with pytest.raises(TimedOut):
                    await call
            server.resume()
            assert (await store.head("one")).size == 1


async def test_tls(tmp_path: Path) -> None:
    authority, certificate, private = make_certificate(tmp_path)
    server = Nginx(tmp_path / "server")
    server.folder.mkdir()
    server.certificate = (certificate, private)
    with server:
        fill(server)
        error = await refused(server.url)
        assert isinstance(error, Unavailable)
        assert "is not trusted" in str(error)
        assert "http.tls.caFile" in str(error)
        for more in ({"http.tls.caFile": str(authority)}, {"http.tls.verify": "false"}):
            await assert_reads(server.url, more)
        error = await refused(server.url, {"http.tls.caFile": str(tmp_path / "missing.pem")})
        assert isinstance(error, Invalid)
        assert "missing.pem" in str(error)
        error = await refused(server.url.replace("https", "http"))
        assert isinstance(error, Invalid)
        assert "write https://" in str(error)


async def test_tls_where_there_is_none(site: Nginx) -> None:
    error = await refused(site.url.replace("http", "https"))
    assert isinstance(error, Unavailable)
    assert "does not answer in TLS; is it http:// in the URL?" in str(error)


async def test_an_object_of_the_store_is_never_the_page_that_a_folder_shows(site: Nginx) -> None:
    async with opened(site.url) as (store, _):
        meta = await store.head("one")
        assert isinstance(meta, ObjectMeta)
        with pytest.raises(NotFound):
            await store.get("folder")
        for version in (meta.version, "218-0"):
            with pytest.raises((NotFound, StaleVersion)):
                await store.get("folder", ByteRange(0, 1), version=version)
