import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from forebay.errors import Denied
from forebay.observe import log as log_module
from forebay.observe.log import set_up_log
from forebay.observe.redact import Redactor

SECRET = "s3cr/t+value"


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A log file; logging is as before afterwards."""
    root, handlers, level = logging.root, logging.root.handlers[:], logging.root.level
    raises = logging.raiseExceptions
    yield tmp_path / "daemon.log"
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:], root.level, logging.raiseExceptions = handlers, level, raises
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def redactor() -> Redactor:
    redactor = Redactor()
    redactor.learn([("s3a.secretKey", SECRET), ("s3.region", "eu-central-1"), ("sas", "abc"), ("flag", "true")])
    return redactor


def test_lines_are_json_with_what_happened_first(file: Path, redactor: Redactor) -> None:
    set_up_log("info", redactor, file=file)
    structlog.get_logger().info("mount.added", path="/a\udcff", size_bytes=5, quick=True, none=None)
    structlog.get_logger().debug("not.shown")
    line = json.loads(file.read_text())
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert (line["event"], line["size_bytes"], line["quick"], line["none"]) == ("mount.added", 5, True, None)
    assert line["path"] == "/a\udcff"


def test_no_secret_comes_through_not_even_from_a_library_or_a_traceback(file: Path, redactor: Redactor) -> None:
    set_up_log("debug", redactor, file=file)
    log = structlog.get_logger()
    log.info("told", reason=f"bad key {SECRET}", nested={"x": [SECRET]}, url="http://h/?k=s3cr%2Ft%2Bvalue")
    logging.getLogger("library").warning("header %s", SECRET)
    try:
        raise ValueError(SECRET)
    except ValueError:
        log.exception("broke")
    text = file.read_text()
    assert len(text.splitlines()) == 3
    assert "s3cr" not in text
    assert text.count("***") >= 5
    assert "ValueError" in text


def test_what_is_no_secret_stays(redactor: Redactor) -> None:
    assert redactor.clean("eu-central-1 abc true") == "eu-central-1 abc true"


def test_a_log_is_its_users_own_and_bounded(file: Path, redactor: Redactor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "FILE_BYTES_MAX", 10_000)
    file.touch(mode=0o644)
    set_up_log("info", redactor, file=file)
    for number in range(1_000):
        structlog.get_logger().info("filled", number=number)
    found = sorted(file.parent.iterdir())
    assert [path.name for path in found] == ["daemon.log", "daemon.log.1"]
    for path in found:
        assert path.stat().st_size <= 10_000
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert '"number": 999' in file.read_text()


def test_a_log_that_cannot_be_written_is_told(file: Path, redactor: Redactor) -> None:
    file.mkdir()
    with pytest.raises(Denied, match="cannot write the log"):
        set_up_log("info", redactor, file=file)


def test_people_get_lines_without_locals(file: Path, redactor: Redactor, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("info", redactor, file=None)
    local = "a-local-variable"
    try:
        raise KeyError(len(local))
    except KeyError:
        structlog.get_logger().exception("broke", size_bytes=1)
    err = capsys.readouterr().err
    assert "broke" in err
    assert "KeyError" in err
    assert "a-local-variable" not in err.replace('local = "a-local-variable"', "")
