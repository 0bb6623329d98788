"""Real frameworks over a real mount of real buckets; their own group, `make test-frameworks`, for they are large.

One daemon and one mount for all tests.  A framework runs in a child process: it reads the mount, and takes seconds
to be imported.  A framework that is missing is a failure, never a skip.
"""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forebay.testing.daemons import forebay_command, temporary_home
from forebay.testing.leash import leashed
from forebay.testing.seaweed import SeaweedS3
from mount.conftest import device, s3, s3_options

__all__ = ["device", "s3"]  # fixtures

HERE = Path(__file__).resolve().parent
SCRIPT_WITHIN_S = 300.0
COMMAND_WITHIN_S = 60.0

PREAMBLE = """
import os, sys, warnings
from sys import argv
sys.path.insert(0, os.environ["TESTS"])
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"
warnings.filterwarnings("error", message="Forebay")
if "torchvision" in open(argv[0]).read():
    import frameworks.plain_torchvision
"""

Script = Callable[..., str]


class World:
    """A daemon whose tree is shown at `mnt`; buckets are mounted at the top of it."""

    def __init__(self, home: Path, s3: SeaweedS3) -> None:
        self.home = home
        self.mnt = home.parent / "mnt"
        self.mnt.mkdir()
        self._s3 = s3
        self.forebay("fs", "mkdir", "/data")
        self.forebay("fuse", "mount", str(self.mnt), "/data")

    def forebay(self, *words: str) -> str:
        """Run a command, which must end well; what it printed."""
        ran = subprocess.run(
            forebay_command(*words),
            env=self.environ(),
            capture_output=True,
            text=True,
            timeout=COMMAND_WITHIN_S,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def environ(self) -> dict[str, str]:
        """The environment of whatever talks to this daemon."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
        return plain | {"FOREBAY_HOME": str(self.home), "TESTS": str(HERE.parent)}

    def bucket(self, name: str, *folders: Path) -> None:
        """Make a bucket that holds what lies below these folders, under the folders' own names."""
        self._s3.make_bucket(name)
        files = [(folder.parent, path) for folder in folders for path in folder.rglob("*") if path.is_file()]

        def put(file: tuple[Path, Path]) -> None:
            above, path = file
            status, answer = self._s3.request("PUT", f"/{name}/{path.relative_to(above)}", path.read_bytes())
            assert status == 200, answer

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, files))

    def mount(self, name: str, *options: str, endpoint: str = "") -> Path:
        """Mount a bucket at the top of the tree; the local folder where it shows.  `endpoint`: of a proxy before it."""
        reach = [word.replace(self._s3.endpoint, endpoint or self._s3.endpoint) for word in s3_options(self._s3)]
        self.forebay("fs", "mount", f"/data/{name}", f"s3://{name}/", *options, *reach)
        return self.mnt / name


@pytest.fixture(scope="session")
def world(s3: SeaweedS3) -> Iterator[World]:
    with temporary_home() as home:
        yield World(home, s3)


def run_script(code: str, folder: Path, environ: dict[str, str], *words: str | Path, fails: bool = False) -> str:
    """Run Python code as a script of its own, which must end well; what it printed."""
    script = folder / "script.py"
    script.write_text(PREAMBLE + "if __name__ == '__main__':\n" + textwrap.indent(code, "    "))
    ran = subprocess.run(
        leashed([sys.executable, str(script), *map(str, words)]),
        env=environ,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SCRIPT_WITHIN_S,
        check=False,
    )
    assert fails or ran.returncode == 0, f"{ran.stdout[-2000:]}{ran.stderr[-4000:]}"
    return ran.stdout + (ran.stderr if fails else "")


@pytest.fixture
def script(world: World, tmp_path: Path) -> Script:
    """Run code that uses a framework: `script("import lmdb; ...", path)`; what it printed."""

    def run(code: str, *words: str | Path, fails: bool = False) -> str:
        return run_script(code, tmp_path, world.environ(), *words, fails=fails)

    return run


@pytest.fixture(scope="session")
def data(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The local folder that shows the data sets of make_data.py, in a bucket that is mounted read-only."""
    made = tmp_path_factory.mktemp("made")
    command = leashed([sys.executable, str(HERE / "make_data.py"), str(made)])
    environ = world.environ() | {"PYTHONPATH": str(HERE.parent)}
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=SCRIPT_WITHIN_S, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    world.bucket("sets", *(path for path in made.iterdir()))
    return world.mount("sets", "--readonly")


@pytest.fixture(scope="session", params=["through", "back"])
def runs(request: pytest.FixtureRequest, world: World) -> Path:
    """The local folder that shows an empty bucket, which takes writes."""
    write_mode = str(request.param)
    world.bucket(f"runs-{write_mode}")
    return world.mount(f"runs-{write_mode}", "--write-mode", write_mode)


@pytest.fixture
def run_folder(runs: Path, request: pytest.FixtureRequest, script: Script) -> Path:
    """A folder of the test's own in `runs`."""
    name = str(request.node.name).partition("[")[0]
    folder = runs / name
    subprocess.run(["mkdir", str(folder)], check=True, timeout=COMMAND_WITHIN_S)
    return folder
