"""Folders that are renamed while the kernel asks for what is in them, or just before it is told to ask again."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from forebay.frontends.fuse import abi
from forebay.frontends.fuse.abi import Opcode
from fuse.conftest import Kernel, names_of


class Gate:
    """A method of the store waits, before it is done or before its answer comes."""

    def __init__(self, kernel: Kernel, patch: pytest.MonkeyPatch, name: str, *, after: bool) -> None:
        method: Callable[..., Awaitable[object]] = getattr(kernel.store, name)
        self.came, self.opened = asyncio.Event(), asyncio.Event()

        async def waiting(*words: Any, **options: Any) -> object:
            if after:
                try:
                    return await method(*words, **options)
                finally:
                    await self._pass()
            await self._pass()
            return await method(*words, **options)

        patch.setattr(kernel.store, name, waiting)

    async def _pass(self) -> None:
        self.came.set()
        await self.opened.wait()


async def rename(kernel: Kernel, old: bytes, new: bytes) -> None:
    body = abi.RENAME_IN.pack(1) + old + b"\0" + new + b"\0"
    assert await kernel_asks(kernel, Opcode.RENAME, 1, body) == (0, b"")


async def begun(
    kernel: Kernel, patch: pytest.MonkeyPatch, name: str, *, after: bool
) -> tuple[Gate, "asyncio.Task[None]"]:
    """The rename of d to e, which waits at that method of the store."""
    gate = Gate(kernel, patch, name, after=after)
    renaming = asyncio.create_task(rename(kernel, b"d", b"e"))
    await gate.came.wait()
    return gate, renaming


_uniques = iter(range(1, 1 << 30))


async def kernel_asks(kernel: Kernel, opcode: int, nodeid: int, body: bytes) -> tuple[int, bytes]:
    """As `Kernel.ask`, while others ask too."""
    unique = next(_uniques)
    kernel.send(opcode, nodeid, body, unique=unique)
    async with asyncio.timeout(10):
        while not (found := [answer for answer in kernel.device.answers if answer[0] == unique]):
            await asyncio.sleep(0)
    return found[0][1:]


def create(name: bytes) -> bytes:
    return abi.CREATE_IN.pack(os.O_CREAT | os.O_WRONLY, 0o644, 0o022, 0) + name + b"\0"


async def soon(*tasks: "asyncio.Task[Any]") -> None:
    """Let them go as far as they can."""
    await asyncio.wait(tasks, timeout=0.05)


async def test_a_file_whose_folder_was_renamed_is_not_opened_for_writing_at_its_old_place(kernel: Kernel) -> None:
    folder = await kernel.lookup(b"d")
    file = await kernel.lookup(b"x", folder)
    fh, _, _ = await kernel.open(file)
    assert (await kernel.read(fh, 0, 9))[1] == b"x"  # from now on it is cached
    await kernel.release(fh)
    await rename(kernel, b"d", b"e")
    error, _ = await kernel.ask(Opcode.OPEN, file, abi.OPEN_IN.pack(os.O_WRONLY, 0))
    assert error == errno.ESTALE, "the kernel asks for the name again, and opens what that is then"
    assert not list(kernel.fs.drafts)
    file = await kernel.lookup(b"x", folder)
    error, _ = await kernel.ask(Opcode.OPEN, file, abi.OPEN_IN.pack(os.O_WRONLY, 0))
    assert error == 0
    assert [draft.path for draft in kernel.fs.drafts] == ["/m/e/x"]


async def test_a_cached_file_whose_folder_was_renamed_is_read_on_at_once_and_another_is_asked_for_again(
    kernel: Kernel,
) -> None:
    await kernel.store.put("d/y", b"y")
    folder = await kernel.lookup(b"d")
    files = [await kernel.lookup(name, folder) for name in (b"x", b"y")]
    fh, _, _ = await kernel.open(files[0])
    assert (await kernel.read(fh, 0, 9))[1] == b"x"
    await rename(kernel, b"d", b"e")
    opened = [(await kernel.ask(Opcode.OPEN, file, abi.OPEN_IN.pack(0, 0)))[0] for file in files]
    assert opened == [0, errno.ESTALE]


async def test_what_is_looked_up_in_a_folder_while_it_is_renamed_is_where_the_folder_is_then(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kernel.store.put("d/inner/file", b"in")
    folder = await kernel.lookup(b"d")
    with monkeypatch.context() as patch:
        gate = Gate(kernel, patch, "head", after=True)
        looking = asyncio.create_task(kernel_asks(kernel, Opcode.LOOKUP, folder, b"inner\0"))
        await gate.came.wait()
    await rename(kernel, b"d", b"e")
    gate.opened.set()
    error, answer = await looking
    assert error == 0
    inner = kernel.operations.node(abi.ENTRY_OUT.unpack_from(answer)[0])
    assert inner.entry.path == "/m/e/inner"


async def test_the_kernel_believes_no_absence_that_it_is_told_of_while_a_folder_is_renamed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = await kernel.lookup(b"d")
    with monkeypatch.context() as patch:
        # x is at its new place alone, and the folder at its old one
        gate, renaming = await begun(kernel, patch, "delete", after=True)
        for _ in range(2):  # asked of the store, and then known
            error, answer = await kernel_asks(kernel, Opcode.LOOKUP, folder, b"x\0")
            node, _, believed_s, *_ = abi.ENTRY_OUT.unpack_from(answer)
            assert (error, node, believed_s) == (0, 0, 0)
        gate.opened.set()
        await renaming
    assert await kernel.lookup(b"x", folder)


@pytest.mark.parametrize(
    ("opcode", "body", "at_first", "then"),
    [
        (Opcode.CREATE, create(b"new"), {"d/x"}, {"e/x", "e/new"}),
        (Opcode.UNLINK, b"x\0", {"d/x"}, set()),
        (Opcode.MKDIR, abi.MKDIR_IN.pack(0o755, 0o022) + b"new\0", {"d/x"}, {"e/x", "e/new/"}),
        (Opcode.RMDIR, b"empty\0", {"d/x", "d/empty/"}, {"e/x"}),
    ],
    ids=["create", "unlink", "mkdir", "rmdir"],
)
async def test_what_changes_a_folder_while_it_is_renamed_changes_it_where_it_is_then(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, opcode: int, body: bytes, at_first: set[str], then: set[str]
) -> None:
    for key in at_first - {"d/x"}:
        await kernel.store.put(key, b"")
    folder = await kernel.lookup(b"d")
    with monkeypatch.context() as patch:
        gate, renaming = await begun(kernel, patch, "copy_version", after=False)
        changing = asyncio.create_task(kernel_asks(kernel, opcode, folder, body))
        await soon(renaming, changing)
        gate.opened.set()
        await renaming
        error, answer = await changing
    assert error == 0, errno.errorcode[error]
    if opcode == Opcode.CREATE:
        fh = abi.OPEN_OUT.unpack_from(answer, abi.ENTRY_OUT.size + abi.ATTR.size)[0]
        assert (await kernel.ask(Opcode.FLUSH, 1, abi.FLUSH_IN.pack(fh, 0, 0, 0)))[0] == 0
    kept = {meta.key async for page in kernel.store.list("", recursive=True) for meta in page.objects}
    assert {key for key in kept if key[:2] in ("d/", "e/") and key[2:]} == then
    assert kernel.fs.uploader.storing.conflicts == []


async def test_a_file_that_was_moved_already_is_not_made_anew_while_its_folder_is_renamed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = await kernel.lookup(b"d")
    with monkeypatch.context() as patch:
        gate, renaming = await begun(kernel, patch, "delete", after=True)  # the kernel finds no x at the old place
        await kernel_asks(kernel, Opcode.LOOKUP, folder, b"x\0")
        creating = asyncio.create_task(kernel_asks(kernel, Opcode.CREATE, folder, create(b"x")))
        await soon(renaming, creating)
        gate.opened.set()
        await renaming
        error, _ = await creating
    assert error == 0
    [draft] = kernel.fs.drafts
    assert (draft.path, draft.content.size()) == ("/m/e/x", 1)


async def test_a_listing_that_was_opened_before_its_folder_was_renamed_tells_of_no_nodes_at_the_old_place(
    kernel: Kernel,
) -> None:
    folder = await kernel.lookup(b"d")
    error, answer = await kernel.ask(Opcode.OPENDIR, folder, abi.OPEN_IN.pack(0, 0))
    assert error == 0
    (fh, *_) = abi.OPEN_OUT.unpack(answer)
    await rename(kernel, b"d", b"e")
    body = abi.READ_IN.pack(fh, 0, 4096, 0, 0, 0, 0)
    error, answer = await kernel.ask(Opcode.READDIRPLUS, folder, body)
    assert error == 0
    assert [name for name, _ in names_of(answer, plus=True)] == [b".", b"..", b"x"]
    assert kernel.operations.nodes.current_or_none("/m/d", "x") is None


async def test_a_name_that_was_absent_in_a_folder_before_it_was_renamed_is_asked_for_again_when_it_comes(
    kernel: Kernel,
) -> None:
    folder = await kernel.lookup(b"d")
    await kernel.ask(Opcode.LOOKUP, folder, b"later\0")
    await rename(kernel, b"d", b"e")
    assert list(kernel.operations.nodes.known_names("/m/e/later", below=False)) == [(folder, "later")]


async def test_other_local_folders_are_told_of_a_folder_that_was_renamed(kernel: Kernel) -> None:
    told: list[str] = []
    kernel.fs.on_change.append(lambda path, _: told.append(path))
    await kernel.lookup(b"d")
    await rename(kernel, b"d", b"e")
    assert {"/m/d", "/m/e"} <= set(told)
