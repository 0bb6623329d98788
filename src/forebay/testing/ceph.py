"""A real Ceph for tests and benches, on one machine: a monitor, an OSD, a metadata server and an object gateway.

The programs are the distribution's own (`PACKAGES`).  A start takes about 8 s, most of them the OSD's.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from forebay.errors import Invalid, TimedOut, Unavailable
from forebay.stores.libcephfs import CephMount
from forebay.testing.leash import leashed
from forebay.testing.ports import free_ports
from forebay.testing.s3_request import S3Account, signed_request
from forebay.testing.server import Server

PACKAGES = "ceph-mon ceph-osd ceph-mds radosgw"  # of Debian and Ubuntu; `ceph` and libcephfs come with them
READY_WITHIN_S = 90.0
FS_NAME = "cephfs"
MEMORY_GIB = 4
_PROGRAMS = ("ceph", "ceph-authtool", "monmaptool", "ceph-mon", "ceph-osd", "ceph-mds", "radosgw", "radosgw-admin")
_POLL_S = 0.1
_COMMAND_WITHIN_S = 60.0
_GRANTS = {  # what each part of the cluster may do, as Ceph's own manual deployment says
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mds": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
    "mds.a": {"mon": "allow profile mds", "osd": "allow rwx", "mds": "allow *"},
}
_CONFIG = """\
[global]
fsid = {fsid}
mon host = {monitors}
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
keyring = {folder}/keyring
run dir = {folder}/run
admin socket =
log file = {folder}/log/$name.log
crash dir = {folder}/log
# One copy of everything, in few parts: there is one disk.
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 1
paxos propose interval = 0.05
[mon]
mon data = {folder}/mon
auth allow insecure global id reclaim = false
[osd]
osd data = {folder}/osd
osd memory target = 1073741824
osd objectstore = {objectstore}
bluestore block size = {bytes}
memstore device bytes = {bytes}
[mds]
mds data = {folder}/mds
# Without one the server does not answer `ceph tell`.
admin socket = {folder}/run/mds.asok
[client.admin]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw override bucket index max shards = 1
rgw run sync thread = false
rgw enable lc threads = false
"""


class Ceph(Server):
    """A new cluster on free loopback ports; a context manager, and done with its processes at exit.

    Objects are in memory, up to 4 GiB, or with `disk_gib` in a sparse file (BlueStore, as in production), which makes
    each write ten times slower.  Its folder is read by nobody else and cannot be started from again.  The processes
    die with the thread that entered the context, at the latest.
    """

    access_key = "test"
    secret_key = "testtesttest"
    fs_name = FS_NAME

    def __init__(self, folder: Path | str, *, disk_gib: int | None = None) -> None:
        self._above = Path(folder)
        self._disk_gib = disk_gib
        self._folder = self._above
        self._tries = 0
        self._ports: list[int] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._files: CephMount | None = None

    @property
    def config(self) -> Path:
        """Its `ceph.conf`, which names the keyring of the administrator."""
        return self._folder / "ceph.conf"

    @property
    def monitor(self) -> str:
        """Where the monitor answers, such as `127.0.0.1:21333`."""
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def old_monitor(self) -> str:
        """Where the same monitor speaks the protocol that Ceph had before Nautilus (`v1`)."""
        return f"127.0.0.1:{self._ports[1]}"

    @property
    def endpoint(self) -> str:
        """Where the object gateway speaks S3, such as `http://127.0.0.1:21333`."""
        return f"http://127.0.0.1:{self._ports[2]}"

    def pid(self, part: str) -> int:
        """The process of a part: `mon`, `osd`, `mds` or `rgw`."""
        return self._processes[part].pid

    def begin(self) -> None:
        """See `Server.begin`; each try in a folder of its own."""
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        if missing:
            raise Invalid(
                f"{missing[0]} is not installed, and this starts a real Ceph: as root, "
                f"apt-get install --no-install-recommends {PACKAGES}"
            )
        self._tries += 1
        self._folder = self._above / f"ceph-{self._tries}"
        self._start()

    def stop(self) -> None:
        """End the processes and wait for their end; nothing of the cluster is kept."""
        self._leave()
        while self._processes:
            _, process = self._processes.popitem()
            process.kill()
            process.wait()

    # ------------------------------------------------------------------ using it

    def command(self, *words: str) -> str:
        """What the administrator's command `ceph WORDS` prints.

        Raises:
            Unavailable: it failed; the message holds what it says.
        """
        return self._run("ceph", "-c", str(self.config), "--connect-timeout", "30", *words)

    def add_user(self, name: str, **grants: str) -> str:
        """Make the user `client.NAME`; return its secret."""
        words = [word for part, grant in grants.items() for word in (part, grant)]
        self.command("auth", "get-or-create", f"client.{name}", *words)
        return self.command("auth", "print-key", f"client.{name}").strip()

    def secret(self, name: str = "admin") -> str:
        """The secret of the user `client.NAME`."""
        return self.command("auth", "print-key", f"client.{name}").strip()

    @property
    def files(self) -> CephMount:
        """The file system, mounted by the administrator: another client than the one that a test is about."""
        if self._files is None:
            self._files = CephMount("admin")
            # Whoever runs the tests may write at the root, which belongs to the machine's root.
            self._files.configure({"client_permissions": "false"}, str(self.config))
            self._files.mount("/", FS_NAME)
        return self._files

    def make_folder(self, path: str) -> None:
        """Make a folder of the file system, empty; what was there is gone."""
        raw = os.fsencode(path)
        try:
            self.files.make_folder(raw, 0o755)
        except FileExistsError:
            self._empty(raw)

    def write_file(self, path: str, data: bytes) -> None:
        """Write a file of the file system, in place if it exists."""
        fd = self.files.open(os.fsencode(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self.files.write(fd, data, 0)
        self.files.close_file(fd)

    def evict_clients(self) -> None:
        """End the session of every client of the file system, as the cluster does with those it does not hear."""
        self._leave()
        for session in json.loads(self.command("tell", "mds.a", "session", "ls")):
            self.command("tell", "mds.a", "session", "evict", f"id={session['id']}")

    def _leave(self) -> None:
        files, self._files = self._files, None
        if files is not None:
            files.close()

    def _empty(self, folder: bytes) -> None:
        for name, found in list(self.files.scan(folder)):
            path = folder + b"/" + name
            if found.is_folder:
                self._empty(path)
                self.files.remove_folder(path)
            else:
                self.files.remove(path)

    def make_bucket(self, name: str) -> None:
        """Make a bucket; its name needs three characters or more.

        Raises:
            Unavailable: the gateway refused.
        """
        status, answer = self.request("PUT", f"/{name}")
        if status != 200:
            raise Unavailable(f"Ceph did not make the bucket {name}: {status} {answer[:200]!r}")

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """One signed S3 request; the status and the body of the answer."""
        return signed_request(S3Account(self.endpoint, self.access_key, self.secret_key), method, path, body)

    # ------------------------------------------------------------------ starting it

    def _start(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        self._ports = free_ports(3)
        for name in ("run", "log", "mon", "osd", "mds", "rgw"):
            (self._folder / name).mkdir(parents=True)
        disk = str(uuid.uuid4())
        self._prepare()
        self._spawn("mon", "ceph-mon", "-i", "a")
        self.command("osd", "new", disk)
        self._run("ceph-osd", "-c", str(self.config), "-i", "0", "--mkfs", "--osd-uuid", disk)
        self.command("osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost")
        self._spawn("osd", "ceph-osd", "-i", "0")
        for pool in ("meta", "data"):
            self.command("osd", "pool", "create", f"{FS_NAME}_{pool}", "4")
        self.command("fs", "new", FS_NAME, f"{FS_NAME}_meta", f"{FS_NAME}_data")
        self._await(deadline, "osd", lambda: bool(json.loads(self.command("osd", "stat", "-f", "json"))["num_up_osds"]))
        self._spawn("mds", "ceph-mds", "-i", "a")
        self._spawn("rgw", "radosgw", "-n", "client.admin")
        self._await(deadline, "mds", lambda: "up:active" in self.command("mds", "stat"))
        self._await(deadline, "rgw", self._gateway_answers)
        account = (f"--access-key={self.access_key}", f"--secret-key={self.secret_key}")
        words = ("user", "create", "--uid=test", "--display-name=test", *account)
        self._run("radosgw-admin", "-c", str(self.config), *words)

    def _prepare(self) -> None:
        """Configuration, keys, and the monitor's own first state."""
        monitors = f"[v2:{self.monitor},v1:{self.old_monitor}]"
        fsid, keyring, monmap = str(uuid.uuid4()), self._folder / "keyring", self._folder / "monmap"
        values = {"fsid": fsid, "monitors": monitors, "folder": self._folder, "gateway": self._ports[2]}
        objectstore, gib = ("memstore", MEMORY_GIB) if self._disk_gib is None else ("bluestore", self._disk_gib)
        self.config.write_text(_CONFIG.format(**values, objectstore=objectstore, bytes=gib << 30))
        for who, grants in _GRANTS.items():
            grant = [word for part, what in grants.items() for word in ("--cap", part, what)]
            new = [] if keyring.exists() else ["--create-keyring"]
            self._run("ceph-authtool", *new, str(keyring), "--gen-key", "-n", who, *grant)
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitors, str(monmap))
        words = ("-i", "a", "--mkfs", "--monmap", str(monmap), "--keyring", str(keyring))
        self._run("ceph-mon", "-c", str(self.config), *words)

    def _spawn(self, part: str, program: str, *words: str) -> None:
        with (self._folder / f"{part}.out").open("wb") as output:
            self._processes[part] = subprocess.Popen(
                leashed([program, "-f", "-c", str(self.config), *words]),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=self._folder, env=_environment(),
            )  # fmt: skip

    def _run(self, *command: str) -> str:
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, timeout=_COMMAND_WITHIN_S, check=False, env=_environment()
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{command[0]} did not end within {_COMMAND_WITHIN_S:g} s") from error
        if ran.returncode != 0:
            raise Unavailable(f"{' '.join(command)} failed: {ran.stderr.strip()[-500:]}")
        return ran.stdout

    def _await(self, deadline: float, part: str, is_ready: Callable[[], bool]) -> None:
        while not is_ready():
            if self._processes[part].poll() is not None:
                raise Unavailable(f"Ceph's {part} ended at its start; its output is in {self._folder / part}.out")
            if time.monotonic() > deadline:
                raise TimedOut(f"Ceph's {part} was not ready within {READY_WITHIN_S:g} s; see {self._folder / 'log'}")
            time.sleep(_POLL_S)

    def _gateway_answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._ports[2]), timeout=5).close()
        except OSError:
            return False
        return True


def _environment() -> dict[str, str]:
    """`CEPH_ARGS` and `CEPH_CONF` of whoever runs the tests would lead to another cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CEPH_")}
