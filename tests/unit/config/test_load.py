from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.config.explain import explain, field_docs
from forebay.config.load import FIELDS, load, to_flags
from forebay.config.settings import CacheDir, Settings
from forebay.errors import Denied, Invalid, NotFound

GIB = 1 << 30


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOREBAY_HOME", str(tmp_path))
    return tmp_path


def test_without_anything_every_setting_has_its_default(home: Path) -> None:
    assert load({}) == Settings(home=home)


def test_the_home_is_in_the_users_own_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FOREBAY_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load({}).home == tmp_path / ".forebay"
    assert load({"home": "~/other"}).home == tmp_path / "other"


def test_a_flag_outranks_the_environment_and_that_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "forebay.toml").write_text('ttl_s = 1\nstore_requests = 1\ncache_policy = "lru"\n')
    monkeypatch.setenv("FOREBAY_TTL_S", "2s")
    monkeypatch.setenv("FOREBAY_STORE_REQUESTS", "2")
    settings = load({"ttl_s": "3s"})
    assert (settings.ttl_s, settings.store_requests, settings.cache_policy) == (3.0, 2, "lru")
    sources = {row.name: row.source for row in explain({"ttl_s": "3s"})}
    assert sources["ttl_s"] == "flag"
    assert sources["store_requests"] == "environment FOREBAY_STORE_REQUESTS"
    assert sources["cache_policy"] == f"file {home}/forebay.toml"
    assert sources["prefetch"] == "default"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("memory_bytes", "1GiB", GIB),
        ("memory_bytes", "100MB", 10**8),
        ("ttl_s", "5m", 300.0),
        ("ttl_s", "500ms", 0.5),
        ("prefetch", "off", False),
        ("prefetch", "Yes", True),
        ("cache_reserve", "0.25", 0.25),
        ("cache_reserve", "25%", 0.25),
        ("metadata_entries", "1_000_000", 1_000_000),
        ("cache_dirs", "/a:200GiB,/b", (CacheDir(Path("/a"), 200 * GIB), CacheDir(Path("/b")))),
        ("cache_dirs", "", ()),
        ("cache-policy", "lru", "lru"),
    ],
)
def test_values_are_written_as_people_write_them(home: Path, name: str, text: str, value: object) -> None:
    assert getattr(load({name: text}), name.replace("-", "_")) == value


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ('memory_bytes = "1GiB"', "memory_bytes", GIB),
        ("memory_bytes = 1073741824", "memory_bytes", GIB),
        ("ttl_s = 5", "ttl_s", 5.0),
        ('ttl_s = "5m"', "ttl_s", 300.0),
        ("prefetch = false", "prefetch", False),
        ("cache_reserve = 0.25", "cache_reserve", 0.25),
        ('cache_dirs = [{path = "/a", size = "1GiB"}, {path = "/b"}]', "cache_dirs", ("/a", GIB, "/b", None)),
        ('cache_dirs = ["/a:1GiB", "/b"]', "cache_dirs", ("/a", GIB, "/b", None)),
    ],
)
def test_the_file_takes_its_own_kinds_of_values_and_text(home: Path, text: str, name: str, value: object) -> None:
    (home / "forebay.toml").write_text(text)
    found = getattr(load({}), name)
    if name == "cache_dirs":
        found = tuple(part for folder in found for part in (str(folder.path), folder.capacity_bytes))
    assert found == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('cache_polcy = "lru"', "there is no setting 'cache_polcy'"),
        ('cache_polcy = "lru"', "did you mean 'cache_policy'?"),
        ("zzzzzz = 1", "forebay config lists them"),
        ("memory_bytes = true", "true and false mean nothing here"),
        ("memory_bytes = 1", "memory_bytes must be at least 16MiB, got 1"),
        ("memory_bytes = 1.5", "expected text, found 1.5"),
        ("ttl_s = nan", "ttl_s must be 0 or more"),
        ("store_requests = 1.5", "1.5 is not a whole number"),
        ('prefetch = "perhaps"', "write true or false, not 'perhaps'"),
        ("cache_reserve = 2", "cache_reserve must be between 0 and 0.9, got 2"),
        ('cache_dirs = [{size = "1GiB"}]', "a cache folder has a path and a size"),
        ('cache_dirs = [{path = "/a", sise = "1GiB"}]', "a cache folder has a path and a size, not path, sise"),
        ('cache_dirs = [{path = "/a,b"}]', "cannot hold ',' or ':'"),
        ('cache_dirs = ["/a", "/a:1GiB"]', "the same folder stands there twice"),
        ('cache_dirs = ["/a:lots"]', "'lots' is not a size"),
        ('cache_dirs = ["/a:0"]', "must be above 0"),
        ("cache_dirs = 1", "write a list"),
        ('log_level = "loud"', "log_level must be one of debug, info, warning, error"),
        ('home = "/x"', "`home` cannot be set in a file that lies in it"),
        ("ttl_s", "is not a TOML file"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_the_files_name(home: Path, text: str, words: str) -> None:
    (home / "forebay.toml").write_text(text)
    with pytest.raises(Invalid) as caught:
        load({})
    assert words in str(caught.value)
    assert str(home / "forebay.toml") in str(caught.value)


def test_a_wrong_variable_is_named_with_the_nearest_right_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_CACHE_DIR", "/a")
    with pytest.raises(Invalid, match=r"FOREBAY_CACHE_DIR is no setting.*did you mean FOREBAY_CACHE_DIRS"):
        load({})


def test_variables_that_kubernetes_makes_of_a_service_are_no_mistake(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FOREBAY_SERVICE_HOST", "FOREBAY_PORT", "FOREBAY_PORT_80_TCP_ADDR", "FOREBAY_SERVICE_PORT_HTTP"):
        monkeypatch.setenv(name, "10.0.0.1")
    assert load({}) == Settings(home=home)


def test_a_wrong_flag_is_named(home: Path) -> None:
    with pytest.raises(Invalid, match=r"there is no setting 'cache' \(flag\); did you mean"):
        load({"cache": "/a"})
    with pytest.raises(Invalid, match=r"setting ttl_s: 'soon' is not a duration.*\(flag\)"):
        load({"ttl_s": "soon"})


def test_another_file_can_be_named_and_may_set_the_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = home / "other.toml"
    monkeypatch.setenv("FOREBAY_CONFIG", str(other))
    with pytest.raises(NotFound, match=r"FOREBAY_CONFIG names .*other\.toml, which does not exist"):
        load({})
    other.write_text('home = "/somewhere"\nttl_s = 1')
    assert load({}).home == home
    monkeypatch.delenv("FOREBAY_HOME")
    assert (load({}).home, load({}).ttl_s) == (Path("/somewhere"), 1.0)
    other.unlink()
    other.mkdir()
    with pytest.raises(Denied, match="cannot read the settings in"):
        load({})


def test_relative_folders_are_those_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load({"home": "h", "cache_dirs": "c:1GiB"})
    assert (settings.home, settings.cache_dirs[0].path) == (tmp_path / "h", tmp_path / "c")


def test_every_setting_is_explained(home: Path) -> None:
    rows = explain({})
    assert [row.name for row in rows] == list(FIELDS)
    assert all(len(row.doc) > 20 for row in rows), field_docs()
    assert {row.name: row.value for row in rows}["memory_bytes"] == "64MiB"


PATHS = st.text("abc/.-_ ", min_size=1, max_size=8).map(lambda text: Path("/" + text.strip() + "x"))
DIRS = st.builds(CacheDir, path=PATHS, capacity_bytes=st.none() | st.integers(1, 1 << 50))


@given(
    memory=st.integers(16 << 20, 1 << 45),
    ttl=st.floats(0, 1e6).map(lambda value: round(value, 3)),
    reserve=st.floats(0, 0.9),
    prefetch=st.booleans(),
    dirs=st.lists(DIRS, max_size=3, unique_by=lambda folder: folder.path).map(tuple),
)
def test_settings_given_on_as_flags_come_out_the_same(
    memory: int, ttl: float, reserve: float, prefetch: bool, dirs: tuple[CacheDir, ...]
) -> None:
    settings = Settings(
        home=Path("/nowhere"),
        memory_bytes=memory,
        ttl_s=ttl,
        cache_reserve=reserve,
        prefetch=prefetch,
        cache_dirs=dirs,
    )
    assert load(to_flags(settings)) == settings
