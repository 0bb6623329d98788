"""The node table against a model: lookup counts in a dict, and the last node told of each name."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from forebay.frontends.fuse.abi import ROOT_ID
from forebay.frontends.fuse.nodes import NodeTable
from forebay.paths import is_within, join
from forebay.stores.memory import MemoryStore
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, Mount, MountOptions

MOUNT = Mount(path="/m", url="mem://x", store=MemoryStore("x"), prefix="", settings=MountOptions(), ttl_s=60.0)
names = st.sampled_from(["a", "b", "c\n", "\udcff"])
versions = st.integers(1, 3)


def entry_of(folder: str, name: str, version: int) -> Entry:
    """Version 3 of a name is a folder."""
    path = join(folder, name)
    if version == 3:
        return FolderEntry(path, MOUNT, 0)
    return FileEntry(path, MOUNT, path[3:], 5, 0, str(version))


class NodeTableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = NodeTable(FolderEntry("/m", MOUNT, 0))
        self.counts: dict[int, int] = {}
        self.entries: dict[int, Entry] = {}
        self.current: dict[str, int] = {}  # by path
        self.absent: set[str] = set()

    def folders(self) -> list[str]:
        """Paths of the folders that the kernel knows under their name, the root included."""
        known = [path for path, ino in self.current.items() if isinstance(self.entries[ino], FolderEntry)]
        return ["/m", *known]

    @rule(name=names, version=versions, data=st.data())
    def tell(self, name: str, version: int, data: st.DataObject) -> None:
        folder = data.draw(st.sampled_from(self.folders()))
        if folder.count("/") > 3:
            return
        entry = entry_of(folder, name, version)
        node = self.table.tell(folder, name, entry)
        known = self.current.get(entry.path)
        if known is not None and self.entries[known] == entry:
            assert node.ino == known
        else:
            assert node.ino not in self.entries, "another version is another node, and no id is used twice"
        self.entries[node.ino] = entry
        self.counts[node.ino] = self.counts.get(node.ino, 0) + 1
        self.current[entry.path] = node.ino

    @rule(name=names, data=st.data())
    def tell_absent(self, name: str, data: st.DataObject) -> None:
        folder = data.draw(st.sampled_from(self.folders()))
        self.table.tell_absent(folder, name)
        self.absent.add(join(folder, name))

    @rule(data=st.data(), some=st.integers(1, 5))
    def forget(self, data: st.DataObject, some: int) -> None:
        if not self.counts:
            return
        ino = data.draw(st.sampled_from(sorted(self.counts)))
        lookups = min(some, self.counts[ino])
        self.table.forget(ino, lookups)
        self.counts[ino] -= lookups
        if not self.counts[ino]:
            del self.counts[ino]
            if self.current.get(self.entries[ino].path) == ino:
                del self.current[self.entries[ino].path]

    @rule(ino=st.integers(10**6, 10**7), root=st.booleans())
    def forgetting_what_is_not_there_does_nothing(self, ino: int, root: bool) -> None:
        self.table.forget(ROOT_ID if root else ino, 10**9)
        assert self.table.find(ROOT_ID) is not None

    @rule(data=st.data(), below=st.booleans())
    def what_is_known_is_told_once(self, data: st.DataObject, below: bool) -> None:
        path = data.draw(st.sampled_from(["/", "/m", "/m/a", "/m/a/b", "/other"]))
        reachable = self.reachable()
        told = [join(reachable[ino], name) for ino, name in self.table.known_names(path, below=below)]
        wanted = {p for p in self.absent | set(self.current) if p == path or (below and is_within(p, path))}
        wanted = {p for p in wanted if p.rpartition("/")[0] in reachable.values()}
        assert set(told) == wanted
        self.absent -= {p for p in self.absent if p == path or (below and is_within(p, path))}

    def reachable(self) -> dict[int, str]:
        """Paths of folders by the id under which the kernel knows them now."""
        return {ROOT_ID: "/m"} | {ino: path for path, ino in self.current.items()}

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert len(self.table) == 1 + len(self.counts)
        for ino in self.counts:
            node = self.table.find(ino)
            assert node is not None
            assert node.entry == self.entries[ino]
            assert node.lookups == self.counts[ino]


TestNodeTable = NodeTableMachine.TestCase
