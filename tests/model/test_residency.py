"""Residency against a model so simple that it cannot be wrong: a set of page numbers."""

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from forebay.cache.pages import PAGE_BYTES, Residency, Run, bytes_of, page_count

PAGES_MAX = 40
sizes = st.integers(0, PAGES_MAX * PAGE_BYTES)
runs = st.tuples(st.integers(0, PAGES_MAX), st.integers(0, 8)).map(lambda pair: Run(pair[0], pair[0] + pair[1]))


class ResidencyMachine(RuleBasedStateMachine):
    @initialize(size=sizes)
    def start(self, size: int) -> None:
        self.size = size
        self.residency = Residency(size)
        self.model: set[int] = set()

    @rule(run=runs)
    def add(self, run: Run) -> None:
        self.residency.add(run)
        self.model |= set(range(*run)) & set(range(page_count(self.size)))

    @rule(run=runs)
    def discard(self, run: Run) -> None:
        self.residency.discard(run)
        self.model -= set(range(*run))

    @rule()
    def save_and_restore(self) -> None:
        self.residency = Residency(self.size, self.residency.mask)

    @rule(run=runs)
    def missing_runs_are_maximal_and_exact(self, run: Run) -> None:
        missing = self.residency.missing(run)
        assert {page for part in missing for page in range(*part)} == set(range(*run)) - self.model
        assert all(len(part) for part in missing)
        assert all(before.stop < after.first for before, after in itertools.pairwise(missing))

    @rule(run=runs)
    def has_means_every_page(self, run: Run) -> None:
        assert self.residency.has(run) == (set(range(*run)) <= self.model)

    @invariant()
    def agrees_with_the_model(self) -> None:
        whole = range(page_count(self.size))
        assert self.residency.complete == (self.model == set(whole))
        assert self.residency.resident_bytes == sum(bytes_of(Run(page, page + 1), self.size) for page in self.model)
        assert {page for run in self.residency.present() for page in range(*run)} == self.model


TestResidency = ResidencyMachine.TestCase
