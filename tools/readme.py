"""README.md from nbs/index.ipynb: `python tools/readme.py` writes it, `--check` only compares.

nbdev's own command needs the quarto program, which no package registry ships."""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def from_root(text: str) -> str:
    "Links as they are from the top of the repository."
    return re.sub(r'\]\((images/|\w+\.ipynb)', r'](nbs/\1', text) + '\n'


def output_text(output: dict) -> str:
    "The readable part of a cell's output: Markdown as it is, text indented, pictures not at all."
    data = output.get('data', {})
    if 'text/markdown' in data: return from_root(''.join(data['text/markdown']))
    text = ''.join(output.get('text') or data.get('text/plain', ''))
    return ''.join(f'    {line}\n' for line in text.splitlines())


def cell_text(cell: dict) -> str:
    "One cell as Markdown; `include: false` leaves it out, `echo: false` leaves out its source."
    source = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown':
        return from_root(source)
    directives = re.findall(r'^#\|\s*(.+?)\s*$', source, re.M)
    if 'include: false' in directives or 'hide' in directives: return ''
    code = re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip()
    shown = '' if 'echo: false' in directives or not code else f'```python\n{code}\n```\n'
    return '\n'.join(filter(None, [shown, *map(output_text, cell.get('outputs', []))]))


def readme() -> str:
    cells = json.loads((ROOT/'nbs'/'index.ipynb').read_text(encoding='utf-8'))['cells']
    body = '\n'.join(filter(None, map(cell_text, cells)))
    return '<!-- Made from nbs/index.ipynb by tools/readme.py; edit that. -->\n\n' + body


if __name__ == '__main__':
    path, text = ROOT/'README.md', readme()
    if '--check' not in sys.argv: path.write_text(text, encoding='utf-8')
    elif path.read_text(encoding='utf-8') != text:
        sys.exit('README.md does not match nbs/index.ipynb; run python tools/readme.py')
