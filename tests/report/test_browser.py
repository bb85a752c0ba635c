"""The page in a real browser: nothing is fetched or complained of, figures are drawn, 5,000 trials are filtered.

Needs Chromium and its driver: apt-get install chromium chromium-driver, or Google Chrome with chromedriver.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from automixsearch.analysis import importance
from automixsearch.report.page import write_report
from automixsearch.report.sections import make_report
from automixsearch.results.study import Study

pytestmark = pytest.mark.xdist_group("browser")  # one browser, one page of 5,000 trials
REMEDY = "no Chromium with chromedriver on the path: apt-get install -y chromium chromium-driver"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not program or not driver:
        if os.environ.get("CI"):
            pytest.fail(REMEDY)
        pytest.skip(REMEDY)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for switch in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        "window-size=1280,900",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    yield made
    made.quit()


@pytest.fixture(scope="module")
def page(large: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With few permutations: how often chance is asked changes no form of the page, and 200 times takes longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importance, "importances", partial(importance.importances, permutations=20))
        return write_report(make_report(large), large, tmp_path_factory.mktemp("large"))


def test_a_page_of_5000_trials_is_small(page):
    assert page.stat().st_size < 2_500_000


def show(browser: Any, page: Path, width: int = 1280) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


def texts(browser: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
    return browser.execute_script(script, selector)


def type_into(browser: Any, name: str, text: str) -> None:
    script = """
      const found = document.getElementById(arguments[0]);
      found.value = arguments[1];
      found.dispatchEvent(new Event(arguments[2]));"""
    kind = "change" if name.startswith(("filter-method", "filter-state", "filter-column")) else "input"
    browser.execute_script(script, name, text, kind)


def click(browser: Any, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def column(browser: Any, name: str) -> list[str]:
    place = [head.rstrip(" ↑↓") for head in texts(browser, "#trial-head th")].index(name) + 1
    return texts(browser, f"#trial-rows tr > :nth-child({place})")


def test_nothing_is_fetched_or_complained_of_and_figures_are_drawn(browser, page):
    show(browser, page)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    own = {params["request"]["url"] for params in asked if params["documentURL"] == page.as_uri()}
    assert own <= {page.as_uri(), "data:,"}
    assert page.as_uri() in own
    assert browser.execute_script("return window.hacked") is None
    found = browser.execute_script("""
      return [...document.querySelectorAll("svg.panel")].map(svg => {
        const box = svg.getBoundingClientRect();
        const size = e => e.getBBox().width + e.getBBox().height;
        const marks = [...svg.querySelectorAll("path, rect, circle")].filter(e => size(e) > 0);
        return [svg.getAttribute("aria-label"), box.width, box.height, marks.length];
      })""")
    assert len(found) >= 6
    for label, width, height, marks in found:
        assert label
        assert width > 200
        assert height > 60
        assert marks > 0, label


@pytest.mark.parametrize("width", [1280, 820, 390])
def test_the_page_fits_its_window(width, browser, page):
    show(browser, page, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    outside = browser.execute_script("""
      return [...document.querySelectorAll("svg.panel text")].filter(e => {
        const box = e.getBoundingClientRect();
        return box.left < -1 || box.right > innerWidth + 1;
      }).map(e => e.textContent)""")
    assert outside == []


def test_filters_and_sorting_agree_with_the_ledger(browser, page, large):
    frame = large.trials()
    show(browser, page)
    assert texts(browser, "#trial-count") == ["5000 trials"]
    ranked = frame.dropna(subset=["val_top1"]).sort_values(["val_top1", "number"], ascending=[False, True])
    assert column(browser, "trial") == ranked["trial_id"].head(25).tolist()

    type_into(browser, "filter-method", "cutmix")
    type_into(browser, "filter-state", "complete")
    wanted = frame[(frame["method"] == "cutmix") & (frame["state"] == "complete")]
    assert texts(browser, "#trial-count") == [f"{len(wanted)} of 5000 trials"]
    best = wanted.sort_values(["val_top1", "number"], ascending=[False, True])
    assert column(browser, "trial") == best["trial_id"].head(25).tolist()

    low = float(wanted["val_top1"].median())
    type_into(browser, "filter-low", str(low))
    assert texts(browser, "#trial-count") == [f"{(wanted['val_top1'].round(4) >= low).sum()} of 5000 trials"]

    click(browser, "#filter-clear")
    type_into(browser, "filter-text", "nonfiniteloss fmix")
    wanted = frame[(frame["state"] == "failed") & (frame["method"] == "fmix")]
    assert texts(browser, "#trial-count") == [f"{len(wanted)} of 5000 trials"]
    assert all("<script>window.hacked = 1</script>" in why for why in column(browser, "why it ended"))

    click(browser, "#filter-clear")
    script = "[...document.querySelectorAll('#trial-head button')].find(b => b.textContent === 'trial').click()"
    browser.execute_script(script)
    assert column(browser, "trial") == frame["trial_id"].head(25).tolist()
    browser.execute_script(script)
    assert column(browser, "trial") == frame["trial_id"].tolist()[::-1][:25]
    click(browser, "#page-last")
    assert texts(browser, "#page-at") == ["page 200 of 200"]
    assert column(browser, "trial") == frame["trial_id"].head(25).tolist()[::-1]


def test_the_button_turns_light_into_dark(browser, page):
    show(browser, page)
    ground = "return getComputedStyle(document.body).backgroundColor"
    before = browser.execute_script(ground)
    click(browser, "#theme")
    after = browser.execute_script(ground)
    assert before != after
    click(browser, "#theme")
    assert browser.execute_script(ground) == before
