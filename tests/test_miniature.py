"""The true pipeline in miniature, in this process: searches, candidates, test, registry, report."""

import dataclasses

import mlflow
import pytest

from agegender import config, records
from agegender.registry import ledger, tracking, versions
from agegender.show import intervals
from pipelines import pull_model, roll_back, run_all, write_report
from pipelines import work as pipelines_work
from tuning import families, family_search, journal

ONE_EPOCH = config.FamilySettings(1, (1,), 1, search_share=0.2, final_share=0.3)
SETTINGS = dataclasses.replace(
    config.PRESETS["drawn"],
    minutes=None,
    generated_faces=120,
    scratch=ONE_EPOCH,
    pretrained=ONE_EPOCH,
    head_epochs=2,
    robustness_faces=2,
)
EXPERIMENT = "age-gender-generated"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which everything has run, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("clone"))
        work = pipelines_work.start(SETTINGS, None)
        with journal.hold(work.folder), work.display:
            run_all.run_all(work)
    return work


@pytest.fixture(autouse=True)
def in_its_folder(work, monkeypatch):
    """Stages work in the current folder."""
    monkeypatch.chdir(work.root)
    tracking.connect(work.root)


def runs():
    client = mlflow.MlflowClient()
    return client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])


def test_every_run_is_tracked_and_ended(work):
    found = [(run.data.tags["role"], run.data.tags["family"]) for run in runs()]
    assert sorted(found) == sorted(
        (role, family) for family in families.FAMILIES for role in ("search", "trial", "finalist")
    )
    for run in runs():
        assert run.info.status == "FINISHED" and len(run.inputs.dataset_inputs) == 1
        assert ("mlflow.parentRunId" in run.data.tags) == (run.data.tags["role"] != "search")
        # What all trials share is with the search, so that they are compared by what differs.
        assert (len(run.data.params) <= 10) == (run.data.tags["role"] == "trial")
    assert len(ledger.looks()) == 2


@pytest.mark.parametrize("family", families.FAMILIES)
def test_evidence_card_and_predictions_are_left_with_each_model(work, family):
    candidate = work.candidate(family)
    (run,) = work.root.glob(f"mlruns/artifacts/*/{candidate.run_id}/artifacts")
    predictions = records.read_predictions(run / records.PREDICTIONS)
    test = work.faces.manifest[work.faces.manifest["split"] == "test"]
    assert len(predictions) == candidate.test["n"] == len(test)
    error = (predictions.age_predicted - predictions.age_years).abs().mean()
    assert error == pytest.approx(candidate.test["mae"]["value"])
    assert 0 < candidate.evidence.intervals["test"]["value"] <= 1
    mae = intervals.digits(intervals.Interval.of(candidate.test["mae"]))
    assert f"{mae} |" in (run / records.CARD).read_text()
    assert len(list((run / "test").glob("*.png"))) == 8


@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_first_version_is_champion_and_is_what_is_pulled(work, family, tmp_path):
    name = versions.full_name(family, generated=True)
    assert versions.aliases(name) == {"champion": 1}
    champion = work.root / "exports" / f"age_gender_{family}.h5"
    assert champion.stat().st_size < 20e6
    to = tmp_path / "pulled.h5"
    pull_model.pull(model=family, generated=True, to=to)
    assert to.read_bytes() == champion.read_bytes()


def test_there_is_nothing_to_roll_back_to(work):
    with pytest.raises(ValueError, match="no previous champion"):
        roll_back.roll_back(model="B", generated=True)
    assert versions.aliases("age-gender-B-generated") == {"champion": 1}


def test_the_report_holds_what_the_store_holds(work):
    write_report.report()
    text = (work.root / "reports" / "report-generated.html").read_text()
    for family in families.FAMILIES:
        for name in ("mae", "gender_accuracy"):
            measured = intervals.Interval.of(work.candidate(family).test[name])
            assert f"<td>{intervals.digits(measured)}</td>" in text
    assert 1000 < (work.root / "reports" / "report-generated.pdf").stat().st_size < 2**20
    # It is kept beside the runs that it is about.
    kept = work.root.glob("mlruns/artifacts/pages/*/artifacts/report-generated.*")
    assert len(list(kept)) == 2


def test_a_second_call_trains_looks_and_registers_nothing(work):
    before = {run.info.run_id: run.info.end_time for run in runs()}
    candidates = {family: work.candidate(family) for family in families.FAMILIES}
    run_all.run_all(work)
    assert {run.info.run_id: run.info.end_time for run in runs()} == before
    for family in families.FAMILIES:
        assert work.candidate(family) == candidates[family]
        name = versions.full_name(family, generated=True)
        assert versions.aliases(name) == {"champion": 1}
    assert len(ledger.looks()) == 2


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_later_search_begins_with_what_the_store_knows(work, family, tmp_path):
    said = []
    job = dataclasses.replace(work.job(family), folder=tmp_path, report=said.append)
    known = family_search.known_settings(job)
    tried = [trial.setting for trial in journal.read(work.folder / family / records.JOURNAL)]
    assert 0 < len(known) <= family_search.MOST_REMEMBERED
    assert all(setting in tried for setting in known)
    assert "earlier search" in said[0]
    without = dataclasses.replace(work.settings, memory=False)
    job = dataclasses.replace(job, settings=without, folder=tmp_path / "none")
    assert family_search.known_settings(job) == ()
