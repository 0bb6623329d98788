"""Every opcode as bytes: what comes in, what goes out, and that each request gets exactly one answer."""

import asyncio
import errno
import os
from dataclasses import replace

import pytest

from forebay.errors import Busy, Unavailable
from forebay.frontends.fuse import abi, backing, wire
from forebay.frontends.fuse.abi import Opcode
from forebay.types import Attributes
from forebay.vfs.entries import FileEntry, MountOptions
from fuse.conftest import Kernel, names_of, u32

FORGET = bytes.fromhex(
    "30000000 02000000"  # len 48, opcode FORGET
    "0100000000000000"  # unique
    "2a00000000000000"  # nodeid
    "e8030000 e8030000 39050000"  # uid, gid, pid
    "0000 0000"  # total_extlen, padding
    "0300000000000000"  # nlookup
)
NO_ANSWER = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}
COPIES = [Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64]  # the kernel copies by itself then
UNKNOWN = [
    *COPIES,
    Opcode.POLL,
    Opcode.BMAP,
    Opcode.STATX,
    Opcode.SETUPMAPPING,
    Opcode.REMOVEMAPPING,
    Opcode.GETLK,
    99,
    4096,
]


def test_layouts_have_the_sizes_of_the_kernel_header() -> None:
    sizes = {
        abi.IN_HEADER: 40, abi.OUT_HEADER: 16, abi.ATTR: 88, abi.ENTRY_OUT: 40, abi.ATTR_OUT: 16, abi.OPEN_OUT: 16,
        abi.RELEASE_IN: 24, abi.READ_IN: 40, abi.STATFS_OUT: 80, abi.LSEEK_IN: 24, abi.DIRENT: 24, abi.INIT_IN: 16,
        abi.INIT_IN_EXT: 64, abi.INIT_OUT: 64, abi.INVAL_INODE_OUT: 24, abi.INVAL_ENTRY_OUT: 16, abi.BACKING_MAP: 16,
    }  # fmt: skip
    assert {layout.format: layout.size for layout in sizes} == {layout.format: size for layout, size in sizes.items()}
    assert (abi.DEV_IOC_BACKING_OPEN, abi.DEV_IOC_BACKING_CLOSE) == (0x4010E501, 0x4004E502)


def test_a_request_is_parsed_field_by_field() -> None:
    request = wire.parse_request(memoryview(FORGET))
    assert request[:6] == (Opcode.FORGET, 1, 42, 1000, 1000, 1337)
    assert abi.FORGET_IN.unpack_from(request.body) == (3,)


@pytest.mark.parametrize("cut", range(len(FORGET)))
def test_a_cut_request_is_refused_and_never_read_past_its_end(cut: int) -> None:
    with pytest.raises(ValueError, match="request of"):
        wire.parse_request(memoryview(FORGET[:cut]))


async def test_a_cut_request_with_a_sender_is_answered(kernel: Kernel) -> None:
    kernel.server.serve(memoryview(FORGET[:24]))
    kernel.server.serve(memoryview(FORGET[:8]))  # nobody to answer
    assert kernel.device.answers == [(1, errno.EINVAL, b"")]


@pytest.mark.parametrize("opcode", sorted(set(range(1, 60)) - NO_ANSWER))
@pytest.mark.parametrize("body", [b"", b"\xff", b"\xff" * 7, b"\xff" * 200, bytes(200)], ids=len)
async def test_a_hostile_body_gets_one_answer(kernel: Kernel, opcode: int, body: bytes) -> None:
    for node in (1, 2, 2**64 - 1):
        await kernel.ask(opcode, node, body)
    assert await kernel.lookup(b"a")  # the server lives


@pytest.mark.parametrize("opcode", sorted(NO_ANSWER))
@pytest.mark.parametrize("body", [b"", b"\xff" * 200], ids=len)
async def test_a_hostile_message_without_answer_does_no_harm(kernel: Kernel, opcode: int, body: bytes) -> None:
    kernel.send(opcode, 7, body)
    assert all(error == errno.EINVAL for _, error, _ in kernel.device.answers)
    assert await kernel.lookup(b"a")


def take_no_writes(kernel: Kernel) -> None:
    """From now on the store is mounted read-only."""
    (mount,) = kernel.fs.mounts
    mount.settings = replace(mount.settings, readonly=True)


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (Opcode.SETATTR, abi.SETATTR_IN.pack(abi.Set.MODE, *[0] * 15)),
        (Opcode.SYMLINK, b"new\0target\0"),
        (Opcode.MKNOD, abi.MKNOD_IN.pack(0o100644, 0, 0o22, 0) + b"new\0"),
        (Opcode.MKDIR, abi.MKDIR_IN.pack(0o755, 0o22) + b"new\0"),
        (Opcode.UNLINK, b"a\0"),
        (Opcode.RMDIR, b"d\0"),
        (Opcode.RENAME, abi.RENAME_IN.pack(1) + b"a\0new\0"),
        (Opcode.RENAME2, abi.RENAME2_IN.pack(1, 0, 0) + b"a\0new\0"),
        (Opcode.CREATE, abi.CREATE_IN.pack(os.O_WRONLY, 0o644, 0o22, 0) + b"new\0"),
        (Opcode.SETXATTR, abi.SETXATTR_IN.pack(1, 0) + b"user.k\0v"),
    ],
)
async def test_whatever_changes_something_is_refused_on_a_mount_that_takes_no_writes(
    kernel: Kernel, opcode: int, body: bytes
) -> None:
    take_no_writes(kernel)
    assert await kernel.ask(opcode, 1, body) == (errno.EROFS, b"")


async def test_who_makes_a_file_need_not_ask_for_it_again_unless_others_may_change_it(kernel: Kernel) -> None:
    told: list[tuple[int, str]] = []

    def tell(path: str, below: bool) -> None:
        told.extend(kernel.operations.nodes.known_names(path, below=below))

    kernel.fs.on_change.append(tell)
    for name, attributes_hold_s in ((b"one\0", 1), (b"two\0", 0)):
        kernel.fs.views.append(asyncio.Event().wait)  # a local folder shows the tree; then another one does, too
        await kernel.ask(Opcode.LOOKUP, 1, name)
        _, answer = await kernel.ask(Opcode.CREATE, 1, abi.CREATE_IN.pack(os.O_WRONLY, 0o644, 0o22, 0) + name)
        assert abi.ENTRY_OUT.unpack_from(answer)[3] == attributes_hold_s
    assert told == []


async def test_a_file_has_one_name_and_no_file_is_a_device(kernel: Kernel) -> None:
    assert await kernel.ask(Opcode.LINK, 1, bytes(8) + b"new\0") == (errno.EPERM, b"")
    device = abi.MKNOD_IN.pack(0o020644, 0, 0, 0) + b"new\0"
    assert await kernel.ask(Opcode.MKNOD, 1, device) == (errno.EPERM, b"")
    assert await kernel.ask(Opcode.TMPFILE, 1, bytes(200)) == (errno.EOPNOTSUPP, b"")


@pytest.mark.parametrize("opcode", UNKNOWN)
async def test_what_is_not_served_says_so(kernel: Kernel, opcode: int) -> None:
    assert await kernel.ask(opcode, 1, bytes(200)) == (errno.ENOSYS, b"")


@pytest.mark.parametrize("opcode", [Opcode.FSYNCDIR, Opcode.SYNCFS, Opcode.DESTROY])
async def test_what_needs_no_work_is_done_at_once(kernel: Kernel, opcode: int) -> None:
    assert await kernel.ask(opcode, 1, bytes(64)) == (0, b"")


async def test_no_file_is_a_terminal_and_none_a_link(kernel: Kernel) -> None:
    assert await kernel.ask(Opcode.IOCTL, 1, bytes(32)) == (errno.ENOTTY, b"")
    assert await kernel.ask(Opcode.READLINK) == (errno.EINVAL, b"")


# ---------------------------------------------------------------- names


async def test_a_lookup_tells_size_mode_owner_and_time(kernel: Kernel) -> None:
    _, payload = await kernel.ask(Opcode.LOOKUP, 1, b"a\0")
    ino, size, blocks, _, mtime, _, _, nsec, _, mode, links, uid, gid, *_ = abi.ATTR.unpack_from(
        payload, abi.ENTRY_OUT.size
    )
    entry = await kernel.fs.stat("/m/a")
    assert isinstance(entry, FileEntry)
    assert (size, blocks, mode, links, uid, gid) == (3, 1, 0o100644, 1, 1000, 1001)
    assert mtime * 10**9 + nsec == entry.mtime_ns
    assert await kernel.ask(Opcode.GETATTR, ino, bytes(16)) == (0, payload[24:32] + bytes(8) + payload[40:])


async def test_an_absence_is_cached_by_the_kernel(kernel: Kernel) -> None:
    error, payload = await kernel.ask(Opcode.LOOKUP, 1, b"nothing\0")
    ino, _, valid_s, *_ = abi.ENTRY_OUT.unpack_from(payload)
    assert (error, ino) == (0, 0)
    assert 0 < valid_s <= 60


async def test_a_name_that_is_too_long_says_so(kernel: Kernel) -> None:
    assert await kernel.ask(Opcode.LOOKUP, 1, b"n" * 256 + b"\0") == (errno.ENAMETOOLONG, b"")


async def test_a_node_that_was_forgotten_is_stale(kernel: Kernel) -> None:
    ino = await kernel.lookup(b"a")
    assert await kernel.lookup(b"a") == ino
    kernel.send(Opcode.FORGET, ino, abi.FORGET_IN.pack(1))
    assert (await kernel.ask(Opcode.GETATTR, ino, bytes(16)))[0] == 0
    kernel.send(Opcode.BATCH_FORGET, 0, u32(1, 0) + abi.FORGET_ONE.pack(ino, 1))
    assert await kernel.ask(Opcode.GETATTR, ino, bytes(16)) == (errno.ESTALE, b"")


async def test_a_changed_file_is_another_node_and_the_old_one_stays_what_it_was(kernel: Kernel) -> None:
    old = await kernel.lookup(b"a")
    handle, *_ = await kernel.open(old)
    assert await kernel.read(handle, 0, 10) == (0, b"one")
    await kernel.store.put("a", b"other")
    await kernel.fs.refresh("/m")
    new = await kernel.lookup(b"a")
    assert new != old
    assert await kernel.read(handle, 0, 10) == (0, b"one")
    fresh, *_ = await kernel.open(new)
    assert await kernel.read(fresh, 0, 10) == (0, b"other")


async def test_access_to_a_mount_that_takes_no_writes_is_for_reading(kernel: Kernel) -> None:
    assert await kernel.ask(Opcode.ACCESS, 1, u32(os.W_OK, 0)) == (0, b"")
    take_no_writes(kernel)
    assert await kernel.ask(Opcode.ACCESS, 1, u32(os.R_OK | os.X_OK, 0)) == (0, b"")
    assert await kernel.ask(Opcode.ACCESS, 1, u32(os.W_OK, 0)) == (errno.EROFS, b"")


# ---------------------------------------------------------------- files


async def test_a_read_ends_where_the_file_ends(kernel: Kernel) -> None:
    handle, flags, _ = await kernel.open(await kernel.lookup(b"a"))
    assert flags & abi.Open.KEEP_CACHE
    assert await kernel.read(handle, 1, 100) == (0, b"ne")
    assert await kernel.read(handle, 3, 100) == (0, b"")
    await kernel.release(handle)
    assert await kernel.read(handle, 0, 1) == (errno.EBADF, b"")


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_TRUNC])
async def test_an_open_for_writing_is_refused_on_a_mount_that_takes_no_writes(kernel: Kernel, flags: int) -> None:
    take_no_writes(kernel)
    node = await kernel.lookup(b"a")
    assert await kernel.ask(Opcode.OPEN, node, abi.OPEN_IN.pack(flags, 0)) == (errno.EROFS, b"")


async def test_files_and_folders_are_not_confused(kernel: Kernel) -> None:
    assert await kernel.ask(Opcode.OPEN, 1, bytes(8)) == (errno.EISDIR, b"")
    assert await kernel.ask(Opcode.OPENDIR, await kernel.lookup(b"a"), bytes(8)) == (errno.ENOTDIR, b"")


async def passing_node(kernel: Kernel, name: str = "a", folder: int = 1, path: str = "/m") -> int:
    """The node of a file that goes by passthrough."""
    kernel.operations.handles.passthrough = True
    entry = await kernel.fs.stat(f"{path}/{name}")
    assert isinstance(entry, FileEntry)
    await kernel.fs.fetch(entry)
    return await kernel.lookup(name.encode(), folder)


async def test_a_complete_file_goes_by_passthrough_and_is_registered_once(kernel: Kernel) -> None:
    node = await passing_node(kernel)
    one, flags, first = await kernel.open(node)
    two, _, again = await kernel.open(node)
    assert flags & abi.Open.PASSTHROUGH
    await kernel.release(one)
    await kernel.release(two)
    _, _, later = await kernel.open(node)
    assert first == again == later
    assert kernel.device.registered == [first]
    assert kernel.operations.handles.served_from["passthrough opens"] == 3


async def test_a_file_that_goes_by_passthrough_counts_as_read_whole_at_each_open(kernel: Kernel) -> None:
    node = await passing_node(kernel)
    (mount,) = kernel.fs.mounts
    for count in range(1, 4):  # the first, one beside it, and one of a file that is registered and closed
        handle, *_ = await kernel.open(node)
        assert (mount.traffic.hits, mount.traffic.read_from_cache) == (count, count * len(b"one"))
        if count == 2:
            await kernel.release(handle)
            await kernel.release(handle)
    assert mount.traffic.read_from_store == 0, "it was loaded"


async def test_a_file_that_goes_by_passthrough_counts_as_open_from_first_to_last(kernel: Kernel) -> None:
    node = await passing_node(kernel)
    for _ in range(2):
        handle, _, _ = await kernel.open(node)
        await kernel.open(node)
        assert len(kernel.operations.handles) == 2
        await kernel.release(handle)
        with pytest.raises(Busy):
            await kernel.fs.unmount("/m")
        await kernel.release(handle)
        await kernel.release(handle)  # once too often
        assert len(kernel.operations.handles) == 0
    await kernel.fs.unmount("/m")


async def test_of_a_file_that_goes_by_passthrough_each_open_is_one_that_was_announced(kernel: Kernel) -> None:
    node = await passing_node(kernel)
    job = kernel.fs.orders.open_job("train", 0)
    job.announce(["/m/a"] * 3)
    for count in range(1, 4):  # the first, one beside it, and one of a file that is registered and closed
        handle, *_ = await kernel.open(node)
        assert job.order.at == count
        if count == 2:
            await kernel.release(handle)
            await kernel.release(handle)


async def test_a_handle_of_passthrough_can_still_be_asked(kernel: Kernel) -> None:
    handle, *_ = await kernel.open(await passing_node(kernel))
    assert await kernel.read(handle, 1, 10) == (0, b"ne")
    await kernel.release(handle)
    assert await kernel.read(handle, 1, 10) == (errno.EBADF, b"")


async def test_a_file_that_is_open_through_the_page_cache_stays_so_until_it_is_closed(kernel: Kernel) -> None:
    kernel.operations.handles.passthrough = True
    node = await kernel.lookup(b"a")
    cold, flags, _ = await kernel.open(node)
    assert not flags & abi.Open.PASSTHROUGH
    assert await kernel.read(cold, 0, 3) == (0, b"one")  # complete from here on
    other, still, _ = await kernel.open(node)
    assert not still & abi.Open.PASSTHROUGH, "the kernel answers mixed modes of one node with EIO"
    await kernel.release(cold)
    await kernel.release(other)
    _, at_last, _ = await kernel.open(node)
    assert at_last & abi.Open.PASSTHROUGH


async def test_a_file_that_the_cache_deletes_is_taken_back_from_the_kernel(kernel: Kernel) -> None:
    kernel.fs.cache.on_drop.append(kernel.operations.handles.backing.drop)
    node = await passing_node(kernel)
    handle, _, first = await kernel.open(node)
    await kernel.fs.free("/m")
    assert kernel.device.taken_back == [], "it is open"
    await kernel.release(handle)
    await kernel.fs.free("/m")
    assert kernel.device.taken_back == [first]
    _, flags, _ = await kernel.open(node)
    assert not flags & abi.Open.PASSTHROUGH, "it is not cached any more"


async def test_a_file_that_is_shown_twice_is_taken_back_twice(kernel: Kernel) -> None:
    kernel.fs.cache.on_drop.append(kernel.operations.handles.backing.drop)
    again = await kernel.fs.mount("/m/again", "mem://test", MountOptions())
    again.store = kernel.store  # each mount of a store in memory begins empty
    nodes = [await passing_node(kernel)]
    nodes.append(await passing_node(kernel, "a", await kernel.lookup(b"again"), "/m/again"))
    for node in nodes:
        handle, *_ = await kernel.open(node)
        await kernel.release(handle)
    assert len(kernel.device.registered) == 2
    await kernel.fs.free("/m")
    assert sorted(kernel.device.taken_back) == kernel.device.registered


async def test_a_file_lost_while_it_is_open_keeps_its_registration_until_it_is_closed(kernel: Kernel) -> None:
    kernel.fs.cache.on_drop.append(kernel.operations.handles.backing.drop)
    node = await passing_node(kernel)
    handle, _, first = await kernel.open(node)
    (file,) = [file for file in kernel.fs.cache.files() if file.opens]
    kernel.fs.cache.lost(file)
    _, flags, again = await kernel.open(node)
    assert (again, bool(flags & abi.Open.PASSTHROUGH)) == (first, True), "a second id for an open node is an EIO"
    await kernel.release(handle)
    assert kernel.device.taken_back == []
    await kernel.release(handle)
    assert kernel.device.taken_back == [first]


async def test_what_the_kernel_forgets_is_taken_back_once_it_is_closed(kernel: Kernel) -> None:
    node = await passing_node(kernel)
    handle, _, first = await kernel.open(node)
    kernel.send(Opcode.FORGET, node, abi.FORGET_IN.pack(1))  # may overtake the RELEASE
    assert kernel.device.taken_back == []
    await kernel.release(handle)
    assert kernel.device.taken_back == [first]


async def test_of_too_many_registered_files_those_not_opened_lately_go_first(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backing, "KEPT_MAX", 2)
    for name in ("b", "c"):
        await kernel.store.put(name, name.encode())
    await kernel.fs.refresh("/m")
    nodes = [await passing_node(kernel, name) for name in ("a", "b", "big", "c")]

    async def open_and_close(node: int) -> int:
        handle, _, backing_id = await kernel.open(node)
        await kernel.release(handle)
        return backing_id

    a, b = [await open_and_close(node) for node in nodes[:2]]
    await kernel.open(nodes[2])  # all three were opened since anybody looked: the oldest goes
    assert kernel.device.taken_back == [a]
    assert await open_and_close(nodes[1]) == b
    await open_and_close(nodes[3])
    assert a not in kernel.device.taken_back[1:]
    assert len(kernel.operations.handles.backing) == 2
    await kernel.open(nodes[2])
    assert len(kernel.device.registered) == 4, "the open one was never taken back"


async def test_a_store_that_fails_is_an_errno_for_that_request_alone(kernel: Kernel) -> None:
    handle, *_ = await kernel.open(await kernel.lookup(b"a"))
    await kernel.store.delete("a")
    assert await kernel.read(handle, 0, 3) == (errno.ESTALE, b"")
    assert await kernel.lookup(b"big")


async def test_seeking_for_data_and_holes_finds_none(kernel: Kernel) -> None:
    handle, *_ = await kernel.open(await kernel.lookup(b"a"))

    async def seek(offset: int, whence: int) -> tuple[int, bytes]:
        return await kernel.ask(Opcode.LSEEK, 1, abi.LSEEK_IN.pack(handle, offset, whence, 0))

    assert await seek(1, os.SEEK_DATA) == (0, abi.LSEEK_OUT.pack(1))
    assert await seek(1, os.SEEK_HOLE) == (0, abi.LSEEK_OUT.pack(3))
    assert await seek(3, os.SEEK_DATA) == (errno.ENXIO, b"")
    assert await seek(0, os.SEEK_END) == (errno.EINVAL, b"")


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("room", [200, 4096])
async def test_a_folder_is_read_piece_by_piece_and_each_name_comes_once(kernel: Kernel, plus: bool, room: int) -> None:
    _, payload = await kernel.ask(Opcode.OPENDIR, 1, bytes(8))
    fh, *_ = abi.OPEN_OUT.unpack(payload)
    opcode = Opcode.READDIRPLUS if plus else Opcode.READDIR
    names: list[bytes] = []
    cookie = 0
    while True:
        error, payload = await kernel.read(fh, cookie, room, opcode)
        assert error == 0
        assert len(payload) <= room
        if not payload:
            break
        found = names_of(payload, plus=plus)
        names += [name for name, _ in found]
        cookie = found[-1][1]
    assert names == [b".", b"..", b"a", b"big", b"d", b"empty"]
    assert len(kernel.operations.nodes) == (5 if plus else 1), "only READDIRPLUS counts as lookups"


async def test_a_folder_that_cannot_be_listed_is_an_error(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(path: str, reads: bool) -> None:
        raise Unavailable("down")

    monkeypatch.setattr(kernel.fs, "open_folder", fail)
    assert await kernel.ask(Opcode.OPENDIR, 1, bytes(8)) == (errno.EIO, b"")


# ---------------------------------------------------------------- about


async def test_extended_attributes_tell_where_a_file_comes_from(kernel: Kernel) -> None:
    node = await kernel.lookup(b"a")
    assert await kernel.ask(Opcode.LISTXATTR, node, u32(1000, 0)) == (0, b""), "who copies a file does not copy these"
    entry = kernel.operations.node(node).entry
    assert isinstance(entry, FileEntry)
    await kernel.fs.kept.set(entry.mount.store.location, entry.key, Attributes(), xattrs={"user.one": b"1"})
    assert await kernel.ask(Opcode.LISTXATTR, node, u32(1000, 0)) == (0, b"user.one\0")
    assert await kernel.ask(Opcode.LISTXATTR, node, u32(0, 0)) == (0, u32(len(b"user.one\0"), 0))
    assert await kernel.ask(Opcode.LISTXATTR, node, u32(5, 0)) == (errno.ERANGE, b"")
    assert await kernel.ask(Opcode.GETXATTR, node, u32(99, 0) + b"user.forebay.url\0") == (0, b"mem://test/a")
    assert await kernel.ask(Opcode.GETXATTR, node, u32(99, 0) + b"user.forebay.cached_bytes\0") == (0, b"0")
    assert await kernel.ask(Opcode.GETXATTR, node, u32(99, 0) + b"security.capability\0") == (errno.EOPNOTSUPP, b"")
    assert await kernel.ask(Opcode.GETXATTR, 1, u32(99, 0) + b"user.forebay.url\0") == (errno.ENODATA, b"")


async def test_statfs_shows_the_cache(kernel: Kernel) -> None:
    _, payload = await kernel.ask(Opcode.STATFS)
    blocks, free, _, inodes, free_inodes, *_ = abi.STATFS_OUT.unpack(payload)
    assert 0 < free <= blocks
    assert (inodes, free_inodes) == (0, 0), "else `df -i` says that they are used up"


# ---------------------------------------------------------------- going away


async def test_what_still_waits_is_answered_when_the_server_stops(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forever = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(kernel.fs, "open_folder", lambda path, reads: asyncio.wait([forever]))
    kernel.send(Opcode.OPENDIR, 1, bytes(8), unique=6)  # not even begun when the server stops
    await kernel.server.stop()
    assert kernel.device.answers == [(6, errno.EINTR, b"")]


async def test_a_bug_in_a_handler_is_an_io_error_and_the_mount_lives(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(kernel.fs, "peek", broken)
        assert await kernel.ask(Opcode.LOOKUP, 1, b"a\0") == (errno.EIO, b"")
    assert await kernel.lookup(b"a")
