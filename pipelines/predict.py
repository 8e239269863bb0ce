"""Ages and genders of the faces in photos: `make predict PHOTO=photo.jpg`.

A PHOTO is a file, a folder with all below it, a pattern, or several of these in one quoted text.
With the registry's champions; in an empty registry the released models become that. Prints a table
and writes predictions.json, predictions.csv and each photo with its faces marked. Exit status 2
where no photo could be read.
"""

import collections
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from agegender.data import utkface
from agegender.networks import training
from agegender.photos import detection, estimate
from agegender.registry import champions, releases, tracking

PHOTOS_AT_ONCE = 8


def predict(*, photo: list[Path], out: Path = Path("predictions"), generated: bool = False) -> int:
    """Predict, print, write to the folder `out`; return the exit status, 2 where nothing was read.

    photo: files and folders; generated: by models of generated faces.
    """
    paths = estimate.list_photos(photo)
    if not paths:
        raise ValueError("No photo: name one, or a folder that holds some (PHOTO=photo.jpg).")
    out.mkdir(parents=True, exist_ok=True)
    training.prepare_backend()
    tracking.connect(Path.cwd())
    if not generated:
        releases.register(Path.cwd() / "models", full=True)
    models = champions.models_for_prediction(generated)
    detector = detection.load_detector()
    titles = {name: model.title for name, model in models.items()}
    print(f"By {' and '.join(titles.values())}", flush=True)
    started, records = time.monotonic(), []
    for record in answers(detector, models, paths, out):
        print(text(record), flush=True)
        records.append(record)
    seconds = time.monotonic() - started
    write(out, titles, records)
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


def answers(
    detector: detection.Detector,
    models: dict[str, estimate.Model],
    paths: list[Path],
    out: Path,
) -> Iterator[dict]:
    """Yield for each photo: photo, reason and detail where it was not read, faces, marked, answers.

    marked: the name in `out` of the photo with its faces marked; answers: the rows of
    `estimate.answer`.
    """
    for start in range(0, len(paths), PHOTOS_AT_ONCE):
        photos, records = [], []
        for path in paths[start : start + PHOTOS_AT_ONCE]:
            record = {"photo": utkface.printable(str(path)), "reason": None, "detail": None}
            records.append(record | {"faces": 0, "marked": None, "answers": []})
            try:
                photos.append(estimate.read_photo(path))
            except utkface.Rejection as error:
                records[-1] |= {"reason": str(error.reason), "detail": error.detail}
        read = [index for index, record in enumerate(records) if record["reason"] is None]
        tables = estimate.answer(detector, models, photos)
        for index, photo, table in zip(read, photos, tables, strict=True):
            record = records[index]
            record["marked"] = f"{start + index + 1:04}_{Path(record['photo']).stem}.jpg"
            estimate.annotate(photo, table).save(out / record["marked"], quality=90)
            record |= {"faces": int(table["face"].nunique()), "answers": table.to_dict("records")}
        yield from records


def text(record: dict) -> str:
    """Return what is printed of a photo."""
    if record["reason"]:
        return f"{record['photo']}: not read, {record['reason']} ({record['detail']})"
    if not record["answers"]:
        return f"{record['photo']}: no face found"
    return "\n".join(
        [f"{record['photo']}:"]
        + [
            f"  face {row.face}  {row.model}  {row.age_years:5.1f} years "
            f"({row.age_low:.0f} to {row.age_high:.0f})  {estimate.gender_text(row)}"
            for row in pd.DataFrame(record["answers"]).itertuples()
        ]
    )


def write(out: Path, titles: dict[str, str], records: list[dict]) -> None:
    """Write predictions.json, a record a photo, and predictions.csv, a row a face and model."""
    written = {"models": titles, "photos": records}
    (out / "predictions.json").write_text(json.dumps(written, indent=1) + "\n")
    rows = [
        {"photo": record["photo"], "note": record["reason"] or ("" if answer else "no face found")}
        | answer
        for record in records
        for answer in record["answers"] or [{}]
    ]
    columns = ["photo", *estimate.COLUMNS, "note"]
    table = pd.DataFrame(rows, columns=columns).astype({"face": "Int64"})  # Where there is one.
    table.to_csv(out / "predictions.csv", index=False)
