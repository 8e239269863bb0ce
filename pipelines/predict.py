"""Estimate ages and genders in photos: `make predict PHOTO=photo.jpg`, see agegender/photos."""

import collections
import time
from pathlib import Path

from agegender.data import utkface
from agegender.networks import backend
from agegender.photos import detection, output
from agegender.registry import champions


def predict(
    *,
    photo: list[Path],
    out: Path = Path("predictions"),
    model: str | None = None,
    generated: bool = False,
) -> int:
    """Predict, print and write to the folder `out`; return the exit status, 2 if nothing was read.

    photo: files, and folders with everything below them.
    model: A, B or AB; None for B, or A if there is no B.
    generated: use the models of drawn faces.
    """
    paths = output.list_photos(photo)
    if not paths:
        raise ValueError(
            "No photo: name one, or a folder that holds some (PHOTO=photo.jpg). Pictures that an "
            "earlier run wrote do not count."
        )
    output.prepare(out)
    print("Loading the models ...", flush=True)
    backend.prepare()
    models = champions.models_for_prediction(Path.cwd(), generated, model)
    detector = detection.load_detector()
    titles = {name: model.title for name, model in models.items()}
    print(f"Using {' and '.join(titles.values())}", flush=True)
    if generated:
        print("These models have seen drawn faces only: their results mean nothing on people.")
    started, answered = time.monotonic(), []
    try:
        for answer in output.answers(detector, models, paths, out):
            print(output.text(answer), flush=True)
            answered.append(answer)
    finally:  # Keep what is finished, even if the disk is full or Ctrl-C ends it.
        output.write(out, titles, answered)
    seconds = time.monotonic() - started
    rejected = collections.Counter(photo.reason for photo in answered if photo.reason)
    faces = sum(photo.faces for photo in answered)
    print(
        f"{len(answered) - rejected.total()} of {len(answered)} photos read, {faces} faces, in "
        f"{seconds:.1f} s ({len(answered) / seconds:.1f} photos and {faces / seconds:.1f} faces "
        f"per second); results in {utkface.printable(str(out.resolve()))}"
    )
    for reason, count in rejected.items():
        print(f"not read: {count} ({reason})")
    return 2 if rejected.total() == len(answered) else 0
