"""The report on the champions: facts read from the store, and one template for HTML and PDF."""

import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from agegender import hyperparameters, records
from agegender.measure import evaluation
from agegender.show import architecture, card, figures, findings, pages
from agegender.show.findings import Findings
from agegender.show.intervals import Interval

# Pictures of faces in a run; a report shows those of real people only where it is asked to.
FACES = ("occlusion_maps", "most_wrong_age", "most_wrong_gender")


@dataclasses.dataclass(frozen=True)
class StoredRun:
    """What the store keeps of a run; files: bytes by path."""

    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    params: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        """Return a .csv of the run; empty where there is none."""
        if name not in self.files:
            return pd.DataFrame()
        return pd.read_csv(io.BytesIO(self.files[name]), keep_default_na=False, na_values=[""])

    def json(self, name: str) -> Any:
        """Return what a .json of the run holds; an empty dict where there is none."""
        return json.loads(self.files.get(name, b"{}"))


@dataclasses.dataclass(frozen=True)
class StoredVersion:
    """What the store keeps of a registered version.

    tags: the version's, with its number as "version".
    run, search: the run that trained it and that run's parent, empty where there is none.
    history: a row for each epoch.
    sizes: the number of faces, in all (num_rows) and of each split.
    pretraining: what the pretrained network was trained on; empty for network A.
    """

    name: str
    tags: Mapping[str, str]
    run: StoredRun
    search: StoredRun
    history: pd.DataFrame
    sizes: Mapping[str, int]
    pretraining: str

    @property
    def settings(self) -> dict[str, str]:
        """The values of all its settings."""
        settings = json.loads(self.tags.get("settings", "{}"))
        return {name: _short(value) for name, value in settings.items()}


@dataclasses.dataclass(frozen=True)
class SearchFacts:
    """A search: its trials and, by searched setting, what was tried and what the version has.

    settings: how many different ones the trials tried; best_trial: as the search ranked them.
    chosen_trial: the one that the version is, trained again; None where it is not known.
    """

    trials: int
    complete: int
    settings: int
    best_trial: int
    best_score: float
    chosen_trial: int | None
    algorithm: str
    tried: Mapping[str, tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What the report says of one network; what was not measured is None or empty.

    kept: the row of the history with the lowest val_score, its epoch counted from 1.
    frozen: why its backbone is frozen, if it is.
    release: its name, as one that was trained on the validation faces too; else empty.
    """

    family: str
    stored: StoredVersion
    found: Findings
    blocks: list[architecture.Block]
    predictions: pd.DataFrame
    kept: Mapping[str, float]
    search: SearchFacts | None
    frozen: str | None
    release: str


@dataclasses.dataclass(frozen=True)
class PairFacts:
    """B against A on the same test faces.

    difference: B's mean absolute error minus A's, years.
    only_a, only_b: genders that only one of them has right; p: of McNemar's test of these.
    age, gender: what the test shows at 95 %; the others: of `evaluation.shared_errors`, A first.
    """

    difference: Interval
    only_a: int
    only_b: int
    p: float
    age: str
    gender: str
    correlation: float
    wrong: int
    wrong_both: int


@dataclasses.dataclass(frozen=True)
class ReportFacts:
    """What the report says.

    kind: "utkface" or "generated".
    looks, looks_here: looks at any test and at that of this data.
    """

    models: list[ModelFacts]
    pair: PairFacts | None
    kind: str
    looks: int
    looks_here: int


def model_facts(family: str, stored: StoredVersion) -> ModelFacts:
    """Read what the store kept of a version of network "A" or "B"."""
    run, history, tags = stored.run, stored.history, stored.tags
    search = _search_facts(stored)
    kept: dict[str, float] = {}
    if {"val_score", "val_age_mae", "age_mae"} <= set(history):
        best = history.loc[history["val_score"].idxmin()]
        kept = best.to_dict() | {"epoch": int(best["epoch"]) + 1}
    test = {
        name.removeprefix("test_"): value
        for name, value in run.metrics.items()
        if name.startswith("test_")
    }
    return ModelFacts(
        family=family,
        stored=stored,
        found=Findings.of(test, records.Evidence.from_json(run.json(records.EVIDENCE))),
        blocks=architecture.blocks(run.json(records.LAYERS)),
        predictions=run.table(records.PREDICTIONS),
        kept=kept,
        search=search,
        frozen=card.FINE_TUNING.get(tags.get("fine_tuning_kept", "")),
        release=tags.get("release", "").removeprefix(records.PREFIX),
    )


def _search_facts(stored: StoredVersion) -> SearchFacts | None:
    search, trial = stored.search, stored.run.tags.get("trial")
    trials, chosen = search.table(records.TRIALS), stored.settings
    done = trials[trials["status"] == "COMPLETED"] if len(trials) else trials
    if done.empty:
        return None
    lowest = done.loc[done["val_score"].idxmin()]
    best = done.set_index("trial").loc[int(search.tags.get("best_trial", lowest["trial"]))]
    columns = list(trials)[list(trials).index("seconds") + 1 :]
    own = hyperparameters.setting(dict.fromkeys(columns))
    searched = [name for name in own if name not in search.metrics]
    return SearchFacts(
        trials=len(trials),
        complete=len(done),
        settings=len(trials[searched].drop_duplicates()),
        best_trial=int(best.name),
        best_score=float(best["val_score"]),
        chosen_trial=int(trial) if trial else None,
        algorithm=search.params.get("algorithm", "not known"),
        tried={
            name: (_range(done[name]), chosen.get(name, "not used"))
            for name in searched
            if done[name].nunique() > 1
        },
    )


def _range(values: pd.Series) -> str:
    values = values.dropna()
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > 4:
        return f"{_short(values.min())} to {_short(values.max())}"
    return ", ".join(_short(value) for value in sorted(values.unique(), key=str))


def _short(value: object) -> str:
    if pd.isna(value):
        return "not used"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def pair_facts(a: ModelFacts, b: ModelFacts) -> PairFacts | None:
    """Compare both networks face by face; None where they were not tested on the same faces."""
    tables = [model.predictions for model in (a, b)]
    labels = [table.reindex(columns=["name", "age_years"]).to_numpy().tolist() for table in tables]
    if not labels[0] or labels[0] != labels[1]:
        return None
    found = evaluation.compare(b.predictions, a.predictions, seed=0)
    mae, gender, none = found["mae"], found["gender"], "no clear difference"
    return PairFacts(
        difference=Interval(mae["value"], mae["low"], mae["high"]),
        only_a=gender["only_b"],
        only_b=gender["only_a"],
        p=gender["p"],
        age=none if mae["low"] <= 0 <= mae["high"] else f"{'AB'[mae['value'] < 0]} is better",
        gender=f"{'AB'[gender['only_a'] > gender['only_b']]} is better"
        if gender["p"] < 1 - evaluation.CONFIDENCE
        else none,
        **evaluation.shared_errors(a.predictions, b.predictions),
    )


def facts(versions: Mapping[str, StoredVersion], looks: pd.DataFrame, *, kind: str) -> ReportFacts:
    """Return what the report says of the champions "A" and "B", or of the one there is.

    looks: the ledger of test looks, with when, purpose, run_id and data.
    kind: "utkface" or "generated".
    """
    models = [model_facts(family, stored) for family, stored in versions.items()]
    digests = {model.stored.tags.get("data.digest") for model in models}
    here = looks[looks["data"].isin(digests)] if "data" in looks else looks
    pair = pair_facts(*models) if len(models) == 2 else None
    return ReportFacts(models, pair, kind, len(looks), len(here))


def pictures(report: ReportFacts, *, faces: bool) -> dict[str, bytes]:
    """Return the pictures of a report by name, both networks side by side.

    faces: show the pictures of faces that the runs keep.
    """
    drawn = {
        f"architecture_{model.family}": architecture.diagram(model.blocks)
        for model in report.models
        if model.blocks
    }
    searches = {
        f"search of {model.family}": model.stored.search.table(records.TRIALS)
        for model in report.models
        if model.search and model.search.complete > 2
    }
    if searches:
        drawn["search"] = figures.search_history(searches)
    curves = {model.family: model.stored.history for model in report.models if model.kept}
    if curves:
        drawn["learning_curves"] = figures.learning_curves(curves)
    tested = {
        model.family: figures.Tested(
            model.predictions,
            pd.DataFrame(model.found.evidence.slices).loc[lambda t: ~t["slice"].str.contains(", ")],
            pd.DataFrame(model.found.evidence.robustness),
        )
        for model in report.models
        if len(model.predictions) and model.found.groups and model.found.evidence.robustness
    }
    if tested:
        drawn |= figures.of_test(tested)
    made = {name: pages.picture(figure) for name, figure in drawn.items()}
    for name in FACES if faces else ():
        kept = [model.stored.run.files.get(f"test/{name}.png") for model in report.models]
        if all(kept):
            made[name] = pages.picture(pages.beside(kept), photographs=True)
    return made


def write(report: ReportFacts, *, faces: bool) -> tuple[str, bytes]:
    """Return the report as one HTML page and as a PDF; faces: as in `pictures`."""
    shown = pictures(report, faces=faces)
    text = markdown(report, shown)
    return pages.html(text, shown), pages.pdf(text, shown)


def markdown(report: ReportFacts, shown: Mapping[str, bytes]) -> str:
    """Return the report with the pictures that are there, of those of `pictures`."""
    names = {name for model in report.models for name in model.stored.settings}
    return pages.markdown(
        "report.md.jinja",
        facts=report,
        models=report.models,
        metrics=findings.METRICS,
        blocks=sorted(
            dict.fromkeys(block.name for model in report.models for block in model.blocks),
            key=lambda name: -int(name.partition(" ")[0]) if name[0].isdigit() else 0,
        ),
        settings=sorted(names),
        searched=sorted({n for model in report.models if model.search for n in model.search.tried}),
        pictures=shown,
    )
