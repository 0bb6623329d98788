"""The admin API through the real client, and against clients that do not behave."""

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.conftest import show
from forebay.daemon.client import Client
from forebay.errors import AlreadyExists, Busy, Invalid, IsADirectory, NotFound, ReadOnly, Unavailable
from forebay.testing.daemons import RunForebay, end_daemon, temporary_home, wait_until

MIB = 1 << 20


@pytest.fixture
def client(mounted: Path, forebay_home: Path) -> Client:
    return Client(forebay_home / "daemon.sock")


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Path]:
    """A home whose daemon all tests of this module share that change nothing."""
    with temporary_home() as home:
        yield home


@pytest.fixture(scope="module")
def shared(shared_home: Path) -> Client:
    data = shared_home.parent / "data"
    (data / "sub").mkdir(parents=True)
    (data / "a.txt").write_bytes(b"hello\n")
    (data / "sub" / "b").write_bytes(b"b")
    show(shared_home, data)
    return Client(shared_home / "daemon.sock")


def raw(home: Path, request: bytes, *, shut: bool = True) -> bytes:
    """What the socket answers to bytes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(home / "daemon.sock"))
        connection.sendall(request)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def file_count(client: Client) -> int:
    return int(list(client.stream("GET", "/v1/fs/usage", query={"path": "/data"}))[-1]["files"])


# ---------------------------------------------------------------- reading and writing


def test_any_part_of_a_file_can_be_read(client: Client, mounted: Path) -> None:
    content = (mounted / "sub" / "big").read_bytes()
    path = "/data/in/sub/big"
    for offset, length in ((0, None), (5, 10), (MIB - 1, 2), (-3, None), (-3, 2), (len(content), 1), (9 * MIB, None)):
        start = offset if offset >= 0 else len(content) + offset
        expected = content[start:] if length is None else content[start : start + length]
        assert b"".join(client.read(path, offset=offset, length=length)) == expected


def test_a_file_is_written_whole_and_read_back(client: Client, mounted: Path) -> None:
    content = os.urandom(20 * MIB)
    chunks = (content[start : start + MIB] for start in range(0, len(content), MIB))
    entry = client.write("/data/in/new/deep/file", chunks)
    assert (entry["kind"], entry["size"]) == ("file", len(content))
    assert (mounted / "new" / "deep" / "file").read_bytes() == content
    assert b"".join(client.read("/data/in/new/deep/file")) == content
    assert client.write("/data/in/new/empty", [])["size"] == 0


@pytest.mark.parametrize("size", [100, 12 * MIB])
def test_an_upload_that_breaks_off_leaves_nothing(client: Client, mounted: Path, size: int) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(size)
        raise KeyboardInterrupt

    before = file_count(client)
    with pytest.raises(KeyboardInterrupt):
        client.write("/data/in/cut", chunks())
    with pytest.raises(NotFound):
        client.call("GET", "/v1/fs/stat", query={"path": "/data/in/cut"})
    assert file_count(client) == before
    wait_until(lambda: not [p for p in mounted.rglob("*") if "cut" in p.name], "no part of it stays")


def test_an_upload_that_is_refused_is_not_sent_to_its_end(forebay: RunForebay, client: Client, mounted: Path) -> None:
    forebay("fs", "mount", "--readonly", "/fixed", f"file://{mounted}")
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1 << 40:
            sent += MIB
            yield bytes(MIB)

    with pytest.raises(ReadOnly, match="mounted read-only"):
        client.write("/fixed/new", chunks())
    assert sent < 100 * MIB


def test_a_read_that_fails_midway_says_why(client: Client, mounted: Path) -> None:
    (mounted / "shrinks").write_bytes(bytes(40 * MIB))
    chunks = client.read("/data/in/shrinks")
    next(chunks)
    (mounted / "shrinks").write_bytes(b"other")
    with pytest.raises(Unavailable, match="reading /data/in/shrinks broke off after"):
        for _ in chunks:
            pass
    assert b"".join(client.read("/data/in/shrinks")) == b"other"


# ---------------------------------------------------------------- listings


def test_a_listing_shows_every_kind_of_name(client: Client, mounted: Path) -> None:
    names = ["a b", "line\nfeed", "uml\u00e4ut", "undecodable\udcff", "x" * 255, "'\"\\%2F?&="]
    for name in names:
        (mounted / name).write_bytes(b"1")
    client.call("POST", "/v1/fs/refresh", {"path": "/data/in"})
    listed = list(client.stream("GET", "/v1/fs/list", query={"path": "/data/in", "recursive": 0}))
    assert {entry["name"] for entry in listed} == {*names, "a.txt", "sub"}
    for name in names:
        assert client.call("GET", "/v1/fs/stat", query={"path": f"/data/in/{name}"})["size"] == 1
        assert b"".join(client.read(f"/data/in/{name}")) == b"1"


def test_a_recursive_listing_shows_the_folder_around_a_nested_mount_once(client: Client, mounted: Path) -> None:
    inner = mounted.parent / "inner"
    inner.mkdir()
    (inner / "x").write_bytes(b"")
    body = {"path": "/data/in/sub/inner", "url": f"file://{inner}", "options": {}, "readonly": False}
    client.call("POST", "/v1/fs/mount", body | {"freshness": "ttl", "ttl_s": None, "policy": None})
    listed = [line["path"] for line in client.stream("GET", "/v1/fs/list", query={"path": "/data", "recursive": 1})]
    assert sorted(listed) == sorted(set(listed))
    assert {"/data/in/sub", "/data/in/sub/inner/x"} <= set(listed)


def test_a_recursive_listing_shows_each_folder_before_what_it_holds(client: Client, mounted: Path) -> None:
    for name in ("b/c/1", "b/c/2", "b/d", "b-c/1"):
        (mounted / name).parent.mkdir(parents=True, exist_ok=True)
        (mounted / name).write_bytes(b"")
    client.call("POST", "/v1/fs/mkdir", {"path": "/empty/deep", "parents": True})
    listed = [line["path"] for line in client.stream("GET", "/v1/fs/list", query={"path": "/", "recursive": 1})]
    assert len(listed) == len(set(listed))
    shown = ("a.txt", "b", "b/c", "b/c/1", "b/c/2", "b/d", "b-c", "b-c/1", "sub", "sub/big")
    assert set(listed) == {"/data", "/data/in", "/empty", "/empty/deep", *(f"/data/in/{name}" for name in shown)}
    for path in listed:
        above = path.rpartition("/")[0]
        assert not above or listed.index(above) < listed.index(path)


def test_entries_say_where_they_are_and_what_of_them_is_cached(client: Client, mounted: Path) -> None:
    query = {"path": "/data/in/sub/big"}
    entry = client.call("GET", "/v1/fs/stat", query=query)
    assert entry["url"] == f"file://{mounted}/sub/big"
    assert (entry["kind"], entry["size"], entry["cached_bytes"], entry["pinned"]) == ("file", 3 * MIB, 0, False)
    assert client.call("GET", "/v1/fs/location", query=query)["cache_file"] is None
    client.call("POST", "/v1/fs/pin", {"path": "/data/in/sub"})
    events = list(client.stream("POST", "/v1/fs/load", {"path": "/data", "parallel": None}))
    assert (events[-1]["files_done"], events[-1]["files_total"], events[-1]["done"]) == (2, 2, True)
    entry = client.call("GET", "/v1/fs/stat", query=query)
    assert (entry["cached_bytes"], entry["pinned"]) == (3 * MIB, True)
    found = client.call("GET", "/v1/fs/location", query=query)
    assert Path(found["cache_file"]).read_bytes() == (mounted / "sub" / "big").read_bytes()
    assert client.call("POST", "/v1/fs/free", {"path": "/data"}) == {"files": 1, "bytes": 6}


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "words"),
    [
        ("POST", "/v1/fs/mkdir", {"path": "relative"}, Invalid, "paths in Forebay start with /"),
        ("POST", "/v1/fs/mkdir", {"path": "/a/../b"}, Invalid, "'..' is not taken here"),
        ("POST", "/v1/fs/mkdir", {"path": "/no/where"}, NotFound, "make it first: forebay fs mkdir -p /no"),
        ("POST", "/v1/fs/mkdir", {"path": "/data"}, AlreadyExists, "/data exists already"),
        ("POST", "/v1/fs/mkdir", {"path": 5}, Invalid, "needs the text 'path'"),
        ("POST", "/v1/fs/rmdir", {"path": "/data/in"}, Busy, "forebay fs unmount"),
        ("POST", "/v1/fs/unmount", {"path": "/data"}, NotFound, "is not a mount"),
        ("POST", "/v1/fs/mount", {"path": "/x", "url": "gopher://x"}, Invalid, "gopher"),
        ("POST", "/v1/fs/mount", {"path": "/x", "url": "file:///no/such"}, NotFound, "/no/such"),
        ("POST", "/v1/fs/mount", {"path": "/data/in", "url": "file:///tmp"}, AlreadyExists, "is a mount already"),
        ("POST", "/v1/fs/mount", {"path": "/data/in/a.txt", "url": "file:///tmp"}, OSError, "a.txt is a file"),
        ("POST", "/v1/fs/remove", {"path": "/data/in/sub", "recursive": False}, IsADirectory, "use -r"),
        ("POST", "/v1/fs/unpin", {"path": "/data"}, NotFound, "is not pinned"),
        ("POST", "/v1/fs/load", {"path": "/nothing", "parallel": None}, NotFound, "no such file or folder"),
        ("POST", "/v1/fuse/unmount", {"mountpoint": "/nowhere", "force": False}, NotFound, "forebay fuse stat"),
        ("GET", "/v1/fs/stat?path=/nothing", None, NotFound, "no such file or folder: /nothing"),
        ("GET", "/v1/fs/read?path=/data", None, IsADirectory, "/data is a folder"),
        ("GET", "/v1/no/such", None, NotFound, "the daemon knows no GET /v1/no/such"),
        ("GET", "/v1/fs/stat", None, Invalid, "needs the text 'path'"),
    ],
)
def test_errors_keep_their_kind_and_their_words(
    shared: Client, method: str, path: str, body: object, kind: type[OSError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        shared.call(method, path, body)
    assert words in str(caught.value)


def test_a_path_of_4_kib_fits_into_a_query(shared: Client) -> None:
    path = "/data/in" + "/\u00e4\n\udcff".ljust(200, "%") * 20
    with pytest.raises(NotFound):
        shared.call("GET", "/v1/fs/stat", query={"path": path})


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/fs/mkdir HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{{{{{",
        b"POST /v1/fs/mkdir HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]",
        b"POST /v1/fs/mkdir HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{",
        b"GET /v1/fs/list?path=" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUT /v1/fs/write?path=/data/in/z HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_a_request_that_is_none_harms_nobody(shared: Client, shared_home: Path, request_bytes: bytes) -> None:
    answer = raw(shared_home, request_bytes)
    assert answer == b"" or answer.split(b" ", 2)[1] >= b"400"
    assert shared.call("GET", "/v1/status")["mounts"] == 1
    with pytest.raises(NotFound):
        shared.call("GET", "/v1/fs/stat", query={"path": "/data/in/z"})


def test_a_client_that_goes_away_ends_its_load(client: Client, mounted: Path) -> None:
    for number in range(5_000):
        (mounted / f"{number:04}").write_bytes(b"x")
    events = client.stream("POST", "/v1/fs/load", {"path": "/data", "parallel": 1})
    next(events)
    events.close()

    def loaded() -> int:
        return int(client.call("GET", "/v1/fs/df")[0]["files"])

    seen = [-1]

    def is_still() -> bool:
        seen.append(client.call("GET", "/v1/status")["counters"]["bytes_from_store"])
        return len(seen) > 20 and seen[-1] == seen[-20]

    wait_until(is_still, "no more bytes are fetched")
    assert loaded() < 5_000


def test_many_clients_at_once_are_served(client: Client) -> None:
    answers: list[bytes] = []

    def ask() -> None:
        answers.extend(b"".join(client.read("/data/in/a.txt")) for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [b"hello\n"] * 160


# ---------------------------------------------------------------- the client alone


def test_a_client_without_daemon_says_how_to_start_one(client: Client, forebay_home: Path) -> None:
    end_daemon(forebay_home)
    with pytest.raises(Unavailable, match="start it: forebay start"):
        client.call("GET", "/v1/status")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", "broke off"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops", "the daemon answers 500; is it another version"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\noops", "is not JSON"),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error_of_ours(tmp_path: Path, answer: bytes, words: str) -> None:
    with serving(tmp_path / "s", answer), pytest.raises(OSError, match=words):
        Client(tmp_path / "s").call("GET", "/v1/status")


@pytest.mark.parametrize("body", [b'7\r\n{"a":1}', b'8\r\n{"a":1}\n\r\n', b'3\r\n{"a\r\n0\r\n\r\n'])
def test_a_stream_that_is_cut_off_is_not_taken_for_its_end(tmp_path: Path, body: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    with serving(tmp_path / "s", answer), pytest.raises(Unavailable, match="broke off"):
        list(Client(tmp_path / "s").stream("GET", "/v1/fs/list"))


def test_an_answer_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with pytest.raises(TimeoutError, match="does not answer"):
            Client(tmp_path / "s").call("GET", "/v1/status", timeout_s=0.05)


class serving:
    """A socket that answers one connection with the same bytes, whatever it is asked."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._answer, args=(answer,))

    def _answer(self, answer: bytes) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()


def test_the_client_sends_what_http_expects(forebay_home: Path, client: Client) -> None:
    connection = http.client.HTTPConnection("forebay")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(forebay_home / "daemon.sock"))
    for _ in range(2):  # other clients may keep their connection
        connection.request("GET", "/v1/fs/stat?path=%2Fdata")
        assert json.loads(connection.getresponse().read())["kind"] == "folder"
    connection.close()


@pytest.mark.parametrize("words", [(), ("-R",)], ids=["plain", "recursive"])
def test_an_empty_folder_lists_as_nothing(forebay: RunForebay, words: tuple[str, ...]) -> None:
    ran = forebay("fs", "ls", *words, "/")
    assert (ran.code, ran.out, ran.err) == (0, b"", "")
