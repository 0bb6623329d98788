"""A real web server for tests: Apache, as Debian builds it."""

import os
import shutil

from forebay.errors import Invalid
from forebay.testing.child_server import ChildServer

_MODULES = "/usr/lib/apache2/modules"
_CONFIG = """\
ServerName localhost
ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/pid
ErrorLog {folder}/error.log
Listen 127.0.0.1:{port}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule autoindex_module {modules}/mod_autoindex.so
LoadModule dir_module {modules}/mod_dir.so
LoadModule mime_module {modules}/mod_mime.so
TypesConfig /dev/null
AddEncoding x-gzip .gz
DocumentRoot {root}
<Directory {root}>
  Options Indexes
  IndexOptions FancyIndexing HTMLTable
</Directory>
"""


class Apache(ChildServer):
    """Serves `root`, with index pages whose sizes are rounded."""

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """See `ChildServer.command`."""
        program = shutil.which("apache2", path=os.defpath + ":/usr/sbin:/usr/local/sbin")
        if program is None:
            raise Invalid("Apache is not installed: apt-get install apache2-bin")
        config = self.folder / "apache.conf"
        config.write_text(_CONFIG.format(folder=self.folder, root=self.root, port=self.port, modules=_MODULES))
        return [program, "-f", str(config), "-DFOREGROUND"]
