"""Which weights between a start and the end of training were kept, and by what: RUN/selection.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ralm_jax.runs.files import read_json, write_json

SELECTION = "selection.json"


class Choice(NamedTuple):
    """How much of the way from the start was kept, and the mean reciprocal rank at every share.

    by: the queries, so many of that name. base: the share that another had to be better than.
    """

    share: float
    figures: dict[float, float]
    by: tuple[int, str] = (0, "")
    base: float = 0.0


def save(run: Path, choices: Sequence[Choice], lexical_weight: float) -> None:
    """Writes what was chosen, and by what; of several choices the last one holds."""
    records = [
        {
            "share": choice.share,
            "probe": choice.by[1],
            "queries": choice.by[0],
            "base": choice.base,
            "mean_reciprocal_rank": {str(each): mean for each, mean in choice.figures.items()},
        }
        for choice in choices
    ]
    before = {"before": records[:-1]} if records[:-1] else {}
    write_json(run / SELECTION, {**records[-1], "lexical_weight": lexical_weight, **before})


def said(run: Path) -> list[str]:
    """What was chosen and by what, as lines for a person; none where nothing was chosen."""
    if not (run / SELECTION).exists():
        return []
    record = read_json(run / SELECTION)
    lines = [_said(each) for each in (*record.get("before", ()), record)]
    if record["share"]:
        lines.append(f"BM25 weighs {record.get('lexical_weight', 0.0):g} beside the dense score")
    return lines


def _said(record: dict[str, Any]) -> str:
    share, base, ranks = record["share"], record.get("base", 0.0), record["mean_reciprocal_rank"]
    by = f"by {record['queries']:,} {record['probe']}"
    before, here = ranks[str(base)], ranks[str(share)]
    if base and share == base:
        of = f"MRR {ranks['0.0']:.3f} to {here:.3f}"
        return f"{by[3:]} found nothing that is better by more than chance ({of})"
    if base:
        kept = f"{share:.0%} of the way was kept instead" if share else "the start was kept instead"
        return f"{kept}, {by}: MRR {before:.3f} to {here:.3f}"
    if share:
        return (
            f"{share:.0%} of the way from the start was kept, {by}: MRR {before:.3f} to {here:.3f}"
        )
    others = max(mean for each, mean in ranks.items() if each != str(0.0))
    return (
        f"the start was kept, {by}: training made nothing that is better by more than chance "
        f"(MRR {here:.3f}, at best {others:.3f})"
    )
