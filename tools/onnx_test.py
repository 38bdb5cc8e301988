"""An exported detector in an environment without torch: python tools/onnx_test.py [PACKAGE ...]

Makes a virtual environment with onnxruntime, numpy and pillow and nothing else, runs
examples/score_onnx.py there on image files, and compares its scores and labels with PyTorch's in
this environment. Other requirements may be named: onnxruntime==1.15.0 'numpy<2' pillow. The exit
status is 0 where scores agree to 1e-5."""
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

import dla_nb.export   # gives Detector its export
from dla_nb.detector import Detector
from dla_nb.methods.dla import Untrained
from dla_nb.toy import draw_sample

PROGRAM = Path(__file__).resolve().parent.parent/'examples'/'score_onnx.py'
PACKAGES = ('onnxruntime', 'numpy', 'pillow')
FORBIDDEN = ('torch', 'torchvision', 'fastai', 'fastcore', 'safetensors', 'dla_nb', 'onnx',
             'onnxscript')
ABSENT = f'''
import importlib.util
found = [name for name in {FORBIDDEN} if importlib.util.find_spec(name)]
assert not found, found
'''


def run(*command, cwd: Path = None, env: dict = None) -> str:
    "What the command printed; RuntimeError with all of it where it failed."
    words = [str(c) for c in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=env)
    if done.returncode:
        raise RuntimeError(f'{words[0]} ended with {done.returncode}\n{done.stdout}{done.stderr}')
    return done.stdout


def draw(folder: Path, n: int = 4) -> list:
    "Image files of several sizes, with and without a defect."
    paths = []
    for i in range(n):
        image, _ = draw_sample('gear', 'rust' if i % 2 else 'good', 96 + 30*i, i)
        path = folder/f'{i}.png'
        Image.fromarray(image).resize((90 + 40*i, 120)).save(path)
        paths.append(path)
    return paths


def make_detector() -> Detector:
    "Of drawn gears, with a network that was not trained: scores are compared here, not judged."
    recipe = Untrained.preset('demo').but(size=73, n_passes=3)
    images = [draw_sample('gear', 'good', recipe.resize, 100 + i)[0] for i in range(9)]
    good = np.stack(images).transpose(0, 3, 1, 2)
    detector = Detector(Untrained(recipe).fit(good[:6], device='cpu'), 'gear')
    return detector.calibrate(list(good[6:]), .3)


def score_without_torch(tmp: Path, packages: list, paths: list) -> list:
    "The rows of examples/score_onnx.py, run in a new environment; maps go to tmp/maps."
    venv.create(tmp/'env', with_pip=True)
    python = tmp/'env'/('Scripts' if os.name == 'nt' else 'bin')/'python'
    run(python, '-m', 'pip', 'install', '-q', *packages)
    clean = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    run(python, '-c', ABSENT, cwd=tmp, env=clean)
    command = [python, PROGRAM, tmp/'gear.onnx', *paths, '--maps', tmp/'maps']
    out = run(*command, cwd=tmp, env=clean)
    return list(csv.DictReader(io.StringIO(out)))


def main(packages: list) -> int:
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        detector = make_detector()
        detector.export(tmp/'gear.onnx')
        paths = draw(tmp)
        rows = score_without_torch(tmp, packages, paths)
        predicted = detector.predict(paths)
        theirs = np.array([p.score for p in predicted])
        ours = np.array([float(row['score']) for row in rows])
        worst = np.abs(ours/theirs - 1).max()
        assert worst < 1e-5, f'scores differ by {worst:.0e}: {ours} and {theirs}'
        labels = [row['anomalous'] for row in rows]
        expected = [str(int(p.label == 'anomalous')) for p in predicted]
        assert labels == expected, f'labels differ: {labels} and {expected}'
        n_maps = len(list((tmp/'maps').glob('*.png')))
        assert n_maps == len(paths), f'{n_maps} maps of {len(paths)} images'
        print(f'{len(paths)} images scored without torch, by {" ".join(packages)}; '
              f'scores equal to {worst:.0e}')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:] or list(PACKAGES)))
