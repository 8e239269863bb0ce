"""Photo files in, a folder of answers out: one line per face, marked pictures, two tables."""

import dataclasses
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from agegender import disk
from agegender.data import utkface
from agegender.photos import detection, estimate

SHOWN_PIXELS = 1600
FEWEST_LETTER_PIXELS = 12
COLOURS = {"A": (255, 208, 92), "B": (126, 214, 255)}
JSON, CSV = "predictions.json", "predictions.csv"
# The comment inside each marked picture; it tells a later run that this is not a photo.
MARK = b"Marked by agegender"


@dataclasses.dataclass(frozen=True)
class Answered:
    """A photo and its answers."""

    photo: str  # its path, with unprintable characters escaped
    reason: str | None = None  # why it was not read, and the detail
    detail: str | None = None
    faces: int = 0  # number found
    marked: str | None = None  # the file name of the picture that marks them
    answers: list[dict] = dataclasses.field(default_factory=list)  # rows of `estimate.answer`


def list_photos(sources: Iterable[Path]) -> list[Path]:
    """Return the given files and, sorted, the non-hidden files at any depth in given folders.

    Output of an earlier run is left out. Folders that cannot be listed and links to folders are
    returned themselves: `estimate.read_photo` gives the reason.
    """
    paths: list[Path] = []
    unlisted: list[OSError] = []
    for source in sources:
        if not os.path.isdir(source):
            paths.append(source)
            continue
        for parent, folders, names in os.walk(source, onerror=unlisted.append):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            names += [name for name in folders if os.path.islink(os.path.join(parent, name))]
            paths += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
    paths += [Path(error.filename) for error in unlisted]
    return [path for path in paths if not _is_output(path)]


def _is_output(path: Path) -> bool:
    try:
        if not path.is_file() or path.name in (JSON, CSV):
            return path.is_file()
        with path.open("rb") as file:
            return MARK in file.read(200)
    except OSError:
        return False


def prepare(out: Path) -> None:
    """Create the folder and remove an earlier run's output from it; ValueError if that fails."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in out.iterdir():
            if _is_output(path):
                path.unlink()
        write(out, {}, [])
    except OSError as error:
        shown = utkface.printable(str(out))
        raise ValueError(
            f"Cannot write to {shown} ({error.strerror}): choose another folder with OUT=."
        ) from error


def answers(
    detector: detection.Detector,
    models: dict[str, estimate.Model],
    paths: list[Path],
    out: Path,
) -> Iterator[Answered]:
    """Yield each photo's answers in turn, after writing its marked picture to `out`."""
    for number, path in enumerate(paths, start=1):
        name, marked = utkface.printable(str(path)), None
        try:
            photo = estimate.read_photo(path)
        except utkface.Rejection as error:
            yield Answered(name, str(error.reason), utkface.printable(error.detail))
            continue
        (table,) = estimate.answer(detector, models, [photo])
        if len(table):
            # A file name has at most 255 bytes, and the photo's own may be nearly as long.
            stem = Path(name).stem.encode()[:200].decode(errors="ignore")
            marked = f"{number:04}_{stem}.jpg"
            disk.write(out / marked, encoded(annotate(photo, table)))
        faces, rows = table["face"].nunique(), table.to_dict("records")
        yield Answered(name, faces=faces, marked=marked, answers=rows)


def text(answered: Answered) -> str:
    """Return the text to print about a photo."""
    if answered.reason:
        return f"{answered.photo}: not read, {answered.reason} ({answered.detail})"
    if not answered.answers:
        return f"{answered.photo}: no face found"
    lines = [f"{answered.photo}:"]
    for row in pd.DataFrame(answered.answers).itertuples():
        years = f"{row.age_years:5.1f} years ({row.age_low:.0f} to {row.age_high:.0f})"
        doubt = "  doubtful, may not be a face" * row.doubtful
        lines.append(f"  face {row.face}  {row.model}  {years}  {gender_text(row)}{doubt}")
    return "\n".join(lines)


def write(out: Path, titles: dict[str, str], photos: list[Answered]) -> None:
    """Write JSON (models' titles, one record per photo) and CSV (one row per face and model)."""
    written = {"models": titles, "photos": [dataclasses.asdict(photo) for photo in photos]}
    disk.write(out / JSON, json.dumps(written, indent=1) + "\n")
    rows = [
        {"photo": photo.photo, "note": photo.reason or ("" if answer else "no face found")} | answer
        for photo in photos
        for answer in photo.answers or [{}]
    ]
    columns = ["photo", *estimate.COLUMNS, "note"]
    table = pd.DataFrame(rows, columns=columns).astype({"face": "Int64"})  # May be missing.
    disk.write(out / CSV, table.to_csv(index=False))


def gender_text(row) -> str:
    """Return a row's gender with its probability, or that it is not sure."""
    percent = f"{100 * row.gender_probability:.0f} %".replace("100", ">99")
    text = f"{row.gender} {percent}"
    return text if row.gender_sure else f"gender not sure ({text})"


def encoded(picture: PIL.Image.Image) -> bytes:
    """Return a picture as a JPEG whose comment says that it is not a photo."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90, comment=MARK)
    return stream.getvalue()


def annotate(photo: PIL.Image.Image, table: pd.DataFrame) -> PIL.Image.Image:
    """Draw a table of `answer` on a copy of the photo, of at most 1,600 pixels per side."""
    picture = photo.copy()
    picture.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    scale = picture.width / photo.width
    draw = PIL.ImageDraw.Draw(picture, "RGBA")
    for number, face in table.groupby("face"):
        left, top, right, bottom = face.iloc[0][["left", "top", "right", "bottom"]] * scale
        # A small face gets small letters, or they would cover its neighbours in a group.
        size_pixels = max(int(min((right - left) / 8, picture.width / 40)), FEWEST_LETTER_PIXELS)
        font = PIL.ImageFont.load_default(size_pixels)
        lines = [
            f"{number}{row.model} {row.age_years:.0f} ({row.age_low:.0f}-{row.age_high:.0f}) "
            + (gender_text(row) if row.gender_sure else "gender not sure")
            + ", doubtful" * row.doubtful
            for row in face.itertuples()
        ]
        width = max(draw.textlength(line, font) for line in lines) + size_pixels
        height = 1.3 * size_pixels
        # Below the face if there is room, and always inside the picture.
        x = max(min(left, picture.width - width), 0)
        y = max(min(bottom, picture.height - len(lines) * height), 0)
        draw.rectangle((left, top, right, bottom), outline="white", width=max(2, size_pixels // 8))
        draw.rectangle((x, y, x + width, y + len(lines) * height), fill=(0, 0, 0, 170))
        for index, (line, name) in enumerate(zip(lines, face["model"], strict=True)):
            place = (x + size_pixels / 2, y + (index + 0.1) * height)
            draw.text(place, line, fill=COLOURS.get(name, "white"), font=font)
    return picture
