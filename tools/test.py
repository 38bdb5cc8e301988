"""All tests: every notebook, the export, the clean state, the README, the wheel, ONNX without torch and the GPU script.

    python tools/test.py              everything
    python tools/test.py 40 losses    the notebooks whose name contains 40 or losses
    python tools/test.py --no-wheel   without building the wheel and installing it in an empty environment

Cells that need MVTec AD run where it is found ($DLA_DATA or ../shared/data/mvtec256) and cells that need a GPU where
there is one. `slow` cells run with --slow. The last line is `N passed, N failed`."""
import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = '''
import sys
from pathlib import Path
from nbdev.test import test_nb
passed, seconds = test_nb(Path(sys.argv[1]), skip_flags=sys.argv[2].split(), basepath=sys.argv[3])
sys.exit(0 if passed else 1)
'''
WHEEL = '''
import sys, dla_nb, dla_nb.detector
assert 'nbdev' not in sys.modules and 'site-packages' in dla_nb.__file__, dla_nb.__file__
try: import nbdev
except ImportError: pass
else: sys.exit('nbdev came with the wheel')
'''


def run(*command, **kwargs) -> tuple:
    "(did it exit with 0, what it printed)"
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **kwargs)
    return done.returncode == 0, done.stdout + done.stderr


def skipped_flags(slow: bool) -> str:
    "The markers of cells that cannot run here."
    import torch
    from dla_nb.core import mvtec_path
    os.chdir(ROOT/'nbs')
    can = dict(slow=slow, cuda=torch.cuda.is_available(), data=mvtec_path() is not None)
    if not can['data']: print('MVTec AD is not here (DLA_DATA, ../shared/data/mvtec256): cells that need it are skipped')
    return ' '.join(flag for flag, ok in can.items() if not ok)


def test_notebook(path: Path, flags: str, threads: int) -> tuple:
    env = dict(os.environ, MPLBACKEND='agg', OMP_NUM_THREADS=str(threads))
    return run(sys.executable, '-c', NOTEBOOK, path, flags, ROOT, cwd=path.parent, env=env)


def fresh_copy(folder: str) -> Path:
    "The sources without the exported package."
    copy = Path(folder)/'repo'
    shutil.copytree(ROOT/'nbs', copy/'nbs', symlinks=True, ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    for name in ('settings.ini', 'setup.py', 'README.md', '_quarto.yml'): shutil.copy(ROOT/name, copy)
    (copy/'dla_nb').mkdir()
    return copy


def differences(a: Path, b: Path, pattern: str) -> list:
    "Names of files that differ or exist on one side only."
    names = {p.relative_to(d) for d in (a, b) for p in d.rglob(pattern) if '.ipynb_checkpoints' not in p.parts}
    return sorted(str(n) for n in names if not ((a/n).exists() and (b/n).exists() and filecmp.cmp(a/n, b/n, shallow=False)))


def test_export() -> tuple:
    "Does dla_nb hold exactly what the notebooks export, untracked files included?"
    with tempfile.TemporaryDirectory() as tmp:
        copy = fresh_copy(tmp)
        ok, out = run(Path(sys.executable).parent/'nbdev_export', cwd=copy)
        differ = differences(ROOT/'dla_nb', copy/'dla_nb', '*.py')
    if not ok: return False, out
    return not differ, f'not as the notebooks export: {", ".join(differ)}; run nbdev_export' if differ else ''


def test_clean() -> tuple:
    "Are the notebooks free of execution counts and foreign metadata?"
    with tempfile.TemporaryDirectory() as tmp:
        copy = fresh_copy(tmp)
        ok, out = run(Path(sys.executable).parent/'nbdev_clean', cwd=copy)
        differ = differences(ROOT/'nbs', copy/'nbs', '*.ipynb')
    if not ok: return False, out
    return not differ, f'not clean: {", ".join(differ)}; run nbdev_clean' if differ else ''


def test_readme() -> tuple:
    return run(sys.executable, ROOT/'tools'/'readme.py', '--check')


def test_wheel() -> tuple:
    "Does the wheel, in an empty environment, bring a package that works without nbdev?"
    with tempfile.TemporaryDirectory() as tmp:
        source, bin = Path(tmp)/'source', Path(tmp)/'env'/'bin'
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns('.git', '.venv', 'build', 'dist', 'runs', 'demo', '*.egg-info'))
        ok, out = run(sys.executable, '-m', 'build', '--wheel', '--outdir', tmp, source)
        if not ok: return False, out
        venv.create(bin.parent, with_pip=True)
        ok, out = run(bin/'pip', 'install', '-q', *Path(tmp).glob('*.whl'))
        if not ok: return False, out
        ok, out = run(bin/'python', '-c', WHEEL, cwd=tmp)
        if not ok: return False, out
        env = dict(os.environ, OMP_NUM_THREADS='1')   # beside notebooks that run at the same time
        ok, out = run(bin/'dla-nb', 'demo', '--out', Path(tmp)/'demo', '--quiet', cwd=tmp, env=env)
        return ok and all(word in out for word in ('pixel AUROC', 'untrained', 'mean image')), out


def test_onnx() -> tuple:
    "Does an exported model score the same in an environment without torch?"
    return run(sys.executable, ROOT/'tools'/'onnx_test.py')


def test_gpu_call() -> tuple:
    "Does the script for the GPU run from end to end, on a CPU with tiny sizes?"
    return run(sys.executable, '-W', 'ignore', ROOT/'tools'/'gpu_run.py', '--dry', env=dict(os.environ, OMP_NUM_THREADS='1'))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*'), parser.add_argument('--slow', action='store_true')
    parser.add_argument('--no-wheel', action='store_true'), parser.add_argument('--workers', type=int, default=2)
    args = parser.parse_args()
    flags = skipped_flags(args.slow)
    notebooks = [p for p in sorted((ROOT/'nbs').rglob('*.ipynb')) if not p.name.startswith('_') and '.ipynb_checkpoints' not in p.parts]
    wanted = [p for p in notebooks if not args.names or any(n in p.name for n in args.names)]
    threads = max(1, (os.cpu_count() or 1)//args.workers)
    tests = [(f'nbs/{p.relative_to(ROOT/"nbs")}', lambda p=p: test_notebook(p, flags, threads)) for p in wanted]
    if not args.names:
        tests += [('ONNX model without torch', test_onnx), ('GPU script on a CPU', test_gpu_call), ('export in sync', test_export), ('notebooks clean', test_clean), ('README matches index', test_readme)]
        if not args.no_wheel: tests.insert(0, ('wheel in an empty environment', test_wheel))   # the longest first
    failed = 0
    def timed(test):
        start = time.time()
        try: return (*test[1](), time.time() - start)
        except Exception as e: return False, repr(e), time.time() - start
    with ThreadPoolExecutor(args.workers) as pool:
        for (name, _), (ok, out, seconds) in zip(tests, pool.map(timed, tests)):
            failed += not ok
            print(f'{"ok    " if ok else "FAILED"} {name} ({seconds:.0f} s)', flush=True)
            if not ok: print(out.strip(), flush=True)
    if not tests: print('no test matches', *args.names)
    print(f'{len(tests) - failed} passed, {failed} failed')
    return bool(failed or not tests)


if __name__ == '__main__': sys.exit(main())
