"""`lavakv inspect` in a real browser: what is coloured is what is kept, by mouse and by keyboard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavakv.evaluation.variant import Variant
from lavakv.models.load import load
from lavakv.report.survival.document import inspection_page
from lavakv.report.survival.inspection import Inspector, Survivors
from tests.cli.conftest import WORDS
from tests.report.pages import complaints, contrast, open_page, overflow, requests

VARIANTS = [Variant(policy, keep=keep, window=8) for policy in ("lava", "snapkv", "knorm") for keep in (0.1, 0.2, 0.4)]
NUM_TOKENS = 120
LEVELS = """
const panel = [...document.querySelectorAll(".panel")][arguments[0]];
return [...panel.querySelectorAll(".tok")].map((one) => Number(one.className.match(/\\bh(\\d+)/)?.[1] ?? 0));
"""
SHOWN = "return [...document.querySelectorAll('.panel')].map((one) => Boolean(one.offsetParent))"


@pytest.fixture(scope="module")
def found(model_dir: str) -> tuple[Inspector, list[Survivors]]:
    loaded = load(model_dir)
    text = " ".join(WORDS[index * 7 % 80] for index in range(NUM_TOKENS))
    inspector = Inspector(loaded, loaded.tokenizer(text, return_tensors="pt").input_ids, None, max_new_tokens=3)
    return inspector, list(inspector.run(VARIANTS))


@pytest.fixture(scope="module")
def page(found, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("inspect") / "inspect.html"
    file.write_text(inspection_page(*found, model="tiny", window=8), encoding="utf-8")
    return file


@pytest.fixture
def opened(page, browser):
    open_page(browser, page)
    _settled(browser)
    return browser


def _settled(browser) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 10).until(lambda b: b.execute_script("return document.querySelectorAll('.tok').length > 0"))
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def _steps(shares: np.ndarray) -> list[int]:
    """Steps of the heat scale: half goes up, anything above zero is at least 1."""
    return [0 if share == 0 else max(int(10 * share + 0.5), 1) for share in shares]


def _press(browser, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()
    _settled(browser)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", ["phone", "desktop"])
def test_it_fits_asks_for_nothing_and_raises_nothing(screen, scheme, page, browser) -> None:
    open_page(browser, page, screen, scheme)
    _settled(browser)
    assert overflow(browser) == 0
    assert complaints(browser) == []
    assert [url for url in requests(browser) if not url.startswith(("data:", "blob:"))] == [page.as_uri()]
    assert browser.execute_script(SHOWN) == [True, screen == "desktop", False]


def test_text_is_coloured_by_how_many_heads_keep_each_token(opened, found) -> None:
    _, survivors = found
    for panel, middle in ((0, 1), (1, 4)):
        assert opened.execute_script(LEVELS, panel) == _steps(survivors[middle].kept.mean(axis=0))


def test_the_slider_changes_the_budget_by_keyboard(opened, found) -> None:
    from selenium.webdriver import Keys

    opened.find_element("id", "budget").send_keys(Keys.ARROW_RIGHT)
    _settled(opened)
    assert opened.find_element("id", "budget-name").text == "40 %"
    assert opened.execute_script(LEVELS, 0) == _steps(found[1][2].kept.mean(axis=0))
    opened.find_element("id", "budget").send_keys(Keys.HOME)
    _settled(opened)
    assert opened.execute_script(LEVELS, 0) == _steps(found[1][0].kept.mean(axis=0))


@pytest.mark.parametrize("screen", ["phone", "desktop"])
def test_the_slider_tells_what_is_kept_and_what_was_asked(screen, found, browser, tmp_path) -> None:
    """2 % of 120 tokens is less than the window of 8 and one more."""
    from selenium.webdriver import Keys

    inspector, _ = found
    survivors = list(inspector.run([Variant("lava", keep=keep, window=8) for keep in (0.02, 0.4)]))
    file = tmp_path / "inspect.html"
    file.write_text(inspection_page(inspector, survivors, model="tiny", window=8), encoding="utf-8")
    open_page(browser, file, screen, "light")
    _settled(browser)
    browser.find_element("id", "budget").send_keys(Keys.HOME)
    _settled(browser)
    assert browser.find_element("id", "budget-name").text == "7.5 % kept, 2 % requested"
    assert browser.find_element("id", "budget").get_attribute("aria-valuetext") == "7.5\u00a0% kept, 2\u00a0% requested"
    assert overflow(browser) == 0
    before = browser.find_element("id", "budget").size["width"]
    browser.find_element("id", "budget").send_keys(Keys.END)
    _settled(browser)
    assert browser.find_element("id", "budget-name").text == "40 %"
    assert browser.find_element("id", "budget").size["width"] == before


def test_a_click_on_a_head_shows_its_survivors_and_another_click_all(opened, found) -> None:
    kept = found[1][1].kept
    cell = opened.find_element("css selector", ".panel button[data-place='2'][data-head='1']")
    cell.click()
    _settled(opened)
    assert opened.find_element("id", "chosen").text == "showing layer 2, head 1"
    assert [level > 0 for level in opened.execute_script(LEVELS, 0)] == kept[5].tolist()
    cell.click()
    _settled(opened)
    assert opened.execute_script(LEVELS, 0) == _steps(kept.mean(axis=0))


def test_the_map_is_one_stop_and_arrows_move_inside_it(opened, found) -> None:
    from selenium.webdriver import Keys

    stops = "return document.querySelector('.panel .map').querySelectorAll('[tabindex=\"0\"]').length"
    assert opened.execute_script(stops) == 1
    opened.execute_script("document.querySelector('.panel .map [tabindex=\"0\"]').focus()")
    _press(opened, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ENTER)
    assert opened.find_element("id", "chosen").text == "showing layer 1, head 0"
    assert [level > 0 for level in opened.execute_script(LEVELS, 0)] == found[1][1].kept[2].tolist()
    assert opened.execute_script(stops) == 1
    _press(opened, Keys.ARROW_UP, Keys.ENTER)
    assert opened.find_element("id", "chosen").text == "showing layer 1"
    assert opened.execute_script(LEVELS, 0) == _steps(found[1][1].kept[2:4].mean(axis=0))
    _press(opened, Keys.ESCAPE)
    assert opened.find_element("id", "chosen").text == "showing all 6 heads"


def test_a_token_shows_the_heads_that_keep_it(opened, found) -> None:
    from selenium.webdriver import Keys

    kept = found[1][1].kept
    opened.execute_script("document.querySelector('.panel .text').focus()")
    _press(opened, Keys.HOME)
    _press(opened, *[Keys.ARROW_RIGHT] * 5)
    dots = "return [...document.querySelectorAll('.panel')][0].querySelectorAll('.map .keeps').length"
    assert opened.execute_script(dots) == kept[:, 5].sum()
    note = opened.find_element("id", "token").text
    assert note.startswith(f"token 5 \u201c{WORDS[35]}\u201d")
    assert f"lava {kept[:, 5].sum()} of 6" in note
    _press(opened, Keys.END)
    assert opened.execute_script(dots) == 6


def test_policies_stand_side_by_side_on_a_desktop_and_one_at_a_time_on_a_phone(page, browser) -> None:
    open_page(browser, page)
    _settled(browser)
    chips = browser.find_elements("css selector", "#policies button")
    chips[2].click()
    chips[0].click()
    _settled(browser)
    assert browser.execute_script(SHOWN) == [False, True, True]
    open_page(browser, page, "phone")
    _settled(browser)
    browser.find_elements("css selector", "#policies button")[2].click()
    _settled(browser)
    assert browser.execute_script(SHOWN) == [False, False, True]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_at_every_step(scheme, page, browser) -> None:
    open_page(browser, page, "desktop", scheme)
    _settled(browser)
    script = """
    const probe = document.querySelector(".tok");
    const ground = getComputedStyle(document.body).backgroundColor;
    return ["gone", ...Array.from({ length: 11 }, (_, step) => `h${step}`)].map((name) => {
      probe.className = `tok ${name}`;
      const { color, backgroundColor } = getComputedStyle(probe);
      return [color, backgroundColor === "rgba(0, 0, 0, 0)" ? ground : backgroundColor];
    });
    """
    assert min(contrast(*pair) for pair in browser.execute_script(script)) >= 4.5


def test_only_differences_colours_what_one_policy_keeps_in_more_heads(opened, found) -> None:
    lava, snapkv = found[1][1].kept.sum(axis=0).astype(int), found[1][4].kept.sum(axis=0).astype(int)
    button = opened.find_element("id", "differences")
    button.click()
    _settled(opened)
    for panel, surplus in ((0, lava - snapkv), (1, snapkv - lava)):
        assert surplus.max() > 0
        assert opened.execute_script(LEVELS, panel) == _steps(surplus.clip(min=0) / abs(lava - snapkv).max())
    opened.find_elements("css selector", "#policies button")[1].click()
    _settled(opened)
    assert not button.is_displayed()
    assert opened.execute_script(LEVELS, 0) == _steps(lava / 6)
