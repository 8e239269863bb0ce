"""Ages and genders of the faces in photos: `make predict PHOTO=photo.jpg`.

A PHOTO is a file, a folder with all below it, a pattern, or several of these in one quoted text.
The registry's champions answer, the released models where it has none. Prints a table and writes
predictions.json, predictions.csv and each photo with its faces marked. Exit status 2 where no photo
could be read.
"""

import collections
import time
from pathlib import Path

from agegender.networks import backend
from agegender.photos import detection, estimate, output
from agegender.registry import champions


def predict(*, photo: list[Path], out: Path = Path("predictions"), generated: bool = False) -> int:
    """Predict, print, write to the folder `out`; return the exit status, 2 where nothing was read.

    photo: files and folders; generated: by models of generated faces.
    """
    paths = estimate.list_photos(photo)
    if not paths:
        raise ValueError("No photo: name one, or a folder that holds some (PHOTO=photo.jpg).")
    out.mkdir(parents=True, exist_ok=True)
    print("Loading the models ...", flush=True)
    backend.prepare()
    models = champions.models_for_prediction(Path.cwd(), generated)
    detector = detection.load_detector()
    titles = {name: model.title for name, model in models.items()}
    print(f"By {' and '.join(titles.values())}", flush=True)
    started, records = time.monotonic(), []
    for record in output.answers(detector, models, paths, out):
        print(output.text(record), flush=True)
        records.append(record)
    seconds = time.monotonic() - started
    output.write(out, titles, records)
    rejected = collections.Counter(record["reason"] for record in records if record["reason"])
    faces = sum(record["faces"] for record in records)
    print(
        f"{len(records) - rejected.total()} of {len(records)} photos read, {faces} faces, in "
        f"{seconds:.1f} s ({len(records) / seconds:.1f} photos and {faces / seconds:.1f} faces a "
        f"second); all in {out.resolve()}"
    )
    for reason, count in rejected.items():
        print(f"not read: {count} ({reason})")
    return 2 if rejected.total() == len(records) else 0
