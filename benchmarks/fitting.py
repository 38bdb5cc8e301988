"""What fitting costs, by the number of good images: `python benchmarks/fitting.py`.

    python benchmarks/fitting.py --methods DLA+ --images 10 100 --out results/benchmarks.csv

Drawn gears of 128 px; each size in a process of its own. Time is the processor's. Memory is the peak of the process less what
was resident once the images were there and the libraries imported. The speed of predicting counts arrays that are loaded, by
the processor's time too, so that other programs matter little: on two cores it is up to twice as high, and the target is half of 60. The exponent k of time ~ images^k is fitted to the whole range: 1 is linear, 0 is flat."""
import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from dla_nb.detector import Detector
from dla_nb.toy import draw_sample
from growth import forget_peak, resident
from rows import row, show

SIDE = 128


def draw(n: int) -> np.ndarray:
    "Good gears, uint8 (n,3,SIDE,SIDE); from 400 on the same ones with other noise."
    drawn = [draw_sample('gear', 'good', SIDE, i)[0] for i in range(min(n, 400))]
    images = np.stack([np.moveaxis(image, 2, 0) for image in drawn])
    images = np.resize(images, (n, *images.shape[1:]))
    noise = np.random.default_rng(0).integers(-2, 3, (n, 1, SIDE, SIDE))
    return (images + noise).clip(0, 255).astype(np.uint8)


def measure(method: str, n: int, preset: str) -> dict:
    "In this process."
    images = draw(n)
    torch.conv2d(torch.zeros(1, 3, 16, 16), torch.zeros(4, 3, 3, 3))
    before = resident('VmRSS')
    forget_peak()
    begun = time.process_time()
    detector = Detector.fit(images, method=method, preset=preset, seed=0, device='cpu')
    seconds = time.process_time() - begun
    memory = resident('VmHWM') - before
    some = detector.method.prepare(np.resize(images, (128, *images.shape[1:])))
    detector.score(some[:32])
    ways = {'one': (1, True, time.process_time), 'both': (2, True, time.perf_counter), 'shared': (2, False, time.perf_counter)}
    times = {way: [] for way in ways}
    for _ in range(5):   # by turns, so that a busy moment hits all alike
        for way, (threads, side_by_side, clock) in ways.items():
            torch.set_num_threads(threads)
            detector.method.side_by_side = side_by_side
            start = clock()
            detector.score(some)
            times[way].append(clock() - start)
    speeds = {way: len(some)/min(spent) for way, spent in times.items()}
    data = safetensors.torch.save({k: v.contiguous() for k, v in detector.method.state_dict().items()})
    return speeds | dict(seconds=seconds, memory=memory/2**20, file=len(data)/1e6)


def by_the_clock(method: str, n: int, preset: str) -> float:
    "Seconds to fit in two threads, in this process."
    torch.set_num_threads(2)
    images = draw(n)
    begun = time.perf_counter()
    Detector.fit(images, method=method, preset=preset, seed=0, device='cpu')
    return time.perf_counter() - begun


def in_its_own(*args) -> dict:
    "What a process of its own prints."
    done = subprocess.run([sys.executable, '-W', 'ignore', __file__, *args], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--methods', nargs='+', default=['LocalStats', 'DLA+'])
    parser.add_argument('--images', nargs='+', type=int, default=[10, 100, 300, 2000])
    parser.add_argument('--preset', default='default')
    parser.add_argument('--out', type=Path, default=None, help='append the rows here')
    parser.add_argument('--clock', action='store_true', help='only the time to fit in two threads, where nothing else runs')
    parser.add_argument('--one', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        job = by_the_clock if args.clock else measure
        print(json.dumps(job(args.one[0], int(args.one[1]), args.preset)))
        return
    for method in args.methods:
        found = []
        for n in args.images:
            name = f'{method}, {args.preset}, {n} images'
            asked = ['--one', method, str(n), '--preset', args.preset]
            if args.clock:
                most = {'LocalStats': '<= 60', 'DLA+': '<= 240'}.get(method, '') if args.preset == 'default' else ''
                show([row('fitting', f'{name}, time in two threads', in_its_own(*asked, '--clock'), 's', target=most, threads=2)], args.out)
                continue
            found.append(in_its_own(*asked))
            show([
                row('fitting', f'{name}, time', found[-1]['seconds'], 's of processor'),
                row('fitting', f'{name}, memory', found[-1]['memory'], 'MiB', target='<= 2000' if n <= 300 else ''),
                row('fitting', f'{name}, predicting', found[-1]['one'], 'images/s of processor', target='>= 30'),
                row('fitting', f'{name}, predicting in two threads', found[-1]['both'], 'images/s', target='>= 60', threads=2),
                row('fitting', f'{name}, a batch a thread', found[-1]['both'], 'images/s', 'two threads that share each operation',
                    found[-1]['both']/found[-1]['shared'], threads=2),
                row('fitting', f'{name}, arrays', found[-1]['file'], 'MB', target='<= 25'),
            ], args.out)
        if len(found) > 1:
            k = np.polyfit(np.log(args.images), np.log([f['seconds'] for f in found]), 1)[0]
            show([row('fitting', f'{method}, {args.preset}, growth with the images', k, 'exponent', target='<= 1')], args.out)


if __name__ == '__main__':
    main()
