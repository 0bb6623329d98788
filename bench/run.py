"""`make bench`: every figure, in one process tree with one daemon, and the table of the latest results.

python bench/run.py [NAME ...]      only these; the table always shows the latest of each
"""

import argparse
import json
from typing import Any

import append
import check_proxy
import checkpoint
import cold_sequential
import copy_in
import first_epoch
import frameworks
import load
import lookahead
import memory
import metadata
import no_hint
import read_many
import stores
import two_jobs
import warm_large
import warm_small
from common import RESULTS, World, results_file, save, say

SCRIPTS = {
    "check_proxy": check_proxy.measure,
    "warm_large": warm_large.measure,
    "warm_small": warm_small.measure,
    "read_many": read_many.measure,
    "first_epoch": first_epoch.measure,
    "lookahead": lookahead.measure,
    "frameworks": frameworks.measure,
    "no_hint": no_hint.measure,
    "two_jobs": two_jobs.measure,
    "cold_sequential": cold_sequential.measure,
    "load": load.measure,
    "checkpoint": checkpoint.measure,
    "copy_in": copy_in.measure,
    "append": append.measure,
    "memory": memory.measure,
    "stores": stores.measure,
    "metadata": metadata.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures Forebay; see bench/run.py.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCRIPTS)}; all if none is given")
    parser.add_argument("--as-found", action="store_true", help="leave idle processors as they are; see idle.py")
    arguments = parser.parse_args()
    names = arguments.names or list(SCRIPTS)
    if unknown := [name for name in names if name not in SCRIPTS]:
        parser.error(f"there is no bench {unknown[0]}; there are {', '.join(SCRIPTS)}")
    with World(as_found=arguments.as_found) as world:
        for name in SCRIPTS:
            if name in names:
                say(name)
                save(SCRIPTS[name](world), as_found=arguments.as_found)
    write_table()


HEAD = """# Measured

Written by `bench/run.py` from the last line of each `*.jsonl` here, which hold all runs.

Every figure is a ratio of runs that took turns on one machine.  The machine is a small virtual one whose host had
switched off the polling of idle processors; "measured" is with Linux's own default, "as found" without it
(`bench/idle.py` says what that is, and `forebay doctor` whether yours has it).  All files lie on a fresh ext4, and
before a timed run that writes, memory is made ready (`bench/scratch.py` says why).  `demo.md` is the table that
`make demo` wrote.

| what | must be | measured | as found | how |
| --- | --- | --- | --- | --- |"""


def write_table() -> None:
    """The latest result of every script, as bench/results/README.md."""
    lines = [HEAD]
    latest = {name: (_latest(name, as_found=False), _latest(name, as_found=True)) for name in SCRIPTS}
    for result, found in latest.values():
        others = {figure["what"]: _shown(figure) for figure in found["figures"]} if found else {}
        for figure in result["figures"] if result else ():
            must = f"{'<=' if figure['at_most'] else '>='} {figure['must']:g}{figure['unit']}"
            cells = (figure["what"], must, _shown(figure), others.get(figure["what"], ""), result["how"])
            lines.append(f"| {' | '.join(cells)} |")
    results = [result for pair in latest.values() for result in pair if result]
    machines = {"{cpu}, {cores} cores, Linux {kernel}, Python {python}".format(**r["machine"]) for r in results}
    when = {f"{result['name']} at {result['commit']} on {result['date'][:10]}" for result in results}
    lines += ["", f"Machine: {'; '.join(sorted(machines))}.", "", f"Runs: {', '.join(sorted(when))}.", ""]
    (RESULTS / "README.md").write_text("\n".join(lines))
    say(f"the table is in {RESULTS / 'README.md'}")


def _shown(figure: dict[str, Any]) -> str:
    return f"{figure['measured']:.3g}{figure['unit']}"


def _latest(name: str, *, as_found: bool) -> dict[str, Any] | None:
    path = results_file(name, as_found=as_found)
    if not path.exists():
        return None
    last: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
    return last


if __name__ == "__main__":
    main()
