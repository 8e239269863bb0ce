"""Ages and genders of the faces in photos: `make predict PHOTO=photo.jpg`, see agegender/photos."""

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
    """Predict, print, write to the folder `out`; return the exit status, 2 where nothing was read.

    photo: files and folders, with all below them.
    model: A, B or AB; else B, or A where there is no B.
    generated: by models of drawn faces.
    """
    paths = output.list_photos(photo)
    if not paths:
        raise ValueError(
            "No photo: name one, or a folder that holds some (PHOTO=photo.jpg). What an earlier "
            "run wrote is none."
        )
    output.prepare(out)
    print("Loading the models ...", flush=True)
    backend.prepare()
    models = champions.models_for_prediction(Path.cwd(), generated, model)
    detector = detection.load_detector()
    titles = {name: model.title for name, model in models.items()}
    print(f"By {' and '.join(titles.values())}", flush=True)
    if generated:
        print("These models have seen drawn faces only: what they say of people means nothing.")
    started, answered = time.monotonic(), []
    try:
        for answer in output.answers(detector, models, paths, out):
            print(output.text(answer), flush=True)
            answered.append(answer)
    finally:  # What is finished is kept, also where the disk is full or Ctrl-C ends it.
        output.write(out, titles, answered)
    seconds = time.monotonic() - started
    rejected = collections.Counter(photo.reason for photo in answered if photo.reason)
    faces = sum(photo.faces for photo in answered)
    print(
        f"{len(answered) - rejected.total()} of {len(answered)} photos read, {faces} faces, in "
        f"{seconds:.1f} s ({len(answered) / seconds:.1f} photos and {faces / seconds:.1f} faces a "
        f"second); all in {utkface.printable(str(out.resolve()))}"
    )
    for reason, count in rejected.items():
        print(f"not read: {count} ({reason})")
    return 2 if rejected.total() == len(answered) else 0
