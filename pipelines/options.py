"""The stages, their options, and how text typed for an option becomes a value.

Imports only the standard library and `agegender.config`, so that mistakes are reported at once. A
value comes as `--trial-cpus 2` from a shell or as `TRIAL_CPUS=2` from make. Make passes the text on
unchanged, in an environment variable of that name.
"""

import argparse
import dataclasses
import difflib
import glob
import math
import os
import re
import shlex
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from agegender import config

GIVEN, TYPED = "AGEGENDER_GIVEN", "AGEGENDER_TYPED"
FAMILIES = ("A", "B")
ALGORITHMS = ("priorband", "bayesian", "random", "hyperband")


class Refused(ValueError):
    """The input cannot be used; the message says what was expected."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option.

    read: turns the typed text into a value; raises ValueError, KeyError or OSError if it cannot.
    expected: what `read` accepts, worded to complete 'expected ...'.
    flag: True if it is typed without a value, or as NAME=1 in make.
    default: the text to use if none is typed.
    """

    read: Callable[[str], Any]
    expected: str
    flag: bool = False
    default: str = ""


def _number(kind: Callable[[str], float], low: float, end: float = math.inf) -> Option:
    def read(text: str) -> float:
        value = kind(text)
        if not low <= value < end:
            raise ValueError
        return value

    below = f", below {end:,}" * (end < math.inf)
    return Option(read, f"a {'whole ' * (kind is int)}number of {low} or more{below}")


def _choice(*names: str) -> Option:
    read = {name: name for name in names}.__getitem__
    return Option(read, f"{', '.join(names[:-1])} or {names[-1]}")


def _existing(text: str) -> Path:
    path = Path(os.path.expanduser(text))  # Unlike Path.expanduser, it keeps an unknown ~name.
    path.stat()
    return path


def _photos(text: str) -> list[Path]:
    """Return the paths in a text: all of it if that exists, else several, quoted as in a shell."""
    text = os.path.expanduser(text)
    paths: list[Path] = []
    for part in [text] if os.path.lexists(text) else shlex.split(text):
        found = [] if os.path.lexists(part) else sorted(glob.glob(part, recursive=True))
        paths += map(Path, found or [part])
    if not any(map(os.path.lexists, paths)):
        raise FileNotFoundError("no such file")
    return paths


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError
    socket.create_server(("127.0.0.1", port)).close()
    return port


def _address(text: str) -> str:
    if text.startswith("0."):
        raise ValueError  # It means all addresses, so a request could carry any host name.
    socket.create_server((text, 0)).close()
    return text


def _registered(text: str) -> str:
    if text not in FAMILIES and not re.fullmatch("age-gender-[^/:]+", text):
        raise ValueError
    return text


_YES = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}
_FLAG = Option(_YES.__getitem__, "1 or 0", flag=True)
_FACES = Option(_existing, "a folder, .zip, .tar or .tar.gz of faces")
_PLACE = Option(lambda text: Path(os.path.expanduser(text)), "a path")
_COUNT = _number(int, 1)
OPTIONS = {
    "data": _FACES,
    "test_data": _FACES,
    "seed": _number(int, 0, 2**31),  # NumPy's and JAX's limit is 2**32, and seeds are counted up.
    "preset": _choice(*config.PRESETS),
    "minutes": _number(float, 1),
    "trials": _COUNT,
    "algorithm": _choice(*ALGORITHMS),
    "tier": _choice("short", "full"),
    "workers": _COUNT,
    "trial_cpus": _number(float, 0),
    "trial_gpus": _number(float, 0),
    "features_gigabytes": _number(float, 0),
    "least_gain": _number(float, 0),
    "mirror": _FLAG,
    "memory": Option(_YES.__getitem__, "1 or 0"),
    "generated": _FLAG,
    "faces": _FLAG,
    "model": Option(_registered, "A or B"),
    "version": _COUNT,
    "alias": Option(str, "an alias, such as champion"),
    "to": _PLACE,
    "out": _PLACE,
    "photo": Option(_photos, "a file, a folder, a pattern, or several in one text"),
    "port": Option(_port, "a free port, a whole number from 0 (any) to 65535"),
    "host": Option(_address, "an address of this machine, such as 192.168.1.5"),
    "format": _choice("h5", "onnx", "litert", "saved_model"),
    "family": _choice(*FAMILIES, "both"),
    "settings": _COUNT,
    "seeds": _COUNT,
    "epochs": _COUNT,
}
SETTINGS: tuple[str, ...] = ("seed", "preset", "minutes", "trials", "algorithm", "tier", "mirror")
SETTINGS += ("memory", "workers", "trial_cpus", "trial_gpus", "features_gigabytes", "least_gain")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage.

    function: 'module:function' in this package, called with the given options as keywords.
    names: the options that may be given, separated by spaces.
    needs: the options that must be given; 'data|generated' if either will do.
    search: True if it works on a search; it then gets a `work.Work` instead of SETTINGS.
    special: options that mean something else here than in OPTIONS.
    """

    function: str
    names: str = ""
    needs: tuple[str, ...] = ()
    search: bool = False
    special: dict[str, Option] = dataclasses.field(default_factory=dict)

    @property
    def options(self) -> dict[str, Option]:
        """All options of the stage, by name."""
        needed = "|".join(self.needs).replace("|", " ")
        names = [*("data", *SETTINGS) * self.search, *f"{needed} {self.names}".split()]
        return {name: OPTIONS[name] for name in names} | self.special


def _on_port(default: str) -> dict[str, Option]:
    return {"port": dataclasses.replace(OPTIONS["port"], default=default)}


_FAMILY = {"model": _choice(*FAMILIES)}
_SEVERAL = {"seeds": _number(int, 2)}  # One seed cannot show how much seeds differ.
STAGES = {
    "tune": Stage("run_all:run_all", search=True),
    "search": Stage("search_models:search", search=True),
    "train": Stage("train_finalists:train", search=True),
    "evaluate": Stage("evaluate_models:evaluate", search=True),
    "promote": Stage("promote_models:promote", search=True),
    "compare": Stage("compare:compare", "family settings seeds epochs", search=True),
    "ablate": Stage("ablate:ablate", "seeds epochs", ("model",), search=True, special=_FAMILY),
    "release": Stage(
        "release_models:release",
        "test_data",
        needs=("model", "data"),
        search=True,
        special={"model": _choice(*config.RELEASES)},
    ),
    "reproduce": Stage(
        "reproduce:reproduce",
        needs=("model", "version", "data|generated"),
        special=_FAMILY | _SEVERAL,
    ),
    "prepare": Stage("prepare_data:prepare", "data seed"),
    "explore": Stage("explore_data:explore", "data seed to"),
    "report": Stage("write_report:report", "generated faces to"),
    "notebook": Stage("run_notebook:run", "data seed to"),
    "data": Stage("download_data:download"),
    "ui": Stage("show_runs:show", "port", special=_on_port("5000")),
    "predict": Stage(
        "predict:predict",
        "out generated model",
        ("photo",),
        special={"model": _choice(*FAMILIES, "AB")},
    ),
    "app": Stage("app:serve", "port host generated", special=_on_port("7860")),
    "pull": Stage("pull_model:pull", "alias version generated format", ("model", "to")),
    "rollback": Stage("roll_back:roll_back", "generated", ("model",)),
}
# Options of the Makefile's other targets.
OTHER_TARGETS = {"bench": ("data", "only")}


def from_arguments(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the stage and values of a command line; raise Refused, or SystemExit after --help."""
    parser = _Parser(prog="python -m pipelines", description="Run a stage.", allow_abbrev=False)
    stages = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for name, stage in STAGES.items():
        options = stages.add_parser(name, allow_abbrev=False)
        for key, option in stage.options.items():
            how = {"metavar": "VALUE", "help": option.expected}
            if option.flag:
                how = {"action": "store_const", "const": "1"}
            options.add_argument(_flag(key), default="", **how)
    texts = vars(parser.parse_args(arguments))
    name = texts.pop("stage")
    return name, values(STAGES[name], texts, lambda option: f"{_flag(option)} ")


def from_make(targets: list[str], environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the values of each target that is a stage; raise Refused if one is missing or wrong.

    environment: what make exports. Each variable's text is under its name; GIVEN lists the names of
    all that are set, TYPED of those on make's command line. Some target must take each name in
    TYPED; a variable set only in the shell may be meant for another program.
    """
    takes = {
        target: STAGES[target].options if target in STAGES else OTHER_TARGETS.get(target, ())
        for target in targets
    }
    taken = sorted({name.upper() for names in takes.values() for name in names})
    for name in environment.get(TYPED, "").split():
        if name not in taken:
            near = difflib.get_close_matches(name.upper(), taken, 1)
            raise Refused(
                f"{name}= means nothing to `{' '.join(['make', *targets])}`."
                f"{f' Did you mean {near[0]}=?' if near else ''}"
                f" It takes {', '.join(taken) or 'no variable'}"
            )
    given = {name: environment[name] for name in environment.get(GIVEN, "").split()}
    found = {}
    for target in STAGES.keys() & takes:
        texts = {name: given.get(name.upper(), "") for name in takes[target]}
        found[target] = values(STAGES[target], texts, lambda name: f"{name.upper()}=")
    return found


def values(stage: Stage, texts: Mapping[str, str], label: Callable[[str], str]) -> dict[str, Any]:
    """Return the given values, skipping empty texts; raise Refused if one is missing or wrong.

    label: an option's prefix as the user typed it, such as 'MINUTES=' or '--minutes '.
    """
    found = {}
    for name, option in stage.options.items():
        text = texts[name] or option.default
        if not text:
            continue
        try:
            found[name] = option.read(text)
        except (ValueError, KeyError, OSError) as error:
            reason = f" ({error.strerror or error})" if isinstance(error, OSError) else ""
            given = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
            raise Refused(f"{label(name)}{given}: expected {option.expected}{reason}") from None
    for need in stage.needs:
        names = need.split("|")
        if not any(found.get(name) for name in names):
            needed = " or ".join(label(name).strip() for name in names)
            raise Refused(f"{needed} is needed: expected {stage.options[names[0]].expected}")
    if {"alias", "version"} <= found.keys():
        raise Refused(f"{label('alias').strip()} and {label('version').strip()}: give only one")
    return found


def settings(values: Mapping[str, Any]) -> config.Settings:
    """Return the preset that the values ask for, overridden by the other values."""
    preset = config.PRESETS[values.get("preset") or config.preset_for(values.get("data"))]
    changes = {name: values[name] for name in SETTINGS if name in values}
    changes.pop("preset", None)
    if "mirror" in changes:
        changes["mirror_images"] = changes.pop("mirror")
    if trials := changes.pop("trials", None):
        for family in ("scratch", "pretrained"):
            changes[family] = dataclasses.replace(getattr(preset, family), trials=trials)
        # TRIALS alone asks for exactly this many; adding MINUTES can end the same list earlier.
        changes.setdefault("minutes", None)
    return dataclasses.replace(preset, **changes)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message}; see {self.prog} --help")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
