"""Uploads wait while one small file after another is written, and not for long."""

import pytest

from forebay.vfs import lull
from forebay.vfs.lull import HELD_MAX_S, LULL_S, Lull


def test_a_file_alone_is_sent_at_once() -> None:
    alone = Lull()
    for now in (0.0, LULL_S, 5 * LULL_S):
        alone.came(now)
        assert alone.left_s(now, 1) is None


def test_files_in_a_row_are_sent_when_no_more_come() -> None:
    row = Lull()
    for number in range(5):
        row.came(number * LULL_S / 2)
    now = 4 * LULL_S / 2
    assert row.left_s(now, 5) == LULL_S
    assert row.left_s(now + LULL_S, 5) is None


def test_who_does_not_rest_holds_uploads_up_for_a_while_only() -> None:
    busy, now, began = Lull(), 0.0, 0.0
    busy.came(now)
    while now < began + 3 * HELD_MAX_S:
        now += LULL_S / 4
        busy.came(now)
        assert (busy.left_s(now, 9) is None) == (now >= LULL_S / 4 + HELD_MAX_S)
    busy.emptied()
    busy.came(now + LULL_S / 4)
    assert busy.left_s(now + LULL_S / 4, 1) is not None


def test_many_files_are_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lull, "HELD_FILES_MAX", 2)
    many = Lull()
    for _ in range(3):
        many.came(0.0)
    assert many.left_s(0.0, 2) is not None
    assert many.left_s(0.0, 3) is None
    many.came(0.0)
    assert many.left_s(0.0, 1) is None  # until all is sent


def test_who_asks_for_it_need_not_wait() -> None:
    asked = Lull()
    asked.came(0.0)
    asked.came(0.0)
    asked.end()
    assert asked.left_s(0.0, 2) is None


def test_a_large_file_waits_until_who_wrote_it_has_read_it_back() -> None:
    large = Lull()
    large.came(0.0, is_large=True)
    assert large.left_s(0.0, 1) == LULL_S
    assert large.left_s(LULL_S, 1, is_open=True) == HELD_MAX_S - LULL_S
    assert large.left_s(LULL_S, 1) is None


def test_who_keeps_a_file_open_holds_uploads_up_for_a_while_only() -> None:
    kept = Lull()
    kept.came(0.0, is_large=True)
    assert kept.left_s(HELD_MAX_S, 1, is_open=True) is None


def test_large_files_one_after_another_are_sent_while_more_come() -> None:
    row = Lull()
    row.came(0.0, is_large=True)
    assert row.left_s(LULL_S, 1) is None
    row.came(LULL_S, is_large=True)  # before the first has been sent
    assert row.left_s(LULL_S, 2) is None
