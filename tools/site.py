"""The site of notebooks and functions: python tools/site.py [FOLDER], by default _site.

smalldocs builds it from _quarto.yml; npm brings KaTeX, once, so that no page asks another server for its maths. Notebooks are shown
with the outputs they hold. Exit status 1 where something does not come out: a broken link, a notebook that is not listed."""
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from smalldocs import config, layout
from smalldocs.site import Site

ROOT = Path(__file__).resolve().parent.parent
#: Pages that were merged into others: old name -> where they are now.
MOVED = {'90_table1': '90_results.html#table-1', '91_table2': '90_results.html#table-2', '92_table3': '90_results.html#table-3'}
#: Pages that a reader may run in Colab: a line under the title opens them there.
IN_COLAB = ('02_method', '03_start', '76_your_images', '77_change_the_method', '79_rerun', '90_results', '90_who_wins', '93_open_points',
            '94_what_training_does', '95_figures', '96_dla_plus')
COLAB = 'https://colab.research.google.com/github/dla-nb/dla-nb/blob/main/nbs/'
KATEX = re.search(r'katex@[\d.]+', layout.KATEX)[0]   # the version that smalldocs knows


def for_readers(notebook: dict) -> dict:
    "Without nbdev's own directives, which hide Quarto's options from smalldocs; what only imports is folded."
    for cell in notebook['cells']:
        if cell['cell_type'] == 'code':
            lines = ''.join(cell['source']).split('\n')
            code = [line for line in lines if not re.match(r'#\|\s*[\w-]+( [\w.]+)?\s*$', line)]
            if all(re.match(r'(from|import|#|\s|\)|$)', line) for line in code) and not cell['outputs']:
                code = ['#| code-fold: true', '#| code-summary: Imports', *code]
            hidden = re.search(r'^#\|\s*(hide|default_exp .*)$', '\n'.join(lines), re.M)
            cell['source'] = '#| include: false' if hidden else '\n'.join(code)
    return notebook


def bring_along(site: Path) -> None:
    "KaTeX's files beside the pages, and its address in them; no fonts of other servers."
    cache = ROOT/'build'/KATEX
    if not (cache/'package').exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(['npm', 'pack', '--silent', '--pack-destination', '..', KATEX], cwd=cache, check=True, stdout=subprocess.DEVNULL)
        shutil.unpack_archive(next(cache.parent.glob('katex-*.tgz')), cache)
    unused = shutil.ignore_patterns('*.ttf', '*.woff', '*.mjs', 'katex.js', 'katex.css', 'README.md')
    shutil.copytree(cache/'package'/'dist', site/'site_libs'/'katex', ignore=unused)
    for theme in site.glob('site_libs/themes/*.css'):
        theme.write_text(re.sub(r'@import url\(http[^)]*\);?', '', theme.read_text(encoding='utf-8')), encoding='utf-8')
    for page in site.rglob('*.html'):
        up = '../'*(len(page.relative_to(site).parts) - 1)
        text = page.read_text(encoding='utf-8').replace(layout.KATEX, f'{up}site_libs/katex')
        text = re.sub(r'<a href="[^"]*/nbs/api/[^"]*"[^>]*>.*?</a>', '', text)   # the source of a page that no one wrote
        text = re.sub(r'(<th\b[^>]*>)([^<]+)(?=</th>)', lambda m: m[1] + m[2].replace('_', '_<wbr>'), text)   # names of columns may be broken
        if up:
            text = text.replace('<main class="content"', '<main class="content api"')
        page.write_text(text, encoding='utf-8')


def forward(site: Path) -> None:
    "Old addresses lead to where their page is now."
    for old, new in MOVED.items():
        page = f'''<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Moved</title><link rel="icon" href="logo.svg">
<meta http-equiv="refresh" content="0; url={new}"></head><body><main><h1>Moved</h1><p><a href="{new}">This page has moved.</a></p></main></body></html>'''
        (site/f'{old}.html').write_text(page, encoding='utf-8')


def wrong_badges(source: Path) -> list:
    "Pages that lack their line for Colab, or whose line opens another page."
    problems = []
    for path in sorted(source.glob('*.ipynb')):
        opened = re.findall(re.escape(COLAB) + r'([\w.]+)', path.read_text(encoding='utf-8'))
        expected = [path.name] if path.stem in IN_COLAB else []
        if opened != expected:
            problems.append(f'{path.name} opens in Colab {opened or "nothing"}; expected {expected or "nothing"}')
    return problems


def build(out: Path) -> list:
    "Write the site into a folder; returns what did not come out."
    sys.path.insert(0, str(ROOT))   # the functions described are those of this checkout
    with tempfile.TemporaryDirectory() as tmp:
        source = Path(tmp).resolve()/'nbs'
        shutil.copytree(ROOT/'nbs', source, ignore=shutil.ignore_patterns('.ipynb_checkpoints', 'nbdev.yml'))
        for path in source.glob('*.ipynb'):
            path.write_text(json.dumps(for_readers(json.loads(path.read_text(encoding='utf-8')))), encoding='utf-8')
        project = config.load(source)
        project.config['smalldocs']['api']['root'] = str(ROOT)
        site = Site(project, quiet=True)
        site.out = out
        site.build()
        listed = (source/'_quarto.yml').read_text(encoding='utf-8')
        unlisted = [f'{path.name} is not in the sidebar of _quarto.yml' for path in source.glob('*.ipynb') if path.name not in listed]
        badges = wrong_badges(source)
    bring_along(out)
    forward(out)
    broken = sorted({warning.split(': ', 1)[1] if ': broken link /' in warning else warning for warning in site.warnings})
    return broken + unlisted + badges   # a link of the sidebar is said once, not for each page


if __name__ == '__main__':
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT/'_site').resolve()
    problems = build(folder)
    print(*problems, f'the site is in {folder}', sep='\n')
    sys.exit(1 if problems else 0)
