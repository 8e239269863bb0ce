"""Score both candidates on the locked test, once: `make evaluate`. Each look is in the ledger."""

from agegender.registry import candidates
from pipelines.work import Work
from tuning import families


def evaluate(work: Work) -> None:
    """Evaluate both candidates; one that was evaluated already is not looked at again."""
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
