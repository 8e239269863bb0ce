"""Score both candidates once on the locked test: `make evaluate`. The ledger records each look."""

from agegender.registry import candidates
from pipelines.work import Work
from tuning import families


def evaluate(work: Work) -> None:
    """Evaluate both candidates; skip one that was already evaluated."""
    for family, chosen in families.FAMILIES.items():
        candidate = work.candidate(family)
        if candidate.evidence:
            continue
        work.display(f"\nLocked test of {chosen.title}")
        candidates.evaluate(
            candidate,
            work.candidate_folder(family),
            work.faces,
            work.settings,
            purpose="final evaluation",
            report=work.display,
        )
