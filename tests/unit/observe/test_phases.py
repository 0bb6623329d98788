"""What limited a training, from numbers made up by hand."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.observe.phases import COMPUTE, FILLING, GOAL, PHASES, STORE, Finding, Phase, examine, phase_of
from forebay.observe.series import Row

MB = 1e6


def store_bound(end_s: float) -> Row:
    """10 MB/s from the store, and somebody waits nine seconds of ten."""
    return Row(end_s, 10.0, misses=100, from_store=100 * MB, fetched=100 * MB, stall_s=18.0, stalled_s=9.0)


def filling(end_s: float) -> Row:
    """20 MB/s, three quarters of it from the cache."""
    return Row(
        end_s, 10.0, hits=150, misses=50, from_store=50 * MB, from_cache=150 * MB, fetched=100 * MB, stalled_s=5.0
    )


def compute_bound(end_s: float) -> Row:
    """40 MB/s, all from the cache, and nobody waits."""
    return Row(end_s, 10.0, hits=400, from_cache=400 * MB)


def phase(finding: Finding, name: str) -> Phase:
    return next(each for each in finding.phases if each.name == name)


def three_epochs() -> list[Row]:
    rows = [store_bound(10.0 * n) for n in range(1, 5)]
    rows += [filling(10.0 * n) for n in range(5, 7)]
    return rows + [compute_bound(10.0 * n) for n in range(7, 11)]


def test_a_training_goes_through_its_three_phases() -> None:
    finding = examine(three_epochs(), opened_bytes=1000 * MB)
    assert [(stretch.name, stretch.begin_s, stretch.seconds) for stretch in finding.stretches] == [
        (STORE, 0.0, 40.0),
        (FILLING, 40.0, 20.0),
        (COMPUTE, 60.0, 40.0),
    ]
    assert [each.seconds for each in finding.phases] == [40.0, 20.0, 40.0]
    assert phase(finding, STORE).from_store == 400 * MB
    assert (phase(finding, FILLING).read, phase(finding, FILLING).from_cache) == (400 * MB, 300 * MB)
    assert phase(finding, COMPUTE).stalled_s == 0


def test_what_a_full_cache_would_bring_follows_from_what_was_seen() -> None:
    finding = examine(three_epochs(), opened_bytes=1000 * MB)
    assert finding.read == (4 * 100 + 2 * 200 + 4 * 400) * MB  # in 100 s
    assert finding.demand_rate == 24 * MB
    assert finding.stalled_share == pytest.approx((4 * 9 + 2 * 5) / 100)
    assert finding.is_data_bound
    assert finding.compute_rate == 40 * MB
    assert finding.store_rate == 10 * MB
    assert finding.gain == pytest.approx(40 / 24)
    assert not finding.is_gain_a_guess
    # 10 / (1 - c) = 0.95 * 40 at c = 1 - 10 / 38
    assert finding.goal_cache_bytes == pytest.approx((1 - 10 / 38) * 1000 * MB)


def test_of_a_training_that_was_never_fast_only_the_cost_of_waiting_is_known() -> None:
    finding = examine([filling(10.0), filling(20.0)], opened_bytes=1000 * MB)
    assert finding.gain == pytest.approx(2.0)  # half of the time somebody waited
    assert finding.is_gain_a_guess
    assert finding.goal_cache_bytes is None


def test_readers_who_only_wait_say_nothing_of_how_fast_they_could_be() -> None:
    rows = [store_bound(10.0 * n)._replace(stalled_s=10.0) for n in range(1, 4)]
    finding = examine(rows, opened_bytes=1000 * MB)
    assert (finding.is_data_bound, finding.gain, finding.goal_cache_bytes) == (True, None, None)


def test_a_store_that_is_fast_enough_needs_no_cache() -> None:
    fast = store_bound(20.0)._replace(fetched=500 * MB)
    rows = [fast._replace(end_s=10.0), fast, compute_bound(30.0), compute_bound(40.0)]
    assert examine(rows, opened_bytes=1000 * MB).goal_cache_bytes == 0


def test_a_short_pause_is_computing_and_a_long_one_is_not_counted() -> None:
    finding = examine([compute_bound(10.0), compute_bound(50.0), compute_bound(500.0)], opened_bytes=0)
    assert finding.seconds == 10 + 30 + 10 + 10
    assert phase(finding, COMPUTE).seconds == 60
    assert [(stretch.begin_s, stretch.seconds) for stretch in finding.stretches] == [(0.0, 50.0), (490.0, 10.0)]


def test_where_nothing_was_read_there_is_nothing_to_say() -> None:
    finding = examine([], opened_bytes=0)
    assert (finding.seconds, finding.read, finding.gain, finding.stretches) == (0, 0, None, ())
    assert not finding.is_data_bound
    only_loaded = examine([Row(10.0, 10.0, fetched=100 * MB)], opened_bytes=0)
    assert only_loaded.seconds == 0, "a load is no reading"


def test_readers_who_wait_for_names_only_are_held_up_by_the_store() -> None:
    assert phase_of(Row(10.0, 10.0, stalled_s=8.0)) == STORE


sizes = st.floats(min_value=0, max_value=1e12)


times = st.tuples(
    st.floats(min_value=0.1, max_value=20),  # seconds
    st.sampled_from([0.0, 5.0, 1000.0]),  # of pause before
    st.floats(min_value=0, max_value=1),  # share of it in which somebody waited
    st.tuples(sizes, sizes, sizes, sizes),
)


def rows_of(made: list[tuple[float, float, float, tuple[float, float, float, float]]]) -> list[Row]:
    end_s, found = 0.0, []
    for seconds, pause_s, share, bytes_read in made:
        end_s += pause_s + seconds
        found.append(Row(end_s, seconds, 1, 1, *bytes_read, share * seconds, share * seconds))
    return found


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(st.lists(times, max_size=12).map(rows_of), sizes)
def test_whatever_went_on_the_parts_are_parts_of_the_whole(made: list[Row], opened: float) -> None:
    finding = examine(made, opened_bytes=opened)
    assert [each.name for each in finding.phases] == list(PHASES)
    assert sum(each.seconds for each in finding.phases) == pytest.approx(finding.seconds)
    assert sum(each.read for each in finding.phases) == pytest.approx(finding.read)
    assert 0 <= finding.cache_share <= 1
    assert 0 <= finding.stalled_share <= 1 + 1e-9
    assert finding.gain is None or finding.gain >= 1
    assert finding.goal_cache_bytes is None or 0 <= finding.goal_cache_bytes <= opened
    assert finding.seconds <= (made[-1].end_s if made else 0) + 1e-6
    if finding.goal_cache_bytes and opened and finding.store_rate and finding.compute_rate:
        share = finding.goal_cache_bytes / opened
        assert finding.store_rate == pytest.approx(GOAL * finding.compute_rate * (1 - share), rel=1e-3)
