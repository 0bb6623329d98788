"""The Ceph of the tests."""

from pathlib import Path

import pytest

from forebay.errors import Invalid
from forebay.testing.ceph import Ceph


def test_where_ceph_is_not_installed_its_tests_fail_and_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Invalid, match="apt-get install --no-install-recommends ceph-mon ceph-osd ceph-mds radosgw"):
        Ceph(tmp_path).__enter__()
