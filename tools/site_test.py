"""The built site in a real browser.

    python tools/site_test.py                 build the site in a temporary folder and test it
    python tools/site_test.py --site _site    test a site that is built already, as the one that is published
    python tools/site_test.py --shots DIR     also keep pictures of every page: wide and narrow, light and dark
    python tools/site_test.py --only losses   only pages whose name contains a word

Needs the extra `site`, playwright from PyPI, and Chromium: $CHROMIUM, the machine's own, or what `playwright install chromium` brought.
The site is served on localhost, and the browser may reach nothing else. The last line is `N passed, N failed`."""
import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

ROOT = Path(__file__).resolve().parent.parent
SIZES = {'wide': (1400, 1000), 'narrow': (390, 844)}   # pixels
MAX_BYTES = 2_500_000   # of a page with everything it loads
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update',
         '--disable-sync', '--disable-dev-shm-usage']
#: What a search for a word must lead to.
SEARCHES = {'dense_loss': ('40_losses.html', 'api/losses.html'), 'threshold': ('42_thresholds.html',)}

# What a page says about itself, by its scripts' end.
FACTS = r"""() => {
  const all = selector => [...document.querySelectorAll(selector)]
  const main = document.querySelector('main')
  const place = e => (e.closest('section')?.querySelector('h1, h2, h3')?.innerText || '') + ': '
  const raw = /\|\s*-{3,}|\\tag\{|^:{3,}|\{#[\w-]+\}|\$\$|^#\|/
  return {
    headings: all('h1').length,
    ids: all('[id]').map(e => e.id),
    links: all('a[href]').map(a => a.href),
    broken: all('img').filter(i => i.complete && i.naturalWidth == 0).map(i => i.src.slice(0, 80)),
    unnamed: all('main img').filter(i => !i.alt.trim()).map(i => place(i) + i.src.slice(0, 40)),
    unset: all('span.math').filter(e => !e.querySelector('.katex')).map(e => e.innerText.slice(0, 60)),
    wrong: all('.katex-error').map(e => e.title.slice(0, 120)),
    raw: all('main p, main li, main td').filter(e => !e.querySelector('code, .katex') && raw.test(e.innerText))
      .map(e => e.innerText.slice(0, 60)),
  }
}"""

# What is wider than the window without a box that scrolls, and what only scrolling shows: code never, output and tables on a phone only.
LAYOUT = r"""() => {
  const scrolls = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)
  const outside = [...document.querySelectorAll('main *')].filter(e => {
    const box = e.getBoundingClientRect()
    if (!(e instanceof HTMLElement) || box.width == 0 || box.right <= innerWidth + 1) return false
    if (e.closest('.katex-mathml, .visually-hidden')) return false
    for (let p = e.parentElement; p && p.tagName != 'MAIN'; p = p.parentElement) if (scrolls(p)) return false
    return true
  })
  const longest = e => e.innerText.split('\n').sort((a, b) => b.length - a.length)[0].trim().slice(0, 120)
  const cut = selector => [...document.querySelectorAll(selector)].filter(e => e.scrollWidth > e.clientWidth + 1).map(longest)
  return {
    page: document.documentElement.scrollWidth > innerWidth + 1,
    outside: outside.slice(0, 4).map(e => e.tagName + '.' + e.className + ' ' + e.innerText.slice(0, 40)),
    code: cut('main div.sourceCode pre'),
    output: cut('main .cell-output, main .cell-output pre, main .sd-table'),
  }
}"""

# WCAG contrast of text against what lies behind it: the worst of each kind of element.
CONTRAST = r"""() => {
  const probe = document.createElement('canvas').getContext('2d', {willReadFrequently: true})
  const rgba = color => {
    probe.clearRect(0, 0, 1, 1); probe.fillStyle = color; probe.fillRect(0, 0, 1, 1)
    return [...probe.getImageData(0, 0, 1, 1).data]
  }
  const part = v => v <= .03928 ? v/12.92 : ((v + .055)/1.055)**2.4
  const luminance = color => [.2126, .7152, .0722].reduce((sum, w, i) => sum + w*part(rgba(color)[i]/255), 0)
  const behind = e => {
    for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (rgba(c)[3] > 127) return c }
    return 'white'
  }
  const worst = {}
  for (const e of document.querySelectorAll('main *, #quarto-sidebar a, #TOC a')) {
    const hasText = [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim())
    if (!hasText || !e.offsetParent || e.closest('.katex, svg, .visually-hidden')) continue
    const [a, b] = [luminance(getComputedStyle(e).color), luminance(behind(e))]
    const ratio = (Math.max(a, b) + .05)/(Math.min(a, b) + .05)
    const kind = e.tagName + '.' + e.className
    if (ratio < 3.5 && !(worst[kind] <= ratio)) worst[kind] = Math.round(ratio*100)/100
  }
  return worst
}"""


class Results:
    "Counts what passed, prints what failed."
    def __init__(self):
        self.passed, self.failed = 0, 0

    def empty(self, problems, what: str) -> None:
        "A check that passes where there are no problems."
        if problems:
            self.failed += 1
            print(f'FAILED {what}: {str(problems)[:700]}', flush=True)
        else:
            self.passed += 1


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def serve(folder: Path) -> str:
    "Address of the folder on a free port of localhost."
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f'http://127.0.0.1:{server.server_address[1]}/'


def watch(page, base: str) -> dict:
    "Record what a page says and asks for; refuse whatever is not of this site."
    seen = {'console': [], 'outside': [], 'missing': [], 'bytes': 0}

    def route(route):
        inside = route.request.url.startswith((base, 'data:', 'blob:'))
        if not inside:
            seen['outside'].append(route.request.url)
        return route.continue_() if inside else route.abort()

    def response(answer):
        if answer.status >= 400:
            seen['missing'].append(answer.url)
        seen['bytes'] += int(answer.headers.get('content-length', 0))

    def console(message):
        if message.type in ('error', 'warning'):
            seen['console'].append(message.text)
    page.route('**/*', route)
    page.on('response', response)
    page.on('console', console)
    page.on('pageerror', lambda error: seen['console'].append(str(error)))
    return seen


def test_page(page, base: str, name: str, results: Results) -> dict:
    "What a page holds; it stays open. Returns its facts."
    seen = watch(page, base)
    page.goto(base + name, wait_until='load')
    page.evaluate('document.fonts.ready')
    facts = page.evaluate(FACTS)
    results.empty([] if facts['headings'] == 1 else facts['headings'], f'{name} has one h1')
    results.empty(seen['console'], f'{name}: nothing on the console')
    results.empty(seen['outside'], f'{name}: no request leaves the site')
    results.empty(seen['missing'] + facts['broken'], f'{name}: every file is there')
    results.empty(facts['unnamed'], f'{name}: pictures have alternative text (fig-alt)')
    results.empty(facts['unset'] + facts['wrong'], f'{name}: equations are rendered')
    results.empty(facts['raw'], f'{name}: no markup is left as text')
    results.empty([] if seen['bytes'] < MAX_BYTES else f'{seen["bytes"]/1e6:.1f} MB', f'{name}: page weight')
    return facts


def test_looks(page, name: str, results: Results, shots: Path | None) -> None:
    "Both widths and both colour schemes of the page that is open."
    for scheme in ('light', 'dark'):
        page.emulate_media(color_scheme=scheme)
        page.reload(wait_until='load')
        for size, (width, height) in SIZES.items():
            page.set_viewport_size({'width': width, 'height': height})
            if shots:
                page.screenshot(path=shots/f'{name.replace("/", "_")}-{size}-{scheme}.png', full_page=True)
            if scheme == 'light':
                layout = page.evaluate(LAYOUT)
                results.empty(layout['outside'] or layout['page'], f'{name}: nothing is wider than {width} px')
                results.empty(layout['code'], f'{name}: code fits at {width} px')
            if size == 'wide':
                results.empty(page.evaluate(CONTRAST), f'{name}: text is readable in {scheme} mode')
            if size == 'wide' and scheme == 'light':
                results.empty(layout['output'], f'{name}: output fits at {width} px')


def test_links(facts: dict, base: str, folder: Path, results: Results) -> None:
    "Every link inside the site leads to a page, and every anchor to a place on it."
    for name, found in facts.items():
        dead = set()
        for link in found['links']:
            url, anchor = urldefrag(urljoin(base + name, link))
            target = unquote(urlparse(url).path.lstrip('/')) or 'index.html'
            if url.startswith(base):
                if not (folder/target).is_file():
                    dead.add(target)
                elif anchor and target in facts and unquote(anchor) not in facts[target]['ids']:
                    dead.add(f'{target}#{anchor}')
        results.empty(sorted(dead), f'{name}: every link inside the site leads somewhere')


def test_moved(page, base: str, folder: Path, facts: dict, results: Results) -> None:
    "Old addresses: each leads, by itself, to a place that is there."
    listed = re.search(r'^MOVED = (\{.*?\})$', (ROOT/'tools'/'site.py').read_text(encoding='utf-8'), re.M | re.S)
    for old, new in ast.literal_eval(listed[1]).items():
        target, anchor = urldefrag(new)
        problems = []
        if not (folder/f'{old}.html').is_file():
            problems.append('there is no page at the old address')
        else:
            page.goto(f'{base}{old}.html', wait_until='commit')
            try:
                page.wait_for_url(base + new)
            except Exception as error:   # of playwright, which the site alone needs
                problems.append(f'it stays at {page.url}: {error}')
            if target not in facts or anchor and anchor not in facts[target]['ids']:
                problems.append(f'{new} is not there')
        results.empty(problems, f'{old}.html leads to {new}')


def test_search(page, base: str, results: Results) -> None:
    "Does the search answer with the pages where a word is explained?"
    page.goto(base + 'index.html', wait_until='load')
    page.set_viewport_size({'width': 1400, 'height': 1000})
    box = page.locator('.smalldocs-search input:visible').first
    for word, expected in SEARCHES.items():
        box.fill(word)
        page.wait_for_timeout(2000)
        found = page.evaluate("[...document.querySelectorAll('.search-result')].map(a => a.getAttribute('href'))")
        missing = [target for target in expected if not any(target in href for href in found)]
        results.empty(missing, f'search for {word} (found {found[:5]})')


def test_site(folder: Path, shots: Path | None, only: str) -> Results:
    from playwright.sync_api import sync_playwright
    chromium = os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('chromium-browser')
    base, results, facts = serve(folder), Results(), {}
    pages = [path for path in folder.rglob('*.html') if 'http-equiv="refresh"' not in path.read_text(encoding='utf-8')[:400]]
    names = sorted(str(path.relative_to(folder)) for path in pages)   # without those that only lead to another
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=FLAGS)
        context = browser.new_context()
        context.set_default_timeout(120_000)   # a busy machine is slow, which is no fault of a page
        for name in names:
            page = context.new_page()
            facts[name] = test_page(page, base, name, results)
            if only in name:
                test_looks(page, name, results, shots)
            page.close()
        test_links(facts, base, folder, results)
        test_moved(context.new_page(), base, folder, facts, results)
        test_search(context.new_page(), base, results)
        browser.close()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--site', type=Path, help='a built site; default: build one')
    parser.add_argument('--shots', type=Path, help='folder for pictures of the pages')
    parser.add_argument('--only', default='', help='look only at pages whose name contains this')
    args = parser.parse_args()
    if args.shots:
        args.shots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        folder = (args.site or Path(tmp)/'site').resolve()
        failed_build = False
        if not args.site:
            failed_build = subprocess.run([sys.executable, '-W', 'ignore', ROOT/'tools'/'site.py', folder]).returncode != 0
        results = test_site(folder, args.shots, args.only)
        results.empty(failed_build, 'the build')
    print(f'{results.passed} passed, {results.failed} failed')
    return 1 if results.failed else 0


if __name__ == '__main__':
    sys.exit(main())
