"""Write the report on the champions as HTML and PDF: `make report`, under a minute.

Reads only the tracking store. With GENERATED=1, or if no model of real faces is registered, it
covers the models of generated faces. FACES=1 shows real faces. MLflow keeps both files.
"""

from pathlib import Path

from agegender.registry import dossier, ledger, tracking, versions
from agegender.show import report as show


def report(*, generated: bool = False, faces: bool = False, to: Path = Path("reports")) -> None:
    """Write both files and log them; raise ValueError if there is no champion."""
    tracking.connect(Path.cwd())
    for drawn in (True,) if generated else (False, True):
        models = [
            dossier.read(family, drawn)
            for family in "AB"
            if "champion" in versions.aliases(versions.full_name(family, drawn))
        ]
        if models:
            break
    else:
        raise ValueError("No champion is registered: run `make tune` first.")
    kind = "generated" if drawn else "utkface"
    html, pdf = show.write(models, ledger.looks(), kind=kind, faces=faces or drawn)
    to.mkdir(parents=True, exist_ok=True)
    paths = [to / f"report-{kind}.{ending}" for ending in ("html", "pdf")]
    paths[0].write_text(html)
    paths[1].write_bytes(pdf)
    tags = {f"version.{model.family}": model.tags["version"] for model in models}
    tags |= {"data.kind": kind, "role": "report"}
    of = " and ".join(f"{model.name} {model.tags['version']}" for model in models)
    with tracking.run(f"report · {of}", experiment=tracking.PAGES, tags=tags) as run_id:
        for path in paths:
            tracking.log_file(run_id, path)
    print(f"{paths[0]} and {paths[1]} (run {run_id})")
