"""Pages of reports: what they escape, and how they look and react in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import matplotlib
import pytest
from support import browser as browsers
from support.inspections import RESNET20, make_inspection
from support.pages import (
    IMAGE,
    Page,
)

from accuracy_booster.inspection.page import write_inspection
from accuracy_booster.report.curves import Curve, draw_curves, legend
from accuracy_booster.report.page import Link, render, write_page
from accuracy_booster.reproduction.figures import differences


def test_a_general_page_escapes_and_lets_nothing_run(tmp_path):
    path = tmp_path / "a.html"
    table = ([IMAGE, "n"], [[IMAGE, "1,000 %"], ["x", "2"]])
    sections = [
        {"title": IMAGE, "table": table, "text": IMAGE},
        {"title": "b", "html": render("parts.html"), "figure": "<svg></svg>", "label": IMAGE},
    ]
    write_page(path, IMAGE, IMAGE, sections, made=IMAGE)
    text = path.read_text()
    page = Page(text)
    assert not page.all("img")
    assert not page.all("script")
    assert page.all("div", role="img", aria_label=IMAGE) == []
    assert any(found.get("aria-label") == IMAGE for found in page.all("div", role="img"))
    policy = next(f for f in page.all("meta") if f.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'; script-src 'none'" in policy["content"]
    assert [f.get("scope") for f in page.all("th")] == ["col", "col", "row", "row"]
    assert len(page.all("caption")) == 1
    assert len(page.all("td", class_="number")) == 2


pytestmark = pytest.mark.skipif(
    browsers.find() is None, reason=f"needs one of {', '.join(browsers.NAMES)} on the PATH"
)
SHOWN = (
    "[...document.querySelectorAll('[role=tabpanel]')].filter(p => p.offsetHeight).map(p => p.id)"
)
FOCUS = "document.activeElement.id"
SELECTED = "document.querySelector('[role=tab][aria-selected=true]').id"
WIDE = (
    "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll > *, .unseen, .skip,"
    " .pictures') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"
)
SAME = [Curve(name, name, [[50.0, 20.0, 10.0]]) for name in ("none", "ab")]  # they coincide
ABOUT = {"title": "A title", "x": "epoch", "y": "%", "scale": "percent"}
COLOUR = "getComputedStyle(document.querySelectorAll('.key')[{}]).color"
PLOTS = (
    "[...document.querySelectorAll('.plot svg')].map(e => e.getBoundingClientRect())"
    ".map(b => [b.left, b.top, b.right, b.bottom])"
)
# the contrast (WCAG 2.2) of each text with what lies behind it, where both are plain colours
CONTRASTS = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return rgb(getComputedStyle(document.body).backgroundColor);
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.disabled || e.closest('script, style')) continue;
    const style = getComputedStyle(e);
    const ink = rgb(e instanceof SVGElement ? style.fill : style.color);
    const [high, low] = [light(ink), light(behind(e))].sort((a, b) => b - a);
    found.push([(high + 0.05) / (low + 0.05), e.tagName, e.textContent.trim().slice(0, 40)]);
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[browsers.Browser]:
    with browsers.Browser() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "page.html"
    names = [f"quite a long name of class {i} <b>" for i in range(20)]
    write_inspection(path, make_inspection(names=names, classes=20))
    return path


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page as `compare` and `reproduce` write them, for somebody with an own matplotlibrc."""
    dark = {"text.color": "#222222", "axes.labelcolor": "0.1", "xtick.color": "0.1"}
    with matplotlib.rc_context({**dark, "ytick.color": "0.1", "axes.edgecolor": "0.1"}):
        figures = [(draw_curves(SAME, [1, 2, 3], **ABOUT), f"plot {i}") for i in range(2)]
        wide = differences(None, themed=True)
    header = [f"column {i}" for i in range(14)]
    row = [*["1,000"] * 13, Link("a run <b>", "javascript:alert(1)/a b#?%.html")]
    sections = [
        {"title": "Table", "table": (header, [row] * 3), "text": "words " * 99},
        {"title": "Plots", "figures": figures, "html": render("keys.html", curves=legend(SAME))},
        {"title": "Figure", "figure": wide, "label": "a wide figure"},
    ]
    path = tmp_path_factory.mktemp("pages") / "general.html"
    write_page(path, "A page", "x" * 300, sections)
    return path


def test_the_page_opens_without_errors_and_fetches_nothing(browser, page, general):
    for path in (page, general):
        browser.open(path)
        assert browser.errors == []
        asked = [address for address in browser.requests if not address.startswith("data:")]
        assert asked == [path.resolve().as_uri()]


def test_a_script_from_outside_does_not_run(browser, page):
    browser.open(page)
    browser.run(
        "document.body.insertAdjacentHTML('beforeend',"
        ' \'<img src="data:," onerror="window.ran = true">\')'
    )
    browser.run("new Promise((done) => setTimeout(done, 100))")
    assert browser.run("window.ran === undefined")
    assert any("Content Security Policy" in text for text in browser.errors)


def test_a_click_opens_the_block(browser, page):
    browser.open(page)
    assert browser.run(SHOWN) == ["block-6"]  # Figure 3's layer
    browser.click("#tab-1")
    assert browser.run(SHOWN) == ["block-1"]
    assert browser.run(SELECTED) == "tab-1"
    assert "layer1.1.bn2" in browser.run("document.getElementById('block-1').innerText")
    browser.click("#block-1 [data-step='1']")
    assert browser.run(SHOWN) == ["block-2"]
    assert browser.run(FOCUS) == "block-2"
    browser.click("#block-2 [data-step='0']")
    assert browser.run(FOCUS) == "tab-2"
    assert browser.errors == []


def test_a_panel_that_opens_below_the_screen_is_scrolled_to(browser, tmp_path):
    sites = [(f"layer{i}.norm", 8, (8, 8)) for i in range(60)]
    write_inspection(tmp_path / "a.html", make_inspection(sites, pictures=0, images=40))
    browser.open(tmp_path / "a.html", width=390, height=600)
    browser.click("#tab-2")
    top = browser.run("document.getElementById('block-2').getBoundingClientRect().top")
    assert -1 <= top < 100


def test_keys_move_through_the_blocks(browser, page):
    browser.open(page)
    browser.run("document.getElementById('tab-6').focus()")
    browser.press("ArrowRight")
    assert (browser.run(FOCUS), browser.run(SHOWN)) == ("tab-7", ["block-7"])
    browser.press("End")
    browser.press("ArrowRight")  # around
    assert (browser.run(FOCUS), browser.run(SHOWN)) == ("tab-0", ["block-0"])
    browser.press("ArrowLeft")
    browser.press("Home")
    assert browser.run(SELECTED) == "tab-0"
    stops = "[...document.querySelectorAll('[role=tab]')].filter(t => t.tabIndex === 0).length"
    assert browser.run(stops) == 1
    browser.press("Tab")  # out of the blocks, into the panel
    assert browser.run("document.activeElement.closest('[role=tabpanel]').id") == "block-0"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert browser.run(outline) == "solid"


def test_the_measure_changes_colours_values_and_legend(browser, page):
    browser.open(page)
    look = (
        "[...document.querySelectorAll('[role=tab]')]"
        ".map(t => [t.innerText, getComputedStyle(t).backgroundColor])"
    )
    before = browser.run(look)
    browser.run("document.querySelector('.choice button[data-measure=explained]').focus()")
    browser.press("Enter")
    after = browser.run(look)
    assert all("%" in text for text, _ in after)
    assert [c for _, c in before] != [c for _, c in after]
    pressed = "[...document.querySelectorAll('[aria-pressed=true]')].map(b => b.innerText)"
    assert browser.run(pressed) == ["Explained by the class"]
    legends = "[...document.querySelectorAll('.explained')].filter(e => e.offsetHeight).length"
    assert browser.run(legends) == 1


@pytest.mark.parametrize("which", ["page", "general"])
def test_on_a_phone_nothing_is_wider_than_the_screen(browser, request, which):
    browser.open(request.getfixturevalue(which), width=390, height=844)
    assert browser.run("document.documentElement.scrollWidth") == 390
    assert browser.run(WIDE) == []
    small = (
        "[...document.querySelectorAll('button, nav a, summary')].filter(b => b.offsetHeight"
        " && b.getBoundingClientRect().height < 43.9).map(b => b.innerText)"
    )
    assert browser.run(small) == []


def test_plots_stand_side_by_side_or_on_a_phone_one_under_the_other(browser, general):
    browser.open(general, width=1280)
    (_, top, right, _), (left, beside, _, _) = browser.run(PLOTS)
    assert (top, True) == (beside, left >= right)
    browser.open(general, width=390)
    (start, _, end, bottom), (below, top, _, _) = browser.run(PLOTS)
    assert (start, True) == (below, top >= bottom)
    assert end - start >= 350  # as wide as the screen allows
    texts = (
        "[...document.querySelectorAll('.plot text')].map(e => e.getBoundingClientRect().height)"
    )
    assert min(browser.run(texts)) >= 9


@pytest.mark.parametrize("dark", [False, True])
def test_lines_of_plots_can_be_seen_in_both_themes(browser, general, dark):
    """Axes and ticks, not the grid, which is faint; and both of two curves that coincide."""
    browser.open(general, width=390, dark=dark)
    strokes = browser.run(
        "[...document.querySelectorAll('.plot path, .plot use')].map(e => getComputedStyle(e))"
        ".filter(s => s.stroke !== 'none' && s.strokeOpacity === '1').map(s => s.stroke)"
    )
    light = [sum(map(float, re.findall(r"[\d.]+", stroke))) / 3 for stroke in strokes]
    assert len(light) > 10
    assert min(light) > 90 if dark else max(light) < 150
    ink = browser.run("getComputedStyle(document.body).color")
    fills = browser.run(
        "[...document.querySelectorAll('.plot text, .wide text')]"
        ".map(e => getComputedStyle(e).fill)"
    )
    series = [browser.run(COLOUR.format(i)) for i in range(2)]
    assert set(fills) == {ink}
    (left, top, right, bottom), _ = browser.run(PLOTS)
    browser.run(f"scrollTo(0, {top - 20})")
    box = (int(left), 20, int(right), 20 + int(bottom - top))
    shot = browser.screenshot().crop(box)
    seen = dict(zip(*reversed(list(zip(*shot.getcolors(10**6), strict=True))), strict=True))
    for colour in series:
        assert seen.get(tuple(map(int, re.findall(r"\d+", colour))), 0) > 100


def test_a_link_stays_beside_the_page_whatever_its_name(browser, general):
    browser.open(general)
    link = "document.querySelector('td a')"
    place = general.parent.resolve().as_uri()
    name = "javascript%3Aalert%281%29/a%20b%23%3F%25.html"
    assert browser.run(f"{link}.href") == f"{place}/{name}"
    assert browser.run(f"{link}.innerText") == "a run <b>"


@pytest.mark.parametrize("dark", [False, True])
def test_texts_can_be_read_in_both_themes(browser, page, general, dark):
    browser.open(page, dark=dark)
    found = browser.run(CONTRASTS)
    for measure in ("spread", "explained", "saturated", "mean"):
        browser.click(f".choice button[data-measure={measure}]")
        found += browser.run(CONTRASTS)
    browser.open(general, dark=dark)
    found += browser.run(CONTRASTS)
    assert len(found) > 500
    assert [text for text in found if text[0] < 4.5] == []


def test_the_pictures_of_both_themes_are_not_blank(browser, page, general):
    for path in (page, general):
        brightness = []
        for dark in (False, True):
            browser.open(path, dark=dark)
            shot = browser.screenshot(whole=True)
            colours = shot.getcolors(shot.width * shot.height) or []
            assert len(colours) > (1000 if path == page else 50)
            most = max(colours)[1]
            brightness.append(sum(most))
        assert brightness[0] > 700 > 100 > brightness[1]


def test_without_scripts_every_panel_is_shown(browser, page):
    browser.open(page, script=False)
    assert browser.run(SHOWN) == [f"block-{i}" for i in range(len(RESNET20))]
    assert browser.run("document.querySelector('.choice').offsetHeight") == 0


def test_headings_are_in_order_and_landmarks_are_there(browser, page):
    browser.open(page)
    levels = browser.run(
        "[...document.querySelectorAll('h1,h2,h3,h4,h5')].filter(h => h.offsetHeight)"
        ".map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    for name in ("header", "nav", "main", "footer"):
        assert browser.run(f"document.querySelectorAll('{name}').length") == 1
    unnamed = "[...document.querySelectorAll('svg[role=img]')].filter(s => !s.ariaLabel).length"
    assert browser.run(unnamed) == 0
    assert browser.run("document.querySelectorAll('table:not(:has(caption))').length") == 0


def test_motion_is_left_out_where_it_is_not_wanted(browser, page):
    style = "getComputedStyle(document.documentElement).scrollBehavior"
    for calm, expected in ((True, "auto"), (False, "smooth")):
        browser.open(page, calm=calm)
        assert browser.run(style) == expected
