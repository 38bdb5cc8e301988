"""What a change of light does to a threshold, and what helps.

    python benchmarks/light.py                                      # LocalStats, bottle, capsule and pill of MVTec AD
    python benchmarks/light.py --set clusters=256 samples=60000     # a third of the time
    python benchmarks/light.py --methods DLA+ --categories bottle

A detector is fitted as `dla-nb train --light ...` does it, in each of its three ways; one good image
of five is held out, and the threshold is what they support. Then the test images are scored as they
are, and with their light changed: 5 % less, 5 % more, a warm cast of 3 %. Settings are never chosen
by these; `--images "held out"` gives the same figures for held-out good images and pseudo-anomalies
made of them, by which they may be.
Rows are appended to results/light.csv, one for each category, method, way and light; what has rows is
not measured again: delete them where the code has changed.
"""
import argparse
import warnings
from pathlib import Path

import numpy as np
import torch

from dla_nb.appearance import LIGHTS
from dla_nb.core import DataWarning
from dla_nb.data import load_category, mvtec_path
from dla_nb.detector import Detector, measure_maps
from dla_nb.files import append_row, provenance, read_rows
from dla_nb.method import get_method
from dla_nb.metrics import METRIC_NAMES, auroc
from dla_nb.pseudo import corrupt
from dla_nb.thresholds import calibration_split, exceeds
from rows import device_name

OUT = Path(__file__).parent.parent/'results'/'light.csv'
KEY = ('images', 'category', 'method', 'preset', 'changes', 'light', 'lamp', 'seed')
CATEGORIES = ['bottle', 'capsule', 'pill']
#: lamp -> gains of red, green and blue
LAMPS = {
    'unchanged': (1, 1, 1),
    '5 % darker': (.95, .95, .95),
    '5 % brighter': (1.05, 1.05, 1.05),
    'warmer': (1.03, 1, .97),
}


def under(lamp: str, images: np.ndarray) -> np.ndarray:
    "Images, uint8 (n,3,h,w), in another light."
    gains = np.array(LAMPS[lamp]).reshape(3, 1, 1)
    return (images*gains).round().clip(0, 255).astype(np.uint8)


def percent(value: float) -> float | str:
    return round(100*float(value), 2) if value == value else ''


def fitted(category, method: str, recipe, light: str, seed: int, device) -> Detector:
    "As `dla-nb train` does it."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DataWarning)   # that the images support no rate of 1 %
        return Detector.fit(category, method, recipe=recipe, light=light, seed=seed, device=device)


def decided(detector, maps, labels) -> dict:
    "What the threshold makes of images."
    flagged = exceeds(maps.amax((1, 2)).numpy(), detector.threshold.value)
    good, bad = flagged[labels == 0], flagged[labels == 1]
    return dict(false_alarm_rate=percent(good.mean()), recall=percent(bad.mean()), n_good=len(good), n_defective=len(bad))


def on_tests(detector, category, lamp: str) -> dict:
    "Figures on the test images."
    images = under(lamp, np.asarray(category.test))
    maps = detector.score(images)
    ranks = measure_maps(maps, category)
    return {name: percent(ranks[name]) for name in METRIC_NAMES} | decided(detector, maps, category.labels)


def on_held_out(detector, category, lamp: str, seed: int) -> dict:
    "Figures on held-out good images and on pseudo-anomalies made of them: what settings are chosen by."
    names = [str(path.relative_to(category.folder)) for path in category.train_paths]
    out = calibration_split(len(category.train), 5, seed, names)
    good = np.asarray(category.train)[out]
    x, masks = corrupt(torch.from_numpy(good).float()/255, torch.Generator().manual_seed(seed), 'unseen', 'unseen')
    bad = (255*x).round().to(torch.uint8).numpy()
    maps = detector.score(under(lamp, np.concatenate([good, bad])))
    labels = np.repeat([0, 1], len(good))
    found = dict(pixel_auroc=percent(auroc(maps[len(good):], masks > 0)), image_auroc=percent(auroc(maps.amax((1, 2)), labels)), aupro='')
    return found | decided(detector, maps, labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', type=Path, default=None, help='folder of categories (default: MVTec AD)')
    parser.add_argument('--categories', nargs='+', default=CATEGORIES)
    parser.add_argument('--methods', nargs='+', default=['LocalStats'])
    parser.add_argument('--preset', default='default')
    parser.add_argument('--set', nargs='+', default=[], help='change fields of the recipe')
    parser.add_argument('--images', nargs='+', default=['test'], choices=['test', 'held out'])
    parser.add_argument('--lights', nargs='+', default=list(LIGHTS))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--device', default=None)
    parser.add_argument('--out', type=Path, default=OUT)
    args = parser.parse_args()
    root = args.data or mvtec_path()
    made = provenance()
    known = read_rows(args.out)
    known = known.fillna('')   # a recipe without changes
    done = {tuple(map(str, key)) for key in known[[*KEY]].itertuples(index=False)} if len(known) else set()
    for name in args.categories:
        for method in args.methods:
            recipe = get_method(method).preset(args.preset).set(args.set)
            category = load_category(root, name, recipe.resize, progress=False)
            for light in args.lights:
                for seed in args.seeds:
                    key = (name, method, args.preset, ' '.join(args.set), light)
                    pending = [(kind, lamp) for lamp in LAMPS for kind in args.images
                               if (kind, *key, lamp, str(seed)) not in done]
                    if not pending: continue
                    detector = fitted(category, method, recipe, light, seed, args.device)
                    t = detector.threshold
                    for kind, lamp in pending:
                        found = on_tests(detector, category, lamp) if kind == 'test' else on_held_out(detector, category, lamp, seed)
                        row = dict(zip(KEY, (kind, *key, lamp, seed))) | found
                        row |= dict(expected=percent(t.expected), low=percent(t.low), high=percent(t.high), held_out=t.n,
                                    device=device_name(args.device or 'cpu'), commit=made['commit'] or 'unknown', date=made['date'])
                        append_row(args.out, row, KEY)
                        print(*(row[k] for k in (*KEY, 'pixel_auroc', 'image_auroc', 'aupro', 'false_alarm_rate', 'recall')), flush=True)


if __name__ == '__main__':
    main()
