"""The whole job, `make tune`: faces, two searches, two candidates, the test, the registry, exports.

About 15 minutes on two cores (MINUTES=). Ends with a table of both models.
A second call with the same arguments goes on where the first was stopped, or shows its result.
"""

import time

from agegender.registry import tracking, versions
from pipelines import command_line, evaluate_models, promote_models, search_models, train_finalists


def run_all(work: command_line.Work) -> None:
    """Run the stages in order and print where the results are."""
    search_models.search(work)
    train_finalists.train(work)
    evaluate_models.evaluate(work)
    registered = promote_models.promote(work)
    print()
    for family, version in registered.items():
        name = promote_models.model_name(work, family)
        champion = versions.aliases(name)["champion"]
        print(f"{family}  {promote_models.summary(work.candidate(family))}")
        print(f"   {name} version {version}; the champion, in exports/, is version {champion}")
    for line in evaluate_models.verdicts(work):
        print(line)
    looks = len(tracking.test_looks())
    print(f"Looks at the locked test so far, noted in this store's test-ledger: {looks}.")
    if work.faces.kind == "generated":
        print("These faces are generated: the numbers say nothing about people.")
    print(f"{(time.monotonic() - work.started) / 60:.1f} minutes. Compare the runs: make ui")
