"""The cache's index, where two threads meet in it."""

from pathlib import Path
from typing import Any

import pytest

from forebay.cache.index import CacheIndex, Row


def test_a_row_that_is_deleted_while_it_is_asked_for_is_not_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query has read a forgotten row; before it looks whether it was forgotten, a save in the pool deletes it."""
    index = CacheIndex(tmp_path / "index.db", "boot")
    row = Row(7, "s3://b", "k", "v", 1, "m", "", b"\x01", bytes(8), 1, 0, trusted=True)
    index.save([row])
    assert index.versions("s3://b", "k") == [row]
    index.forget([7])
    select = index._select

    def select_and_save(query: str, *values: object) -> list[tuple[Any, ...]]:
        found = select(query, *values)
        index.save([])
        return found

    monkeypatch.setattr(index, "_select", select_and_save)
    assert index.versions("s3://b", "k") == []
    assert index.is_forgotten(7)  # for who has it from `oldest` or `below`
    monkeypatch.undo()

    index.save([])
    assert not index.has_forgotten
    assert index.ids() == set()
    index.close(clean=True)
