"""What is shown and kept of the answers for photos: a line a face, marked pictures, two tables."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from agegender import disk
from agegender.data import utkface
from agegender.photos import detection, estimate

PHOTOS_AT_ONCE = 8
SHOWN_PIXELS = 1600
FEWEST_LETTER_PIXELS = 12
COLOURS = {"A": (255, 208, 92), "B": (126, 214, 255)}


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
            # A name has at most 255 bytes, and a photo's own may have nearly as many.
            stem = Path(record["photo"]).stem.encode()[:200].decode(errors="ignore")
            record["marked"] = f"{start + index + 1:04}_{stem}.jpg"
            annotate(photo, table).save(out / record["marked"], quality=90)
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
            f"({row.age_low:.0f} to {row.age_high:.0f})  {gender_text(row)}"
            for row in pd.DataFrame(record["answers"]).itertuples()
        ]
    )


def write(out: Path, titles: dict[str, str], records: list[dict]) -> None:
    """Write predictions.json, a record a photo, and predictions.csv, a row a face and model."""
    written = {"models": titles, "photos": records}
    disk.write(out / "predictions.json", json.dumps(written, indent=1) + "\n")
    rows = [
        {"photo": record["photo"], "note": record["reason"] or ("" if answer else "no face found")}
        | answer
        for record in records
        for answer in record["answers"] or [{}]
    ]
    columns = ["photo", *estimate.COLUMNS, "note"]
    table = pd.DataFrame(rows, columns=columns).astype({"face": "Int64"})  # Where there is one.
    table.to_csv(out / "predictions.csv", index=False)


def gender_text(row) -> str:
    """Return a row's gender with its probability, or that it is not sure."""
    text = f"{row.gender} {100 * row.gender_probability:.0f} %"
    return text if row.gender_sure else f"not sure ({text})"


def annotate(photo: PIL.Image.Image, table: pd.DataFrame) -> PIL.Image.Image:
    """Draw a table of `answer` into a copy of the photo, of at most 1,600 pixels a side."""
    picture = photo.copy()
    picture.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    scale = picture.width / photo.width
    draw = PIL.ImageDraw.Draw(picture, "RGBA")
    for number, face in table.groupby("face"):
        left, top, right, bottom = face.iloc[0][["left", "top", "right", "bottom"]] * scale
        # A small face has small letters: in a group its neighbours stay free.
        size_pixels = max(int(min((right - left) / 8, picture.width / 40)), FEWEST_LETTER_PIXELS)
        font = PIL.ImageFont.load_default(size_pixels)
        lines = [
            f"{number}{row.model} {row.age_years:.0f} ({row.age_low:.0f}-{row.age_high:.0f}) "
            + (
                f"{row.gender} {100 * row.gender_probability:.0f} %"
                if row.gender_sure
                else "not sure"
            )
            for row in face.itertuples()
        ]
        width = max(draw.textlength(line, font) for line in lines) + size_pixels
        height = 1.3 * size_pixels
        # Below the face where there is room, and never out of the picture.
        x = max(min(left, picture.width - width), 0)
        y = max(min(bottom, picture.height - len(lines) * height), 0)
        draw.rectangle((left, top, right, bottom), outline="white", width=max(2, size_pixels // 8))
        draw.rectangle((x, y, x + width, y + len(lines) * height), fill=(0, 0, 0, 170))
        for index, (line, name) in enumerate(zip(lines, face["model"], strict=True)):
            place = (x + size_pixels / 2, y + (index + 0.1) * height)
            draw.text(place, line, fill=COLOURS.get(name, "white"), font=font)
    return picture
