"""Show the faces and their labels before any training: `make explore [DATA=...]`, under a minute.

Writes one HTML page and logs it to MLflow, in the experiment "pages". The page shows faces, so keep
one of real faces to yourself.
"""

from pathlib import Path

import pandas as pd

from agegender.data import pixels
from agegender.measure import dataset
from agegender.registry import tracking
from agegender.show import exploration


def explore(*, data: Path | None = None, seed: int = 0, to: Path = Path("reports")) -> None:
    """Write the page and log it with its figures; raise ValueError or OSError for unusable data."""
    tracking.connect(Path.cwd())
    prepared = pixels.prepare(data, Path(".cache", "data"), seed=seed)
    faces = pixels.open_faces(prepared)
    rejected = pd.read_csv(prepared / pixels.REJECTED, keep_default_na=False)
    measured = dataset.quality(faces.pixels)
    drawn = exploration.drawings(faces.manifest, faces.pixels, measured, seed=seed)
    html = exploration.page(
        dataset.describe(faces.manifest, measured),
        rejected,
        drawn,
        kind=faces.kind,
        source=Path(faces.record["source"]).name,
    )
    to.mkdir(parents=True, exist_ok=True)
    path = to / f"exploration-{faces.kind}.html"
    path.write_text(html)
    tags = {"data.digest": faces.digest, "data.kind": faces.kind, "role": "exploration"}
    name = f"exploration · {faces.kind} {faces.digest[:8]}"
    with tracking.run(name, experiment=tracking.PAGES, tags=tags) as run_id:
        for name, figure in drawn.items():
            tracking.log_figure(run_id, figure, f"{name}.png")
        tracking.log_table(run_id, rejected, pixels.REJECTED)
        tracking.log_file(run_id, path)
    print(f"{path}: {len(faces.manifest):,} faces, {len(rejected):,} rejected (run {run_id})")
