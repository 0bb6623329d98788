"""Modes mean what chmod(1) makes of them."""

import stat
import subprocess
from pathlib import Path

import pytest

from forebay.errors import Invalid
from forebay.modes import ModeChange


@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize(
    "text", ["640", "u+x", "go-w", "a=rX", "+x", "-w", "=r", "+w", "=rw", "u=rw,g=r,o=", "g+s", "u+rw-x"]
)
def test_a_mode_becomes_what_chmod_makes_of_it(tmp_path: Path, text: str, is_folder: bool) -> None:
    path = tmp_path / "it"
    path.mkdir() if is_folder else path.touch()
    for mode in (0o644, 0o755, 0o620, 0o777):
        path.chmod(mode)
        quoted = f"umask 022; chmod -- {text} '{path}'"
        subprocess.run(["sh", "-c", quoted], check=False, capture_output=True)
        expected = stat.S_IMODE(path.stat().st_mode)
        assert oct(ModeChange.parse(text).apply(mode, is_folder=is_folder)) == oct(expected)


@pytest.mark.parametrize("text", ["", "8", "10000", "u", "u+q", "rw", "u+x,", "x+u"])
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="is no mode"):
        ModeChange.parse(text)
