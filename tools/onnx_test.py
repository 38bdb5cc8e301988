"""An exported detector in an environment without torch: python tools/onnx_test.py

Makes a virtual environment with onnxruntime, numpy and pillow and nothing else, runs examples/score_onnx.py there on
image files, and compares its scores with PyTorch's in this environment. Exit status 0: they are equal to 1e-4."""
import csv
import io
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
from PIL import Image

from dla_nb.core import PRESETS
from dla_nb.data import read_image
from dla_nb.detector import DLADetector
from dla_nb.export import export_onnx
from dla_nb.scoring import untrained
from dla_nb.toy import draw_sample

PROGRAM = Path(__file__).resolve().parent.parent/'examples'/'score_onnx.py'
FORBIDDEN = ('torch', 'torchvision', 'fastai', 'fastcore', 'safetensors', 'dla_nb', 'onnx', 'onnxscript')
ABSENT = f'import importlib.util as u; found = [n for n in {FORBIDDEN} if u.find_spec(n)]; assert not found, found'


def run(*command, **kwargs) -> str:
    "What the command printed; RuntimeError with all of it where it failed."
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **kwargs)
    if done.returncode: raise RuntimeError(f'{command[0]} ended with {done.returncode}\n{done.stdout}{done.stderr}')
    return done.stdout


def draw(folder: Path, n: int = 4) -> list:
    "Image files of several sizes."
    paths = []
    for i in range(n):
        kind = 'good' if i % 2 == 0 else 'rust'
        image, _ = draw_sample('gear', kind, 96 + 30*i, np.random.default_rng(i))
        paths.append(folder/f'{i}.png')
        Image.fromarray(image).resize((90 + 40*i, 120)).save(paths[-1])
    return paths


def detector() -> DLADetector:
    "Of drawn gears, with a network that was not trained: scores are compared here, not judged."
    recipe = PRESETS['demo'].but(n_passes=3)
    good = np.stack([draw_sample('gear', 'good', recipe.resize, np.random.default_rng(100 + i))[0].transpose(2, 0, 1) for i in range(6)])
    return DLADetector.from_model(untrained(recipe, images=good), good, recipe, device='cpu', name='gear')


def main() -> int:
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        made, paths = detector(), draw(tmp)
        model = export_onnx(made, tmp/'gear.onnx', threshold=0.)
        venv.create(tmp/'env', with_pip=True)
        python = tmp/'env'/('Scripts' if os.name == 'nt' else 'bin')/'python'
        run(python, '-m', 'pip', 'install', '-q', 'onnxruntime', 'numpy', 'pillow')
        clean = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
        run(python, '-c', ABSENT, cwd=tmp, env=clean)
        out = run(python, PROGRAM, model, *paths, '--maps', tmp/'maps', cwd=tmp, env=clean)
        rows = list(csv.DictReader(io.StringIO(out)))
        theirs = made.score(np.stack([read_image(p, made.recipe.resize) for p in paths])).total.amax((1, 2)).numpy()
        ours = np.array([float(row['score']) for row in rows])
        worst = np.abs(ours/theirs - 1).max()
        assert worst < 1e-4, f'scores differ by {worst:.0e}: {ours} and {theirs}'
        assert [row['anomalous'] for row in rows] == ['1']*len(paths) and len(list((tmp/'maps').glob('*.png'))) == len(paths)
        print(f'{len(paths)} images scored without torch; scores equal to {worst:.0e}')
    return 0


if __name__ == '__main__': sys.exit(main())
