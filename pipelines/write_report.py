"""Write the report on the champions, HTML and PDF: `make report`, under a minute.

Reads only the tracking store. With GENERATED=1, or where no model of real faces is registered, it
is about the models of generated faces. FACES=1 shows real faces. MLflow keeps both files.
"""

from pathlib import Path

from agegender.registry import dossier, ledger, tracking, versions
from agegender.show import report as show


def report(*, generated: bool = False, faces: bool = False, to: Path = Path("reports")) -> None:
    """Write both files and log them; ValueError where there is no champion."""
    tracking.connect(Path.cwd())
    for kind in ("generated",) if generated else ("utkface", "generated"):
        names = {family: versions.full_name(family, kind == "generated") for family in "AB"}
        models = {
            family: dossier.read(name)
            for family, name in names.items()
            if "champion" in versions.aliases(name)
        }
        if models:
            break
    else:
        raise ValueError("No champion is registered: run `make tune` first.")
    facts = show.facts(models, ledger.looks(), kind=kind)
    html, pdf = show.write(facts, faces=faces or kind == "generated")
    to.mkdir(parents=True, exist_ok=True)
    paths = [to / f"report-{kind}.{ending}" for ending in ("html", "pdf")]
    paths[0].write_text(html)
    paths[1].write_bytes(pdf)
    tags = {f"version.{family}": model.tags["version"] for family, model in models.items()}
    tags |= {"data.kind": kind, "role": "report"}
    of = " and ".join(f"{model.name} {model.tags['version']}" for model in models.values())
    with tracking.run(f"report · {of}", experiment=tracking.PAGES, tags=tags) as run_id:
        for path in paths:
            tracking.log_file(run_id, path)
    print(f"{paths[0]} and {paths[1]} (run {run_id})")
