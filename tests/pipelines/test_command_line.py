"""What is typed: values reach a stage as they were meant, mistakes are answered at once."""

import dataclasses
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agegender import config
from pipelines import __main__ as command
from pipelines import options, work
from tuning import search

ROOT = Path(__file__).parents[2]
ODD = "a$$b $(HOME) `touch ran` \"q\" 'r' \\ #.jpg"


def make(*arguments, folder=ROOT, **environment):
    """Run make as from a bare shell: what the outer make was given must not reach this one."""
    return subprocess.run(
        ["make", "--no-print-directory", "--directory", str(folder), *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
    )


def from_make(target, typed="", **variables):
    """Return a stage's values when make was given variables; those in `typed` on its line."""
    given = {"AGEGENDER_GIVEN": " ".join(variables), "AGEGENDER_TYPED": typed}
    return options.from_make([target], given | variables)[target]


def test_a_stage_gets_what_was_typed_as_values(tmp_path):
    name, values = options.from_arguments(
        ["tune", "--data", str(tmp_path), "--minutes", "2.5", "--trials", "3", "--mirror"]
    )
    expected = {"data": tmp_path, "minutes": 2.5, "trials": 3, "mirror": True}
    assert (name, values) == ("tune", expected)
    texts = {"DATA": str(tmp_path), "MINUTES": "2.5", "TRIALS": "3", "MIRROR": "1", "SEED": ""}
    assert from_make("tune", **texts) == expected
    settings = options.settings(expected)
    assert settings.mirror_images and settings.minutes == 2.5
    assert settings.scratch.trials == settings.pretrained.trials == 3
    assert options.settings({"trials": 3}).minutes is None
    drawn, real = options.settings({"seed": 1}), options.settings({"data": tmp_path})
    assert drawn == config.dataclasses.replace(config.PRESETS["drawn"], seed=1)
    assert real == config.PRESETS["laptop"]


@pytest.mark.parametrize(
    ("target", "variables", "said"),
    [
        ("tune", {"MINUTES": "abc"}, "MINUTES=abc: expected a number of 1 or more"),
        ("tune", {"MINUTES": "nan"}, "MINUTES=nan: expected a number of 1 or more"),
        ("tune", {"TRIALS": "1.5"}, "TRIALS=1.5: expected a whole number of 1 or more"),
        (
            "tune",
            {"SEED": "-1"},
            "SEED=-1: expected a whole number of 0 or more, below 2,147,483,648",
        ),
        ("tune", {"SEED": "9999999999"}, "SEED=9999999999: expected a whole number of 0 or more"),
        ("tune", {"DATA": "~nobody9/x"}, "DATA=~nobody9/x: expected a folder"),
        ("pull", {"MODEL": "age-gender-A/3", "TO": "x"}, "MODEL=age-gender-A/3: expected A or B"),
        ("tune", {"PRESET": "lap top"}, "PRESET=lap top: expected laptop, "),
        ("tune", {"DATA": "/no\nwhere"}, r"DATA=/no\nwhere: expected a folder"),
        ("tune", {"MIRROR": "maybe"}, "MIRROR=maybe: expected 1 or 0"),
        ("pull", {"MODEL": "Z", "TO": "x"}, "MODEL=Z: expected A or B"),
        ("pull", {"MODEL": "A"}, "TO= is needed: expected a path"),
        (
            "pull",
            {"MODEL": "A", "TO": "x", "VERSION": "1", "ALIAS": "champion"},
            "ALIAS= and VERSION=: give only one",
        ),
        (
            "pull",
            {"MODEL": "A", "TO": "x", "FORMAT": "pb"},
            "FORMAT=pb: expected h5, onnx, litert or",
        ),
        ("predict", {}, "PHOTO= is needed: expected a file"),
        ("predict", {"PHOTO": "nowhere.jpg"}, "PHOTO=nowhere.jpg: expected a file"),
        ("release", {"MODEL": "C", "DATA": "/"}, "MODEL=C: expected A, A_taught, B, A_full"),
        ("reproduce", {"MODEL": "A", "VERSION": "1"}, "DATA= or GENERATED= is needed"),
        (
            "reproduce",
            {"MODEL": "A", "VERSION": "1", "GENERATED": "0"},
            "DATA= or GENERATED= is needed",
        ),
        ("ui", {"PORT": "65536"}, "PORT=65536: expected a free port"),
        ("app", {"HOST": "203.0.113.9"}, "HOST=203.0.113.9: expected an address of this machine"),
        ("app", {"HOST": "0.0.0.0"}, "HOST=0.0.0.0: expected an address of this machine"),
    ],
)
def test_a_mistake_is_answered_in_the_words_of_make(target, variables, said):
    with pytest.raises(options.Refused) as refused:
        from_make(target, **variables)
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tune", "--minutes", "abc"], "--minutes abc: expected a number of 1 or more"),
        (["pull", "--model", "A"], "--to is needed"),
        (["ablate", "--model", "Z"], "--model Z: expected A or B"),
        (["tune", "--minute", "3"], "--minute"),
        (["tunes"], "tunes"),
        ([], "STAGE"),
    ],
)
def test_a_mistake_is_answered_in_the_words_of_the_command_line(arguments, said, capsys):
    assert command.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1 and said in captured.err


@pytest.mark.parametrize(
    ("target", "name", "said"),
    [
        ("tune", "DATAA", r"DATAA= means nothing to `make tune`\. Did you mean DATA=\? .*, DATA,"),
        ("tune", "minutes", r"minutes= means .* Did you mean MINUTES=\?"),
        ("ui", "MINUTES", r"MINUTES= means nothing to `make ui`\. It takes PORT$"),
        ("test", "XYZZY", r"XYZZY= means nothing to `make test`\. It takes no variable$"),
    ],
)
def test_a_variable_that_means_nothing_is_refused_with_those_that_do(target, name, said):
    with pytest.raises(options.Refused, match=said):
        options.from_make([target], {"AGEGENDER_TYPED": name})


def test_a_variable_of_the_shell_alone_may_be_for_another_program():
    assert from_make("report", MINUTES="3", DATA="/nowhere") == {}


def test_a_port_that_is_taken_is_refused(monkeypatch):
    with options.socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        # Where nothing is typed, the port that a stage takes by itself.
        option = dataclasses.replace(options.OPTIONS["port"], default=str(port))
        stage = dataclasses.replace(options.STAGES["ui"], special={"port": option})
        monkeypatch.setitem(options.STAGES, "ui", stage)
        for target, given in (("app", {"PORT": str(port)}), ("ui", {})):
            with pytest.raises(options.Refused, match=f"PORT={port}: expected a free port"):
                from_make(target, **given)


def test_photos_are_named_one_or_several_as_for_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a face.jpg", "nobody.png", "notes.txt", ODD):
        Path(name).touch()
    assert from_make("predict", PHOTO=ODD)["photo"] == [Path(ODD)]
    assert from_make("predict", PHOTO="a face.jpg")["photo"] == [Path("a face.jpg")]
    several = from_make("predict", PHOTO="'a face.jpg' none.jpg n*")["photo"]
    assert [*map(str, several)] == ["a face.jpg", "none.jpg", "nobody.png", "notes.txt"]


@pytest.mark.parametrize("name", options.STAGES)
def test_a_stage_takes_the_options_that_it_is_given(name):
    stage = options.STAGES[name]
    module, function = stage.function.split(":")
    call = getattr(importlib.import_module(f"pipelines.{module}"), function)
    own = set(stage.options) - ({*options.SETTINGS, "data"} if stage.search else set())
    parameters = inspect.signature(call).parameters
    assert own == {key for key, value in parameters.items() if value.kind == value.KEYWORD_ONLY}
    if stage.search:  # None of them is taken by what stands between.
        inspect.signature(work.on_search).bind(call, None, **dict.fromkeys(stage.options))
    needed = {key for key in own if parameters[key].default is inspect.Parameter.empty}
    always = {key for key, option in stage.options.items() if option.default}
    assert needed == always | {need for need in stage.needs if need in own and "|" not in need}


def test_names_agree_with_what_they_name():
    assert set(options.ALGORITHMS) == set(search.ALGORITHMS)
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    (stages,) = re.findall(r"^stages := (.*)", makefile, re.M)
    assert set(stages.split()) == set(options.STAGES)
    (variables,) = re.findall(r"^variables := (.*)", makefile, re.M)
    known = {name for stage in options.STAGES.values() for name in stage.options} | {"only"}
    assert set(variables.split()) == {name.upper() for name in known}


def test_what_is_typed_is_checked_without_a_heavy_import():
    script = "import sys; from pipelines import __main__ as c; c.main(['tune', '--minutes', 'x']);"
    script += "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    own = {"agegender", "pipelines", "tuning", "__main__"}
    assert "pipelines" in loaded and done.stderr.startswith("--minutes x: expected")
    assert not {n for n in loaded - own if n not in sys.stdlib_module_names and n[0] != "_"}


def test_make_answers_a_mistake_at_once_in_one_line():
    started = time.monotonic()
    done = make("tune", "MINUTES=abc", f"PYTHON={sys.executable}")
    assert time.monotonic() - started < 1
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "MINUTES=abc: expected a number of 1 or more" in line


def test_the_host_that_conda_sets_is_not_the_one_to_serve_at():
    arguments = ["app", "--dry-run", f"PYTHON={sys.executable}"]
    done = make(*arguments, HOST="x86_64-conda-linux-gnu")
    assert done.returncode == 0 and "pipelines app" in done.stdout, done.stderr
    assert "HOST=here: expected an address" in make(*arguments, "HOST=here").stderr


def test_make_hands_a_value_over_as_it_was_typed(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for package in ("agegender", "pipelines", "tuning"):
        (tmp_path / package).symlink_to(ROOT / package)
    (tmp_path / ODD).mkdir()  # An empty folder, which predict names before it loads anything.
    done = make("predict", f"PHOTO={ODD}x", "OUT=$(shell touch ran)`touch ran`", folder=tmp_path)
    assert f"PHOTO={ODD}x: expected a file" in done.stderr and done.returncode == 2
    shown = tmp_path / "show.py"
    shown.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "if '--check' not in sys.argv: print(os.environ['PHOTO'], os.environ['OUT'], sep='|')\n"
    )
    shown.chmod(0o755)
    for how in (("PHOTO=" + ODD, "OUT=$(x)"), ()):
        environment = {} if how else {"PHOTO": ODD, "OUT": "$(x)"}
        done = make("predict", *how, f"PYTHON={shown}", folder=tmp_path, **environment)
        assert done.stdout.splitlines()[-1] == f"{ODD}|$(x)", done.stderr
    assert not (tmp_path / "ran").exists()


def test_make_alone_lists_every_target_by_what_it_is_for():
    lines = make().stdout.splitlines()
    assert len(lines) < 25 and max(map(len, lines)) <= 100
    groups = [line.split()[0] for line in lines if line[:1].isupper()]
    assert groups == ["Start", "Look", "Use", "Share", "Develop"]
    text = "\n".join(lines)
    makefile = (ROOT / "Makefile").read_text()
    targets = set(options.STAGES) | set(re.findall(r"^([a-z]+):(?!=)", makefile, re.M)) - {"help"}
    assert not [target for target in targets if not re.search(rf"\b{target}\b", text)]


def test_clean_keeps_the_tracking_store_the_weights_and_the_exports(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("agegender", "tuning", "pipelines", "tests"):
        (tmp_path / folder / "__pycache__").mkdir(parents=True)
    kept = [tmp_path / name for name in ("mlruns/mlflow.db", ".cache/weights/w", "exports/a.h5")]
    gone = [tmp_path / name for name in (".cache/data/k/pixels.npy", ".cache/searches/s")]
    for path in kept + gone:
        path.parent.mkdir(parents=True)
        path.touch()
    assert make("clean", folder=tmp_path).returncode == 0
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)
    assert not list(tmp_path.rglob("__pycache__"))
