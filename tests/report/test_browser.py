"""The report in a real browser: phone and desktop, light and dark, print, keyboard, and no request to anyone."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from lavakv.report.writing import write_report
from tests.report.pages import complaints, contrast, open_page, overflow, requests


@pytest.fixture(scope="module")
def page(report, tmp_path_factory) -> Path:
    return write_report(report, tmp_path_factory.mktemp("report"))[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", ["phone", "desktop"])
def test_it_fits_asks_for_nothing_and_raises_nothing(screen, scheme, page, browser) -> None:
    open_page(browser, page, screen, scheme)
    assert overflow(browser) == 0
    assert complaints(browser) == []
    assert [url for url in requests(browser) if not url.startswith("data:")] == [page.as_uri()]


_COLOURS = """
const shown = [...document.querySelectorAll("main *, .bar *, .rail *")].filter((node) => !node.closest("svg"));
const solid = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (colour !== "rgba(0, 0, 0, 0)") return colour;
  }
};
const rgb = (colour) => {
  const pen = document.createElement("canvas").getContext("2d");
  pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
  return "rgb(" + [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).join(", ") + ")";
};
const own = (node) => [...node.childNodes].some((part) => part.nodeType === 3 && part.data.trim());
return shown.filter((node) => node.offsetParent && own(node))
  .map((node) => [rgb(getComputedStyle(node).color), rgb(solid(node)), node.textContent.trim().slice(0, 40)]);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(scheme, page, browser) -> None:
    """WCAG 2 AA: 4.5 to 1."""
    open_page(browser, page, "desktop", scheme)
    colours = {tuple(found[:2]): found[2] for found in browser.execute_script(_COLOURS)}
    assert len(colours) > 4
    assert {text: contrast(*pair) for pair, text in colours.items() if contrast(*pair) < 4.5} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_on_the_heat_scale_can_be_read(scheme, page, browser) -> None:
    open_page(browser, page, "desktop", scheme)
    script = "const style = getComputedStyle(document.documentElement);" + (
        "const probe = document.body.appendChild(document.createElement('i'));"
        "return [...Array(11).keys()].map((n) => { probe.className = 'h' + n;"
        "const own = getComputedStyle(probe); return [own.color, own.backgroundColor]; });"
    )
    pairs = browser.execute_script(script)
    assert len({background for _, background in pairs}) == 11
    assert min(contrast(*pair) for pair in pairs) >= 4.5


def test_the_theme_can_be_switched(page, browser) -> None:
    open_page(browser, page)
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(ground)
    button = browser.find_element("id", "theme")
    button.click()
    assert browser.execute_script(ground) != light
    button.click()
    assert browser.execute_script(ground) == light


def test_failures_can_be_filtered(page, report, browser) -> None:
    open_page(browser, page)
    count = "return [...document.querySelectorAll('.failure')].filter((one) => one.offsetParent).length"
    assert browser.execute_script(count) == len(report.failures)
    browser.find_element("css selector", "select[name=kind] option[value=missed]").click()
    missed = [failure for failure in report.failures if failure.kind == "missed"]
    assert 0 < len(missed) < len(report.failures)
    assert browser.execute_script(count) == len(missed)
    assert browser.find_element("id", "shown").text == f"{len(missed)} shown"


def test_budgets_are_chosen_one_at_a_time(page, browser) -> None:
    open_page(browser, page)
    visible = "return [...document.querySelectorAll('.share-size')].map((one) => Boolean(one.offsetParent))"
    assert browser.execute_script(visible) == [True, False, False]
    browser.find_element("css selector", ".choice button[data-size='2']").click()
    assert browser.execute_script(visible) == [False, False, True]


def test_keyboard_reaches_the_controls_and_tips_show_on_hover(page, browser) -> None:
    from selenium.webdriver import ActionChains, Keys

    open_page(browser, page)
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.execute_script("return document.activeElement.id") == "theme"
    cell = browser.find_element("css selector", "#needle rect[data-tip]")
    ActionChains(browser).scroll_to_element(cell).move_to_element(cell).perform()
    tip = browser.find_element("css selector", ".tip")
    assert tip.is_displayed()
    assert tip.text == cell.get_attribute("data-tip")


def test_print_shows_all_budgets_and_leaves_the_controls_out(page, browser) -> None:
    open_page(browser, page, "desktop", "dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    script = "return [...document.querySelectorAll(arguments[0])].filter((one) => one.offsetParent).length"
    assert browser.execute_script(script, ".share-size") == 3
    assert browser.execute_script(script, ".no-print") == 0
    white = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert contrast(white, "rgb(0, 0, 0)") > 20
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    assert 1 < len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(pdf))) < 16
