"""Look at the faces before any network does: `make explore [DATA=...]`, under a minute.

    python -m pipelines.explore_data [--data PATH] [--seed 0] [--to reports]

Writes one HTML page, which needs nothing else, and logs it with its figures to MLflow, in the
experiment "pages". The page shows faces: of real ones it is for your own eyes.
"""

import argparse
from pathlib import Path

import pandas as pd

from agegender.data import pixels
from agegender.evidence import exploration, pages
from agegender.registry import tracking


def main(argv: list[str] | None = None) -> Path:
    """Write the page, log it, return where it is; status 2 where there is nothing of use."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder, .zip or .tar.gz of UTKFace pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the drawn faces")
    parser.add_argument("--to", type=Path, default=Path("reports"))
    arguments = parser.parse_args(argv)
    try:
        tracking.connect(Path.cwd())
        prepared = pixels.prepare(arguments.data, Path(".cache", "data"), seed=arguments.seed)
        faces = pixels.open_faces(prepared)
    except (OSError, ValueError) as error:
        parser.exit(2, f"agegender: {error}\n")
    rejected = pd.read_csv(prepared / pixels.REJECTED, keep_default_na=False)
    measured = exploration.quality(faces.pixels)
    drawn = exploration.drawings(faces.manifest, faces.pixels, measured, seed=arguments.seed)
    parts = exploration.page(
        faces.manifest,
        rejected,
        measured,
        drawn,
        kind=faces.kind,
        source=Path(faces.record["source"]).name,
    )
    arguments.to.mkdir(parents=True, exist_ok=True)
    path = arguments.to / f"exploration-{faces.kind}.html"
    path.write_text(pages.to_html(parts))
    tags = {"data.digest": faces.digest, "data.kind": faces.kind, "role": "exploration"}
    with tracking.run("exploration", experiment=tracking.PAGES, tags=tags) as run_id:
        for name, figure in drawn.items():
            tracking.log_figure(run_id, figure, f"{name}.png")
        tracking.log_table(run_id, rejected, pixels.REJECTED)
        tracking.log_file(run_id, path)
    print(f"{path}: {len(faces.manifest):,} faces, {len(rejected):,} rejected (run {run_id})")
    return path


if __name__ == "__main__":
    main()
