"""Measures as sums and counts, so that batches, devices and processes can be added up.

A ratio of two sums is taken once, at the end: a mean of the means of unequal batches is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Mean:
    """Named means kept apart as (sum, count).

    >>> half = Mean.of({"loss": (6.0, 4)})
    >>> half.merge(Mean.of({"loss": (1.0, 1), "hits": (3, 4)})).compute()
    {'loss': 1.4, 'hits': 0.75}
    """

    totals: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, pairs: Mapping[str, tuple[Any, Any]]) -> "Mean":
        """From {name: (sum, count)}, both scalars of Python, numpy or jax."""
        return cls(
            {name: float(total) for name, (total, _) in pairs.items()},
            {name: float(count) for name, (_, count) in pairs.items()},
        )

    def merge(self, other: "Mean") -> "Mean":
        """The means over both; a name may be in either one alone."""
        return Mean(_add(self.totals, other.totals), _add(self.counts, other.counts))

    def compute(self) -> dict[str, float]:
        """The means; nan where nothing was counted."""
        return {
            name: total / self.counts[name] if self.counts[name] else float("nan")
            for name, total in self.totals.items()
        }


def _add(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {name: a.get(name, 0.0) + b.get(name, 0.0) for name in {**a, **b}}
