"""A real SFTP server for tests: OpenSSH's sshd, with a host key and a client key of its own."""

import getpass
import os
import shutil
import subprocess
from pathlib import Path

from forebay.errors import Invalid
from forebay.testing.child_server import ChildServer

_KEYGEN_WITHIN_S = 30.0


class Sshd(ChildServer):
    """Serves SFTP to whoever runs it, by the key `key_file`; `known_hosts` names its host key once it runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.user = getpass.getuser()
        self.key_file = folder / "id"
        self.known_hosts = folder / "known_hosts"

    @property
    def url(self) -> str:
        """The URL of its folder."""
        return f"sftp://{self.user}@127.0.0.1:{self.port}{self.root}"

    @property
    def options(self) -> dict[str, str]:
        """The options of a mount of it."""
        return {"sftp.keyFile": str(self.key_file), "sftp.knownHosts": str(self.known_hosts)}

    def command(self) -> list[str]:
        """See `ChildServer.command`."""
        program = shutil.which("sshd", path=os.defpath + ":/usr/sbin:/usr/local/sbin")
        if program is None:
            raise Invalid("OpenSSH's server is not installed: apt-get install openssh-server")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # which the package's service makes otherwise
        host_key = self.folder / "host"
        for file in (host_key, self.key_file):
            if not file.exists():
                keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)]
                subprocess.run(keygen, check=True, timeout=_KEYGEN_WITHIN_S)
        allowed = self.folder / "authorized_keys"
        shutil.copy(f"{self.key_file}.pub", allowed)
        kind, key, *_ = Path(f"{host_key}.pub").read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        words = [
            *("ListenAddress=127.0.0.1", f"AuthorizedKeysFile={allowed}", "StrictModes=no", "PidFile=none"),
            *("UsePAM=no", "PasswordAuthentication=no", "PermitRootLogin=prohibit-password"),
            *("Subsystem=sftp internal-sftp", "MaxStartups=100:30:200", "LogLevel=ERROR"),
        ]
        options = [word for each in words for word in ("-o", each)]
        return [program, "-D", "-e", "-f", "/dev/null", "-p", str(self.port), "-h", str(host_key), *options]
