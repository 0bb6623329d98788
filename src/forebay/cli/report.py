"""`forebay report`: what limited a training, the store or what computes, and what a larger cache would bring."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from forebay.cli.output import duration_text, put, put_json, put_sentence, put_table, quote_name
from forebay.cli.session import connect
from forebay.cli.words import AsJson, Misuse, example
from forebay.observe.phases import GOAL, Finding, Phase, examine
from forebay.observe.series import Row
from forebay.units import format_size, parse_duration

DAY_S = 86_400.0
GAIN_MIN = 1.05  # less is within what a rate varies by itself

_COLUMNS = [
    ("phase", "left"),
    *((name, "right") for name in ("time", "read", "from cache", "from store", "from memory", "readers waited")),
]


def report(
    context: typer.Context,
    mount: Annotated[str | None, typer.Option(help="Only this mount.", metavar="PATH")] = None,
    since: Annotated[str, typer.Option(help="How far back, up to 24h.", metavar="DURATION")] = "10m",
    as_json: AsJson = False,
) -> None:
    """Say what limited the training of late: the store or what computes, and what more cache would bring."""
    since_s = parse_duration(since)
    if not 0 < since_s <= DAY_S:
        raise Misuse(f"--since {since}: more than 0, and at most 24h")
    query: dict[str, str | int] = {"since_s": round(since_s)}
    if mount is not None:
        query["path"] = mount
    history = connect(context).call("GET", "/v1/activity/history", query=query)
    found = [(one, _examine(one)) for one in history["mounts"]]
    if as_json:
        put_json([_as_json(one, finding, history["at_s"]) for one, finding in found])
        return
    read = [(one, finding) for one, finding in found if finding.seconds]
    if not read:
        where = "" if mount is None else f" at {quote_name(mount)}"
        put(f"nothing was read{where} in the last {duration_text(since_s)}")
        return
    for number, (one, finding) in enumerate(read):
        if number:
            put()
        _put_finding(one, finding, since_s, history["capacity_bytes"])


def _examine(mount: dict[str, Any]) -> Finding:
    return examine([Row(*row) for row in mount["rows"]], opened_bytes=mount["opened_bytes"])


def _as_json(mount: dict[str, Any], finding: Finding, now_s: float) -> dict[str, Any]:
    told = asdict(finding)
    for stretch in told["stretches"]:
        stretch["begin_ago_s"] = now_s - stretch.pop("begin_s")
    known = {name: mount[name] for name in ("path", "opened_files", "opened_bytes", "cached_bytes")}
    return known | told


def _put_finding(mount: dict[str, Any], finding: Finding, since_s: float, capacity_bytes: int) -> None:
    put_sentence(
        f"{quote_name(mount['path'])}, the last {duration_text(since_s)}: {duration_text(finding.seconds)} of reading "
        f"and computing, {format_size(finding.read)} read ({format_size(finding.demand_rate)}/s)"
    )
    put()
    put_table(_COLUMNS, [_row(phase) for phase in finding.phases if phase.seconds])
    put()
    for sentence in sentences(finding, mount["opened_bytes"], mount["cached_bytes"], capacity_bytes):
        put_sentence(sentence)


def _row(phase: Phase) -> list[str]:
    rates = (phase.read, phase.from_cache, phase.from_store, phase.from_memory)
    return [
        phase.name,
        duration_text(phase.seconds),
        *(f"{format_size(size / phase.seconds)}/s" for size in rates),
        f"{phase.stalled_s / phase.seconds:.0%}",
    ]


def sentences(finding: Finding, opened: float, cached: float, capacity: float) -> Iterator[str]:
    """What it means, for the one who trains; sizes in bytes."""
    waited = f"readers waited for the store in {finding.stalled_share:.0%} of the time"
    if finding.is_data_bound:
        yield f"Data is the bottleneck: {waited}."
    else:
        yield f"The store is not the bottleneck: {waited}. What computes is, or the local disk."
    yield f"The cache gave {finding.cache_share:.0%} of the bytes read."
    yield _gain(finding)
    held = f"{format_size(cached)} of this mount are cached; {format_size(opened)} of different files were opened."
    if finding.goal_cache_bytes is None or not finding.is_data_bound:
        yield held
        return
    goal = finding.goal_cache_bytes
    size = "no cache: the store alone is fast enough" if goal == 0 else f"a cache of {format_size(goal)}"
    yield f"{GOAL:.0%} of that takes {size}. {held}"
    if goal > capacity:
        yield f"The cache may hold {format_size(capacity)}: give it more with the setting cache_dirs."


def _gain(finding: Finding) -> str:
    if finding.gain is None:
        return (
            "With all of it cached the training is faster; how much shows once readers need not wait: "
            "forebay fs load brings everything here."
        )
    if finding.gain < GAIN_MIN:
        return "A larger cache would not make it faster."
    if finding.is_gain_a_guess:
        return f"With all of it cached it could be up to {finding.gain:.1f} times as fast: that is what waiting costs."
    rates = f"{format_size(finding.demand_rate)}/s to {format_size(finding.compute_rate or 0)}/s"
    return f"With all of it cached it would be {finding.gain:.1f} times as fast, from {rates}."


def add_command(app: typer.Typer) -> None:
    """Give the app the command of this module."""
    app.command(epilog=example("forebay report", "forebay report --mount /training-data/imagenet --since 1h"))(report)
