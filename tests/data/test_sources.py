"""Folders and archives, whole, odd and broken; nearly all of bytes made here."""

import bz2
import gzip
import io
import lzma
import os
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from agegender.data import pixels, sources, utkface
from agegender.data.utkface import Reason

NAME = "26_1_2_20170116174525125.jpg.chip.jpg"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Twenty files with the names of faces, for tests in which nothing is decoded."""
    folder = tmp_path_factory.mktemp("small")
    for age in range(1, 21):
        (folder / f"{age}_0_0_1.jpg").write_bytes(np.random.default_rng(age).bytes(300))
    return folder


def tree(folder):
    """Good, bad and odd files below a folder."""
    inner = folder / "UTKFace"
    (inner / "7_0_0_20170116174525125.jpg").mkdir(parents=True)
    (inner / "7_0_0_20170116174525125.jpg" / "8_0_0_20170116174525125.jpg").write_bytes(b"b")
    (inner / NAME).write_bytes(b"a")
    (inner / "27_1_2_20170116174525125.jpg").symlink_to(NAME)
    (inner / ".DS_Store").write_bytes(b"")
    (inner / "._26_1_2_20170116174525125.jpg").write_bytes(b"")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "9_0_0_20170116174525125.jpg").write_bytes(b"")
    (inner / "readme.txt").write_bytes(b"")
    return folder


def outcomes(source) -> dict:
    """The content of each file of a source by its path, or why there is none."""
    found = {}
    with sources.open_source(source) as listed:
        for file in listed:
            try:
                found[file.path] = file.read()
            except utkface.Rejection as error:
                assert "\n" not in str(error)
                found[file.path] = error.reason
    return found


def pack(folder, path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_symlink():
                    link = zipfile.ZipInfo(str(file.relative_to(folder)))
                    link.external_attr = 0o120777 << 16
                    archive.writestr(link, os.readlink(file))
                else:
                    archive.write(file, file.relative_to(folder))
    elif path.suffix in (".tar", ".gz", ".tgz"):
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
            archive.add(folder, ".")
    else:
        return folder
    return path


@pytest.mark.parametrize("kind", ["folder", "a.zip", "a.tar", "a.tar.gz", "a.tgz"])
def test_every_source_lists_the_same_and_leaves_nothing_out(tmp_path, kind):
    assert outcomes(pack(tree(tmp_path / "tree"), tmp_path / kind)) == {
        "UTKFace/7_0_0_20170116174525125.jpg": Reason.NOT_A_FILE,
        "UTKFace/7_0_0_20170116174525125.jpg/8_0_0_20170116174525125.jpg": b"b",
        f"UTKFace/{NAME}": b"a",
        "UTKFace/27_1_2_20170116174525125.jpg": Reason.LINK,
        "UTKFace/.DS_Store": Reason.SYSTEM_FILE,
        "UTKFace/._26_1_2_20170116174525125.jpg": Reason.SYSTEM_FILE,
        "__MACOSX/9_0_0_20170116174525125.jpg": Reason.SYSTEM_FILE,
        "UTKFace/readme.txt": Reason.NAME,
    }


def test_odd_members_and_unreadable_files_are_rejected(tmp_path):
    (tmp_path / NAME).write_bytes(b"a")
    (tmp_path / os.fsdecode(b"caf\xe9\n.jpg")).write_bytes(b"a")
    os.mkfifo(tmp_path / "1_0_0_1.jpg")
    assert outcomes(tmp_path) == {
        NAME: b"a",
        "caf\\udce9\\n.jpg": Reason.NAME,
        "1_0_0_1.jpg": Reason.NOT_A_FILE,
    }
    with sources.open_source(tmp_path) as listed:
        (tmp_path / NAME).unlink()
        with pytest.raises(utkface.Rejection, match=Reason.UNREADABLE):
            next(file for file in listed if file.name == NAME).read()
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"../{NAME}", b"a")
        archive.writestr("2_0_0_1.jpg", b"content")
        archive.writestr("3_0_0_1.jpg", b"\0" * (utkface.MOST_BYTES + 1), zipfile.ZIP_DEFLATED)
    path.write_bytes(path.read_bytes().replace(b"content", b"c0ntent"))
    reasons = [Reason.NOT_A_FILE, Reason.UNREADABLE, Reason.TOO_LARGE]
    assert list(outcomes(path).values()) == reasons


def zipped(folder, change=lambda members: None) -> bytes:
    """A zip of a folder's files; change: given the ZipInfos and bytes before they are written."""
    members = [
        (zipfile.ZipInfo(f"UTKFace/{path.name}"), path.read_bytes()) for path in files(folder)
    ]
    change(members)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for member, data in members:
            archive.writestr(member, data)
    return stream.getvalue()


def files(folder) -> list[Path]:
    return sorted(folder.iterdir())


def member(name, kind=tarfile.REGTYPE, data=b"", target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(data)
    return info, data


def tarred(folder, change=lambda members: None, **options) -> bytes:
    """A tar of a folder's files; change: given the TarInfos and bytes before they are written."""
    members = [member(f"UTKFace/{path.name}", data=path.read_bytes()) for path in files(folder)]
    change(members)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def from_windows(members):
    for info, _ in members:
        info.create_system, info.external_attr = 0, 0x20
        info.filename = info.filename.replace("/", "\\")
    members.insert(0, (zipfile.ZipInfo("UTKFace\\"), b""))


def with_marked_folder(members):
    folder = zipfile.ZipInfo("UTKFace")
    folder.create_system, folder.external_attr = 0, 0x10
    members.insert(0, (folder, b""))


def with_hard_links(members):
    members += [
        member(f"again/{info.name}", tarfile.LNKTYPE, target=info.name) for info, _ in members
    ]


def with_kinds_of_gnu(members):
    members[:0] = [member("Label", b"V"), member("UTKFace/", b"D", b"Ysome\0Nlisting\0")]
    members[-1][0].type = tarfile.CONTTYPE
    members[-2][0].type = b"Q"  # Unknown: to be read as an ordinary file.


@pytest.mark.parametrize(
    ("pack", "change"),
    [
        (zipped, from_windows),
        (zipped, with_marked_folder),
        (tarred, with_hard_links),
        (tarred, with_kinds_of_gnu),
        (tarred, list.reverse),
    ],
)
def test_all_kinds_of_members_give_the_folders_digest(drawn, tmp_path, pack, change):
    (tmp_path / "archive").write_bytes(pack(drawn, change))
    expected, found = (
        pixels.open_faces(pixels.prepare(source, tmp_path / "cache"))
        for source in (drawn, tmp_path / "archive")
    )
    assert found.digest == expected.digest
    assert found.record["counts"]["kept"] == 60
    others = {"duplicate name": 60} if change is with_hard_links else {}
    assert found.record["counts"]["rejected"] == others


def test_hard_links_do_not_make_a_compressed_tar_start_again(small, tmp_path):
    def change(members):
        with_hard_links(members)
        members.append(member(NAME, tarfile.LNKTYPE, target="nowhere"))

    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tarred(small, change)))
    found = outcomes(tmp_path / "a.tar.gz")
    assert found.pop(NAME) == Reason.UNREADABLE
    names = [path.rpartition("/")[2] for path in found]
    assert names[::2] == names[1::2]
    assert all(
        data == (small / path.rpartition("/")[2]).read_bytes() for path, data in found.items()
    )


def refused(tmp_path, data, suffix="") -> str:
    """Return the message with which bytes are refused as a source."""
    path = tmp_path / f"source{suffix}"
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught, sources.open_source(path):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_that_does_not_reach_its_end_is_cut_short(small, tmp_path, compress):
    whole = tarred(small)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        boundary = archive.getmembers()[10].offset
        end = archive.offset
    wrong = bytearray(whole)
    wrong[boundary + 150] ^= 1  # tarfile takes a damaged header for the end.
    for cut in (
        whole[:boundary],
        whole[: boundary + 512],
        whole[: boundary + 9],
        whole[:end],
        wrong,
    ):
        assert "damaged or cut short" in refused(tmp_path, compress(cut))
    assert "several tars" in refused(tmp_path, compress(whole + whole))
    (tmp_path / "whole").write_bytes(compress(whole[: end + 512]))
    with sources.open_source(tmp_path / "whole") as listed:
        assert len(listed) == 20


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.99])
def test_a_compressed_tar_cut_anywhere_is_cut_short(small, tmp_path, compress, share):
    data = compress(tarred(small))
    assert "damaged or cut short" in refused(tmp_path, data[: 12 + int(len(data) * share)])


def test_a_zip_that_holds_more_or_less_than_it_lists_is_refused(small, tmp_path):
    whole = zipped(small)
    directory, end = whole.find(b"PK\1\2"), whole.rfind(b"PK\5\6")
    assert "several zips" in refused(tmp_path, whole + whole)
    for at, written, said in (
        (end + 10, struct.pack("<H", 12), "damaged or cut short"),
        (directory + 28, b"\xff\xff", "damaged or cut short"),
        (directory + 6, b"\x63", "version 9.9"),
    ):
        wrong = whole[:at] + written + whole[at + len(written) :]
        assert said in refused(tmp_path, wrong)
    (tmp_path / "self-extracting").write_bytes(b"a program" + whole)
    with sources.open_source(tmp_path / "self-extracting") as listed:
        assert len(listed) == 20


def test_a_damaged_archive_is_refused_in_one_line_or_its_files_are_rejected(small, tmp_path):
    generator = np.random.default_rng(0)
    refusals = 0
    for whole in (zipped(small), tarred(small)):
        marks = re.finditer(b"PK[\1-\6]{2}|UTKFace/", whole)
        places = np.concatenate([np.arange(20) + mark.start() for mark in marks])
        for _ in range(100):
            wrong = bytearray(whole)
            for place in generator.choice(places, 3):
                wrong[place % len(whole)] = generator.integers(256)
            (tmp_path / "damaged").write_bytes(wrong)
            try:
                outcomes(tmp_path / "damaged")
            except ValueError as error:
                assert "\n" not in str(error)
                refusals += 1
    assert 0 < refusals < 200


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
        (b"Rar!\x1a\7", "a RAR archive: unpack it"),
        (b"\x28\xb5\x2f\xfd", "Zstandard: unpack it"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"PK\3\4 the rest is missing", "a zip that is damaged or cut short"),
        (b"nothing of the kind", "neither a folder nor an intact zip or tar"),
        (b"", "neither a folder nor an intact zip or tar"),
    ],
)
def test_what_is_no_archive_is_refused_by_its_kind(tmp_path, data, words):
    assert words in refused(tmp_path, data)


def test_a_missing_source_and_a_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("missing", "does not exist"), ("pipe", "is a pipe or device")):
        with pytest.raises(ValueError, match=words), sources.open_source(tmp_path / name):
            pass


def set_in_directory(data: bytes, offset: int, value: int) -> bytes:
    """Set one byte in each record of a zip's directory."""
    changed = bytearray(data)
    for mark in re.finditer(b"PK\1\2", data):
        changed[mark.start() + offset] = value
    return bytes(changed)


def with_links(folder, small):
    folder.mkdir()
    for path in files(small):
        (folder / path.name).symlink_to(path)


def with_archives(folder, small):
    folder.mkdir()
    for number, ending in enumerate([".tar.gz", ".ZIP", ".7z", ".zip.001"] * 5):
        (folder / f"part{number}{ending}").touch()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path, small: path.write_bytes(set_in_directory(zipped(small), 8, 1)), "a password"),
        (lambda path, small: path.write_bytes(set_in_directory(zipped(small), 10, 9)), "Deflate64"),
        (
            lambda path, small: path.write_bytes(set_in_directory(zipped(small), 10, 98)),
            "method 98",
        ),
        (with_archives, "20 archives inside: unpack them first"),
        (with_links, "20 links: copy the files"),
    ],
)
def test_what_cannot_be_used_says_why_file_by_file(small, tmp_path, make, words):
    make(tmp_path / "source", small)
    with pytest.raises(ValueError, match=words) as caught:
        pixels.prepare(tmp_path / "source", tmp_path / "cache")
    [written] = tmp_path.glob("cache/*/rejected.csv")
    assert str(written) in str(caught.value)
    assert len(written.read_text().splitlines()) == 1 + 20


def test_paths_that_are_too_long_are_rejected_and_not_lost(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("d" * 240, dir_fd=folder)
        inner = os.open("d" * 240, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        os.close(os.open("1_0_0_1.jpg" + " " * 230 + ".jpg", os.O_CREAT, dir_fd=inner))
        folder = inner
    os.close(folder)
    sources.fingerprint(tmp_path)
    assert Reason.UNREADABLE in outcomes(tmp_path).values()


def test_fingerprint_follows_the_files(tmp_path):
    folder = tree(tmp_path / "tree")
    archive = pack(folder, tmp_path / "a.zip")
    before = sources.fingerprint(folder), sources.fingerprint(archive)
    assert before == (sources.fingerprint(folder), sources.fingerprint(archive))
    (folder / "UTKFace" / NAME).write_bytes(b"longer")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("1_0_0_1.jpg", b"a")
    after = sources.fingerprint(folder), sources.fingerprint(archive)
    assert before[0] != after[0]
    assert before[1] != after[1]
