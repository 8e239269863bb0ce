"""Register both candidates, judge them and export the champions: `make promote`.

The first version of a family becomes champion; a later one must pass `registry.promotion`'s gate.
"""

import textwrap

from agegender import config, progress, records
from agegender.registry import candidates, promotion, releases, versions
from pipelines.work import Work
from tuning import families


def promote(work: Work) -> None:
    """Register each candidate, judge it and report the result; nothing is done twice."""
    work.display("\nRegistry")
    if work.faces.kind == "utkface":
        # A first search has to beat the released models, those trained on about as many faces.
        releases.register(work.root / "models", full=len(work.faces.manifest) > releases.FULL_FACES)
    for place, family in enumerate(families.FAMILIES):
        name = versions.full_name(family, generated=work.faces.kind == "generated")
        work.display(progress.Progress("Registry", place, len(families.FAMILIES), name))
        folder, candidate = work.candidate_folder(family), work.candidate(family)
        if not candidate.test:
            raise ValueError(f"No test of {family}'s candidate: run `make evaluate` first.")
        version = candidates.register(candidate, folder, work.faces, name)
        test = records.read_predictions(folder / records.PREDICTIONS)
        judged = promotion.judge(
            name, version, test, work.faces, config.Gate(), seed=candidate.seed
        )
        exported = candidates.export_champion(work.root, family, work.faces.kind)
        where = f"version {versions.aliases(name)['champion']} is champion, in "
        where += str(exported.relative_to(work.root))
        if judged.decision == "champion":
            work.display(f"  {family}  {name} {where}")
            continue
        work.display(
            f"  {family}  {name} version {version} against version {judged.against}: "
            f"{judged.decision}; {where}"
        )
        work.display(textwrap.indent(textwrap.fill(judged.reasons, 104), "     "))
    work.display(progress.Progress("Registry", 1, 1))
