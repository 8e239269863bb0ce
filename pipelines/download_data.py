"""Download the real faces into data/: `make data`, 15 MB and 107 MB, a few minutes.

The same command continues an interrupted download.
"""

import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import gdown

from agegender import disk

DATA = Path("data")
FOLDER_ID = "1UjYRDyo10Fx-Rv91CQl5ZfwF85HiLUX8"
ARCHIVE_ID = "0BxYys69jI14kYVM3aVhKS1VhRUk"
# SHA-256 of the 5,000 names and contents, see check_folder.
FOLDER_DIGEST = "7ec195e8b1201031a87e6870b491907ca6284146a9b51ac608912978a08b7d26"
ARCHIVE_FACES = 23_708


def download() -> int:
    """Fetch and verify both sets; return 1, with one line per set that is missing, if any is."""
    print("UTKFace: for non-commercial research only. The pictures belong to their owners.")
    DATA.mkdir(exist_ok=True)
    folder = f"https://drive.google.com/drive/folders/{FOLDER_ID}"
    archive = "https://susanqq.github.io/UTKFace ('Aligned&Cropped Faces')"
    fetched = [
        obtain(DATA / "train_val", fetch_folder, check_folder, folder),
        obtain(DATA / "UTKFace.tar.gz", fetch_archive, check_archive, archive),
    ]
    return 0 if all(fetched) else 1


def obtain(
    target: Path, fetch: Callable[[Path], Path], check: Callable[[Path], None], source: str
) -> bool:
    """Fetch one set next to `target`, check it and move it there; if that fails, say what to do."""
    try:
        part = target.with_name(target.name + ".part")
        found = target if target.exists() else fetch(part)
        check(found)
        os.replace(found, target)
        shutil.rmtree(part, ignore_errors=True)
    except (
        OSError,
        EOFError,
        ValueError,
        tarfile.TarError,
        zlib.error,
        gdown.exceptions.DownloadError,
    ) as error:
        # requests defines its own ConnectionError in addition to Python's.
        kinds = [kind.__name__ for kind in type(error).__mro__]
        reason = str(error).strip().partition("\n")[0] or kinds[0]
        if "ConnectionError" in kinds:
            reason = "no connection to Google Drive"
        print(
            f"{target}: {reason}. Download it by hand from {source} and put it at "
            f"{target.absolute()}; then run `make data` to check it.",
            file=sys.stderr,
        )
        return False
    print(f"{target}: complete. Next: make tune DATA={target}")
    return True


def fetch_folder(part: Path) -> Path:
    """Download the shared folder of the 5,000 faces into `part`; return the faces' folder."""
    gdown.download_folder(
        id=FOLDER_ID, output=str(part), quiet=True, resume=True, timeout=60, retries=3
    )
    for archive in part.rglob("*.zip"):
        shutil.unpack_archive(archive, part)
    faces = sorted(part.rglob("*.jpg"))
    if not faces:
        raise ValueError(f"the shared folder holds no .jpg files and no .zip of them, see {part}")
    return faces[0].parent


def check_folder(folder: Path) -> None:
    """Raise ValueError unless the folder holds the 5,000 faces, byte for byte."""
    faces = sorted(path for path in folder.iterdir() if path.suffix == ".jpg")
    lines = [path.name.encode() + b"\0" + bytes.fromhex(disk.checksum(path)) for path in faces]
    if disk.checksum(b"".join(lines)) != FOLDER_DIGEST:
        raise ValueError(f"expected the 5,000 known faces; {len(faces):,} came, and some differ")


def fetch_archive(part: Path) -> Path:
    """Download the full archive into `part`; return its path."""
    part.mkdir(exist_ok=True)
    output = part / "UTKFace.tar.gz"
    gdown.download(id=ARCHIVE_ID, output=str(output), resume=True, timeout=60)
    return output


def check_archive(archive: Path) -> None:
    """Raise ValueError unless the archive can be read to its end and holds all faces."""
    with tarfile.open(archive) as members:
        count = sum(member.isfile() and member.name.endswith(".jpg") for member in members)
    if count != ARCHIVE_FACES:
        raise ValueError(f"expected {ARCHIVE_FACES:,} faces, found {count:,}")
