"""The whole job, `make tune`: faces, two searches, two candidates, the test, the registry, exports.

About 15 minutes on two cores (MINUTES=), two with `make smoke`. Ends with a table of both models.
A second call with the same arguments goes on where the first was stopped, or shows its result.
"""

import time

from pipelines import command_line, evaluate_models, promote_models, search_models, train_finalists


def run_all(work: command_line.Work) -> None:
    """Run the stages in order and print where the results are."""
    search_models.search(work)
    train_finalists.train(work)
    evaluate_models.evaluate(work)
    versions = promote_models.promote(work)
    print()
    for family, version in versions.items():
        name = promote_models.model_name(work, family)
        print(f"{family}  {promote_models.summary(work.candidate(family))}")
        print(f"   {name} version {version}, exports/age_gender_{family}.h5")
    for line in evaluate_models.verdicts(work):
        print(line)
    if work.faces.kind == "generated":
        print("These faces are generated: the numbers say nothing about people.")
    print(f"{(time.monotonic() - work.started) / 60:.1f} minutes. Compare the runs: make ui")


if __name__ == "__main__":
    command_line.run(__doc__, run_all)
