"""The whole job, `make tune`: faces, two searches, two candidates, the test, the registry, exports.

A second call with the same arguments continues where the first stopped, or shows its result.
"""

import json
import textwrap
import time

from agegender import progress, records
from agegender.registry import access, ledger, tracking, ui
from agegender.show import summary
from pipelines import evaluate_models, promote_models, search_models, train_finalists
from pipelines.work import Work
from tuning import families, family_search, journal, standing


def run_all(work: Work) -> None:
    """Run the stages in order; show the results and the commands to try next."""
    if work.settings.minutes is not None:
        work.display("\n".join(time_plan(work)))
    search_models.search(work)
    train_finalists.train(work)
    evaluate_models.evaluate(work)
    promote_models.promote(work)
    work.display("\n".join(["", *results(work), "", *next_steps(work)]))


def time_plan(work: Work) -> list[str]:
    """Return how the remaining time is shared; later parts use what an earlier one saves."""
    parts = {one.letter: one.settings(work.settings) for one in families.FAMILIES.values()}
    shares = {f"search of {letter}": part.search_share for letter, part in parts.items()}
    # In the order of `train_finalists`.
    for letter in reversed(parts):
        shares[f"final training of {letter}"] = parts[letter].final_share
    seconds = work.stop_at(1) - work.stop_at(0)
    times = [f"{part} {progress.clock(share * seconds)}" for part, share in shares.items()]
    closing = f"test and registry {progress.clock(work.settings.closing_seconds)}"
    return textwrap.wrap(f"Plan: {', '.join([*times, closing])}.", standing.LINE_LENGTH)


def results(work: Work) -> list[str]:
    """Return the summary: the results of both models, and how far to trust them."""
    lines = ["Results on the locked test, with 95 % intervals"]
    candidates = {family: work.candidate(family) for family in families.FAMILIES}
    lines += [f"{family}  {summary.tested(one)}" for family, one in candidates.items()]
    tables = (
        records.read_predictions(work.candidate_folder(family) / records.PREDICTIONS)
        for family in candidates
    )
    lines += summary.verdicts(candidates["B"], *tables)
    for family in families.FAMILIES:
        done = journal.read(work.folder / family / records.JOURNAL)
        if few := family_search.shortfall(done, family, work.settings, work.ready - work.started):
            lines.append(f"{family}  {few}")
    looks = standing.count(len(ledger.looks()), "look")
    lines.append(f"{looks} at the locked test so far, listed in experiment {ledger.EXPERIMENT}.")
    if work.faces.kind == "generated":
        lines.append("These faces are generated: the numbers say nothing about people.")
    return [textwrap.fill(line, standing.LINE_LENGTH, subsequent_indent="   ") for line in lines]


def next_steps(work: Work) -> list[str]:
    """Return the commands to try next."""
    found = [work.folder / family / records.SEARCH for family in families.FAMILIES]
    trials = [ui.address(json.loads(path.read_text())["run_id"]) for path in found]
    uri = access.shown(tracking.current_uri())
    server = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return [
        f"Done in {(time.monotonic() - work.started) / 60:.1f} minutes. Next:",
        "  make ui                        all runs in the browser; the trials of this search:",
        *(f"    {server}{url}" for url in trials),
        "  make report                    both models explained, as HTML and PDF in reports/",
        "  make predict PHOTO=photo.jpg   ages and genders in a photo of your own",
    ]
