"""`make bench`: every figure, in one process tree with one daemon, and the table of the latest results.

python bench/run.py [NAME ...]      only these; the table always shows the latest of each
"""

import argparse
import json
from typing import Any

import check_proxy
import cold_sequential
import first_epoch
import load
import memory
import warm_large
import warm_small
from common import RESULTS, World, save, say

SCRIPTS = {
    "check_proxy": check_proxy.measure,
    "warm_large": warm_large.measure,
    "warm_small": warm_small.measure,
    "first_epoch": first_epoch.measure,
    "cold_sequential": cold_sequential.measure,
    "load": load.measure,
    "memory": memory.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures Forebay; see bench/run.py.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCRIPTS)}; all if none is given")
    names = parser.parse_args().names or list(SCRIPTS)
    if unknown := [name for name in names if name not in SCRIPTS]:
        parser.error(f"there is no bench {unknown[0]}; there are {', '.join(SCRIPTS)}")
    with World() as world:
        for name in SCRIPTS:
            if name in names:
                say(name)
                save(SCRIPTS[name](world))
    write_table()


def write_table() -> None:
    """The latest result of every script, as bench/results/README.md."""
    latest = [_latest(name) for name in SCRIPTS]
    lines = [
        "# Measured",
        "",
        "Written by `bench/run.py` from the last line of each `*.jsonl` here, which hold all runs.",
        "",
    ]
    lines += ["| what | must be | measured | how |", "| --- | --- | --- | --- |"]
    for result in latest:
        for figure in result["figures"] if result else ():
            unit = figure["unit"]
            must = f"{'<=' if figure['at_most'] else '>='} {figure['must']:g}{unit}"
            lines.append(f"| {figure['what']} | {must} | {figure['measured']:.3g}{unit} | {result['how']} |")
    machines = {
        "{cpu}, {cores} cores, Linux {kernel}, Python {python}".format(**result["machine"])
        for result in latest
        if result
    }
    when = {f"{result['name']} at {result['commit']} on {result['date'][:10]}" for result in latest if result}
    lines += ["", f"Machine: {'; '.join(sorted(machines))}.", "", f"Runs: {', '.join(sorted(when))}.", ""]
    (RESULTS / "README.md").write_text("\n".join(lines))
    say(f"the table is in {RESULTS / 'README.md'}")


def _latest(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.jsonl"
    if not path.exists():
        return None
    last: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
    return last


if __name__ == "__main__":
    main()
