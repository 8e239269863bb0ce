"""A person finds in MLflow's own pages, in a real browser, what a search left."""

import pandas as pd
import pytest

from agegender.registry import tracking, ui


def trial(parent, number, score):
    history = pd.DataFrame({"epoch": range(4), "val_score": [1.0, 0.9, 0.8, score]})
    with tracking.run(
        f"A trial {number:03d}",
        experiment="tests",
        parent_run_id=parent,
        tags={"role": "trial"},
        params={"learning_rate": number / 1000},
    ) as run_id:
        for epoch in history.to_dict("records"):
            tracking.log_epoch(run_id, epoch)
        tracking.log_metrics(run_id, {"a_metric": 1.0, "val_score": score})
    return run_id


def test_the_best_trial_its_curve_and_the_champion_are_found(root, register, running, browser):
    support = pytest.importorskip("selenium.webdriver.support.wait")
    exceptions = pytest.importorskip("selenium.common.exceptions")
    redrawn = (exceptions.NoSuchElementException, exceptions.StaleElementReferenceException)
    wait = support.WebDriverWait(browser, 60, ignored_exceptions=redrawn)
    search = {"role": "search"}
    with tracking.run(
        "search A", experiment="tests", tags=search, params={"pooling": "average"}
    ) as parent:
        scores = [0.7, 0.4, 0.6]
        run_ids = [trial(parent, number, score) for number, score in enumerate(scores, start=1)]
    ui.save_view(parent, metrics=["val_score", "a_metric"], params=["learning_rate"])
    with tracking.run("search B", experiment="tests") as another:
        trial(another, 9, 0.1)
    register(run_ids[1], description="What it is.")
    address = ui.address(parent)
    assert ui.addresses() == [("search A", address)]
    browser.set_window_size(1700, 1000)

    def find(by, what):
        return wait.until(lambda shown: shown.find_element(by, what), f"Nothing shows {what}")

    def texts(selector):
        return [element.text for element in browser.find_elements("css selector", selector)]

    def visit(url):
        browser.get("about:blank")  # A change of the fragment alone loads nothing.
        browser.get(url)

    with running(root, "pipelines", "ui", health="/health") as url:
        said = (root / "server.log").read_text
        wait.until(lambda _: url + address in said(), "The address is not printed")

        visit(url + address.partition("&")[0])
        find("xpath", "//*[contains(., 'The trials of the last searches')]")
        find("xpath", "//*[contains(@class, 'ag-row')]//a[. = 'search A']").click()
        find("xpath", "//h1[contains(., 'search A')] | //h2[contains(., 'search A')]")
        link = find("partial link text", "Its trials")
        assert link.get_attribute("href") == url + address

        visit(url + address)
        find("link text", "A trial 002")
        names = [text for text in texts(".ag-row a") if text]
        assert names == ["A trial 002", "A trial 003", "A trial 001"]
        # Drawn one after the other, and a narrow one without its text: where they stand tells.
        head = "//*[contains(concat(' ', @class, ' '), ' ag-header-cell ')][contains(., '{}')]"
        columns = ["val_score", "a_metric", "learning_rate"]
        places = wait.until(
            lambda shown: [
                shown.find_element("xpath", head.format(name)).rect["x"] for name in columns
            ]
        )
        assert places == sorted(set(places))
        assert not browser.find_elements("xpath", head.format("pooling"))
        find("link text", "A trial 002").click()
        find("xpath", "//*[@role='tab'][contains(., 'Model metrics')]").click()
        find("css selector", ".scatterlayer .points path:nth-of-type(4)")  # an epoch a point

        visit(f"{url}/#/models/age-gender-A")
        find("xpath", "//*[starts-with(., '@')][contains(., 'champion')]")
        visit(f"{url}/#/models/age-gender-A/versions/1")
        find("xpath", "//*[contains(text(), 'What it is.')]")
        find("link text", "A trial 002")
