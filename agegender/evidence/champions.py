"""The report on two networks: the parts of a page whose words follow from what was measured.

A model is a dict: name, tags (the version's), run_tags, params, metrics (test_mae with test_mae_low
and so on), history (a row an epoch), dataset (faces a split), files (bytes by path: pictures,
predictions.csv, evidence.json, model_summary.txt, model_card.md, test/*.png) and search (tags,
params, metrics and files of the search that it came from). What is missing is said, never made up.
"""

import io
import json
import re

import matplotlib
import matplotlib.figure
import numpy as np
import pandas as pd

from agegender.evidence import architecture, evaluation, figures, pages, report

# Pictures of faces in a run; those of real people stay out of a report unless they are asked for.
FACES = {
    "test/occlusion_maps.png": "What a grey patch over each place changes in the prediction.",
    "test/most_wrong_age.png": "The largest errors in age: label, prediction.",
    "test/most_wrong_gender.png": "The largest errors in gender: label, prediction.",
}
PERFORMANCE = {
    "test/predicted_against_true.png": "Predicted against labelled ages of the test, with the "
    "interval in which the true age should lie.",
    "test/error_by_age.png": "Error and bias of each decade of the labelled age.",
    "test/confusion.png": "Labelled against predicted gender.",
    "test/reliability_diagram.png": "How often a probability of female is right: on the line, it "
    "can be taken at its word.",
    "test/risk_coverage.png": "What is left of the error where the least certain faces are left "
    "unanswered.",
    "test/slices.png": "Groups of faces, with 95 % intervals.",
    "test/robustness.png": "The same test faces made worse.",
}
SEARCH = {
    "best_so_far.png": "The score of each trial and the best until then.",
    "parallel_coordinates.png": "A line a trial through its settings; the darker, the better.",
    "hyperparameter_importance.png": "How much each setting has to do with the score.",
    "pareto_front.png": "Age against gender: the trials on the line are beaten in both by none.",
}
INTRODUCTION = """\
How old does a face look, and is it labelled male or female? Two convolutional networks answer \
both questions at once, from one aligned and cropped picture of 128 x 128 pixels. **Network A** \
was designed for the task and trained from scratch; **network B** begins with a network that was \
pretrained on other pictures and is fine-tuned. Their settings were searched, the best ones \
trained again, and the result was measured once on faces that nothing before had seen.

A program wrote this report from the tracking store, {versions}: each number and picture was \
logged by the run that made it, and the sentences follow from the numbers. Intervals are 95 %."""
SCORE = """\
What is searched on is one number, `val_score` = (MAE / MAE of the median age + error / error of \
the majority gender) / 2: 0 is perfect, 1 is what knowing nothing gives. MAE is the mean absolute \
error."""
TEST = """\
The test faces were set aside before anything was trained. Nothing that trains, searches or \
chooses sees them; near-duplicates of a face never lie on both sides. Each look at them is noted \
below."""


def parts(
    models: dict[str, dict], looks: pd.DataFrame, *, data_kind: str, faces: bool
) -> list[pages.Part]:
    """Return the report on the champions "A" and "B", or on the one there is.

    looks: the ledger of test looks: when, purpose, run_id and data. data_kind: "utkface" or
    "generated". faces: show the pictures of faces that the runs keep.
    """
    missing: list[str] = [
        f"network {family}: it has no champion" for family in "AB" if family not in models
    ]
    versions = " and ".join(
        f"{model['name']} version {model['tags']['version']}" for model in models.values()
    )
    page: list[pages.Part] = [
        "# Age and gender from faces: a report on two networks",
        INTRODUCTION.format(versions=f"about {versions}"),
        "## In short",
        "\n".join(f"- {line}" for line in _in_short(models, data_kind)),
        _metric_table(models),
        "## The data",
        *_data(models, data_kind),
    ]
    for family, model in models.items():
        page += [
            f"## Network {family}, {report.TITLES[family]}",
            *_architecture(family, model, missing),
            "### Training",
            *_training(family, model, missing),
            "### Performance",
            *_performance(family, model, missing, faces),
        ]
    page += ["## The search", SCORE]
    for family, model in models.items():
        page += [f"### Search of {family}", *_search(family, model, missing)]
    page += ["## Comparison and discussion", *_comparison(models)]
    for family, model in models.items():
        page += [f"### {family}: strengths and limits", _strengths(model)]
    page += ["## Ethics", f"{report.USE}\n\n{report.LIMITS}"]
    page += ["## How to reproduce this", *_reproduce(models, data_kind)]
    page += ["## Looks at the test", *_ledger(models, looks)]
    if missing:
        lines = "\n".join(f"- {line}" for line in missing)
        page += [
            "## What is missing",
            f"The store does not hold, so this report leaves out:\n{lines}",
        ]
    return page


def _interval(numbers: dict, name: str, form: str = ".2f") -> str:
    """Return a number with its interval, from keys name, name_low and name_high."""
    if name not in numbers:
        return "not measured"
    bounds = [
        f"{numbers[f'{name}_{end}']:{form}}"
        for end in ("low", "high")
        if f"{name}_{end}" in numbers
    ]
    return f"{numbers[name]:{form}}" + (f" [{', '.join(bounds)}]" if bounds else "")


def _in_short(models: dict, data_kind: str) -> list[str]:
    lines = []
    for family, model in models.items():
        numbers = model["metrics"]
        if "test_mae" not in numbers:
            lines.append(f"{family} was not measured on the test.")
            continue
        lines.append(
            f"**{family}**, {report.TITLES[family]}, is wrong by {_interval(numbers, 'test_mae')} "
            f"years on average and right in {_interval(numbers, 'test_gender_accuracy', '.1%')} of "
            f"the genders, on {numbers['test_n']:,.0f} test faces. {_against_nothing(numbers)}"
        )
    if verdict := _verdict(models):
        lines.append(verdict)
    for family, model in models.items():
        if worst := _worst_decades(model):
            lines.append(f"{family} fails most {worst}.")
    if data_kind == "generated":
        lines.append("The faces are drawn by a program: **the numbers say nothing about people**.")
    return lines


def _against_nothing(numbers: dict) -> str:
    score = numbers.get("test_score", np.nan)
    if score >= 1:
        return f"With a score of {score:.2f} it knows no more than always the median age would."
    share = f"{1 - score:.0%}" if score == score else "an unknown part"
    return f"That removes {share} of the error of knowing nothing (score {score:.3f})."


def _metric_table(models: dict) -> pd.DataFrame:
    rows = []
    for name, label in report.METRICS.items():
        values = {f: _interval(m["metrics"], f"test_{name}", ".3g") for f, m in models.items()}
        rows.append({"on the test": label} | values)
    for name, label in (("test_n", "faces"), ("parameters", "parameters")):
        values = {
            f: f"{m['metrics'][name]:,.0f}" if name in m["metrics"] else "not measured"
            for f, m in models.items()
        }
        rows.append({"on the test": label} | values)
    return pd.DataFrame(rows)


def _predictions(model: dict) -> pd.DataFrame | None:
    content = model["files"].get("predictions.csv")
    return None if content is None else pd.read_csv(io.BytesIO(content), keep_default_na=False)


def _evidence(model: dict) -> dict:
    return json.loads(model["files"].get("evidence.json", b"{}"))


def _verdict(models: dict) -> str:
    """Say which network the test shows to be better, in both tasks."""
    tables = [_predictions(models[family]) for family in "AB" if family in models]
    if len(tables) < 2 or any(table is None for table in tables):
        return ""
    a, b = tables
    if a[["name", "age_years"]].values.tolist() != b[["name", "age_years"]].values.tolist():
        return "The two were tested on different faces and cannot be compared face by face."
    pair = evaluation.compare(b, a, seed=0)
    mae, gender = pair["mae"], pair["gender"]
    bounds = f"[{mae['low']:+.2f}, {mae['high']:+.2f}]"
    if mae["low"] <= 0 <= mae["high"]:
        difference = f"B minus A: {mae['value']:+.2f} years {bounds}"
        age = f"In age the test cannot tell them apart ({difference})"
    else:
        better = "B" if mae["value"] < 0 else "A"
        age = (
            f"In age **{better} is better**: B's error minus A's is {mae['value']:+.2f} years "
            f"{bounds}, face by face"
        )
    count = f"{gender['only_a']} faces are right with B alone, {gender['only_b']} with A alone"
    if gender["p"] >= 0.05:
        return (
            f"{age}. In gender they are not told apart: {count} (McNemar, p = {gender['p']:.2g})."
        )
    better = "B" if gender["only_a"] > gender["only_b"] else "A"
    return f"{age}. In gender **{better} is better**: {count} (McNemar, p = {gender['p']:.2g})."


def _slices(model: dict) -> pd.DataFrame:
    """Return the slices that are no pairs and have enough faces, by name; empty without any."""
    table = pd.DataFrame(_evidence(model).get("slices", []))
    if table.empty:
        return table
    table = table[~table["slice"].str.contains(", ")].set_index("slice")
    return table[table["ranked"]]


def _worst_decades(model: dict) -> str:
    table = _slices(model)
    decades = table[table.index.str.startswith("age ")] if len(table) else table
    if len(decades) < 2:
        return ""
    oldest, hardest = decades["mae"].idxmax(), decades["gender_accuracy"].idxmin()
    return (
        f"in the ages of people of {oldest.removeprefix('age ')} ({decades.mae[oldest]:.1f} years) "
        f"and in the gender of those of {hardest.removeprefix('age ')} "
        f"({decades.gender_accuracy[hardest]:.1%} right)"
    )


def _data(models: dict, data_kind: str) -> list[pages.Part]:
    model = next(iter(models.values()))
    page: list[pages.Part] = [report.DATA[data_kind]]
    sizes = model["dataset"]
    if sizes:
        told = ", ".join(f"{sizes[name]:,} {name}" for name in sizes if name != "num_rows")
        page.append(
            f"{sizes.get('num_rows', 0):,} faces: {told}. Data {model['tags'].get('data.digest')}."
        )
    page.append(TEST)
    table = _predictions(model)
    if table is not None:
        masks = evaluation.slice_masks(table)
        counts = [f"{name} {mask.sum():,}" for name, mask in masks.items() if ", " not in name]
        page.append(
            f"The {len(table):,} test faces have a median age of {table['age_years'].median():.0f} "
            f"and are {table['gender'].mean():.1%} female. By group: {', '.join(counts)}."
        )
    noise = _evidence(model).get("label_noise", {})
    if noise.get("pairs"):
        years, gender = noise["age_difference_years"], noise["gender_disagreement"]
        page.append(
            f"The labels are not exact. {noise['pairs']:,} pairs of the same photograph carry ages "
            f"that differ by {years['value']:.1f} years on average, and other genders in "
            f"{gender['value']:.1%}: part of any network's error is theirs."
        )
    return page


def _picture(
    model: dict, name: str, caption: str, what: str, missing: list[str]
) -> list[pages.Part]:
    if content := model["files"].get(name):
        return [pages.picture(content, caption, photographs=name in FACES)]
    missing.append(f"{what}: {name}")
    return []


def _architecture(family: str, model: dict, missing: list[str]) -> list[pages.Part]:
    page: list[pages.Part] = []
    weights = re.search(
        r"## Pretrained weights\n\n(.+)", model["files"].get("model_card.md", b"").decode()
    )
    if weights:
        page.append(f"It begins with {weights[1]}")
    page.append("### Architecture")
    summary = model["files"].get("model_summary.txt", b"").decode()
    try:
        layers = architecture.layers(summary)
    except ValueError:
        missing.append(f"network {family}: model_summary.txt")
        return page
    table = architecture.blocks(layers)
    heads = {"distribution": "a softmax over the years 0 to 116, whose expected value is the age"}
    heads |= {"ordinal": "the probabilities that the age exceeds each year, whose sum is the age"}
    heads |= {"regression": "one number"}
    head = heads.get(model["params"].get("age_head", ""))
    page += [
        f"{len(layers)} layers with {layers['parameters'].sum():,} parameters, "
        f"{int((layers['kind'].str.contains('Conv')).sum())} of them convolutions. The picture is "
        "scaled inside the network; the trunk is shared, then a branch each answers age and gender."
        + (f" The age comes from {head}." if head else ""),
        pages.picture(
            architecture.diagram(table),
            f"Network {family}. Blue: convolutions; grey: scaling and pooling. A block's height is "
            "the size of its map, its width the number of channels.",
        ),
        architecture.block_table(table),
    ]
    return page


def _training(family: str, model: dict, missing: list[str]) -> list[pages.Part]:
    page: list[pages.Part] = []
    history, tags = model["history"], model["tags"]
    facts = [f"seed {tags['seed']}"] if "seed" in tags else []
    facts += [f"{name} {tags[name]}" for name in ("preset", "backend", "device") if name in tags]
    if "seconds" in model["metrics"]:
        facts.append(f"{model['metrics']['seconds'] / 60:.1f} minutes in all")
    if facts:
        page.append("Trained with " + ", ".join(facts) + ".")
    if frozen := report.FINE_TUNING.get(tags.get("fine_tuning_kept", "")):
        page.append(frozen)
    if "release" in tags:
        page.append(
            f"It was released: trained for {tags['epochs']} epochs on training and validation "
            "faces, without validation. What follows is the shorter training, without the "
            "validation faces, on whose answers for them the intervals were calibrated."
        )
    if {"val_score", "val_age_mae", "age_mae"} <= set(history):
        page.append(_curve_text(history))
    else:
        missing.append(f"network {family}: the metrics of its epochs")
    page += _picture(
        model,
        "learning_curves.png",
        "The four learning curves: loss and metric of both tasks, in training and validation.",
        f"network {family}",
        missing,
    )
    if model["params"]:
        page += ["All settings:", _settings(model["params"])]
    return page


def _curve_text(history: pd.DataFrame) -> str:
    best = int(history["val_score"].idxmin())
    row, count = history.loc[best], len(history)
    text = (
        f"The epoch with the lowest score in validation is kept: {best + 1} of {count}, at "
        f"{row['val_age_mae']:.2f} years and {row['val_gender_accuracy']:.1%}. "
    )
    if best >= 0.9 * count - 1:
        text += "It is one of the last: a longer training might still have improved it. "
    else:
        text += f"The {count - 1 - best} epochs after it brought no more. "
    gap = row["val_age_mae"] - row["age_mae"]
    if gap > 0.2 * row["val_age_mae"]:
        return text + (
            f"In training the error is {row['age_mae']:.2f} years: it has learned these faces "
            "better than faces (overfitting)."
        )
    return text + (
        f"In training the error is {row['age_mae']:.2f} years, where pictures are varied and units "
        "dropped: no sign of overfitting in age."
    )


def _settings(params: dict[str, str]) -> pd.DataFrame:
    """Return the settings in two columns of pairs."""
    items = list(params.items())
    half = -(-len(items) // 2)
    left, right = items[:half], items[half:] + [("", "")] * (2 * half - len(items))
    rows = [[*a, *b] for a, b in zip(left, right, strict=True)]
    return pd.DataFrame(rows, columns=["setting", "value", "setting ", "value "])


def _performance(family: str, model: dict, missing: list[str], faces: bool) -> list[pages.Part]:
    evidence = _evidence(model)
    if not evidence:
        missing.append(f"network {family}: evidence.json")
    page: list[pages.Part] = []
    told = [_age_text(model), _group_text(model), _trust_text(evidence), _robust_text(evidence)]
    page += [text for text in told if text]
    shown = PERFORMANCE | (FACES if faces else {})
    for name, caption in shown.items():
        page += _picture(model, name, f"{family}: {caption}", f"network {family}", missing)
    return page


def _age_text(model: dict) -> str:
    table = _slices(model)
    if table.empty:
        return ""
    decades = table[table.index.str.startswith("age ")]
    if decades.empty:
        return f"No decade has the {evaluation.SMALL_SLICE} test faces for a word of its own."
    over = [name.removeprefix("age ") for name in decades.index[decades["bias_low"] > 0]]
    under = [name.removeprefix("age ") for name in decades.index[decades["bias_high"] < 0]]
    text = ""
    if worst := _worst_decades(model):
        text = f"It fails most {worst}. "
    if over or under:
        text += "Its ages are "
        text += "; ".join(
            f"{kind} at {', '.join(names)}"
            for kind, names in (("too high", over), ("too low", under))
            if names
        )
        return text + " (years of age, where the interval of the bias leaves out 0)."
    return text + "In no decade with enough faces is a bias of the age shown."


def _group_text(model: dict) -> str:
    """Say between which genders and races a difference is shown: intervals that do not meet."""
    table = _slices(model)
    lines = []
    for title, names in (("gender", ("male", "female")), ("race", evaluation.RACES)):
        group = table[table.index.isin(names)] if len(table) else table
        if len(group) < 2:
            continue
        easy, hard = group["mae"].idxmin(), group["mae"].idxmax()
        shown = group.mae_low[hard] > group.mae_high[easy]
        lines.append(
            f"by {title}, the error in age runs from {group.mae[easy]:.1f} years ({easy}) to "
            f"{group.mae[hard]:.1f} ({hard})" + ("" if shown else ", which may be chance")
        )
        easy, hard = group["gender_accuracy"].idxmax(), group["gender_accuracy"].idxmin()
        shown = group.gender_accuracy_high[hard] < group.gender_accuracy_low[easy]
        lines.append(
            f"the accuracy in gender from {group.gender_accuracy[hard]:.1%} ({hard}) to "
            f"{group.gender_accuracy[easy]:.1%} ({easy})"
            + ("" if shown else ", which may be chance")
        )
    text = "; ".join(lines)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _trust_text(evidence: dict) -> str:
    lines = []
    if test := evidence.get("intervals", {}).get("test"):
        wanted = evidence["intervals"]["coverage"]
        held = f"{test['value']:.1%} [{test['low']:.1%}, {test['high']:.1%}]"
        judged = (
            "as promised"
            if test["low"] <= wanted <= test["high"]
            else "less often than promised"
            if test["high"] < wanted
            else "more often than promised: they are too wide"
        )
        lines.append(
            f"Its age intervals, made to hold the true age of {wanted:.0%} of faces and "
            f"{test['mean_width_years']:.0f} years wide on average, hold it in {held}: {judged}."
        )
    if abstention := evidence.get("abstention"):
        if abstention.get("confidence") is None:
            lines.append("No confidence in gender reaches the accuracy that was asked for.")
        else:
            lines.append(
                f"To be right in {abstention['accuracy_target']:.0%} of the genders it must leave "
                f"{1 - abstention['share_accepted']:.0%} of the validation faces unanswered (those "
                f"under a confidence of {abstention['confidence']:.2f})."
            )
    if mirror := evidence.get("mirror", {}).get("mae"):
        shown = not mirror["low"] <= 0 <= mirror["high"]
        lines.append(
            f"Averaging with the mirror image changes the error by {mirror['value']:+.2f} years"
            + ("." if shown else ", which may be chance.")
        )
    return " ".join(lines)


def _robust_text(evidence: dict) -> str:
    table = pd.DataFrame(evidence.get("robustness", []))
    if table.empty:
        return ""
    clean = table[table["corruption"] == "clean"].iloc[0]
    worse = table[table["corruption"] != "clean"]
    age, gender = worse.loc[worse["mae"].idxmax()], worse.loc[worse["gender_accuracy"].idxmin()]
    return (
        f"Of worse pictures, {age['corruption']} (strength {age['strength']:g}) costs most in age: "
        f"{clean['mae']:.1f} to {age['mae']:.1f} years; {gender['corruption']} (strength "
        f"{gender['strength']:g}) in gender: {clean['gender_accuracy']:.1%} to "
        f"{gender['gender_accuracy']:.1%}, on {clean['n']:.0f} faces."
    )


def _search(family: str, model: dict, missing: list[str]) -> list[pages.Part]:
    search = model["search"]
    if "trials.csv" not in search["files"]:
        missing.append(f"network {family}: the search that it came from (trials.csv)")
        return ["The champion does not come from a search that the store knows."]
    trials = pd.read_csv(io.BytesIO(search["files"]["trials.csv"]))
    done = trials[trials["status"] == "COMPLETED"]
    after = list(trials.columns).index("seconds") + 1
    tried = [name for name in trials.columns[after:] if done[name].nunique() > 1]
    number, scores = model["run_tags"].get("trial"), done["val_score"]
    page: list[pages.Part] = [
        f"{len(trials)} trials ({len(done)} complete), proposed by the algorithm "
        f"{search['params'].get('algorithm', 'that was asked for')}; scores from "
        f"{scores.min():.3f} to {scores.max():.3f}. {_mattered(done, tried)}"
        + (f" The champion is trial {number}, trained again for longer." if number else "")
    ]
    if tried:
        best = done.loc[scores.idxmin()]
        rows = [
            {"searched": name, "tried": _range(done[name]), "best trial": _short(best[name])}
            for name in tried
        ]
        page.append(pd.DataFrame(rows))
    front = done["trial"][
        figures.pareto_members(
            done["val_age_mae"].to_numpy(), done["val_gender_accuracy"].to_numpy()
        )
    ]
    page.append(
        f"Trial {front.iloc[0]} is beaten by none in either task."
        if len(front) == 1
        else f"Trials {', '.join(map(str, front))} are beaten in both tasks by none: between them, "
        "age is paid for with gender."
    )
    for name, caption in SEARCH.items():
        # Where too little was tried some pictures are not drawn: nothing is missing then.
        if name in search["files"] or (tried and len(done) > 2):
            page += _picture(search, name, caption, f"search of {family}", missing)
    return page


def _mattered(done: pd.DataFrame, tried: list[str]) -> str:
    if len(done) < figures.FEWEST_TRIALS:
        return "With so few trials nothing can be said about which setting matters."
    found = {name: figures.association(done[name], done["val_score"]) for name in tried}
    shown = sorted((name for name in found if found[name][1] <= 0.05), key=lambda n: -found[n][0])
    if not shown:
        return "No setting is shown to matter by itself (rank correlation, p > .05 each)."
    told = ", ".join(f"`{name}` ({found[name][0]:.2f})" for name in shown)
    return f"What goes with the score (rank correlation or eta, p < .05 each): {told}."


def _range(values: pd.Series) -> str:
    values = values.dropna()
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > 4:
        return f"{_short(values.min())} to {_short(values.max())}"
    return ", ".join(_short(value) for value in sorted(values.unique(), key=str))


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@matplotlib.rc_context(figures.STYLE)
def both_by_age(tables: dict[str, pd.DataFrame]) -> matplotlib.figure.Figure:
    """Draw both networks' MAE and gender accuracy by decade of the labelled age, side by side."""
    figure, axes = figures.blank(10, 4, 1, 2)
    measures = {"mae": "age: mean absolute error (years)", "gender_accuracy": "gender: accuracy"}
    for shift, (family, table), colour in zip(
        (-0.1, 0.1), tables.items(), (figures.BLUE, figures.ORANGE), strict=False
    ):
        masks = evaluation.slice_masks(table)
        names = [name for name in masks if name.startswith("age ") and "," not in name]
        rows = pd.DataFrame([evaluation.summary(table[masks[name]], seed=0) for name in names])
        for axis, measure in zip(axes, measures, strict=True):
            axis.errorbar(
                rows.index + shift,
                rows[measure],
                figures.bars(rows, measure),
                fmt="o",
                capsize=3,
                color=colour,
                label=family,
            )
    for axis, label in zip(axes, measures.values(), strict=True):
        axis.set_xticks(range(len(names)), [name.removeprefix("age ") for name in names])
        axis.set(xlabel="labelled age (years)", title=label)
    axes[0].legend()
    return figure


def _comparison(models: dict) -> list[pages.Part]:
    tables = {family: _predictions(model) for family, model in models.items()}
    verdict = _verdict(models)
    if not verdict or "different faces" in verdict:
        return [verdict or "There are not two networks with predictions to compare."]
    a, b = tables["A"], tables["B"]
    wrong_a, wrong_b = (
        ((table["gender_probability"] >= 0.5) != (table["gender"] > 0.5)).to_numpy()
        for table in (a, b)
    )
    errors = [(table["age_predicted"] - table["age_years"]).to_numpy() for table in (a, b)]
    alike = float(np.corrcoef(*errors)[0, 1])
    both = int((wrong_a & wrong_b).sum())
    return [
        verdict,
        f"They fail on {'much' if alike > 0.5 else 'partly'} the same faces: their errors in age "
        f"correlate by {alike:.2f}, and of the {int(wrong_a.sum())} genders that A has wrong, B "
        f"has {both} wrong too. What both have wrong is often in the picture or in its label.",
        pages.picture(
            both_by_age(tables), "Both networks by decade of the labelled age, 95 % intervals."
        ),
    ]


def _strengths(model: dict) -> str:
    """Return a list: what speaks for a network and what against it, as far as it was measured."""
    table, evidence, numbers = _slices(model), _evidence(model), model["metrics"]
    lines = []
    decades = table[table.index.str.startswith("age ")] if len(table) else table
    if len(decades) > 1:
        best = decades["mae"].idxmin()
        lines.append(
            f"Best at {best.removeprefix('age ')} years: wrong by {decades.mae[best]:.1f} years, "
            f"{decades.gender_accuracy[best]:.1%} of the genders right."
        )
        lines.append(f"It fails most {_worst_decades(model)}.")
    if worst := evidence.get("worst_slices"):
        told = {"mae": "age", "gender_accuracy": "gender"}
        named = ", ".join(f"in {told[name]}: {where}" for name, where in worst.items())
        lines.append(f"The worst groups, pairs included: {named}.")
    if "test_gender_ece" in numbers:
        error = numbers["test_gender_ece"]
        lines.append(
            f"Its probabilities are off by {error:.3f} on average"
            + (
                ": they can be taken at their word."
                if error < 0.03
                else ": not to be taken literally."
            )
        )
    if "parameters" in numbers:
        lines.append(f"{numbers['parameters'] / 1e6:.1f} million parameters.")
    if not lines:
        return "Nothing was measured of it."
    return "\n".join(f"- {line}" for line in lines)


def _reproduce(models: dict, data_kind: str) -> list[pages.Part]:
    rows, lines = [], []
    suffix = " GENERATED=1" if data_kind == "generated" else " DATA=..."
    for family, model in models.items():
        tags = model["tags"]
        shown = (
            "git.commit",
            "data.digest",
            "seed",
            "preset",
            "backend",
            "lock.sha256",
            "h5.sha256",
        )
        rows.append(
            {"": f"{model['name']} {tags['version']}"}
            | {name: tags.get(name, "unknown") for name in shown}
        )
        if "release" in tags:
            title = tags["release"].removeprefix("age_gender_")
            lines.append(f"`make release MODEL={title}{suffix}`")
        else:
            lines.append(f"`make reproduce MODEL={family} VERSION={tags['version']}{suffix}`")
    table = pd.DataFrame(rows).set_index("").T.reset_index().rename(columns={"index": "what"})
    first = models[next(iter(models))]["tags"]
    start = f"`make tune PRESET={first.get('preset', 'laptop')} SEED={first.get('seed', 0)}"
    start += "`" if data_kind == "generated" else " DATA=...`"
    return [
        f"At the commit below, {start} does the whole: faces, searches, trainings, test, "
        "registry. How far a search comes in its minutes depends on the machine; a single version "
        f"is trained again from its settings, and compared, by {' and '.join(lines)}. `make pull` "
        "hands over a network's file after its SHA-256 and golden predictions were checked.",
        table,
    ]


def _ledger(models: dict, looks: pd.DataFrame) -> list[pages.Part]:
    if looks.empty:
        return ["The store has noted no look at the test."]
    digests = {model["tags"].get("data.digest") for model in models.values()}
    here = looks[looks["data"].isin(digests)] if "data" in looks else looks
    names = {model["tags"].get("run_id"): family for family, model in models.items()}
    table = pd.DataFrame(
        {
            "when (UTC)": here["when"].dt.strftime("%Y-%m-%d %H:%M"),
            "purpose": here["purpose"],
            "model": [names.get(run_id, f"run {run_id[:8]}") for run_id in here["run_id"]],
        }
    )
    shown = table.tail(20)
    more = f" The last {len(shown)}:" if len(shown) < len(table) else ""
    return [
        f"{len(looks)} looks at a test are noted in this store, {len(here)} of them at the test of "
        "this data. The more often one looks and chooses by what one sees, the less a test says."
        + more,
        *([shown] if len(shown) else []),
    ]
