"""What the usual threshold is worth on real images.

    python benchmarks/thresholds.py                          # LocalStats and DLA+, MVTec AD
    python benchmarks/thresholds.py --data FOLDER --categories A --methods LocalStats --tile 128
    python benchmarks/thresholds.py --methods DLA+ --set fusion=adds     # another recipe

A detector is fitted as `dla-nb train` does it: one good image of five is held out, and the threshold
is what they support, at most 1 % false alarms where there are enough. Then the test images are
decided. With --tile images are looked at piece by piece at their own resolution; their maps are
reduced to the size of the whole images' maps before they are measured. Rows are appended to
results/thresholds.csv, one for each category, method, tile and seed; what has a row is not measured
again: delete it where the code has changed.
"""
import argparse
import time
import warnings
from pathlib import Path

import torch
from torch.nn import functional as F

from dla_nb.core import DataWarning
from dla_nb.data import load_category, mvtec_path
from dla_nb.detector import Detector, measure_maps
from dla_nb.files import append_row, provenance, read_rows
from dla_nb.method import get_method
from dla_nb.metrics import METRIC_NAMES, decision_metrics
from dla_nb.thresholds import exceeds
from rows import device_name

OUT = Path(__file__).parent.parent/'results'/'thresholds.csv'
KEY = ('category', 'method', 'preset', 'tile', 'seed')
CATEGORIES = ['bottle', 'pill', 'capsule', 'transistor', 'grid']


def percent(value: float) -> float | None:
    return round(100*value, 2) if value == value else None


def decided(detector, category, tile: int) -> tuple:
    "Maps (n,s,s), and which images and pixels are called anomalous, bool (n,) and (n,s,s)."
    whole, pixel = detector.threshold, detector.pixel_threshold
    if not tile:
        maps = detector.score(category.test)
        scores = maps.amax((1, 2))
    else:
        found = [detector.predict(path) for path in category.test_paths]
        scores = torch.tensor([p.score for p in found])
        side = (category.masks.shape[-1],)*2
        maps = [torch.from_numpy(p.map)[None, None] for p in found]
        maps = torch.cat([F.interpolate(m, side, mode='bilinear', antialias=True)[0] for m in maps])
    return maps, exceeds(scores.numpy(), whole.value), exceeds(maps.numpy(), pixel.value)


def measure(category, root, method: str, preset: str, tile: int, seed: int, recipe, device) -> dict:
    "A row of the file."
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DataWarning)   # that the images support no rate of 1 %
        data = root/category.name if tile else category
        detector = Detector.fit(data, method=method, recipe=recipe, tile=tile or None, seed=seed, device=device)
    seconds = time.process_time() - begun
    whole = detector.threshold
    maps, flagged, marked = decided(detector, category, tile)
    found = decision_metrics(flagged, marked, category.masks, category.labels)
    ranks = measure_maps(maps, category)
    row = dict(category=category.name, method=method, preset=preset, tile=tile, seed=seed)
    row |= {name: percent(ranks[name]) for name in METRIC_NAMES}
    row |= dict(held_out=whole.n, expected=percent(whole.expected), low=percent(whole.low), high=percent(whole.high))
    row |= {name: value if name.startswith('n_') else percent(value) for name, value in found.items()}
    made = provenance()
    return row | dict(cpu_seconds=round(seconds), device=device_name(device), commit=made['commit'] or 'unknown',
                      date=made['date'])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', type=Path, default=None, help='folder of categories (default: MVTec AD)')
    parser.add_argument('--categories', nargs='+', default=CATEGORIES)
    parser.add_argument('--methods', nargs='+', default=['LocalStats', 'DLA+'])
    parser.add_argument('--preset', default='default')
    parser.add_argument('--set', nargs='+', default=[], metavar='NAME=VALUE', dest='changes', help='changes of the recipe')
    parser.add_argument('--tile', type=int, default=0, help='px; 0: whole images')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--out', type=Path, default=OUT)
    args = parser.parse_args()
    root = args.data or mvtec_path()
    preset = ' '.join([args.preset, *args.changes])
    for name in args.categories:
        for method in args.methods:
            done = read_rows(args.out)
            key = (name, method, preset, args.tile, args.seed)
            if len(done) and (done[[*KEY]] == key).all(axis=1).any():
                continue
            recipe = get_method(method).preset(args.preset).set(args.changes)
            category = load_category(root, name, recipe.resize)
            row = measure(category, root, *key[1:], recipe, args.device)
            append_row(args.out, row, KEY)
            print(' '.join(f'{name}={value}' for name, value in row.items()), flush=True)


if __name__ == '__main__':
    main()
