"""What the usual threshold is worth on real images.

    python benchmarks/thresholds.py                          # LocalStats and DLA+, MVTec AD
    python benchmarks/thresholds.py --data FOLDER --categories A --methods LocalStats

A detector is fitted as `dla-nb train` does it: one good image of five is held out, and the threshold
is what they support, at most 1 % false alarms where there are enough. Then the test images are
decided. Rows are appended to results/thresholds.csv, one for each category, method and seed; what
has a row is not measured again: delete it where the code has changed.
"""
import argparse
import time
import warnings
from pathlib import Path

from dla_nb.core import DataWarning
from dla_nb.data import load_category, mvtec_path
from dla_nb.detector import Detector, measure_maps
from dla_nb.files import append_row, provenance, read_rows
from dla_nb.method import get_method
from dla_nb.metrics import METRIC_NAMES, decision_metrics
from dla_nb.thresholds import exceeds
from rows import device_name

OUT = Path(__file__).parent.parent/'results'/'thresholds.csv'
KEY = ('category', 'method', 'preset', 'seed')
CATEGORIES = ['bottle', 'pill', 'capsule', 'transistor', 'grid']


def percent(value: float) -> float | None:
    return round(100*value, 2) if value == value else None


def measure(category, method: str, preset: str, seed: int, device) -> dict:
    "A row of the file."
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DataWarning)   # that the images support no rate of 1 %
        detector = Detector.fit(category, method=method, preset=preset, seed=seed, device=device)
    seconds = time.process_time() - begun
    maps = detector.score(category.test)
    peaks = maps.amax((1, 2))
    whole, pixel = detector.threshold, detector.pixel_threshold
    found = decision_metrics(exceeds(peaks.numpy(), whole.value), exceeds(maps.numpy(), pixel.value),
                             category.masks, category.labels)
    ranks = measure_maps(maps, category)
    row = dict(category=category.name, method=method, preset=preset, seed=seed)
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
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--out', type=Path, default=OUT)
    args = parser.parse_args()
    for name in args.categories:
        for method in args.methods:
            done = read_rows(args.out)
            key = (name, method, args.preset, args.seed)
            if len(done) and (done[[*KEY]] == key).all(axis=1).any():
                continue
            side = get_method(method).preset(args.preset).resize
            category = load_category(args.data or mvtec_path(), name, side)
            row = measure(category, *key[1:], args.device)
            append_row(args.out, row, KEY)
            print(' '.join(f'{name}={value}' for name, value in row.items()), flush=True)


if __name__ == '__main__':
    main()
