"""The app in a real browser: found, read, pushed, labelled, reloaded, and no request leaves the machine."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import browser
import pytest
from app_cases import a_run
from starlette.types import ASGIApp, Receive, Scope, Send
from test_store_names import a_name

import cutaway as cw
from cutaway.app import Library, application, export
from cutaway.app.serving import listen

pytestmark = [
    pytest.mark.skipif(browser.program() is None, reason=f"no browser is installed (looked for {', '.join(browser.NAMES)})"),
    pytest.mark.skipif(find_spec("websocket") is None, reason="websocket-client is not installed, and speaks with the browser")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("runs") / "learn")


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    import uvicorn
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    with served(application(Library([run]))) as found:
        yield found


@pytest.fixture()
def tab() -> Iterator[browser.Tab]:
    with browser.browser() as opened:
        yield opened


def at_home(tab: browser.Tab, address: str) -> None:
    """Nothing went wrong, and nothing was asked of any other place."""
    assert tab.troubles == []
    assert tab.requests and {url for url in tab.requests if not url.startswith((address + "/", "data:", "about:"))} == set()


def test_a_feature_is_found_read_pushed_and_labelled(tab: browser.Tab, address: str, run: Path):
    tab.go(address + "/")
    tab.js("document.querySelector('.card').click()")            # one click from the front page
    tab.until("document.querySelectorAll('[data-kind=glance] mark.p').length >= 5")
    assert "It fires at" in tab.js("document.querySelector('.lede').innerText")

    tab.key("/")
    tab.until("document.activeElement.id === 'find'")
    tab.type("self")
    tab.key("Enter")
    tab.until("location.search.includes('q=self') && document.querySelectorAll('[data-list] tbody tr').length > 1")
    tab.key("j")
    tab.key("j")
    second = tab.js("document.activeElement.textContent")
    assert second == tab.js("document.querySelectorAll('[data-list] tbody tr')[1].querySelector('a').textContent")
    tab.key("k")
    tab.key("Enter")
    tab.until("location.pathname.includes('/f/')")

    with cw.FeatureStore(cw.stores(run)["blocks.0"]) as store:
        busiest = int(store.counts.argmax())
    tab.go(f"{address}/d/blocks.0/f/{busiest}")
    tab.js("document.querySelector('#tab-quantiles').click()")
    shown = "[...document.querySelectorAll('#list-quantiles li')].filter(row => row.checkVisibility()).length"
    assert tab.js(shown) == 11                                    # ten, and the way to more
    tab.js("document.querySelector('#list-quantiles .more a').click()")
    tab.until(f"{shown} === 21")
    assert tab.js("location.hash") == "#quantiles"

    tab.js("document.querySelector('svg .bin').dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))")
    tab.until("document.querySelector('#interval ol li')")
    assert "firings from" in tab.js("document.querySelector('#interval h3').innerText") and tab.js(shown) == 0
    tab.js("document.querySelector('[data-close]').click()")
    assert tab.js(shown) == 21

    tab.js("document.querySelector('#least').value = 20; document.querySelector('#least').dispatchEvent(new Event('input'))")
    assert tab.js("document.querySelectorAll('#contexts mark.low').length") > 0

    tab.js("document.querySelector('#prompt').focus()")
    tab.type("def main(")
    tab.js("document.querySelector('[name=new_tokens]').value = 6; document.querySelector('#prompt').form.requestSubmit()")
    tab.until("document.querySelectorAll('#steered pre').length === 2")
    assert "KL divergence" in tab.js("document.querySelector('#steered').innerText")

    tab.js("document.querySelector('#text').focus()")
    tab.type("def f(self): return 1")
    tab.js("document.querySelector('#text').form.requestSubmit()")
    tab.until("document.querySelector('#tried .read')")

    tab.js("document.querySelector('input.name').value = ''; document.querySelector('input.name').focus()")
    tab.type("<b>my</b> label")
    tab.key("Enter")
    tab.until("document.querySelector('#about .note')")
    tab.do("Page.reload")
    tab.until("document.readyState === 'complete' && document.querySelector('input.name')?.value === '<b>my</b> label'")
    assert tab.js("document.querySelector('#tab-quantiles').checked")       # the tab is part of the address
    before = tab.js("location.pathname")
    tab.key("j")
    tab.until(f"location.pathname !== '{before}'")
    at_home(tab, address)


def test_a_key_that_is_pressed_before_the_scripts_are_there_is_not_lost(tab: browser.Tab, run: Path):
    app, may_go = application(Library([run])), threading.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        while scope["type"] == "http" and scope["path"].endswith(("/app.js", "/htmx.min.js")) and not may_go.is_set():
            await asyncio.sleep(0.05)
        await app(scope, receive, send)

    with served(slow) as address:
        tab.do("Page.navigate", url=f"{address}/d/blocks.0/")
        tab.until("document.querySelectorAll('[data-list] tbody tr').length > 2")
        assert tab.js("document.readyState") != "complete"
        tab.key("j")
        tab.key("j")
        second = tab.js("document.querySelectorAll('[data-list] tbody tr')[1].querySelector('a').textContent")
        assert tab.js("document.activeElement.textContent") == second
        tab.key("/")
        assert tab.js("document.activeElement.id") == "find"
        may_go.set()
        tab.until("document.readyState === 'complete'")
        assert tab.js("document.querySelector('#find').value") == "", "the key that leads to the field is not typed into it"
        at_home(tab, address)


def test_the_table_the_map_and_the_methods_answer_while_one_types(tab: browser.Tab, address: str):
    tab.go(address + "/d/blocks.0/")
    tab.js("document.querySelectorAll('[data-list] thead a')[0].click()")
    tab.until("location.search.includes('sort=latent')")
    first = tab.until("document.querySelector('[data-list] tbody a')?.textContent")
    assert first == "63" and tab.js("document.querySelector('#filters').elements.sort.value") == "latent"
    tab.js("document.querySelector('#filters [name=q]').focus()")
    tab.type("17")
    tab.until("document.querySelector('#table').innerText.includes('“17”')")
    assert "sort=latent" in tab.js("location.search") and "status=" not in tab.js("location.search")
    tab.go(address + "/d/blocks.0/map")
    assert tab.js("[...document.querySelector('#map').getContext('2d').getImageData(0, 0, 1100, 500).data].some(v => v)")
    tab.js("const find = document.querySelector('#map-find'); find.value = '17'; find.dispatchEvent(new Event('input'))")
    assert tab.js("document.querySelector('#chosen a').textContent") == "17"
    tab.js("document.querySelector('#chosen a').click()")
    tab.until("location.pathname.endsWith('/f/17')")
    tab.go(address + "/catalogue")
    tab.js("document.querySelector('main input[type=search]').focus()")
    tab.type("steer")
    tab.until("[...document.querySelectorAll('#methods h3')].length < 12 && document.querySelector('#steer')")
    tab.js("document.querySelector('#theme').click()")
    assert tab.js("document.documentElement.dataset.theme") == "dark"
    at_home(tab, address)


# Where a feature's point is in the window, by the page's own data.
POINT = """(() => {
  const data = JSON.parse(document.querySelector('#points').textContent), at = data.latents.indexOf(%d);
  const box = document.querySelector('#map').getBoundingClientRect();
  return [box.x + 24 + data.x[at] / 4095 * (box.width - 48), box.y + box.height - 24 - data.y[at] / 4095 * (box.height - 48)];
})()"""


def test_names_are_found_on_the_map_and_choose_rows_of_the_table(tab: browser.Tab, run: Path, tmp_path: Path):
    copy = shutil.copytree(run, tmp_path / "run")
    with cw.FeatureStore(cw.stores(copy)["blocks.0"]) as store:
        clear, doubtful = (int(i) for i in (-store.counts).argsort()[:2])
        store.names.keep(a_name(clear, "zebra <b>crossings</b>"))
        store.names.keep(a_name(doubtful, "stripes", value=0.53))
        for latent in store.notes.labels():      # that another test gave
            store.notes.set_label(latent, "")
    with served(application(Library([copy]))) as address:
        tab.go(address + "/d/blocks.0/map")
        x, y = tab.js(POINT % clear)
        for wiggle in range(100):       # a browser drops what the mouse does before a page's first frame
            tab.hover(x + wiggle % 2, y)
            if tab.js("!document.querySelector('#tip').hidden"):
                break
            time.sleep(0.05)
        tab.until(f"document.querySelector('#tip').innerText.startsWith('{clear} zebra <b>crossings</b> 0.81, floor 0.52')")
        tip = tab.js("(({left, right, top, bottom}) => [left, right, top, bottom])(document.querySelector('#tip')"
                     ".getBoundingClientRect())")
        frame = tab.js("(({left, right, top, bottom}) => [left, right, top, bottom])(document.querySelector('.map')"
                       ".getBoundingClientRect())")
        assert frame[0] <= tip[0] and tip[1] <= frame[1] and frame[2] <= tip[2] and tip[3] <= frame[3], "the tip is cut off"
        search = "const find = document.querySelector('#map-find'); find.value = '{}'; find.dispatchEvent(new Event('input'))"
        tab.js(f"{{ {search.format('CROSSINGS')} }}")
        assert tab.js("document.querySelector('#chosen').innerText").split() == [
            str(clear), "zebra", "<b>crossings</b>", "0.81,", "floor", "0.52"]
        tab.js(f"{{ {search.format('stripes')} }}")
        assert tab.js("document.querySelector('#chosen').innerText").endswith("doubtful")
        tab.js(f"{{ {search.format('')} }}")
        assert not tab.js("document.querySelector('#chosen').innerText")
        assert "zoom" in tab.js("document.querySelector('#map-said').innerText")

        tab.go(address + "/d/blocks.0/")
        choose = ("{{ const choice = document.querySelector('#filters [name=named]'); choice.value = '{}'; "
                  "choice.dispatchEvent(new Event('input', {{bubbles: true}})) }}")
        rows = "[...document.querySelectorAll('[data-list] tbody tr')].map(row => row.querySelector('a').textContent)"
        for choice, found in (("clear", [clear]), ("yes", [clear, doubtful])):
            tab.js(choose.format(choice))
            tab.until(f"{rows}.length === {len(found)} && location.search.includes('named={choice}')")
            assert sorted(tab.js(rows)) == sorted(map(str, found))
        tab.js("[...document.querySelectorAll('[data-list] thead a')].at(-1).click()")
        tab.until("location.search.includes('sort=above') && location.search.includes('named=yes')")
        tab.until(f"{rows}.join() === '{clear},{doubtful}'")
        tab.js("[...document.querySelectorAll('[data-list] thead a')].at(-1).click()")
        tab.until(f"{rows}.join() === '{doubtful},{clear}'")
        tab.js("history.back()")
        tab.until(f"{rows}.join() === '{clear},{doubtful}' && document.readyState === 'complete'")
        assert tab.js("document.querySelector('#filters [name=named]').value") == "yes", "back leads to a whole page"
        tab.js("document.querySelector('[data-list] tbody a').click()")
        tab.until("location.pathname.includes('/f/') && document.readyState === 'complete'")
        tab.js("history.back()")
        tab.until(f"{rows}.join() === '{clear},{doubtful}' && Boolean(document.querySelector('#filters'))")
        at_home(tab, address)


def settled(tab: browser.Tab) -> float:
    """How far the map is zoomed, once it was drawn again."""
    tab.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return float(tab.js("document.querySelector('#map').dataset.scale"))


def test_the_map_is_zoomed_by_keys_buttons_wheel_and_fingers(tab: browser.Tab, address: str):
    tab.go(address + "/d/blocks.0/map")
    assert settled(tab) == 1
    tab.js("document.querySelector('#map').focus()")
    tab.key("+")
    assert settled(tab) == 1.5
    tab.js("document.querySelector('[data-way=\"+\"]').click()")
    assert settled(tab) == 2.25
    tab.js("document.querySelector('[data-way=\"-\"]').click()")
    assert settled(tab) == 1.5
    box = tab.js("(({x, y, width, height}) => [x, y, width, height])(document.querySelector('#map').getBoundingClientRect())")
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    tab.do("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-200)
    tab.until("Number(document.querySelector('#map').dataset.scale) > 2")
    for _ in range(30):
        tab.key("-")
    assert settled(tab) == 1, "it is never smaller than whole"
    tab.key("+")
    tab.key("0")
    assert settled(tab) == 1
    tab.do("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    for apart, kind in ((50, "touchStart"), (80, "touchMove"), (110, "touchMove"), (150, "touchMove")):
        tab.do("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x - apart, "y": y, "id": 0},
                                                                  {"x": x + apart, "y": y, "id": 1}])
    assert 2.5 < settled(tab) <= 3.01, "three times as far apart is three times as large"
    tab.do("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert tab.js("location.pathname").endswith("/map"), "lifting the fingers opens nothing"
    at_home(tab, address)


def test_the_tab_goes_along_and_the_focus_stays(tab: browser.Tab, address: str):
    tab.go(address + "/d/blocks.0/f/3?window=10")
    tab.js("document.querySelector('#tab-random').click()")
    tab.key("j")
    tab.until("location.pathname.endsWith('/f/4') && document.readyState === 'complete'")
    assert tab.js("location.search + location.hash") == "?window=10#random"
    assert tab.js("document.querySelector('#tab-random').checked")
    tab.js("location.hash = '#quantiles'")
    tab.until("document.querySelector('#tab-quantiles').checked")
    tab.js("document.querySelector('#label').value = ''; document.querySelector('#label').focus()")
    tab.type("a label for the way back")
    tab.key("Enter")
    tab.until("document.querySelector('#about .note') && document.activeElement.id === 'label'")
    tab.key("Escape")
    assert tab.js("document.activeElement === document.body")
    tab.js("document.querySelector('svg .bin').dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))")
    tab.until("document.querySelector('#interval ol li')")
    tab.key("Escape")
    assert not tab.js("document.querySelector('#interval').innerText"), "escape closes the interval"
    at_home(tab, address)


def test_the_way_back_and_the_next_page_of_the_table(tab: browser.Tab, address: str, run: Path):
    tab.go(address + "/d/blocks.0/?sort=latent&down=0")
    tab.js("scrollTo(0, document.body.scrollHeight)")
    assert tab.js("scrollY") > 300
    tab.js("document.querySelector('#page-next').click()")
    tab.until("location.search.includes('page=2') && scrollY < 300")
    tab.go(address + "/d/blocks.0/?q=5")
    tab.js("document.querySelector('[data-list] a[href$=\"/f/5\"]').click()")
    tab.until("location.pathname.endsWith('/f/5') && document.readyState === 'complete'")
    tab.js("document.querySelector('#label').value = ''; document.querySelector('#label').focus()")
    tab.type("named since")
    tab.key("Enter")
    tab.until("document.querySelector('#about .note')")
    tab.js("history.back()")
    tab.until("location.search === '?q=5' && document.querySelector('#table')?.innerText.includes('named since')")
    at_home(tab, address)


def test_a_server_that_is_gone_is_said_to_be(tab: browser.Tab, run: Path):
    with served(application(Library([run]))) as address, cw.FeatureStore(cw.stores(run)["blocks.0"]) as store:
        tab.go(f"{address}/d/blocks.0/f/{int(store.counts.argmax())}")
    tab.js("document.querySelector('#text').focus()")
    tab.type("def f(self): return 1")
    tab.js("document.querySelector('#text').form.requestSubmit()")
    tab.until("document.querySelector('#tried .message')?.innerText.includes('does not answer')")
    tab.js("document.querySelector('#text').form.requestSubmit()")
    tab.until("document.querySelectorAll('.message').length === 1")


def test_what_is_printed_is_the_page_with_its_label(tab: browser.Tab, address: str, run: Path):
    with cw.FeatureStore(cw.stores(run)["blocks.0"]) as store:
        store.notes.set_label(6, "printed")
    tab.go(address + "/d/blocks.0/f/6")
    tab.do("Emulation.setEmulatedMedia", media="print")
    seen = "document.querySelector('{}')?.checkVisibility()"
    assert tab.js(seen.format("#label")) and tab.js(seen.format("[data-kind=glance]"))
    assert not any(tab.js(seen.format(hidden)) for hidden in (".bar-top", "#prompt", "#text", ".naming button",
                                                              "[data-kind=random]"))


# Contrast of text with what is behind it, by the formula of WCAG 2; colours are read through a canvas.
CONTRAST = """
[...document.querySelectorAll('main *, header *')].flatMap(e => e.matches('[placeholder]') ? [[e], [e, '::placeholder']] : [[e]]
  ).filter(([e, part]) => e.checkVisibility() && !e.closest('.hide, .skip, svg, option') && (part ||
    [...e.childNodes].some(child => child.nodeType === 3 && child.data.trim()))).map(([e, part]) => {
  const pen = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const read = (colour) => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data]; };
  let back = e;
  const over = ([r, g, b, a], under) => [r, g, b].map((v, i) => v * a / 255 + under[i] * (1 - a / 255)).concat(255);
  const layers = [];
  while (back && (!layers.length || layers.at(-1)[3] < 255)) {
    layers.push(read(getComputedStyle(back).backgroundColor)); back = back.parentElement; }
  const seen = layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255, 255]);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const [a, b] = [light(over(read(getComputedStyle(e, part).color), seen)), light(seen)].sort((x, y) => y - x);
  return [(a + 0.05) / (b + 0.05), e.tagName + ' ' + e.className + ' ' + (part ?? e.innerText.slice(0, 30))];
}).filter(([ratio]) => ratio < 4.5).slice(0, 5)
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 900, 400])
def test_pages_fit_and_can_be_read_in_both_themes(width: int, theme: str, tab: browser.Tab, address: str, run: Path):
    tab.shape(width, 800, theme)
    for path in cw.stores(run).values():
        with cw.FeatureStore(path) as store:
            for latent in range(0, store.width, 2):
                text, value = ("stripes " * 9, 0.53) if latent % 4 else ("x" * 150, 0.81)
                store.names.keep(a_name(latent, text, value=value))
    for page in ("/", "/d/blocks.0/", "/d/blocks.1/f/3", "/d/blocks.0/map", "/d/blocks.0/search?q=self&by=text",
                 "/d/blocks.0/row/1", "/compare", "/evaluations", "/units", "/catalogue"):
        tab.go(address + page)
        assert tab.js("document.documentElement.scrollWidth") <= width, f"{page} is wider than the screen"
        assert tab.js("(nav => nav.scrollWidth <= nav.clientWidth)(document.querySelector('.bar-top nav'))"), "cut off"
        assert tab.js(CONTRAST) == [], page
        assert "/d/" not in page or tab.js("Boolean(document.querySelector('.scored, #map'))"), f"{page} shows no name"
    at_home(tab, address)


def test_the_site_opens_from_a_folder(tab: browser.Tab, run: Path, tmp_path: Path):
    front = export([run], tmp_path / "site", [3, 4])
    folder = (tmp_path / "site").as_uri()
    tab.go(front.as_uri())
    tab.js("document.querySelector('.button').click()")
    tab.until("location.href.endsWith('features.html')")
    tab.until("document.readyState === 'complete' && document.querySelector('[data-list] tbody a')")
    with cw.FeatureStore(cw.stores(run)["blocks.0"]) as store:
        order = sorted((3, 4), key=lambda latent: store.summary(latent)["max"])
    listed = "[...document.querySelectorAll('[data-list] tbody tr:not([hidden]) a.f')].map(a => Number(a.textContent))"
    tab.js("[...document.querySelectorAll('[data-list] th button')].find(b => b.textContent === 'Max').click()")
    assert tab.js(listed) == order[::-1]
    tab.js("document.querySelector('[data-list] th[aria-sort=descending] button').click()")
    assert tab.js(listed) == order and tab.js("document.querySelector('[aria-sort]').textContent.trim()") == "Max ↑"
    tab.key("/")
    tab.type("no feature says this")
    assert tab.js(listed) == []
    tab.js("const find = document.getElementById('find'); find.value = ''; find.dispatchEvent(new Event('input'))")
    tab.js("document.querySelector('[data-list] tbody a').click()")
    tab.until("location.href.includes('/f/') && document.readyState === 'complete'")
    tab.js("document.querySelector('#tab-random').click()")
    assert tab.js("document.querySelector('[data-kind=random]').checkVisibility()")
    assert tab.js("getComputedStyle(document.body).backgroundColor") not in ("", "rgba(0, 0, 0, 0)")
    tab.go(f"{folder}/d/blocks.0/map.html")
    assert tab.js("[...document.querySelector('#map').getContext('2d').getImageData(0, 0, 1100, 500).data].some(v => v)")
    assert tab.troubles == [] and all(url.startswith((folder, "data:")) for url in tab.requests)
