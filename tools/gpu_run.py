"""All that needs a GPU, in one call of under ten minutes.

    python tools/gpu_run.py --prepare [CATEGORY...]   where the data is: wheels and images into runs/gpu, which git ignores
    python tools/gpu_run.py --out OUT                 on the GPU: every row goes to OUT as soon as it is known
    python tools/gpu_run.py --merge OUT               back home: new rows of OUT into results/
    python tools/gpu_run.py --dry                     all of it on a CPU with tiny sizes, in less than a minute

The GPU's machine needs Python 3.12, torch, torchvision, pandas, scikit-learn and matplotlib; no network. Take along the repository
and runs/gpu (name the commit in $DLA_COMMIT where .git stays behind). The steps come in the order of what they teach; one that
fails is reported and does not stop the next:

1. cells      the notebooks with GPU cells, run as a whole: same numbers as on a CPU, no waiting within a step
2. rates      a training step against the bare network and against PIL in 16 workers
3. category   one category by the full recipe: seconds
4. table      the paper's rows DLA and the controls, three seeds
5. bf16       the same runs in float32: does bfloat16 move the pixel AUROC?
6. ablation   the other rows of Table 2

A call that is cut off keeps what it has; the next one goes on, after a merge."""
import argparse
import csv
import importlib.util
import io
import json
import linecache
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KIT = ROOT/'runs'/'gpu'
sys.path[:0] = [str(ROOT), str(ROOT/'benchmarks')]

# ---------------------------------------------------------------------------------------------------------------- the kit
#: On the GPU's machine already, or not needed there.
BARE = set('''torch torchvision triton numpy pandas scipy scikit-learn joblib threadpoolctl matplotlib contourpy cycler fonttools kiwisolver
    pyparsing python-dateutil six pillow sympy mpmath networkx setuptools typing-extensions cuda-bindings cuda-pathfinder narwhals dla-nb'''.split())
LIMIT = 64*2**20   # what one call may take along, repository included
LOADED = '''
import sys, importlib.metadata as m
import dla_nb.sweeps, hypothesis, sklearn.metrics, sortedcontainers
known = m.packages_distributions()
loaded = {d for name in {name.split('.')[0] for name in sys.modules} for d in known.get(name, ())}
print('\\n'.join(sorted(f'{d}=={m.version(d)}' for d in loaded)))
'''


def download_wheels(folder: Path) -> None:
    "What importing the package loads, and the machine lacks, for Python 3.12 on Linux."
    folder.mkdir(parents=True, exist_ok=True)
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', LOADED], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    needed = [d for d in out.split() if d.split('==')[0].lower().replace('_', '-') not in BARE]
    subprocess.run([sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--only-binary=:all:', '--python-version', '3.12',
                    '--platform', 'manylinux_2_28_x86_64', '--platform', 'manylinux2014_x86_64', '-d', str(folder), *needed], check=True)


def pack(category: Path, path: Path) -> None:
    "A category's files in one archive, colour images as lossless WebP."
    from PIL import Image
    with zipfile.ZipFile(path, 'w') as z:
        for file in sorted(p for p in category.rglob('*') if p.suffix == '.png'):
            name, image, data = file.relative_to(category), Image.open(file), io.BytesIO()
            if image.mode == 'RGB': image.save(data, 'WEBP', lossless=True, quality=20, method=3)
            if data.getvalue(): z.writestr(str(name.with_suffix('.webp')), data.getvalue())
            else: z.write(file, str(name))   # masks and grey images are small enough


def unpack(path: Path, category: Path) -> None:
    "The same files again, pixel by pixel."
    from PIL import Image
    with zipfile.ZipFile(path) as z:
        for name in z.namelist():
            file = (category/name).with_suffix('.png')
            file.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith('.png'): file.write_bytes(z.read(name))
            else: Image.open(io.BytesIO(z.read(name))).save(file, compress_level=1)


def prepare(kit: Path, categories: list) -> None:
    "Everything that the GPU's machine lacks."
    from dla_nb.core import mvtec_path
    source = mvtec_path()
    if source is None: sys.exit('MVTec AD is not here: set DLA_DATA to its folder')
    shutil.rmtree(kit, ignore_errors=True)
    download_wheels(kit/'wheels')
    (kit/'data'/source.name).mkdir(parents=True)
    for name in categories or sorted(p.name for p in source.iterdir() if p.is_dir()): pack(source/name, kit/'data'/source.name/f'{name}.zip')
    tracked = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split('\0')
    sizes = {k: sum(f.stat().st_size for f in files if f.is_file()) for k, files in
             (('wheels', (kit/'wheels').iterdir()), ('images', kit.rglob('*.zip')), ('repository', [ROOT/f for f in tracked if f]))}
    print(', '.join(f'{k} {v/2**20:.1f} MiB' for k, v in sizes.items()), f'in {kit}')
    if sum(sizes.values()) > LIMIT: sys.exit(f'together more than {LIMIT >> 20} MiB: name fewer categories')


def install(kit: Path) -> None:
    "The wheels, where the package cannot be imported without."
    if importlib.util.find_spec('fastai') and importlib.util.find_spec('safetensors') and importlib.util.find_spec('filelock'): return
    wheels = sorted(str(p) for p in (kit/'wheels').glob('*.whl'))
    if not wheels: sys.exit(f'fastai is not installed and {kit}/wheels is empty: run --prepare where there is a network')
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', '--root-user-action=ignore', *wheels], check=True)
    importlib.invalidate_caches()

# -------------------------------------------------------------------------------------------------------------- notebooks
#: Lines that only a notebook server needs, which the GPU's machine has not.
SERVER = ('from IPython', 'from matplotlib_inline', 'set_matplotlib_formats')


def run_notebook(path: Path, cuda: bool) -> None:
    "All code cells but those marked data or slow, in one namespace."
    os.chdir(path.parent)
    space = dict(__name__='__main__', Markdown=str, display=print)
    for i, cell in enumerate(json.loads(path.read_text())['cells']):
        text = ''.join(line for line in cell['source'] if not line.startswith(SERVER))
        marks = {line[2:].strip() for line in text.splitlines() if line.startswith('#|')}
        if cell['cell_type'] != 'code' or marks & {'data', 'slow', 'eval: false'} or not cuda and 'cuda' in marks: continue
        name = f'<{path.stem}, cell {i}>'
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)   # for tracebacks and inspect
        exec(compile(text, name, 'exec'), space)


def cells(run) -> None:
    "Step 1: the notebooks side by side."
    start = time.time()
    jobs = {name: subprocess.Popen([sys.executable, '-W', 'ignore', __file__, '--notebook', str(ROOT/'nbs'/f'{name}.ipynb'), '--device', run.device],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                   env=dict(os.environ, MPLBACKEND='agg', OMP_NUM_THREADS='2')) for name in run.notebooks}
    for name, job in jobs.items():
        try: error = job.communicate(timeout=max(1, 150 - (time.time() - start)))[1] if job.returncode is None else ''
        except subprocess.TimeoutExpired: job.kill(); error = 'took more than 150 s'
        if job.returncode != 0: print(f'{name} failed:', error[-1500:], sep='\n')
        run.rows([run.row('cells', f'{name} passed', float(job.returncode == 0), '', target='>= 1', device=run.device)])

# ------------------------------------------------------------------------------------------------------------------ speed
def rates(run) -> None:
    "Step 2: step, bare network and plain version. Compiling comes last and once, since it starts slowly."
    import training as bench
    images, found, (steps, warm, turns) = bench.noise_images(run.batch, run.recipe.resize), {}, run.steps
    for speed in bench.SPEEDS:
        if speed.compile:
            run.rows(bench.plain_rows(found, run.recipe, images, run.device, run.workers, max(1, steps//6)))
            if run.dry or run.left < .6*run.seconds: break
        try: found |= bench.rates(images, run.recipe, run.device, [speed], steps, warm, 1 if speed.compile else turns)
        except Exception: traceback.print_exc()
    run.rows(bench.network_rows(found, run.recipe, run.batch, run.device))


def category(run) -> None:
    "Step 3: from images in memory to all metrics."
    from dla_nb.data import load_category
    from dla_nb.experiments import score_run, train_run
    one = run.grid(['DLA'], [0])[0]
    data = load_category(run.source, one.category, one.recipe, progress=False)
    start = time.perf_counter()
    model, spent = train_run(one.recipe, 0, data, run.device)
    row = score_run(one, model, data, spent, run.device)
    total = time.perf_counter() - start
    run.rows([run.row('training', f'{one.category}, full recipe: training, scoring, all metrics', total, 's', target='<= 20' if not run.dry else '',
                      device=run.device)])
    print({k: row[k] for k in ('pixel_auroc', 'steps', 'train_seconds', 'score_seconds')})

# ---------------------------------------------------------------------------------------------------------------- results
def table(run) -> None:
    "Step 4: what Table 1 needs."
    from dla_nb.experiments import CONTROLS
    run.sweep(run.grid([*CONTROLS, 'DLA'], [0, 1, 2]), .55)


def ablation(run) -> None:
    "Step 6: the rest of Table 2."
    from dla_nb.experiments import TABLE_ROWS
    run.sweep(run.grid([r for r in reversed(TABLE_ROWS) if r != 'DLA'], [0, 1, 2]), 1.)


def in_float32(run, one) -> float:
    "Pixel AUROC of a run that is trained again, without bfloat16."
    from dla_nb.data import load_category
    from dla_nb.experiments import score_run, train_run
    from dla_nb.training import Speed, default_speed
    data, fast = load_category(run.source, one.category, one.recipe, progress=False), default_speed()
    default_speed(Speed())
    try: model, spent = train_run(one.recipe, one.seed, data, run.device)
    finally: default_speed(fast)
    return score_run(one, model, data, spent, run.device)['pixel_auroc']


def bf16(run) -> None:
    "Step 5: the same seeds in float32, beside their rows of step 4."
    from dla_nb.experiments import read_rows
    rows, found, deadline = read_rows(run.results/'runs.csv'), {}, time.time() + .5*run.left
    for one in sorted(run.grid(['DLA'], [0, 1, 2]), key=lambda r: r.category):
        have = rows[(rows.id == one.id) & rows.device.astype(str).str.contains('bf16')] if len(rows) else rows
        if not len(have) or time.time() > deadline: continue
        pair = have.pixel_auroc.iloc[0], in_float32(run, one)
        found.setdefault(one.category, []).append(pair)
        run.rows([run.row('bf16', f'{one.category}, seed {one.seed}: pixel AUROC minus that of float32', pair[0] - pair[1], 'points',
                          f'float32: {pair[1]:.2f}', device=run.device)])
    for name, pairs in found.items():
        if len(pairs) < 2: continue
        moved = abs(statistics.mean(a - b for a, b in pairs))/max(statistics.stdev(b for _, b in pairs), 1e-9)
        run.rows([run.row('bf16', f'{name}: mean difference over {len(pairs)} seeds, in standard deviations over seeds', moved, '',
                          target='<= 1', device=run.device)])

# -------------------------------------------------------------------------------------------------------------- the call
def toy_images(work: Path) -> Path:
    "A drawn category, for a dry run."
    from dla_nb.toy import make_toy
    return make_toy(work/'toy', categories=('gear',), n_train=10, n_good=2, n_defect=1, size=40)


def real_images(kit: Path, work: Path) -> Path:
    "The images of the kit; else where MVTec AD is."
    archives = sorted((kit/'data').glob('*/*.zip'))
    for path in archives: unpack(path, work/path.parent.name/path.stem)
    if archives: return work/archives[0].parent.name
    from dla_nb.core import mvtec_path
    return mvtec_path() or sys.exit(f'no images: neither in {kit}/data nor at DLA_DATA')


def sizes(dry: bool) -> dict:
    "Recipe, batch, workers, (steps, steps to warm up, turns) and notebooks."
    from dla_nb.core import Recipe
    if not dry: return dict(recipe=Recipe(), batch=200, workers=16, steps=(18, 4, 2),
                            notebooks=['00_core', '20_augment', '40_losses', '50_training', '60_scoring', '41_metrics'])
    tiny = Recipe(backbone='tiny', proj_dim=16, pred_hidden=8, resize=36, size=32, region_min=8, region_max=18, epochs=2, batch_size=8, n_passes=2)
    return dict(recipe=tiny, batch=8, workers=0, steps=(2, 1, 1), notebooks=['00_core'])


class GpuRun:
    "What the steps share: sizes, images, results so far, and the folder that comes back."
    def __init__(self, out: Path, device: str, seconds: float, dry: bool, kit: Path):
        from rows import row, show
        self.out, self.device, self.dry, self.seconds, self.end = Path(out), device, dry, seconds, time.time() + seconds
        self.row, self._show, self.work = row, show, Path(tempfile.mkdtemp())
        vars(self).update(sizes(dry))
        os.environ['DLA_CACHE'] = str(self.work/'cache')
        self.source, self.results = toy_images(self.work) if dry else real_images(kit, self.work), self.work/'results'
        for folder in (self.out, self.results): folder.mkdir(parents=True, exist_ok=True)
        if not dry: shutil.copytree(ROOT/'results', self.results, ignore=shutil.ignore_patterns('*.lock', '.sweep'), dirs_exist_ok=True)
        self.known = set(self.lines())

    @property
    def left(self) -> float: return self.end - time.time()

    def rows(self, rows: list) -> None: self._show(rows, self.out/'benchmarks.csv')

    def grid(self, rows: list, seeds: list) -> list:
        from dla_nb.experiments import table_runs
        return table_runs(self.recipe, self.source.name, sorted(p.name for p in self.source.iterdir() if p.is_dir()), rows, seeds)

    def sweep(self, runs: list, share: float) -> None:
        "Measure what is pending, within a share of the time that is left; rows go out one by one."
        from dla_nb.sweeps import sweep
        self.say(sweep(runs, self.source, self.results, time_budget=share*self.left, device=self.device, checkpoint_seconds=None, say=self.say))

    def say(self, line) -> None:
        "Print a line of progress, and send out what is new: rows, and all recipes in one file."
        print(line, flush=True)
        lines = self.lines()
        (self.out/'runs.csv').write_text('\n'.join(lines[:1] + [n for n in lines[1:] if n not in self.known] + ['']))
        (self.out/'recipes.jsonl').write_text(''.join(p.read_text() for p in sorted((self.results/'recipes').glob('*.json'))))
        if (self.results/'failures.csv').exists(): shutil.copy(self.results/'failures.csv', self.out)

    def lines(self) -> list: return path.read_text().splitlines() if (path := self.results/'runs.csv').exists() else []


STEPS = dict(cells=cells, rates=rates, category=category, table=table, bf16=bf16, ablation=ablation)


def go(run: GpuRun, steps: list) -> int:
    "The steps; how many failed."
    from dla_nb.training import Speed, default_speed
    default_speed(Speed(bf16=True, channels_last=True))
    failed = 0
    for name in steps:
        if run.left < 15: print(f'{name}: no time left'); continue
        print(f'--- {name}, {run.left:.0f} s left', flush=True)
        try: STEPS[name](run)
        except Exception: failed += 1; traceback.print_exc(); sys.stderr.flush()
    shutil.rmtree(run.work, ignore_errors=True)
    return failed


def read_texts(path: Path) -> list: # of dicts
    "The rows of a CSV file, as they are written."
    if not path.exists(): return []
    with path.open(newline='') as f: return list(csv.DictReader(f))


def merge(folder: Path, results: Path) -> None:
    "Rows that are not there yet. What is there stays as it is, so a second merge changes nothing."
    from dla_nb.core import Recipe
    from dla_nb.experiments import append_row, save_recipe
    from rows import COLUMNS
    read = lambda name: read_texts(folder/name)
    recipes = {r.hash: r for r in map(Recipe.from_json, (folder/'recipes.jsonl').read_text().splitlines())} if (folder/'recipes.jsonl').exists() else {}
    counts, there = {}, read_texts(results/'benchmarks.csv')
    for name, key in (('runs.csv', ('id',)), ('failures.csv', ('id', 'attempt')), ('benchmarks.csv', COLUMNS)):
        for row in (r for r in read(name) if r not in there):
            if name == 'runs.csv': save_recipe(recipes[row['recipe']], results/'recipes')
            counts[name] = counts.get(name, 0) + append_row(results/name, row, key)
    print(', '.join(f'{n} rows to {results/name}' for name, n in counts.items()) or f'no rows in {folder}')


def dry() -> int:
    "Every step, and two merges, on a CPU."
    with tempfile.TemporaryDirectory() as tmp:
        out, results = Path(tmp)/'out', Path(tmp)/'results'
        failed = go(GpuRun(out, 'cpu', 300, True, KIT), list(STEPS))
        for _ in range(2): merge(out, results)
        same = all(read_texts(out/name) == read_texts(results/name) for name in ('runs.csv', 'benchmarks.csv'))
        wrong = failed + (not same) + (results/'failures.csv').exists()
        print('dry run', 'failed' if wrong else 'passed')
        return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--prepare', nargs='*', metavar='CATEGORY'), parser.add_argument('--merge', type=Path, metavar='FOLDER')
    parser.add_argument('--dry', action='store_true'), parser.add_argument('--out', type=Path, default=os.environ.get('OUT'))
    parser.add_argument('--kit', type=Path, default=KIT), parser.add_argument('--seconds', type=float, default=540., help='for all steps')
    parser.add_argument('--steps', nargs='+', default=list(STEPS), choices=list(STEPS)), parser.add_argument('--device', default='cuda')
    parser.add_argument('--notebook', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepare is not None: return prepare(args.kit, args.prepare) or 0
    install(args.kit)
    if args.notebook: return run_notebook(args.notebook, args.device == 'cuda') or 0
    if args.merge: return merge(args.merge, ROOT/'results') or 0
    if args.dry: return dry()
    if not args.out: parser.error('name a folder for the rows: --out, or $OUT')
    return go(GpuRun(args.out, args.device, args.seconds, False, args.kit), args.steps)


if __name__ == '__main__': sys.exit(main())
