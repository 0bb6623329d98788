"""The demo's table, as Markdown, and its chart."""

import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen

from matplotlib import pyplot

HEAD = "| {} | images/s | seconds per epoch | reading | decoding, preparing | training step |"
RULE = "| --- | ---: | ---: | ---: | ---: | ---: |"


@dataclass(frozen=True)
class Row:
    """One line of the table: a place the pictures were read from, and its epochs."""

    name: str
    epochs: list[dict[str, float]]  # as demo/train.py writes them

    @property
    def seconds(self) -> float:
        """Of an epoch; the median."""
        return statistics.median(epoch["seconds"] for epoch in self.epochs)

    @property
    def rate(self) -> float:
        """Images per second; the median."""
        return statistics.median(epoch["images"] / epoch["seconds"] for epoch in self.epochs)

    def ms_per_image(self, phase: str) -> float:
        """Milliseconds of one phase for one image; the median."""
        return statistics.median(1000 * epoch[phase] / epoch["images"] for epoch in self.epochs)

    def line(self) -> str:
        """The row in Markdown."""
        phases = [f"{self.ms_per_image(phase):.2f} ms" for phase in ("reading_s", "preparing_s", "step_s")]
        return f"| {self.name} | {self.rate:,.0f} | {self.seconds:.2f} | {' | '.join(phases)} |"


@dataclass(frozen=True)
class Report:
    """All that was measured."""

    training: list[Row]
    reading: list[Row]
    local_ratios: list[float]  # Forebay's warm epochs against the local disk's beside them, training
    direct_ratio: float  # Forebay's epoch 2 against reading the store directly, reading-bound
    facts: list[str]  # how it was measured, a sentence each

    def markdown(self) -> str:
        """The document."""
        ratio = statistics.median(self.local_ratios)
        spread = ", ".join(f"{each:.2f}" for each in self.local_ratios)
        parts = [
            "# Training over Forebay, measured by `make demo`",
            _table("training a small AlexNet", self.training),
            _table("reading only: no decoding, no training step", self.reading),
            "| what | should be | measured |\n| --- | --- | --- |\n"
            f"| training images/s, warm Forebay against local disk | >= 0.95 | {ratio:.2f} (median of {spread}) |\n"
            f"| epoch 2 against reading the store directly, reading only | >= 3 | {self.direct_ratio:.1f} |",
            "\n".join(f"- {fact}" for fact in self.facts),
        ]
        return "\n\n".join(parts) + "\n"


def _table(title: str, rows: list[Row]) -> str:
    return "\n".join([HEAD.format(title), RULE, *(row.line() for row in rows)])


def describe_machine() -> str:
    """Processor count, kernel and Python of this machine."""
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores for everything, Linux {platform.release()}, Python {platform.python_version()}"


def draw_chart(report: Report, path: Path) -> None:
    """The two tables' images/s as bars, as a PNG."""
    figure, panels = pyplot.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    titles = ("training a small AlexNet", "reading only (logarithmic)")
    for panel, title, rows in zip(panels, titles, (report.training, report.reading), strict=True):
        names, rates = [row.name for row in rows][::-1], [row.rate for row in rows][::-1]
        colours = ["#2a7f9e" if "Forebay" in name else "#9aa5ab" for name in names]
        bars = panel.barh(names, rates, color=colours)
        panel.bar_label(bars, labels=[f"{rate:,.0f}" for rate in rates], padding=4)
        panel.set_title(title, loc="left")
        panel.set_xlabel("images/s")
        panel.margins(x=0.15)
        panel.spines[["top", "right"]].set_visible(False)
    panels[1].set_xscale("log")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
