"""The report on the champions, from their stored records and one template for HTML and PDF."""

import dataclasses
import functools
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from agegender import hyperparameters, records
from agegender.measure import evaluation
from agegender.show import architecture, card, figures, pages

# Pictures of faces in a run. A report shows real people only on request.
FACES = ("occlusion_maps", "most_wrong_age", "most_wrong_gender")


@dataclasses.dataclass(frozen=True)
class StoredRun:
    """A run as the store keeps it; files: bytes by path."""

    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    params: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        """Return a .csv file of the run; an empty table if there is none."""
        if name not in self.files:
            return pd.DataFrame()
        return pd.read_csv(io.BytesIO(self.files[name]), keep_default_na=False, na_values=[""])

    def json(self, name: str) -> Any:
        """Return the content of a .json file of the run; an empty dict if there is none."""
        return json.loads(self.files.get(name, b"{}"))


@dataclasses.dataclass(frozen=True)
class SearchFacts:
    """Summary of a search.

    settings: number of different settings tried; best_trial: by the search's own ranking.
    tried: the values of each searched setting in the complete trials.
    """

    trials: int
    complete: int
    settings: int
    best_trial: int
    best_score: float
    tried: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class StoredVersion:
    """A version as the store keeps it; anything missing is empty.

    family: "A" or "B".
    tags: the version's tags, with its number as "version".
    run, search: the run that trained it and that run's parent.
    history: one row per epoch.
    sizes: number of faces, in total (num_rows) and per split.
    pretraining: what the pretrained network was trained on; empty for network A.
    """

    family: str
    name: str
    tags: Mapping[str, str]
    run: StoredRun
    search: StoredRun
    history: pd.DataFrame
    sizes: Mapping[str, int]
    pretraining: str

    @property
    def settings(self) -> dict[str, str]:
        """Values of all settings."""
        settings = json.loads(self.tags.get("settings", "{}"))
        return {name: _short(value) for name, value in settings.items()}

    @property
    def release(self) -> str:
        """Name of the release, which also trained on the validation faces; "" if it is none."""
        return self.tags.get("release", "").removeprefix(records.PREFIX)

    @functools.cached_property
    def evidence(self) -> records.Evidence:
        """Measurements besides the metrics."""
        return records.Evidence.from_json(self.run.json(records.EVIDENCE))

    @functools.cached_property
    def predictions(self) -> pd.DataFrame:
        """Predictions for the test faces."""
        return self.run.table(records.PREDICTIONS)

    @functools.cached_property
    def blocks(self) -> list[architecture.Block]:
        """Blocks of the network's architecture."""
        return architecture.blocks(self.run.json(records.LAYERS))

    @property
    def kept(self) -> dict[str, float]:
        """The history row of the kept epoch, with its epoch counted from 1."""
        if not {"val_score", "val_age_mae", "age_mae"} <= set(self.history):
            return {}
        row = self.run.metrics.get("best_epoch", evaluation.kept_epoch(self.history) + 1) - 1
        best = self.history.loc[int(row)]
        return best.to_dict() | {"epoch": int(best["epoch"]) + 1}

    @functools.cached_property
    def search_facts(self) -> SearchFacts | None:
        """Summary of the search that the version comes from; None if the store has none."""
        trials = self.search.table(records.TRIALS)
        done = trials[trials["status"] == "COMPLETED"] if len(trials) else trials
        if done.empty:
            return None
        lowest = done.loc[done["val_score"].idxmin()]
        best = done.set_index("trial").loc[int(self.search.tags.get("best_trial", lowest["trial"]))]
        columns = list(trials)[list(trials).index("seconds") + 1 :]
        own = hyperparameters.setting(dict.fromkeys(columns))
        searched = [name for name in own if name not in self.search.metrics]
        return SearchFacts(
            trials=len(trials),
            complete=len(done),
            settings=len(trials[searched].drop_duplicates()),
            best_trial=int(best.name),
            best_score=float(best["val_score"]),
            tried={name: _range(done[name]) for name in searched if done[name].nunique() > 1},
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


def write(
    models: Sequence[StoredVersion], looks: pd.DataFrame, *, kind: str, faces: bool
) -> tuple[str, bytes]:
    """Return the report on one network or on A and B, as one HTML page and as a PDF.

    looks: the ledger of looks at test sets, with the data of each.
    kind: "utkface" or "generated".
    faces: show the pictures of faces that the runs contain.
    """
    shown = pictures(models, faces=faces)
    text = markdown(models, looks, kind, shown)
    return pages.html(text, shown), pages.pdf(text, shown)


def pictures(models: Sequence[StoredVersion], *, faces: bool) -> dict[str, bytes]:
    """Return a report's pictures by name, both networks side by side; faces: as in `write`."""
    drawn = {
        f"architecture_{model.family}": architecture.diagram(model.blocks)
        for model in models
        if model.blocks
    }
    searches = {
        f"search of {model.family}": model.search.table(records.TRIALS)
        for model in models
        if model.search_facts and model.search_facts.complete > 2
    }
    if searches:
        drawn["search"] = figures.search_history(searches)
    curves = {model.family: model.history for model in models if model.kept}
    if curves:
        drawn["learning_curves"] = figures.learning_curves(curves)
    tested = {
        model.family: (
            model.predictions,
            dataclasses.replace(model.evidence, slices=model.evidence.groups),
        )
        for model in models
        if len(model.predictions) and model.evidence.groups and model.evidence.robustness
    }
    if tested:
        drawn |= figures.of_test(tested)
    made = {name: pages.picture(figure) for name, figure in drawn.items()}
    for name in FACES if faces else ():
        kept = [model.run.files.get(f"test/{name}.png") for model in models]
        if all(kept):
            made[name] = pages.picture(pages.beside(kept), photographs=True)
    return made


def markdown(
    models: Sequence[StoredVersion],
    looks: pd.DataFrame,
    kind: str,
    shown: Mapping[str, bytes],
) -> str:
    """Return the report as Markdown; shown: the available `pictures`."""
    digests = {model.tags.get("data.digest") for model in models}
    searches = [model.search_facts for model in models if model.search_facts]
    return pages.markdown(
        "report.md.jinja",
        models=models,
        pair=_pair(*models) if len(models) == 2 else None,
        kind=kind,
        looks=len(looks),
        looks_here=looks["data"].isin(digests).sum() if "data" in looks else len(looks),
        metrics=card.METRICS,
        fine_tuning=card.FINE_TUNING,
        blocks=sorted(
            dict.fromkeys(block.name for model in models for block in model.blocks),
            key=lambda name: -int(name.partition(" ")[0]) if name[0].isdigit() else 0,
        ),
        settings=sorted({name for model in models for name in model.settings}),
        searched=sorted({name for search in searches for name in search.tried}),
        pictures=shown,
    )


def _pair(a: StoredVersion, b: StoredVersion) -> dict[str, Any] | None:
    """Compare B with A face by face; None if they were not tested on the same faces."""
    tables = [model.predictions for model in (a, b)]
    labels = [table.reindex(columns=["name", "age_years"]).to_numpy().tolist() for table in tables]
    if not labels[0] or labels[0] != labels[1]:
        return None
    return evaluation.compare(*tables[::-1], seed=0) | evaluation.shared_errors(*tables)
