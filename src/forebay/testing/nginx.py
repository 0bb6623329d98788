"""A real web server for tests: nginx, with index pages in HTML or JSON, and places that answer as servers do."""

import os
import shutil
from pathlib import Path

from forebay.errors import Invalid
from forebay.testing.child_server import ChildServer

# Below `/-/`, all but the last few show the same files as `/`, in their own way.
_CONFIG = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  log_format requests '$request_method $request_uri $status $http_authorization $http_x_key';
  access_log {folder}/access.log requests;
  client_body_temp_path {folder}/temp; proxy_temp_path {folder}/temp; fastcgi_temp_path {folder}/temp;
  uwsgi_temp_path {folder}/temp; scgi_temp_path {folder}/temp;
  types {{ text/html html; }}
  default_type application/octet-stream;
  keepalive_requests 100000;
  large_client_header_buffers 4 16k;
  server {{
    listen 127.0.0.1:{port}{tls};
    root {root};
    autoindex on;
    autoindex_format {index};
    location /-/private/ {{ alias {root}/; auth_basic "files"; auth_basic_user_file {folder}/users; }}
    location /-/keyed/ {{ alias {root}/; if ($http_x_key != "{secret}") {{ return 403; }} }}
    location /-/unlisted/ {{ alias {root}/; autoindex off; }}
    location /-/no-head/ {{ alias {root}/; if ($request_method = HEAD) {{ return 405; }} }}
    location /-/no-ranges/ {{ alias {root}/; max_ranges 0; }}
    location /-/no-tags/ {{ alias {root}/; etag off; }}
    location /-/sizes-only/ {{ alias {root}/; etag off; add_header Last-Modified ""; }}
    location /-/no-length/ {{ alias {root}/; ssi on; ssi_types *; }}
    location /-/moved/ {{ rewrite ^/-/moved/(.*)$ /$1 redirect; }}
    location /-/elsewhere/ {{ rewrite ^/-/elsewhere/(.*)$ {elsewhere}/$1 redirect; }}
    location /-/circle/ {{ rewrite ^/-/circle/(.*)$ /-/circle/x$1 redirect; }}
    location ~ /forbidden$ {{ return 403; }}
    location /-/429/ {{ return 429; }}
    location /-/500/ {{ return 500; }}
    location /-/site/ {{ default_type text/html; return 200 '<title>Welcome</title><a href="data.bin">data</a>'; }}
  }}
}}
"""


class Nginx(ChildServer):
    """Serves `root` at `/`, and below `/-/` in the ways of its configuration."""

    user, password, secret = "reader", "letMeReadIt", "theKeyOfTheMount"

    def __init__(self, folder: Path, *, index: str = "html", elsewhere: str = "http://127.0.0.1:1") -> None:
        super().__init__(folder)
        self._index = index  # "html" or "json"
        self._elsewhere = elsewhere  # where `/-/elsewhere/` leads
        self.certificate: tuple[Path, Path] | None = None  # with its key; then it speaks TLS

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end."""
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """See `ChildServer.command`."""
        program = shutil.which("nginx", path=os.defpath + ":/usr/sbin:/usr/local/sbin")
        if program is None:
            raise Invalid("nginx is not installed: apt-get install nginx-light")
        tls = ""
        if self.certificate is not None:
            tls = f" ssl; ssl_certificate {self.certificate[0]}; ssl_certificate_key {self.certificate[1]}"
        (self.folder / "users").write_text(f"{self.user}:{{PLAIN}}{self.password}\n")
        config = self.folder / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                folder=self.folder,
                root=self.root,
                port=self.port,
                tls=tls,
                index=self._index,
                secret=self.secret,
                elsewhere=self._elsewhere,
            )
        )
        return [program, "-p", str(self.folder), "-c", str(config)]

    def requests(self) -> list[str]:
        """Every request so far: method, path, status, and the headers Authorization and X-Key."""
        log = self.folder / "access.log"
        return log.read_text(errors="surrogateescape").splitlines() if log.exists() else []
