"""A real HDFS for tests: a NameNode and a DataNode of Hadoop 2.7.3.

Beside the jars of `forebay.testing.hdfs_jars`, the servers need Java and a few libraries of Debian's, which the
message of a start without them names.
"""

import json
import os
import pwd
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forebay.errors import Invalid, TimedOut, Unavailable
from forebay.testing.hdfs_jars import fetch
from forebay.testing.leash import leashed
from forebay.testing.ports import free_ports
from forebay.testing.server import Server, end

APT_PACKAGES = (
    *("default-jre-headless", "libcommons-daemon-java", "libjersey1-core-java", "libjersey1-server-java"),
    *("libjersey1-servlet-java", "libjersey1-json-java", "libjsr311-api-java"),
)
READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = 5.0
BLOCK_BYTES = 4 << 20  # small, so that files of a few megabytes have several
_POLL_S = 0.05
_ANSWER_WITHIN_S = 30.0
_SYSTEM_JARS = Path("/usr/share/java")
_JERSEY = (
    *("jersey1-core.jar", "jersey1-server.jar", "jersey1-servlet.jar", "jersey1-json.jar"),
    *("jsr311-api.jar", "commons-daemon.jar"),
)
_JVM = (
    *("-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.net.preferIPv4Stack=true"),
    *("--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.nio=ALL-UNNAMED"),
    *("--add-opens=java.base/sun.nio.ch=ALL-UNNAMED", "--add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED"),
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
)
_NAMENODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
_DATANODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"
# A client that closes a file asks the NameNode whether the DataNode has told of the last block.  Here it asks sooner
# than a thread of the DataNode can tell, and then waits half a second.  A slow line in the log, which comes between
# the telling and the DataNode's answer to the client, gives the telling its head start.
_SLOW_LINE = "%d{EEEE}" * 3_000
_LOG4J = f"""\
log4j.rootLogger=WARN,A
log4j.appender.A=org.apache.log4j.ConsoleAppender
log4j.appender.A.layout=org.apache.log4j.PatternLayout
log4j.appender.A.layout.ConversionPattern=%d %p %c{{1}}: %m%n
log4j.logger.{_DATANODE}.clienttrace=INFO,T
log4j.additivity.{_DATANODE}.clienttrace=false
log4j.appender.T=org.apache.log4j.FileAppender
log4j.appender.T.File=/dev/null
log4j.appender.T.layout=org.apache.log4j.PatternLayout
log4j.appender.T.layout.ConversionPattern={_SLOW_LINE}
"""
_WEB_XML = '<web-app version="2.4" xmlns="http://java.sun.com/xml/ns/j2ee"></web-app>'


class Hdfs(Server):
    """A running NameNode with one DataNode on free loopback ports; a context manager, done with both at exit.

    Permissions are checked; who runs the tests is the superuser.  The servers die with the thread that entered the
    context, at the latest.

    Args:
        folder: for data, configuration and logs; data already there shows again.
        standby: a NameNode alone, in that role: half of a name service whose other half is away.
    """

    def __init__(self, folder: Path | str, *, standby: bool = False) -> None:
        self.folder = Path(folder)
        self.port = self.web_port = 0  # of the NameNode
        self._standby = standby
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def superuser(self) -> str:
        """The user that the NameNode runs as, who may do everything."""
        return pwd.getpwuid(os.geteuid()).pw_name

    @property
    def url(self) -> str:
        """Where it answers, such as `hdfs://127.0.0.1:21333`."""
        return f"hdfs://127.0.0.1:{self.port}"

    def web(self, method: str, path: str, op: str, **parameters: str) -> dict[str, Any]:
        """One request of WebHDFS to the NameNode, as the superuser; independent of Forebay's own client.

        Raises:
            Unavailable: the server refused.
        """
        query = urllib.parse.urlencode({"op": op, "user.name": self.superuser, **parameters})
        url = f"http://127.0.0.1:{self.web_port}/webhdfs/v1{urllib.parse.quote(path)}?{query}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=_ANSWER_WITHIN_S) as answer:
                found: dict[str, Any] = json.loads(answer.read() or b"{}")
                return found
        except urllib.error.HTTPError as refused:
            with refused:
                raise Unavailable(f"HDFS refused {op} of {path}: {refused.code} {refused.read()[:300]!r}") from refused

    def admin(self, *words: str) -> None:
        """Run one command of `hdfs dfsadmin`, such as `-safemode enter`.

        Raises:
            Unavailable: it failed.
        """
        command = [*self._java(), "org.apache.hadoop.hdfs.tools.DFSAdmin", *words]
        ran = subprocess.run(command, capture_output=True, timeout=READY_WITHIN_S, check=False)
        if ran.returncode != 0:
            raise Unavailable(f"hdfs dfsadmin {' '.join(words)}: {ran.stderr[-300:]!r}")

    def begin(self) -> None:
        """See `Server.begin`."""
        self._start()
        self._wait_until_ready()

    def stop(self) -> None:
        """End the processes and wait for their end."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.terminate()
        for process in processes:
            end(process, within_s=STOPPED_WITHIN_S)

    def _start(self) -> None:
        self.port, self.web_port, *others = free_ports(5)
        self._configure(others)
        command = self._java()
        if not (self.folder / "name/current/VERSION").exists():
            self._run([*command, _NAMENODE, "-format", "-force", "-nonInteractive"], "format").wait(READY_WITHIN_S)
        self._processes = [self._run([*command, _NAMENODE], "namenode")]
        if not self._standby:
            self._processes.append(self._run([*command, _DATANODE], "datanode"))

    def _java(self) -> list[str]:
        classpath = [self.folder / "conf", self.folder / "classes", *_system_jars(), *sorted(fetch().glob("*.jar"))]
        places = {"hadoop.log.dir": "log", "hadoop.home.dir": "", "java.io.tmpdir": "tmp"}  # else Jetty's stays in /tmp
        folders = [f"-D{name}={self.folder / place}" for name, place in places.items()]
        return ["java", *_JVM, *folders, "-cp", ":".join(map(str, classpath))]

    def _run(self, command: list[str], name: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            return subprocess.Popen(
                leashed(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=self.folder
            )

    def _configure(self, ports: list[int]) -> None:
        for name in ("hdfs", "datanode", "secondary", "static"):  # the servers look for their web pages
            (self.folder / "classes/webapps" / name / "WEB-INF").mkdir(parents=True, exist_ok=True)
            (self.folder / "classes/webapps" / name / "WEB-INF/web.xml").write_text(_WEB_XML)
        for name in ("conf", "log", "tmp"):
            (self.folder / name).mkdir(exist_ok=True)
        (self.folder / "conf/log4j.properties").write_text(_LOG4J)
        write_properties(
            self.folder / "conf/core-site.xml", {"fs.defaultFS": self.url, "hadoop.tmp.dir": f"{self.folder}/tmp"}
        )
        own = {
            "dfs.namenode.name.dir": f"file://{self.folder}/name",
            "dfs.datanode.data.dir": f"file://{self.folder}/data",
            "dfs.namenode.rpc-address": f"127.0.0.1:{self.port}",
            "dfs.namenode.rpc-bind-host": "127.0.0.1",
            "dfs.namenode.http-address": f"127.0.0.1:{self.web_port}",
            "dfs.datanode.address": f"127.0.0.1:{ports[0]}",
            "dfs.datanode.http.address": f"127.0.0.1:{ports[1]}",
            "dfs.datanode.ipc.address": f"127.0.0.1:{ports[2]}",
            "dfs.datanode.hostname": "127.0.0.1",
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.replication": "1",
            "dfs.blocksize": str(BLOCK_BYTES),
            "dfs.permissions.enabled": "true",
            "dfs.webhdfs.enabled": "true",
            "dfs.namenode.safemode.extension": "0",
            "dfs.namenode.edits.noeditlogchannelflush": "true",  # no fsync: nothing here must survive a power cut
        }
        write_properties(self.folder / "conf/hdfs-site.xml", own | (self._pair() if self._standby else {}))

    def _pair(self) -> dict[str, str]:
        return {
            "dfs.nameservices": "pair",
            "dfs.ha.namenodes.pair": "this,other",
            "dfs.ha.namenode.id": "this",
            "dfs.namenode.rpc-address.pair.this": f"127.0.0.1:{self.port}",
            "dfs.namenode.http-address.pair.this": f"127.0.0.1:{self.web_port}",
            "dfs.namenode.rpc-address.pair.other": "127.0.0.1:1",
            "dfs.namenode.http-address.pair.other": "127.0.0.1:1",
            "dfs.namenode.shared.edits.dir": f"file://{self.folder}/shared",
        }

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            if any(process.poll() is not None for process in self._processes):
                raise Unavailable(f"HDFS ended at its start; its output is in {self.folder / 'log'}")
            if self._is_ready():
                return
            time.sleep(_POLL_S)
        raise TimedOut(f"HDFS did not answer within {READY_WITHIN_S:g} s; see {self.folder / 'log'}")

    def _is_ready(self) -> bool:
        url = f"http://127.0.0.1:{self.web_port}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                [state] = json.load(answer)["beans"]
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except (OSError, ValueError, KeyError):
            return False
        return self._standby or (state["FSState"] == "Operational" and state["NumLiveDataNodes"] == 1)


def write_properties(path: Path, properties: Mapping[str, str]) -> None:
    """Write a file of Hadoop's configuration."""
    lines = (f"<property><name>{name}</name><value>{value}</value></property>" for name, value in properties.items())
    path.write_text("\n".join(("<configuration>", *lines, "</configuration>", "")))


def _system_jars() -> list[Path]:
    found = [_SYSTEM_JARS / name for name in _JERSEY]
    if shutil.which("java") is None or not all(path.exists() for path in found):
        raise Invalid(f"HDFS needs packages that are not installed: sudo apt-get install {' '.join(APT_PACKAGES)}")
    return found
