"""What is announced, and when, of paths that a program goes through; told to a double that writes it down."""

import copy
import os
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from recorder import MNT, Recorder, daemon, local, virtual

from forebay import lookahead
from forebay.errors import Unavailable
from forebay.lookahead import BURST, PACE, STEP, Lookahead

__all__ = ["daemon"]  # a fixture


def test_paths_come_in_their_order_and_are_announced_by_their_names_in_the_tree(daemon: Recorder) -> None:
    order = [3, 1, 2, 1]
    assert list(Lookahead(local(order))) == local(order)
    assert daemon.announced == virtual(order)
    assert (daemon.opened, daemon.advanced, daemon.closed) == (1, 4, 1)


def test_everything_is_announced_before_it_is_reached_and_no_more_than_so_far_ahead(daemon: Recorder) -> None:
    ahead = 1_500
    for number, path in enumerate(Lookahead(iter(local(range(10_000))), ahead=ahead)):
        assert path == local([number])[0]
        assert number < len(daemon.announced) <= number + ahead + STEP
    assert daemon.announced == virtual(range(10_000))
    assert max(daemon.calls) <= STEP


def test_a_long_order_is_told_by_and_by_and_holds_up_no_item_for_long(daemon: Recorder) -> None:
    total = 3 * BURST
    passes = iter(Lookahead(local(range(total))))
    told_at_once, before = 0, 0
    for number in range(total):
        next(passes)
        told = len(daemon.announced) - before
        before = len(daemon.announced)
        assert told <= STEP
        assert before <= BURST + PACE * number + STEP
        told_at_once += told > 0
        if before == total:
            break
    assert number < total // PACE + BURST // STEP
    assert told_at_once == total // STEP


def test_a_source_without_end_is_read_no_further_than_so_far_ahead(daemon: Recorder) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"{MNT}/{taken}"

    paths = iter(Lookahead(endless(), ahead=100))
    assert [next(paths) for _ in range(3)] == [f"{MNT}/{number}" for number in (1, 2, 3)]
    assert taken <= 100 + STEP


def test_how_far_it_is_is_told_as_it_goes(daemon: Recorder) -> None:
    for number, _ in enumerate(Lookahead(local(range(100)))):
        assert number - lookahead.HANDED_OUT < daemon.advanced <= number + 1


def test_who_stops_early_has_the_rest_forgotten(daemon: Recorder) -> None:
    paths = iter(Lookahead(local(range(100))))
    next(paths)
    assert daemon.closed == 0
    del paths
    assert daemon.closed == 1


def test_items_may_have_several_files_or_none(daemon: Recorder) -> None:
    items = {"both": local([1, 2]), "none": [], "one": local([3])}
    assert list(Lookahead(items, lambda name: items[name])) == list(items)
    assert daemon.announced == virtual([1, 2, 3])
    assert daemon.advanced == 3


@pytest.mark.parametrize("item", [3, ("/mnt/a.jpg", 3), None])
def test_what_is_no_path_is_refused_with_the_way_to_tell_it(daemon: Recorder, item: object) -> None:
    with pytest.raises(TypeError, match=r"is neither a path nor several; .*: files= of Lookahead"):
        list(Lookahead([item]))


def test_urls_are_announced_as_they_are(daemon: Recorder) -> None:
    assert list(Lookahead(["forebay://data/pictures/1.jpg"])) == ["forebay://data/pictures/1.jpg"]
    assert daemon.announced == ["forebay://data/pictures/1.jpg"]


def test_of_a_mixture_only_what_lies_in_forebay_is_announced(daemon: Recorder) -> None:
    mixed = ["/home/me/a.jpg", *local([1]), "/home/me/b.jpg", *local([2])]
    assert list(Lookahead(mixed)) == mixed
    assert daemon.announced == virtual([1, 2])
    assert daemon.advanced == 2


def test_a_link_to_the_mount_is_followed(daemon: Recorder, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(f"{MNT}/pictures")
    list(Lookahead([tmp_path / "data" / "7.jpg"]))
    assert daemon.announced == virtual([7])


def test_paths_outside_forebay_are_passed_on_after_one_warning_that_says_what_to_do(daemon: Recorder) -> None:
    elsewhere = [f"/home/me/{number}" for number in range(5_000)]
    with pytest.warns(RuntimeWarning, match=r"/home/me is in no local folder.*forebay fuse mount") as told:
        assert list(Lookahead(elsewhere)) == elsewhere
    assert len(told) == 1
    assert daemon.opened == 0


def test_a_daemon_that_ends_midway_costs_a_warning_and_nothing_else(daemon: Recorder) -> None:
    daemon.fails_after = 2 * STEP
    with pytest.warns(RuntimeWarning, match=r"nothing is fetched ahead.*the daemon ended") as told:
        assert list(Lookahead(local(range(10_000)))) == local(range(10_000))
    assert len(told) == 1
    assert daemon.announced == virtual(range(2 * STEP))


def test_without_a_daemon_it_goes_on_all_the_same(daemon: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Recorder:
        raise Unavailable("the daemon does not start: see ~/.forebay/daemon.log")

    monkeypatch.setattr(lookahead, "connect", refuse)
    with pytest.warns(RuntimeWarning, match="does not start"):
        assert list(Lookahead(local(range(5)))) == local(range(5))


def test_a_forked_child_tells_nothing_of_its_parents_order(daemon: Recorder) -> None:
    paths = iter(Lookahead(local(range(3_000)), ahead=10))
    next(paths)
    pid = os.fork()
    if pid == 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before = daemon.announced.copy()
            rest = list(paths)
            os._exit(0 if rest == local(range(1, 3_000)) and daemon.announced == before and not daemon.closed else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert list(paths) == local(range(1, 3_000))
    assert daemon.announced == virtual(range(3_000))


def test_it_may_be_pickled_and_copied_and_gone_through_again(daemon: Recorder) -> None:
    one = Lookahead(local(range(5)))
    for each in (one, pickle.loads(pickle.dumps(one)), copy.deepcopy(one), one):
        assert list(each) == local(range(5))
    assert len(one) == 5
    assert daemon.opened == daemon.closed == 4
