"""Which weights between a start and the end of training were kept, and by what: RUN/selection.json."""

from pathlib import Path
from typing import NamedTuple

from ralm_jax.runs.files import read_json, write_json

SELECTION = "selection.json"


class Choice(NamedTuple):
    """How much of the way from the start was kept, and the mean reciprocal rank at every share."""

    share: float
    figures: dict[float, float]


def save(run: Path, choice: Choice, lexical_weight: float, probe: tuple[int, str]) -> None:
    """Writes what was chosen, and by what: so many queries of that name."""
    record = {
        "share": choice.share,
        "lexical_weight": lexical_weight,
        "probe": probe[1],
        "queries": probe[0],
        "mean_reciprocal_rank": {str(each): mean for each, mean in choice.figures.items()},
    }
    write_json(run / SELECTION, record)


def said(run: Path) -> list[str]:
    """What was chosen and by what, as a line for a person; none where nothing was chosen."""
    if not (run / SELECTION).exists():
        return []
    record = read_json(run / SELECTION)
    share, ranks = record["share"], record["mean_reciprocal_rank"]
    by = f"by {record['queries']:,} {record['probe']}"
    start = ranks[str(0.0)]
    if not share:
        others = max(mean for each, mean in ranks.items() if each != str(0.0))
        return [
            f"the start was kept, {by}: training made nothing that is better by more than chance "
            f"(MRR {start:.3f}, at best {others:.3f})"
        ]
    kept = ranks[str(share)]
    return [
        f"{share:.0%} of the way from the start was kept, {by}: MRR {start:.3f} to {kept:.3f}",
        f"BM25 weighs {record.get('lexical_weight', 0.0):g} beside the dense score",
    ]
