"""A double of the daemon that writes down what it is told of an order: for tests of the order alone."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from forebay import lookahead
from forebay.errors import Unavailable

MNT = "/mnt/fuse"


class Recorder:
    """A daemon whose tree shows at /mnt/fuse, and what it was told."""

    def __init__(self) -> None:
        self.announced: list[str] = []
        self.calls: list[int] = []  # paths in each
        self.advanced = 0
        self.opened = self.closed = 0
        self.fails_after = 1_000_000  # paths

    def virtual(self, local_path: str) -> str:
        assert local_path.startswith(MNT)
        return "/data" + local_path.removeprefix(MNT)

    def job(self, name: str) -> "Recorder":
        assert str(os.getpid()) in name
        self.opened += 1
        return self

    def announce(self, paths: Sequence[str]) -> None:
        if len(self.announced) + len(paths) > self.fails_after:
            raise Unavailable("the daemon ended, and with it the job; make another one")
        self.announced += paths
        self.calls.append(len(paths))

    def advance(self, count: int) -> None:
        self.advanced += count

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorder:
    """The only daemon there is, to `forebay.lookahead`."""
    table = tmp_path / "mountinfo"
    table.write_text(f"36 35 0:44 / {MNT} rw,nosuid - fuse.forebay forebay:/data ro,user_id=0\n")
    monkeypatch.setattr(lookahead, "MOUNTINFO", table)
    recorder = Recorder()
    monkeypatch.setattr(lookahead, "connect", lambda: recorder)
    return recorder


def local(numbers: Sequence[int]) -> list[str]:
    return [f"{MNT}/pictures/{number}.jpg" for number in numbers]


def virtual(numbers: Sequence[int]) -> list[str]:
    return [f"/data/pictures/{number}.jpg" for number in numbers]
