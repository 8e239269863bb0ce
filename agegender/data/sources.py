"""Pictures in a folder, zip or tar, read in place; unusable files are listed with the reason."""

import contextlib
import functools
import os
import re
import stat
import tarfile
import typing
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from agegender import disk
from agegender.data import utkface
from agegender.data.utkface import Reason, Rejection

_UNPACK = "unpack it and give the folder"
_AGAIN = "damaged or cut short: download it again"
# What a file that is not an intact zip or tar turns out to be, by its first bytes.
_FIRST_BYTES = {
    b"PK": f"a zip that is {_AGAIN}",
    b"\x1f\x8b": f"a gzip file that holds no tar, or is {_AGAIN}",
    b"BZh": f"a bzip2 file that holds no tar, or is {_AGAIN}",
    b"\xfd7zXZ": f"an xz file that holds no tar, or is {_AGAIN}",
    b"\x28\xb5\x2f\xfd": f"compressed by Zstandard: {_UNPACK}",
    b"7z\xbc\xaf": f"a 7z archive: {_UNPACK}",
    b"Rar!": f"a RAR archive: {_UNPACK}",
    b"<": "a web page: download the archive itself",
    b"": "neither a folder nor an intact zip or tar: give one of these, and download an archive "
    "again if it was cut short",
}
_ARCHIVE_NAME = re.compile(
    r".*\.(zip|tar|t?gz|tbz2?|bz2|txz|xz|zst|7z|rar|z\d\d)(\.\d+)?", re.IGNORECASE | re.DOTALL
)
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
_ZIP_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
# GNU tar's own member types: a volume's label, a volume's first part, a folder listing.
_TAR_LABEL, _TAR_VOLUME, _TAR_FOLDER = b"V", b"M", b"D"


class SourceFile(typing.NamedTuple):
    """One file of a source.

    path: inside the source, printable, with forward slashes.
    read: returns the bytes or raises a Rejection, for example for the name or kind of the file.
    """

    path: str
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


class _UnusableArchive(Exception):
    """The message completes a sentence: the archive is ..."""


@contextlib.contextmanager
def open_source(source: Path) -> Iterator[list[SourceFile]]:
    """Yield the files of a folder (at any depth), zip or tar; read them inside the `with`.

    Nothing is extracted and no link is followed. The files come in the order that is fastest to
    read. Raises ValueError if the source is missing, damaged, of another kind, or does not match
    its own list of contents.
    """
    name = utkface.printable(str(source))
    if source.is_dir():
        yield list(_folder_files(source))
        return
    if not source.is_file():
        problem = "is a pipe or device" if source.exists() else "does not exist"
        raise ValueError(f"{name} {problem}: give a folder, zip or tar of UTKFace pictures")
    with contextlib.ExitStack() as stack:
        try:
            if tarfile.is_tarfile(source):
                files = list(_tar_files(stack.enter_context(tarfile.open(source))))
            elif zipfile.is_zipfile(source):
                files = list(_zip_files(stack.enter_context(zipfile.ZipFile(source))))
            else:
                with source.open("rb") as stream:
                    start = stream.read(8)
                kind = next(magic for magic in _FIRST_BYTES if start.startswith(magic))
                raise _UnusableArchive(_FIRST_BYTES[kind])
        except _UnusableArchive as error:
            raise ValueError(f"{name} is {error}") from None
        except NotImplementedError as error:
            raise ValueError(f"{name} cannot be read ({error}): {_UNPACK}") from error
        # tarfile, zipfile and the decompressors raise a dozen kinds of errors on damaged archives.
        except Exception as error:
            raise ValueError(f"{name} is {_AGAIN} ({utkface.one_line(error)})") from error
        yield files


def fingerprint(source: Path) -> str:
    """Hash a source to detect changes: an archive's bytes, or a folder's names, sizes and times."""
    if source.is_file():
        return disk.checksum(source)
    lines = []
    for parent, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(folders + names):
            path = Path(parent, name)
            line = f"{path.relative_to(source)}"
            with contextlib.suppress(OSError):  # `open_source` lists it as unreadable.
                status = path.lstat()
                line += f" {status.st_size} {status.st_mtime_ns}"
            lines.append(os.fsencode(line + "\n"))
    return disk.checksum(b"".join(lines))


def _folder_files(folder: Path) -> Iterator[SourceFile]:
    unreadable: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=unreadable.append):
        for name in folders + names:
            file = Path(parent, name)
            try:
                mode = file.lstat().st_mode
            except OSError as error:
                unreadable.append(error)
                continue
            read = functools.partial(utkface.read_bytes, functools.partial(file.open, "rb"))
            yield from _judged(str(file.relative_to(folder)), mode, read)
    for missed in unreadable:
        path = os.path.relpath(missed.filename, folder)
        yield _rejected(path, Rejection(Reason.UNREADABLE, missed.strerror))


def _zip_files(archive: zipfile.ZipFile) -> Iterator[SourceFile]:
    _check_zip(archive)
    for member in archive.infolist():
        mode = stat.S_IFMT(member.external_attr >> 16) or stat.S_IFREG
        # Archives made on Windows mark a folder only in Windows' own way.
        if member.filename.endswith(("/", "\\")) or member.external_attr & 0x10:
            mode = stat.S_IFDIR
        problem = None
        if member.flag_bits & 1:
            problem = Rejection(Reason.PASSWORD, _UNPACK)
        elif member.compress_type not in _ZIP_METHODS:
            method = "Deflate64" if member.compress_type == 9 else f"method {member.compress_type}"
            problem = Rejection(Reason.COMPRESSION, f"{method}: {_UNPACK}")
        read = functools.partial(utkface.read_bytes, functools.partial(archive.open, member))
        yield from _judged(member.filename, mode, read, problem)


def _check_zip(archive: zipfile.ZipFile) -> None:
    """Compare a zip with its last record, which states the number of files, and with its start.

    zipfile trusts the size of the directory and ignores everything before the first file.
    """
    members = archive.infolist()
    stream: typing.Any = archive.fp
    size_bytes = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size_bytes - 22 - 2**16))
    tail = stream.read()
    count_at = tail.rfind(b"PK\5\6") + 10
    stated = int.from_bytes(tail[count_at : count_at + 2], "little")
    # A number too large for its 16 bits is stored as 65,535 or modulo 65,536.
    if stated != 0xFFFF and stated != len(members) & 0xFFFF:
        raise _UnusableArchive(f"{_AGAIN} ({stated:,} files stated, {len(members):,} listed)")
    stream.seek(0)
    first = min((member.header_offset for member in members), default=size_bytes)
    if first > 0 and stream.read(4) == b"PK\3\4":
        raise _UnusableArchive(f"several zips in one file: {_UNPACK}")


def _tar_files(archive: tarfile.TarFile) -> Iterator[SourceFile]:
    members = archive.getmembers()
    _check_end(archive, len(members))
    # A hard link is another name of an earlier file. List it right after that file to read it while
    # the bytes are available, because going back in a compressed tar means starting over.
    contents: dict[str, tarfile.TarInfo] = {}
    listed = []
    for member in members:
        content = contents.get(member.linkname, member) if member.islnk() else member
        contents[member.name] = content
        listed.append((member.name, content))

    @functools.lru_cache(maxsize=1)
    def read(member: tarfile.TarInfo) -> bytes:
        return utkface.read_bytes(functools.partial(archive.extractfile, member))

    for path, content in sorted(listed, key=lambda item: item[1].offset):
        mode = stat.S_IFIFO if content.isdev() else stat.S_IFREG
        if content.type == _TAR_VOLUME:
            raise _UnusableArchive(f"one volume of several: {_UNPACK}")
        if content.isdir() or content.type == _TAR_FOLDER:
            mode = stat.S_IFDIR
        elif content.issym():
            mode = stat.S_IFLNK
        if content.type != _TAR_LABEL:
            yield from _judged(path, mode, functools.partial(read, content))


def _check_end(archive: tarfile.TarFile, count: int) -> None:
    """Read a tar to its end, which must be zeros; this also verifies a compressed tar's checksum.

    tarfile silently takes the first block that it cannot read for the end.
    """
    stream: typing.Any = archive.fileobj
    stream.seek(archive.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise _UnusableArchive(f"{_AGAIN} (no end after {count:,} members)")
    while block := stream.read(2**20):
        if any(block):
            raise _UnusableArchive(f"several tars in one file: {_UNPACK}")


def _judged(
    path: str, mode: int, read: Callable[[], bytes], problem: Rejection | None = None
) -> Iterator[SourceFile]:
    """Yield a file, or its rejection by path or mode; nothing for a folder, whose files are listed.

    problem: why its bytes cannot be read, if that is known.
    """
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    name = parts[-1] if parts else ""
    if stat.S_ISDIR(mode):
        if not name.lower().endswith(utkface.ENDINGS):
            return
        problem = Rejection(Reason.NOT_A_FILE, "a folder named like a picture")
    elif ".." in parts:
        problem = Rejection(Reason.NOT_A_FILE, "a path that leaves its archive")
    elif any(part.startswith(".") or part.lower() in _SYSTEM_FILES for part in parts):
        problem = Rejection(Reason.SYSTEM_FILE)
    elif stat.S_ISLNK(mode):
        problem = Rejection(Reason.LINK)
    elif not stat.S_ISREG(mode):
        problem = Rejection(Reason.NOT_A_FILE, "a pipe or device")
    elif _ARCHIVE_NAME.fullmatch(name):
        problem = Rejection(Reason.ARCHIVE)
    elif name != utkface.GENERATED_MARKER:
        try:
            utkface.parse_name(name)
        except Rejection as error:
            problem = error
    path = "/".join(parts)
    yield _rejected(path, problem) if problem else SourceFile(utkface.printable(path), read)


def _rejected(path: str, rejection: Rejection) -> SourceFile:
    def read() -> bytes:
        raise rejection

    return SourceFile(utkface.printable(path), read)
