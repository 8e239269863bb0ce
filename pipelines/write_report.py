"""Write the report on the champions, HTML and PDF: `make report`, under a minute.

    python -m pipelines.write_report [--generated] [--faces] [--to reports]

Reads the tracking store alone: no data, no network. Where no model of real faces is registered, or
with --generated, it is about the models of generated faces. Pictures of real faces stay out unless
--faces asks for them; what a version lacks is left out and named. Both files are logged to MLflow.
"""

import argparse
from pathlib import Path

from agegender.evidence import champions, pages
from agegender.registry import dossier, tracking, versions


def main(argv: list[str] | None = None) -> list[Path]:
    """Write both files, log them, return where they are; status 2 where there is no champion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generated", action="store_true", help="models of generated faces")
    parser.add_argument("--faces", action="store_true", help="show the real faces that runs keep")
    parser.add_argument("--to", type=Path, default=Path("reports"))
    arguments = parser.parse_args(argv)
    tracking.connect(Path.cwd())
    for kind in ("generated",) if arguments.generated else ("utkface", "generated"):
        names = {family: versions.full_name(family, kind == "generated") for family in "AB"}
        models = {
            family: dossier.read(name)
            for family, name in names.items()
            if "champion" in versions.aliases(name)
        }
        if models:
            break
    else:
        parser.exit(2, "agegender: no champion is registered: run `make tune` first.\n")
    parts = champions.parts(
        models,
        tracking.test_looks(),
        data_kind=kind,
        faces=arguments.faces or kind == "generated",
    )
    arguments.to.mkdir(parents=True, exist_ok=True)
    paths = [arguments.to / f"report-{kind}.{ending}" for ending in ("html", "pdf")]
    paths[0].write_text(pages.to_html(parts))
    pages.to_pdf(parts, paths[1])
    tags = {f"version.{family}": model["tags"]["version"] for family, model in models.items()}
    tags |= {"data.kind": kind, "role": "report"}
    with tracking.run("report", experiment=tracking.PAGES, tags=tags) as run_id:
        for path in paths:
            tracking.log_file(run_id, path)
    print(f"{paths[0]} and {paths[1]} (run {run_id})")
    return paths


if __name__ == "__main__":
    main()
