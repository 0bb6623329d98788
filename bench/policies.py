"""Hit ratios of the real policy code in a simulation: a table and a plot.

python bench/policies.py [OBJECTS]

Every object is read once an epoch, in a new random order; ten epochs, of which the first has no hits and does not
count.  Sizes of the cache are shares of one data set.  `best` is Belady's MIN with the whole future known.
"""

import sys
from collections.abc import Callable, Sequence

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from common import RESULTS, say
from forebay.testing.simulation import Read, best, epochs, hits_announced, hits_of, in_turns

SHARES = [share / 10 for share in range(1, 10)]
EPOCHS = 10
Hits = Callable[[int], list[bool]]
Scenario = tuple[str, list[list[list[Read]]], int]  # its title, what is read, how many reads do not count


def scenarios(count: int) -> list[Scenario]:
    """What is read, by epoch and job."""
    one, other = range(count), range(count, 2 * count)
    half = EPOCHS // 2
    changing = epochs(one, half) + epochs(other, half, seed=2)
    both = [a + b for a, b in zip(epochs(one, EPOCHS), epochs(other, EPOCHS, seed=2, first_job=1), strict=True)]
    return [
        ("one job", epochs(one, EPOCHS), count),
        (
            "one job that changes its data set after five epochs; the epochs after the change",
            changing,
            (half + 1) * count,
        ),
        ("two jobs, each with a data set of its own", both, 2 * count),
        ("two jobs on the same data set", epochs(one, EPOCHS, jobs=2), 2 * count),
    ]


def policies(orders: list[list[list[Read]]], count: int) -> dict[str, Hits]:
    """What is compared."""
    trace = [read for epoch in orders for read in in_turns(epoch)]

    def told(known: int) -> Hits:
        return lambda size: hits_announced(orders, size, known=known, per_set=count)

    def by(policy: str) -> Hits:
        return lambda size: hits_of(trace, size, policy, per_set=count)

    sides = {policy: by(policy) for policy in ("lru", "s3fifo", "keep")}
    sides |= {"announced, this epoch": told(1), "announced, this epoch and the next": told(2)}
    return sides | {"best": lambda size: best(trace, size)}


def ratios(hits: Hits, count: int, skipped: int) -> list[float]:
    """The hit ratio at every size of the cache."""
    found = []
    for share in SHARES:
        counted = hits(int(share * count))[skipped:]
        found.append(counted.count(True) / len(counted))
    return found


def table(rows: dict[str, Sequence[float]]) -> list[str]:
    """Markdown, and how far each is from the best at most."""
    lines = ["| policy | " + " | ".join(f"{share:.0%}" for share in SHARES) + " | below best, at most |"]
    lines.append("|---" * (len(SHARES) + 2) + "|")
    for name, row in rows.items():
        behind = max(best - own for best, own in zip(rows["best"], row, strict=True))
        lines.append(f"| {name} | " + " | ".join(f"{ratio:.3f}" for ratio in row) + f" | {behind:.3f} |")
    return lines


def plot(results: dict[str, dict[str, list[float]]]) -> None:
    """Write `bench/results/policies.png`."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), sharex=True, sharey=True)
    for (title, rows), axis in zip(results.items(), axes.flat, strict=True):
        for name, row in rows.items():
            style = {"best": ("k", ":", 3.0), "keep": ("tab:purple", "-", 2.0)}.get(name, (None, "-", 1.2))
            axis.plot(SHARES, row, label=name, color=style[0], linestyle=style[1], linewidth=style[2])
        axis.set_title(title.partition(";")[0], fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("cache, as a share of one data set")
    for axis in axes[:, 0]:
        axis.set_ylabel("hit ratio")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "policies.png", dpi=90)


def main() -> None:
    """Simulate, and write `bench/results/policies.md` and `.png`."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    lines = ["# Hit ratios of the policies, simulated", "", *str(__doc__).split("\n\n", 2)[2].strip().splitlines(), ""]
    lines += [f"{count:,} objects to a data set; written by `bench/policies.py`; [as a plot](policies.png).", ""]
    results: dict[str, dict[str, list[float]]] = {}
    for title, orders, skipped in scenarios(count):
        say(title)
        rows = results[title] = {name: ratios(hits, count, skipped) for name, hits in policies(orders, count).items()}
        lines += [f"## {title[0].upper()}{title[1:]}", "", *table(rows), ""]
    plot(results)
    (RESULTS / "policies.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
