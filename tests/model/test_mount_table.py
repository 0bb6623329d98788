"""The mount table against a model: a set of folder paths and a set of mount paths."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from forebay.errors import FsError
from forebay.paths import is_within, split
from forebay.stores.memory import MemoryStore
from forebay.vfs.entries import Mount, MountOptions
from forebay.vfs.mounttable import MountTable

names = st.sampled_from(["a", "b", "ab"])
paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))


def mount_of(path: str) -> Mount:
    return Mount(path=path, url="mem://x", store=MemoryStore("x"), prefix="p/", settings=MountOptions(), ttl_s=1.0)


class MountTableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = MountTable()
        self.folders: set[str] = set()
        self.mounts: set[str] = set()

    def below(self, path: str) -> set[str]:
        return {other for other in self.folders | self.mounts if other != path and is_within(other, path)}

    def exists(self, path: str) -> bool:
        return path == "/" or path in self.folders or any(is_within(path, mount) for mount in self.mounts)

    @rule(path=paths)
    def add_folder(self, path: str) -> None:
        if not self.exists(split(path)[0]):
            return  # the file system checks the folder above first
        taken = path in self.folders or path in self.mounts
        self.check(lambda: self.table.add_folder(path), fails=taken)
        if not taken:
            self.folders.add(path)

    @rule(path=paths)
    def remove_folder(self, path: str) -> None:
        fails = path not in self.folders or bool(self.below(path))
        self.check(lambda: self.table.remove_folder(path), fails=fails)
        if not fails:
            self.folders.remove(path)

    @rule(path=paths)
    def add_mount(self, path: str) -> None:
        if not self.exists(split(path)[0]):
            return
        fails = path in self.mounts or bool(self.below(path))
        self.check(lambda: self.table.add_mount(mount_of(path)), fails=fails)
        if not fails:
            self.folders.discard(path)
            self.mounts.add(path)

    @rule(path=paths)
    def remove_mount(self, path: str) -> None:
        fails = path not in self.mounts or bool(self.below(path))
        self.check(lambda: self.table.remove_mount(path), fails=fails)
        if not fails:
            self.mounts.remove(path)

    @rule(path=paths)
    def locate_finds_the_innermost_mount(self, path: str) -> None:
        covering = [root for root in self.folders | self.mounts if is_within(path, root)]
        innermost = max(covering, key=len, default="/")
        mount, key = self.table.locate(path)
        if innermost in self.mounts:
            assert mount is not None
            assert mount.path == innermost
            assert key == "p/" + path[len(innermost) :].lstrip("/")
        else:
            assert mount is None

    def check(self, call: object, *, fails: bool) -> None:
        assert callable(call)
        try:
            call()
        except FsError:
            assert fails
        else:
            assert not fails

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert set(self.table.folders) == self.folders
        assert {mount.path for mount in self.table.mounts} == self.mounts
        for path in ("/", "/a", "/a/b"):
            direct = {split(other)[1] for other in self.below(path) if split(other)[0] == path}
            assert set(self.table.children(path)) == direct


TestMountTable = MountTableMachine.TestCase
