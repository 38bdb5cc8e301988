"""The built site in a real browser.

    python tools/site_test.py                    build the site in a temporary folder and test it
    python tools/site_test.py --site _site       test a site that is built already
    python tools/site_test.py --keep _site       build it there and test it
    python tools/site_test.py --shots DIR        also keep pictures of every page: light, dark, phone
    python tools/site_test.py --only losses      only pages whose name contains a word

Needs the extra `site`, playwright from PyPI, and Chromium: `apt-get install chromium`, or $CHROMIUM names another one.
The site is served on localhost, and the browser may reach nothing else. The last line is `N passed, N failed`."""
import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
DESKTOP, PHONE = dict(width=1280, height=900), dict(width=390, height=844)
LIMIT = 2_000_000   # bytes of a page with everything it loads, without the fonts of its maths
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage']

# What a page says about itself when it has settled. The logo's alternative text is empty, for the name stands beside it.
FACTS = """() => {
  const article = document.querySelector('article') || document.body
  const overflow = [...article.querySelectorAll('*')].filter(e => {
    const box = e.getBoundingClientRect()
    if (box.width == 0 || box.right <= innerWidth + 1 || e.closest('.headerlink')) return false   // the mark beside a heading shows under a mouse only
    for (let p = e.parentElement; p && p !== article; p = p.parentElement)   // the article itself scrolls as a whole, which is no reading
      if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false
    return true
  })
  return {
    title: document.title,
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    links: [...document.querySelectorAll('a[href]')].map(a => a.href),
    noAlt: [...document.querySelectorAll('img:not(.logo__image)')].filter(i => !(i.getAttribute('alt') || '').trim()
            || /^(_images|https?:|\\.\\.)/.test(i.getAttribute('alt')))
            .map(i => 'below "' + ((i.closest('section') || document).querySelector('h1,h2,h3')?.innerText || i.src) + '"'),
    broken: [...document.querySelectorAll('img')].filter(i => i.complete && i.naturalWidth == 0).map(i => i.src),
    maths: document.querySelectorAll('.math').length,
    typeset: document.querySelectorAll('.math mjx-container').length,
    errors: [...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(e => e.textContent.slice(0, 80)),
    raw: [...article.querySelectorAll('p, li, td, dd')].filter(e => !e.querySelector('pre, code') && /\\|\\s*-{3,}|\\\\tag\\{|^:{3,}|\\{#[\\w-]+\\}|\\$\\$/.test(e.innerText)
            && !e.querySelector('mjx-container')).map(e => e.innerText.slice(0, 60)),
    formulas: [...document.querySelectorAll('div.math')].map(e => e.id || e.querySelector('[id]')?.id || e.closest('[id]').id),
    described: document.querySelectorAll('dl.py > dt').length,
    wide: document.documentElement.scrollWidth > innerWidth ? document.documentElement.scrollWidth : 0,
    overflow: overflow.slice(0, 3).map(e => e.tagName + '.' + e.className),
    headings: document.querySelectorAll('h1').length,
  }
}"""

# WCAG contrast of text in the article against what lies behind it: the worst of each kind of element
CONTRAST = """() => {
  const rgb = c => { const m = c.match(/[\\d.]+/g).map(Number); return [m[0], m[1], m[2], m[3] === undefined ? 1 : m[3]] }
  const lum = c => c.slice(0, 3).map(v => v/255).map(v => v <= .03928 ? v/12.92 : ((v + .055)/1.055)**2.4)
                    .reduce((s, v, i) => s + v*[.2126, .7152, .0722][i], 0)
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] > .5) return c }
                        return [255, 255, 255, 1] }
  const bad = {}
  for (const e of document.querySelectorAll('article *, .bd-sidebar-primary a, .bd-sidebar-secondary a')) {
    if (![...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()) || !e.offsetParent) continue
    if (e.closest('mjx-container, svg, .headerlink, .visually-hidden')) continue
    const a = lum(rgb(getComputedStyle(e).color)), b = lum(behind(e))
    const ratio = (Math.max(a, b) + .05)/(Math.min(a, b) + .05)
    const key = e.tagName + '.' + e.className
    if (ratio < 3.5 && !(bad[key] <= ratio)) bad[key] = Math.round(ratio*100)/100
  }
  return bad
}"""


class Results:
    "Counts, and prints what failed."
    def __init__(self): self.passed, self.failed = 0, 0

    def check(self, ok, what, why=''):
        if ok: self.passed += 1
        else:
            self.failed += 1
            print(f'FAILED {what}: {str(why)[:600]}', flush=True)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


def serve(folder: Path) -> ThreadingHTTPServer:
    "The folder on a free port of localhost."
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def watch(page, base: str, folder: Path) -> dict:
    "Record what a page says and asks for; refuse whatever is not on this machine."
    seen = dict(console=[], outside=[], missing=[], bytes=0, requests=[])
    def route(r):
        inside = r.request.url.startswith((base, 'data:', 'blob:'))
        if not inside: seen['outside'].append(r.request.url)
        return r.continue_() if inside else r.abort()
    def response(r):
        seen['requests'].append(r.url)
        if r.status >= 400: seen['missing'].append(r.url)
        if '/chtml/fonts/' in r.url or not r.ok: return   # glyphs of the maths and their measures
        path = folder/unquote(urlparse(r.url).path.lstrip('/'))
        seen['bytes'] += path.stat().st_size if path.is_file() else 0
    page.route('**/*', route)
    page.on('response', response)
    page.on('console', lambda m: seen['console'].append(f'{m.type}: {m.text}') if m.type in ('error', 'warning') else None)
    page.on('pageerror', lambda e: seen['console'].append(f'exception: {e}'))
    return seen


def settle(page, url: str):
    "Load a page and wait until pictures are there and maths is typeset."
    page.goto(url, wait_until='load')
    page.evaluate("async () => { await document.fonts.ready; if (window.MathJax && MathJax.startup) await MathJax.startup.promise }")


def test_page(page, base: str, folder: Path, name: str, results: Results) -> dict:
    "One page on a desktop; returns its facts."
    seen, check = watch(page, base, folder), results.check
    settle(page, base + name)
    facts = page.evaluate(FACTS) | dict(bytes=seen['bytes'])
    check(facts['title'] and facts['headings'] == 1, f'{name} has a title and one h1', facts['headings'])
    check(not seen['console'], f'{name}: nothing on the console', seen['console'])
    check(not seen['outside'], f'{name}: no request leaves the machine', seen['outside'])
    check(not seen['missing'] and not facts['broken'], f'{name}: every file is there', seen['missing'] + facts['broken'])
    check(not facts['noAlt'], f'{name}: pictures have alternative text', f'{len(facts["noAlt"])} without: {facts["noAlt"]}')
    check(facts['typeset'] >= facts['maths'] and not facts['errors'], f'{name}: maths is typeset',
          f'{facts["typeset"]} of {facts["maths"]}, errors {facts["errors"]}')
    check(not facts['raw'], f'{name}: no markup is left as text', facts['raw'])
    check(seen['bytes'] < LIMIT, f'{name}: page weight', f'{seen["bytes"]/1e6:.2f} MB')
    return facts


def test_looks(page, name: str, results: Results, shots: Path):
    "Contrast in both colour schemes, and a phone's width, of the page that is open."
    def shot(kind):
        if shots: page.screenshot(path=shots/f'{name.replace("/", "_")[:-5]}-{kind}.png', full_page=True)
    for scheme in ('light', 'dark'):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(f"document.documentElement.dataset.theme == '{scheme}'")
        bad = page.evaluate(CONTRAST)
        results.check(not bad, f'{name}: readable in {scheme} mode', f'low contrast {bad}')
        shot(scheme)
    page.emulate_media(color_scheme='light')
    page.set_viewport_size(PHONE)
    facts = page.evaluate(FACTS)
    results.check(not facts['wide'] and not facts['overflow'], f'{name}: fits a phone of {PHONE["width"]} px',
                  f'{facts["wide"]} px wide, sticking out {facts["overflow"]}')
    shot('phone')


def test_links(facts: dict, base: str, folder: Path, results: Results):
    "Every link inside the site leads to a page, and every anchor to a place on it."
    for name, found in facts.items():
        dead = set()
        for link in found['links']:
            url, anchor = urldefrag(urljoin(base + name, link))
            if not url.startswith(base): continue
            target = unquote(urlparse(url).path.lstrip('/')) or 'index.html'
            if not (folder/target).is_file(): dead.add(target)
            elif anchor and target in facts and unquote(anchor) not in facts[target]['ids']: dead.add(f'{target}#{anchor}')
        results.check(not dead, f'{name}: every internal link leads somewhere', sorted(dead))


def exported(root: Path) -> dict:
    "Module -> names that it exports, as its file says."
    import ast
    found = {}
    for path in sorted((root/'dla_nb').glob('[a-z]*.py')):
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__': found[path.stem] = ast.literal_eval(node.value)
    return found


def test_reference(facts: dict, root: Path, results: Results):
    "Every exported module has its page of reference, with every public name on it."
    for module, names in exported(root).items():
        page = facts.get(f'api/{module}.html')
        results.check(page is not None, f'api/{module}.html is there', 'dla_nb has the module, the site does not')
        if page is None: continue
        lost = [n for n in names if n[0] != '_' and f'dla_nb.{module}.{n}' not in page['ids']]
        results.check(not lost and page['described'] >= len(names), f'api/{module}.html describes every public name', f'not there: {lost}')


def test_equations(context, base: str, facts: dict, results: Results):
    "All equations of the paper: the formula, the function and the test, each one click from the table of the method's page."
    page = context.new_page()
    settle(page, base + 'method.html')
    table = page.evaluate("""() => Object.fromEntries([...document.querySelectorAll('table tr')].map(r => [...r.cells].map(c => c.querySelector('a')?.href))
        .map((links, i, all) => [i, links]).filter(([, links]) => links[0] && links.length > 3).map(([, l], n) => [n + 1, [l[0], l[2], l[3]]]))""")
    for n in range(1, 15):
        wrong = []
        for kind, link in zip(('formula', 'code', 'test'), table.get(str(n)) or [None]*3):
            url, anchor = urldefrag(link or '')
            there = facts.get(unquote(urlparse(url).path.lstrip('/')), {})
            found = there.get('formulas' if kind == 'formula' else 'ids', [])
            if unquote(anchor) not in found or kind == 'formula' and not anchor.endswith(f'eq-{n}'): wrong.append(f'{kind}: {link}')
        results.check(not wrong, f'Eq. {n}: one click to the formula, the code and the test', wrong)
    page.click("a[href$='#losses-test-eq-14']")
    page.wait_for_url('**/losses.html#losses-test-eq-14')
    results.check(page.evaluate("document.getElementById('losses-test-eq-14').getBoundingClientRect().top") < DESKTOP['height'], 'a click on a test of the table shows it', page.url)
    page.close()


def test_search(context, base: str, results: Results, word: str = 'dense_loss'):
    "Does the search find a function, on its own page and in the reference?"
    page = context.new_page()
    page.goto(f'{base}search.html?q={word}', wait_until='load')
    try: page.wait_for_function("document.querySelectorAll('#search-results li a[href^=\"losses.html\"]').length", timeout=15000)   # they come one by one
    except Exception: pass
    found = page.evaluate("[...document.querySelectorAll('#search-results li a')].map(a => a.href.replace(location.origin + '/', ''))")
    results.check(any(f.startswith('losses.html') for f in found) and any(f.startswith('api/losses.html') for f in found),
                  f'search finds {word} in the explanation and in the reference', found)
    page.close()


def test_one_click(context, base: str, facts: dict, results: Results):
    "From an equation to the function that computes it, by a real click."
    page = context.new_page()
    clicked = 0
    for name in facts:
        settle(page, base + name)
        link = page.query_selector('.computed-by a')
        if not link: continue
        target = link.evaluate('a => a.href')
        link.click()
        page.wait_for_url(target)
        there = page.evaluate("decodeURIComponent(location.hash.slice(1))")
        try: page.wait_for_function('id => !!document.getElementById(id)', arg=there, timeout=15000)   # the page may still be coming in
        except Exception: there = ''
        results.check(there, f'{name}: one click from an equation to its function', page.url)
        clicked += 1
    page.close()
    return clicked


def test_site(folder: Path, shots: Path, only: str) -> Results:
    from playwright.sync_api import sync_playwright
    results, server = Results(), serve(folder)
    base = f'http://127.0.0.1:{server.server_address[1]}/'
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob('*.html') if '_static' not in p.parts)
    read = [n for n in names if n not in ('search.html', 'genindex.html', 'py-modindex.html')]
    chromium = os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('chromium-browser')
    if not chromium: sys.exit('site_test needs Chromium: apt-get install chromium, or name one in $CHROMIUM')
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=FLAGS)
        context = browser.new_context(viewport=DESKTOP)
        context.set_default_timeout(120_000)   # a busy machine is slow, which is no fault of a page
        facts = {}
        for n in names:
            page = context.new_page()
            facts[n] = test_page(page, base, folder, n, results)
            if n in read and only in n: test_looks(page, n, results, shots)
            page.close()
        test_links(facts, base, folder, results)
        test_reference(facts, ROOT, results)
        test_equations(context, base, facts, results)
        test_search(context, base, results)
        clicked = test_one_click(context, base, {n: facts[n] for n in read}, results)
        browser.close()
    server.shutdown()
    heaviest = max(facts, key=lambda n: facts[n]['bytes'])
    print(f'{len(names)} pages, {sum(f["maths"] for f in facts.values())} formulas, {clicked} clicks from an equation to a function; '
          f'heaviest {heaviest} with {facts[heaviest]["bytes"]/1e6:.2f} MB')
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--site', type=Path, help='a built site; default: build one')
    parser.add_argument('--keep', type=Path, help='where to build it; default: a temporary folder')
    parser.add_argument('--shots', type=Path, help='folder for pictures of the pages')
    parser.add_argument('--only', default='', help='look only at pages whose name contains this')
    args = parser.parse_args()
    if args.shots: args.shots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        folder = (args.site or args.keep or Path(tmp)/'site').resolve()
        if not args.site:
            from dla_nb.sitebuild import SiteError, build_site
            start = time.time()
            try: build_site(ROOT, folder)
            except SiteError as e:
                print(f'FAILED the build: {e}\n0 passed, 1 failed')
                return 1
            print(f'built in {time.time() - start:.0f} s')
        results = test_site(folder, args.shots, args.only)
    print(f'{results.passed} passed, {results.failed} failed')
    return 1 if results.failed else 0


if __name__ == '__main__': sys.exit(main())
