"""Preparing, reusing and mending prepared data, on pictures made here and on the real 5,000."""

import concurrent.futures
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from agegender.data import pixels, splits, utkface
from pipelines import __main__ as command

DATA = Path(os.environ.get("AGEGENDER_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def picture(name: str) -> np.ndarray:
    """The picture of a name, unlike any other: uint8 (128, 128, 3)."""
    generator = np.random.default_rng(list(name.encode()))
    small = PIL.Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((128, 128), PIL.Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "faces"
    (folder / "more").mkdir(parents=True)
    ages = np.random.default_rng(0).integers(1, 90, 80)
    for index, age in enumerate(ages):
        name = f"{age}_{index % 2}_{index % 5}_{index}.png"
        PIL.Image.fromarray(picture(name)).save(folder / name)
    shutil.copy(folder / name, folder / f"{age}_{index % 2}_0_100.png")  # A twin.
    shutil.copy(folder / name, folder / "more" / name)
    (folder / "5_0_0_101.png").write_bytes(b"")
    (folder / "0_0_0_102.png").write_bytes((folder / name).read_bytes())
    (folder / ".DS_Store").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def prepared(made, tmp_path_factory) -> Path:
    return pixels.prepare(made, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def copy(prepared, tmp_path) -> Path:
    """A cache of its own, to be damaged; returns its prepared folder."""
    shutil.copytree(prepared.parent, tmp_path / "cache")
    return tmp_path / "cache" / prepared.name


def test_labels_stay_with_their_pictures(prepared):
    faces = pixels.open_faces(prepared)
    names = faces.manifest["name"].tolist()
    assert names == sorted(names)
    assert len(names) == len(faces.pixels) == 81
    for row, name in enumerate(names):
        if not name.endswith("_100.png"):
            assert np.array_equal(faces.pixels[row], picture(name))
        labels = utkface.parse_name(name)
        assert (faces.age_years[row], faces.gender[row]) == (labels.age_years, labels.gender)
    assert faces.age_years.dtype == faces.gender.dtype == np.float32
    assert faces.pixels.dtype == np.uint8
    assert not faces.pixels.flags.writeable
    assert faces.kind == "utkface"
    assert len(faces.digest) <= 36


def test_rows_of_all_splits_are_all_rows(prepared):
    faces = pixels.open_faces(prepared)
    parts = [faces.rows(split) for split in splits.SPLITS]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(81))
    assert np.array_equal(faces.rows("validation", "train"), faces.rows("train", "validation"))
    assert all(len(part) for part in parts[:3])
    with pytest.raises(ValueError, match="expected some of"):
        faces.rows("testing")
    splits.check_split(faces.manifest)


def test_everything_found_is_kept_or_rejected_with_a_reason(prepared):
    rejected = pd.read_csv(prepared / "rejected.csv", keep_default_na=False)
    assert dict(zip(rejected["name"], rejected["reason"], strict=True)) == {
        ".DS_Store": "hidden or system file",
        "0_0_0_102.png": "age out of range",
        "5_0_0_101.png": "empty file",
        next(name for name in rejected["name"] if name.startswith("more/")): "duplicate name",
    }
    counts = json.loads((prepared / "prepared.json").read_text())["counts"]
    assert counts["found"] == counts["kept"] + sum(counts["rejected"].values()) == 85
    assert (counts["groups"], counts["grouped_faces"]) == (1, 2)
    summary = pixels.summary(prepared)
    assert "85 files found" in summary
    assert "1 empty file: 5_0_0_101.png" in summary


def test_unchanged_source_is_not_prepared_again(made, copy, capsys):
    before = (copy / "prepared.json").stat().st_mtime_ns
    assert pixels.prepare(made, copy.parent) == copy
    assert (copy / "prepared.json").stat().st_mtime_ns == before
    assert capsys.readouterr().err == ""
    assert pixels.prepare(made, copy.parent, seed=1) != copy


@pytest.mark.parametrize("damage", ["torn", "changed", "missing", "no record"])
def test_damaged_data_is_noticed_and_prepared_again(made, copy, capsys, damage):
    digest = pixels.open_faces(copy).digest
    if damage == "torn":
        os.truncate(copy / "pixels.npy", 5000)
    elif damage == "changed":
        with (copy / "pixels.npy").open("r+b") as stream:
            stream.seek(5000)
            stream.write(b"other bytes")
    elif damage == "missing":
        (copy / "manifest.csv").unlink()
    else:
        (copy / "prepared.json").write_text('{"kind": ')
    with pytest.raises((ValueError, FileNotFoundError)):
        pixels.open_faces(copy)
    assert pixels.prepare(made, copy.parent) == copy
    assert "again" in capsys.readouterr().err
    assert pixels.open_faces(copy).digest == digest


def test_changed_source_is_prepared_again(made, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(made, source)
    first = pixels.open_faces(pixels.prepare(source, tmp_path / "cache"))
    (source / "5_0_0_101.png").unlink()
    (source / first.manifest["name"][0]).unlink()
    second = pixels.open_faces(pixels.prepare(source, tmp_path / "cache"))
    assert "its files have changed" in capsys.readouterr().err
    assert second.folder == first.folder
    assert len(second.manifest) == len(first.manifest) - 1
    assert second.digest != first.digest
    assert len(first.pixels[-1]) == 128  # Who had it open can still read it.


def test_two_at_once_and_remains_of_a_killed_one(made, tmp_path):
    remains = tmp_path / ".building-killed"
    (remains / "prepared").mkdir(parents=True)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        folders = set(pool.map(lambda _: pixels.prepare(made, tmp_path), range(2)))
    assert len(folders) == 1
    pixels.open_faces(folders.pop())
    assert list(tmp_path.glob(".building-*")) == []


def test_generated_faces_are_known_as_such(tmp_path):
    folder = pixels.prepare(None, tmp_path, generated_faces=60)
    faces = pixels.open_faces(folder)
    assert (faces.kind, len(faces.manifest), faces.record["counts"]["found"]) == (
        "generated",
        60,
        60,
    )
    assert faces.record["counts"]["groups"] == 0  # Grouping would take twins for one photo.
    assert "nothing about people" in pixels.summary(folder)
    again = pixels.open_faces(pixels.prepare(None, tmp_path / "other", generated_faces=60))
    assert again.digest == faces.digest


@pytest.mark.parametrize("case", ["empty", "nothing of use", "missing", "too few"])
def test_command_without_usable_data_ends_with_one_line(made, tmp_path, monkeypatch, capsys, case):
    source = tmp_path / "source"
    if case != "missing":
        source.mkdir()
    if case == "nothing of use":
        (source / "portrait.jpg").write_bytes(b"a")
    if case == "too few":
        shutil.copy(next(made.glob("*_7.png")), source)
    monkeypatch.chdir(tmp_path)
    assert command.main(["prepare", "--data", str(source)]) == 2
    output = capsys.readouterr()
    assert len(output.err.splitlines()) == 1
    if case in ("empty", "nothing of use"):
        assert "26_1_2_20170116174525125.jpg.chip.jpg" in output.err
    left = [path.name for path in (tmp_path / ".cache" / "data").glob("*/*")]
    assert left == ([] if case == "missing" else ["rejected.csv"])


def test_command_prints_the_summary(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(["prepare", "--data", str(made)]) == 0
    output = capsys.readouterr().out
    assert "81 kept, 4 rejected" in output
    (folder,) = (path.parent for path in tmp_path.glob(".cache/data/*/prepared.json"))
    assert folder.name in output


def whole_photo(path: Path) -> PIL.Image.Image:
    """A photo of 640x480 pixels with the face of a file at 110 pixels of it."""
    photo = PIL.Image.fromarray(picture(path.name)).resize((640, 480))
    photo.paste(PIL.Image.open(path).resize((110, 110)), (300, 200))
    return photo


def test_one_photo_in_two_files_is_one_face_in_one_split(drawn, tmp_path):
    for name in ("crops", "whole"):
        (tmp_path / "faces" / name).mkdir(parents=True)
    for index, path in enumerate(drawn.iterdir()):
        shutil.copy(path, tmp_path / "faces" / "crops")
        stem = path.name.partition(".")[0]
        spelling = (f"{stem}.jpg", f"0{stem}.jpeg", f"{stem} .JPG")[index % 3]
        whole_photo(path).save(tmp_path / "faces" / "whole" / spelling)
    faces = pixels.open_faces(pixels.prepare(tmp_path / "faces", tmp_path / "cache"))
    manifest = faces.manifest.assign(key=faces.manifest["name"].map(utkface.face_key))
    assert (len(manifest), manifest["key"].nunique()) == (120, 60)
    assert faces.record["counts"]["groups"] == 60
    assert manifest.groupby("key")[["group", "split"]].nunique().max().tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["folder", "tar", "tar of one path"])
def test_a_bad_copy_does_not_hide_a_good_one(drawn, tmp_path, kind):
    source = tmp_path / "faces"
    shutil.copytree(drawn, source / "b")
    (source / "a").mkdir()
    for index, path in enumerate(sorted(drawn.iterdir())[:10]):
        (source / "a" / path.name).write_bytes(path.read_bytes()[: 700 * (index % 2)])
    if kind != "folder":
        with tarfile.open(tmp_path / "faces.tar", "w") as archive:
            for path in sorted(source.rglob("*.jpg")):
                archive.add(path, path.name if "one" in kind else path.relative_to(source))
        source = tmp_path / "faces.tar"
    found = pixels.open_faces(pixels.prepare(source, tmp_path / "cache"))
    assert found.record["counts"]["kept"] == 60
    assert found.record["counts"]["rejected"] == {"truncated or damaged": 5, "empty file": 5}
    assert found.digest == pixels.open_faces(pixels.prepare(drawn, tmp_path / "cache")).digest


def test_of_one_path_in_an_archive_the_last_sound_file_counts(drawn, tmp_path):
    first, *others = sorted(drawn.iterdir())
    with tarfile.open(tmp_path / "faces.tar", "w") as archive:
        for path in (others[0], others[1], tmp_path / "empty"):
            (tmp_path / "empty").touch()
            archive.add(path, first.name)
        for path in others:
            archive.add(path, path.name)
    faces = pixels.open_faces(pixels.prepare(tmp_path / "faces.tar", tmp_path / "cache"))
    rows = [faces.manifest["name"].tolist().index(name) for name in (first.name, others[1].name)]
    assert np.array_equal(*faces.pixels[rows])
    assert faces.record["counts"]["rejected"] == {"duplicate name": 1, "empty file": 1}


@pytest.mark.parametrize("name", ["d" * 250, "é" * 120, os.fsdecode(b"caf\xe9\n\x1b[31m"), "~x"])
def test_folders_of_any_name_are_prepared(drawn, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(drawn, name)
    first = min(drawn.iterdir())
    spaces = " " * (253 - len(first.name))
    shutil.copy(first, Path(name) / first.name.replace(".", f"{spaces}.", 1))
    (Path(name) / ("1" * 253)).touch()  # A table must not take it for a number.
    folder = pixels.prepare(Path(name), Path("cache"))
    faces = pixels.open_faces(folder)
    assert faces.record["counts"]["kept"] == 61
    assert faces.record["source"].isprintable()
    assert all(line.isprintable() for line in pixels.summary(folder).split("\n"))


@pytest.mark.skipif(not (DATA / "train_val").is_dir(), reason="needs the real faces: train_val")
def test_real_5000(tmp_path):
    faces = pixels.open_faces(pixels.prepare(DATA / "train_val", tmp_path))
    counts = faces.record["counts"]
    assert (counts["found"], counts["kept"]) == (5000, 5000)
    assert (counts["groups"], counts["grouped_faces"], counts["conflicting_groups"]) == (44, 90, 30)
    listed = faces.manifest["name"].map(utkface.face_key).isin(splits.read_test_names())
    assert np.array_equal(np.flatnonzero(listed), faces.rows("test"))
    sizes = [len(faces.rows(split)) for split in ("test", "validation")]
    assert sizes == pytest.approx([1000, 500], abs=10)
