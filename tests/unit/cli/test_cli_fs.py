import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.admin_server import AdminServer
from cli.conftest import Command
from forebay.errors import Busy, NotFound

MOUNT = ("fs", "mount", "/training-data/imagenet/", "s3://bucket/")
OPTIONS = ("--option", "s3a.accessKeyID=K", "--option", "s3a.secretKey=S", "--option", "s3.endpoint=http://h:1/?a=b")


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (("mkdir", "/training-data"), {"path": "/training-data", "parents": False}),
        (("mkdir", "-p", "/a/b"), {"path": "/a/b", "parents": True}),
        (("rmdir", "/a"), {"path": "/a"}),
        (("unmount", "/a/"), {"path": "/a/"}),
        (("pin", "/a"), {"path": "/a"}),
        (("unpin", "/a"), {"path": "/a"}),
        (("refresh", "/a b\udcff"), {"path": "/a b\udcff"}),
    ],
)
def test_a_command_without_result_passes_its_words_on_and_is_silent(
    admin: AdminServer, forebay: Command, words: tuple[str, ...], body: dict[str, Any]
) -> None:
    ran = forebay("fs", *words)
    assert ran == (0, b"", "")
    assert admin.bodies(f"/v1/fs/{words[0]}") == [body]


def test_after_a_failure_the_other_paths_are_still_done(admin: AdminServer, forebay: Command) -> None:
    admin.answers["/v1/fs/rmdir"] = NotFound("/a does not exist")
    ran = forebay("fs", "rmdir", "/a", "/b")
    assert (ran.code, ran.err) == (1, "forebay: /a does not exist\n" * 2)
    assert len(admin.bodies("/v1/fs/rmdir")) == 2


# ---------------------------------------------------------------- mounts


@pytest.mark.parametrize(
    "words", [(*MOUNT, *OPTIONS), ("fs", "mount", *OPTIONS, *MOUNT[2:]), (*MOUNT[:3], *OPTIONS, MOUNT[3])]
)
def test_options_of_a_mount_may_stand_before_between_and_after_the_paths(
    admin: AdminServer, forebay: Command, words: tuple[str, ...]
) -> None:
    ran = forebay(*words)
    assert ran.code == 0
    assert ran.lines == ["s3://bucket/ on /training-data/imagenet/ (write-through, ttl 60s, keep)"]
    assert admin.bodies("/v1/fs/mount") == [
        {
            "path": "/training-data/imagenet/",
            "url": "s3://bucket/",
            "options": {"s3a.accessKeyID": "K", "s3a.secretKey": "S", "s3.endpoint": "http://h:1/?a=b"},
            "readonly": False,
            "freshness": None,
            "ttl_s": None,
            "policy": None,
            "quota_bytes": None,
            "cache_ttl_s": None,
            "write_mode": None,
            "shared_prefix": False,
        }
    ]


def test_how_a_mount_works_is_passed_on(admin: AdminServer, forebay: Command) -> None:
    forebay(*MOUNT, "--readonly", "--ttl", "2m", "--policy", "lru", "--freshness", "ttl")
    forebay(*MOUNT, "--freshness", "immutable", "--write-mode", "back", "--quota", "100GiB", "--cache-ttl", "7d")
    first, second = admin.bodies("/v1/fs/mount")
    assert (first["readonly"], first["freshness"], first["ttl_s"], first["policy"]) == (True, "ttl", 120.0, "lru")
    assert (second["readonly"], second["freshness"], second["ttl_s"]) == (False, "immutable", None)
    assert (first["write_mode"], second["write_mode"]) == (None, "back")
    assert (first["quota_bytes"], first["cache_ttl_s"]) == (None, None)
    assert (second["quota_bytes"], second["cache_ttl_s"]) == (100 << 30, 604_800.0)


def test_an_update_says_only_what_is_to_change(admin: AdminServer, forebay: Command) -> None:
    nothing: dict[str, Any] = {
        "path": "/m",
        "options": {},
        "readonly": None,
        "freshness": None,
        "ttl_s": None,
        "policy": None,
        "quota_bytes": None,
        "cache_ttl_s": None,
        "write_mode": None,
    }
    assert forebay("fs", "mount", "--update", "/m", "--option", "a=b", "--option", "c=").code == 0
    assert forebay("fs", "mount", "/m", "--update", "--writable", "--ttl", "5m").code == 0
    assert forebay("fs", "mount", "--update", "/m", "--write-mode", "back").code == 0
    assert admin.bodies("/v1/fs/update-mount") == [
        nothing | {"options": {"a": "b", "c": ""}},
        nothing | {"readonly": False, "ttl_s": 300.0},
        nothing | {"write_mode": "back"},
    ]
    assert not admin.bodies("/v1/fs/mount")


@pytest.mark.parametrize("words", [("--update",), ("--update", "/m", "s3://b"), ("--update", "/m", "--shared-prefix")])
def test_an_update_takes_a_path_and_no_url(admin: AdminServer, forebay: Command, words: tuple[str, ...]) -> None:
    ran = forebay("fs", "mount", *words)
    assert (ran.code, "--update takes a mount's path and what to change" in ran.err) == (2, True)


def test_secrets_come_from_the_environment_and_from_files(
    admin: AdminServer, forebay: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "from-env")
    (tmp_path / "secret").write_text("from-file\n")
    ran = forebay(*MOUNT, "--option", "s3a.accessKeyID=env:MY_KEY", "--option", f"s3a.secretKey=file:{tmp_path}/secret")
    assert ran.code == 0
    assert admin.bodies("/v1/fs/mount")[0]["options"] == {"s3a.accessKeyID": "from-env", "s3a.secretKey": "from-file"}


def test_an_option_file_is_read_and_the_command_line_outranks_it(
    admin: AdminServer, forebay: Command, tmp_path: Path
) -> None:
    (tmp_path / "options").write_text("# store\n\ns3.region = r1\n s3a.secretKey=a=b\n")
    forebay(*MOUNT, "--option-file", "options", "--option", "s3.region=r2")
    assert admin.bodies("/v1/fs/mount")[0]["options"] == {"s3.region": "r2", "s3a.secretKey": "a=b"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--option", "s3a.secretKey"), 1, "--option: an option is written KEY=VALUE"),
        (("--option", "k=env:NOT_THERE"), 1, "option k: there is no environment variable NOT_THERE"),
        (("--option", "k=file:nowhere"), 1, "option k: cannot read nowhere: No such file or directory"),
        (("--option-file", "nowhere"), 1, "option file nowhere: cannot read nowhere"),
        (("--ttl", "soon"), 1, "'soon' is not a duration"),
        (("--ttl", "5s", "--freshness", "always"), 2, "--ttl means nothing with --freshness always"),
        (("--freshness", "never"), 2, "'never'"),
    ],
)
def test_a_wrong_mount_is_refused_before_the_daemon_hears_of_it(
    admin: AdminServer, forebay: Command, words: tuple[str, ...], code: int, message: str
) -> None:
    ran = forebay(*MOUNT, *words)
    assert ran.code == code
    assert message in ran.err
    assert not admin.bodies("/v1/fs/mount")


def test_a_line_of_an_option_file_that_is_no_option_is_named_but_not_shown(
    admin: AdminServer, forebay: Command, tmp_path: Path
) -> None:
    (tmp_path / "options").write_text("a=b\nmy-secret\n")
    ran = forebay(*MOUNT, "--option-file", "options")
    assert "options:2" in ran.err
    assert "my-secret" not in ran.err


@pytest.mark.parametrize("words", [("/a",), ("s3://bucket", "/a")])
def test_a_mount_with_its_ends_wrong_shows_the_order(
    admin: AdminServer, forebay: Command, words: tuple[str, ...]
) -> None:
    ran = forebay("fs", "mount", *words)
    assert (ran.code, ran.err.count("write the path, then the URL")) == (2, 1)


MOUNTS = [
    {
        "path": "/a",
        "url": "s3://b",
        "readonly": True,
        "write_mode": "through",
        "freshness": "ttl",
        "ttl_s": 60.0,
        "policy": "keep",
        "quota_bytes": 100 << 30,
        "cache_ttl_s": 604_800.0,
        "options": {},
    },
    {
        "path": "/long/path",
        "url": "s3://c/d",
        "readonly": False,
        "write_mode": "back",
        "freshness": "always",
        "ttl_s": None,
        "policy": None,
        "quota_bytes": None,
        "cache_ttl_s": None,
        "options": {"s3.region": "r", "s3a.secretKey": "***"},
    },
]


@pytest.mark.parametrize("word", ["mount", "mounts"])
def test_mounts_are_listed(admin: AdminServer, forebay: Command, word: str) -> None:
    admin.answers["/v1/fs/mounts"] = MOUNTS
    assert forebay("fs", word).lines == [
        "path        store     how                                                     options",
        "/a          s3://b    readonly, ttl 60s, keep, quota 100.0 GiB, cache-ttl 7d",
        "/long/path  s3://c/d  write-back, always                                      s3.region=r s3a.secretKey=***",
    ]
    assert forebay("fs", word, "--json").json == MOUNTS


def test_no_mounts_is_said_beside_the_empty_list(admin: AdminServer, forebay: Command) -> None:
    ran = forebay("fs", "mounts")
    assert (ran.code, ran.out) == (0, b"")
    assert "nothing is mounted" in ran.err


def test_a_busy_mount_stays_and_the_reason_is_the_daemons(admin: AdminServer, forebay: Command) -> None:
    admin.answers["/v1/fs/unmount"] = Busy("3 files of /a are open")
    assert forebay("fs", "unmount", "/a") == (1, b"", "forebay: 3 files of /a are open\n")


# ---------------------------------------------------------------- looking


@pytest.fixture
def tree(admin: AdminServer) -> AdminServer:
    admin.files |= {"/d/a.jpg": bytes(2048), "/d/b\n.jpg": b"xy", "/d/sub/c\udcff": b"", "/top": b"t"}
    admin.cached["/d/a.jpg"] = 1024
    return admin


def test_names_go_into_a_pipe_as_the_bytes_they_are(tree: AdminServer, forebay: Command) -> None:
    assert forebay("fs", "ls", "/d").out == b"a.jpg\nb\n.jpg\nsub\n"
    assert forebay("fs", "ls", "/d/sub").out == b"c\xff\n"
    assert forebay("fs", "ls").out == b"d\ntop\n"
    assert forebay("fs", "ls", "/top").out == b"top\n"


def test_a_recursive_listing_shows_relative_paths(tree: AdminServer, forebay: Command) -> None:
    assert forebay("fs", "ls", "-R", "/d/").out == b"a.jpg\nb\n.jpg\nsub\nsub/c\xff\n"


def test_a_long_listing_shows_kind_size_share_cached_and_time(
    tree: AdminServer, forebay: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [line.split() for line in forebay("fs", "ls", "-l", "/d/a.jpg").lines] == [
        ["file", "2048", "50%", "2023-11-14", forebay("fs", "ls", "-l", "/d/a.jpg").lines[0].split()[4], "a.jpg"]
    ]
    assert "2.0 KiB" in forebay("fs", "ls", "-lh", "/d/a.jpg").lines[0]
    assert forebay("fs", "ls", "-l", "/").lines[0].split()[:3] == ["folder", "-", "-"]


def test_keys_that_cannot_be_shown_are_counted_on_stderr(tree: AdminServer, forebay: Command) -> None:
    tree.hidden = 2
    ran = forebay("fs", "ls", "/d/sub")
    assert ran.out == b"c\xff\n"
    assert ran.err.startswith("forebay: 2 keys of the store cannot be shown as files")


def test_a_listing_as_json_is_one_array_of_entries(tree: AdminServer, forebay: Command) -> None:
    tree.hidden = 1
    listed = forebay("fs", "ls", "--json", "/d").json
    assert [entry["name"] for entry in listed] == ["a.jpg", "b\n.jpg", "sub"]
    assert listed[0] == tree.entry("/d/a.jpg")
    tree.folders.add("/empty")
    tree.hidden = 0
    assert forebay("fs", "ls", "--json", "/empty").json == []


def test_a_listing_that_fails_midway_shows_what_came_and_fails(tree: AdminServer, forebay: Command) -> None:
    def lines() -> Iterator[dict[str, Any]]:
        yield tree.entry("/top")
        yield {"error": {"kind": "Unavailable", "message": "the store went away", "path": "/"}}

    tree.streams["/v1/fs/list"] = lines
    assert forebay("fs", "ls") == (1, b"top\n", "forebay: the store went away\n")


def test_stat_shows_a_file_and_a_folder(tree: AdminServer, forebay: Command) -> None:
    ran = forebay("fs", "stat", "/d/a.jpg", "/d")
    assert {"size      2048 (2.0 KiB)", "cached    50%", "version   v1"} <= set(ran.lines)
    assert "kind      folder" in ran.lines
    assert forebay("fs", "stat", "--json", "/top").json == tree.entry("/top")


def test_location_names_the_object_and_the_cache_file(admin: AdminServer, forebay: Command) -> None:
    found = {"path": "/d/a", "url": "s3://b/a", "version": "v", "size": 10, "cached_bytes": 10, "cache_file": "/c/1"}
    admin.answers["/v1/fs/location"] = found
    assert forebay("fs", "location", "--json", "/d/a").json == found
    lines = forebay("fs", "location", "/d/a").lines
    assert "url           s3://b/a" in lines
    assert "cached bytes  10 (100%)" in lines
    assert admin.bodies("/v1/fs/location") == [{"path": "/d/a"}] * 2


def test_du_shows_the_last_count(admin: AdminServer, forebay: Command) -> None:
    def lines() -> Iterator[dict[str, Any]]:
        yield {"files": 1, "bytes": 10, "cached_bytes": 0, "done": False}
        yield {"files": 3, "bytes": 2048, "cached_bytes": 1024, "done": True}

    admin.streams["/v1/fs/usage"] = lines
    assert [line.split() for line in forebay("fs", "du", "/d").lines] == [
        ["size", "cached", "%", "files", "path"],
        ["2048", "1024", "50%", "3", "/d"],
    ]
    assert "2.0 KiB" in forebay("fs", "du", "-h", "/d").lines[1]
    assert forebay("fs", "du", "/d", "--json").json == {"path": "/d", "files": 3, "bytes": 2048, "cached_bytes": 1024}


def test_df_shows_the_cache_folders(admin: AdminServer, forebay: Command) -> None:
    info = {
        "directory": "/c", "capacity_bytes": 4096, "used_bytes": 1024, "disk_free_bytes": 9000, "reserve_bytes": 10,
        "files": 7,
    }  # fmt: skip
    admin.answers["/v1/fs/df"] = [info]
    assert forebay("fs", "df").lines[1].split() == ["/c", "4096", "1024", "25%", "9000", "10", "7"]
    assert "4.0 KiB" in forebay("fs", "df", "-h").lines[1]
    assert forebay("fs", "df", "--json").json == [info]


# ---------------------------------------------------------------- the cache


def load_events(*failed: tuple[str, str]) -> Iterator[dict[str, Any]]:
    common = {"files_total": 3, "bytes_total": 3072}
    yield common | {"files_done": 1, "bytes_done": 1024, "failed": None, "done": False}
    for one in failed:
        yield common | {"files_done": 1, "bytes_done": 1024, "failed": list(one), "done": False}
    done = 3 - len(failed)
    yield common | {"files_done": done, "bytes_done": done * 1024, "failed": None, "done": True}


def test_a_load_ends_with_its_count(admin: AdminServer, forebay: Command) -> None:
    admin.streams["/v1/fs/load"] = load_events
    ran = forebay("fs", "load", "/d")
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines[0].startswith("3 files, 3.0 KiB loaded in ")
    assert admin.bodies("/v1/fs/load") == [{"path": "/d", "parallel": None, "metadata": False}]


def names_events(*failed: tuple[str, str]) -> Iterator[dict[str, Any]]:
    done = {"folders_done": 2, "folders_found": 2 + len(failed), "files": 1200, "bytes": 5000, "failed": None}
    yield done | {"folders_done": 1, "files": 200, "done": False}
    for each in failed:
        yield done | {"failed": each, "done": False}
    yield done | {"done": True}


def test_a_load_of_names_ends_with_its_count(admin: AdminServer, forebay: Command) -> None:
    admin.streams["/v1/fs/load"] = names_events
    ran = forebay("fs", "load", "--metadata", "/d")
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines[0].startswith("1,200 files in 2 folders known in ")
    assert admin.bodies("/v1/fs/load") == [{"path": "/d", "parallel": None, "metadata": True}]


def test_a_load_of_names_lists_what_failed_and_fails(admin: AdminServer, forebay: Command) -> None:
    admin.streams["/v1/fs/load"] = lambda: names_events(("/d/x", "denied"))
    ran = forebay("fs", "load", "--metadata", "--json", "/d")
    assert ran.code == 1
    assert ran.err == "forebay: /d/x: denied\n"
    told = json.loads(ran.out)
    assert told.pop("seconds") >= 0
    assert told == {
        "path": "/d", "folders_done": 2, "folders_found": 3, "files": 1200, "bytes": 5000,
        "failed": [{"path": "/d/x", "message": "denied"}],
    }  # fmt: skip


def test_a_load_lists_what_failed_and_fails(admin: AdminServer, forebay: Command) -> None:
    admin.streams["/v1/fs/load"] = lambda: load_events(("/d/x", "denied"), ("/d/y", "/d/y is gone"))
    ran = forebay("fs", "load", "--parallel", "7", "/d")
    assert ran.code == 1
    assert ran.err == "forebay: /d/x: denied\nforebay: /d/y is gone\n"
    assert ran.lines[0].endswith("; 2 failed")
    assert admin.bodies("/v1/fs/load") == [{"path": "/d", "parallel": 7, "metadata": False}]


def test_the_result_of_a_load_as_json_names_what_failed(admin: AdminServer, forebay: Command) -> None:
    admin.streams["/v1/fs/load"] = lambda: load_events(("/d/x", "denied"))
    ran = forebay("fs", "load", "/d", "--json")
    assert ran.code == 1
    told = ran.json
    assert 0 < told.pop("seconds") < 60
    assert told == {
        "path": "/d",
        "files_done": 2,
        "files_total": 3,
        "bytes_done": 2048,
        "bytes_total": 3072,
        "failed": [{"path": "/d/x", "message": "denied"}],
    }


def test_free_says_how_much(admin: AdminServer, forebay: Command) -> None:
    admin.answers["/v1/fs/free"] = {"files": 1, "bytes": 1536}
    assert forebay("fs", "free", "/d").lines == ["1 file, 1.5 KiB freed"]
    assert json.loads(forebay("fs", "free", "/d", "--json").out) == {"files": 1, "bytes": 1536}
