"""The jars of a real HDFS for tests: Hadoop 2.7.3, whose classes are inside the source package of PySpark 2.4.8.

`python -m forebay.testing.hdfs_jars` fetches the package (220 MB) from the index that pip is configured to, and keeps
the 36 MB of it that the servers use in the user's cache folder.
"""

import base64
import fcntl
import hashlib
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

from forebay.errors import Corrupt, FsError, NotFound, Unavailable

PACKAGE = "pyspark-2.4.8.tar.gz"
SHA256 = "3a19b71b8dc8dd91ebc943604a05e1ab01bce052456d42937035632d852d78dc"  # as the Python Package Index says
_ANSWER_WITHIN_S = 60.0
_KEPT = (  # how the names of the package's jars begin that the servers use
    *(
        "activation",
        "apacheds",
        "api-asn1",
        "api-util",
        "avro-1",
        "commons-beanutils-1",
        "commons-cli",
        "commons-codec",
    ),
    *("commons-collections", "commons-compress", "commons-configuration", "commons-digester", "commons-httpclient"),
    *("commons-io", "commons-lang-2", "commons-logging", "commons-math3", "commons-net", "curator", "gson", "guava"),
    *("hadoop-annotations", "hadoop-auth", "hadoop-common", "hadoop-hdfs", "htrace-core", "httpclient", "httpcore"),
    *("jackson-core-asl", "jackson-mapper-asl", "javax.servlet-api", "jaxb-api", "jetty-6", "jetty-util", "jsp-api"),
    *("jsr305", "leveldbjni-all", "log4j", "netty-3", "netty-all", "protobuf-java-2", "slf4j-api", "slf4j-log4j12"),
    *("xbean-asm", "xercesImpl", "xmlenc", "zookeeper"),
)


def fetch() -> Path:
    """The folder of the servers' jars, which are fetched if they are not in the user's cache yet.

    Raises:
        Unavailable: the package index cannot be reached.
        NotFound, Corrupt: it has no such package, or another one.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forebay"
    cache.mkdir(parents=True, exist_ok=True)
    jars = cache / PACKAGE.removesuffix(".tar.gz")
    with (cache / "hdfs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs of the tests fetch once
        if not jars.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                _unpack_from_index(Path(folder))
                Path(folder).rename(jars)
                Path(folder).mkdir()  # for its removal
    return jars


def _unpack_from_index(folder: Path) -> None:
    settings = _pip_settings()
    index = settings.get("index-url", "https://pypi.org/simple").rstrip("/") + "/pyspark/"
    tls = ssl.create_default_context(cafile=settings.get("cert"))
    try:
        with urllib.request.urlopen(_request(index), timeout=_ANSWER_WITHIN_S, context=tls) as page:
            found = re.search(rf'href="([^"]*/{re.escape(PACKAGE)}[^"]*)"', page.read().decode())
        if found is None:
            raise NotFound(f"pip's package index has no {PACKAGE}")
        request = _request(urllib.parse.urljoin(index, found[1]))
        with tempfile.TemporaryFile(dir=folder.parent) as package:
            with urllib.request.urlopen(request, timeout=_ANSWER_WITHIN_S, context=tls) as answer:
                shutil.copyfileobj(answer, package, 1 << 20)
            package.seek(0)
            if hashlib.file_digest(package, "sha256").hexdigest() != SHA256:
                raise Corrupt(f"{PACKAGE} from pip's package index is not what it should be")
            package.seek(0)
            with tarfile.open(fileobj=package) as archive:
                _unpack(archive, folder)
    except FsError:
        raise
    except (OSError, tarfile.TarError) as error:
        raise Unavailable(f"{PACKAGE} cannot be fetched from pip's package index ({type(error).__name__})") from error


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    for member in archive:
        name = member.name.rpartition("/")[2]
        if "/deps/jars/" in member.name and name.startswith(_KEPT) and (data := archive.extractfile(member)):
            with data, (folder / name).open("wb") as file:
                shutil.copyfileobj(data, file)


def _pip_settings() -> dict[str, str]:
    """What pip is configured to, such as its index and the certificates it trusts; later lines win, as with pip."""
    ran = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60, check=False
    )
    return dict(re.findall(r"^[^\n=]*?\.([\w-]+)='(.*)'$", ran.stdout, re.MULTILINE))


def _request(url: str) -> urllib.request.Request:
    """A request; a user and a password in the URL become a header, as urllib wants it."""
    parts = urllib.parse.urlsplit(url)
    if parts.username is None:
        return urllib.request.Request(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    word = base64.b64encode(urllib.parse.unquote(parts.netloc.rpartition("@")[0]).encode()).decode()
    return urllib.request.Request(urllib.parse.urlunsplit(bare), headers={"Authorization": f"Basic {word}"})


if __name__ == "__main__":
    try:
        fetch()
    except FsError as error:
        sys.exit(str(error))
