"""How time and memory grow: normal statistics and scoring over the number of images, the all-pairs loss over the batch.

    python benchmarks/growth.py [--images 20] [--factors 1 10 100] [--out results/benchmarks.csv]

Each size is measured in a process of its own, whose peak of resident memory the system counts (Linux). What is there after a small
call to warm up is subtracted, and so is the result itself. Images come from a file that is mapped, not read, as a category's
cache is. Time is the shortest of a few repeats, in processor time, since other programs may run beside it. The exponent k of
time ~ size^k is fitted to the whole range: 1 is linear, 0 is flat. The loss's is a little above 1 without any quadratic part, since a
small batch fits in the processor's cache and a large one does not."""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dla_nb.losses import global_loss
from dla_nb.methods.dla import Untrained
from rows import row, show

#: The smallest network: growth does not depend on the network's size.
TINY = Untrained.Recipe(backbone='tiny', size=64, resize=73, n_passes=4)
BATCHES = (50, 100, 200, 400, 800, 1600, 3200)


def resident(field: str) -> int:
    "Bytes of this process in memory: 'VmRSS' now, 'VmHWM' at most since `forget_peak`."
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])*1024


def forget_peak() -> None: Path('/proc/self/clear_refs').write_text('5')


def draw_images(path: str, n: int) -> np.memmap:
    "Noise on disk, uint8 (n,3,r,r), written a few at a time."
    images = np.lib.format.open_memmap(path, 'w+', np.uint8, (n, 3, TINY.resize, TINY.resize))
    rng = np.random.default_rng(0)
    for i in range(0, n, 50): images[i:i + 50] = rng.integers(0, 256, images[i:i + 50].shape, dtype=np.uint8)
    return images


def subject(what: str, n: int, path: str):
    "The function to measure."
    if what == 'pairs loss':
        parts = [torch.randn(n, 2048, generator=torch.Generator().manual_seed(k)).requires_grad_(k % 2 == 0) for k in range(4)]
        return lambda: torch.autograd.grad(global_loss(*parts), parts[::2])
    images = Mapped(path, n)
    method = Untrained(TINY).fit(np.asarray(images[:10]), device='cpu')
    if what == 'normal statistics': return lambda: [method.measure(images).mean_c2]
    return lambda: [method.score(images, batch_size=10)]


class Mapped:
    "The first n images of a file. Each slice is read from a map of its own, so that pages read before are not counted."
    dtype = np.dtype('uint8')
    def __init__(self, path: str, n: int): self.path, self.shape = path, (n, 3, TINY.resize, TINY.resize)
    def __len__(self): return self.shape[0]
    def __getitem__(self, at): return np.array(np.load(self.path, mmap_mode='r')[:len(self)][at])


def measure(what: str, n: int, path: str, repeats: int) -> dict:
    "In this process: bytes beyond those held before and beyond the result, and the shortest processor time."
    subject(what, 10, path)()
    f, seconds = subject(what, n, path), []
    forget_peak()
    before = resident('VmRSS')
    for i in range(repeats):
        start = time.process_time()
        result = f()
        seconds.append(time.process_time() - start)
        if i == 0: peak = resident('VmHWM') - before - sum(t.nbytes for t in result)
    return dict(seconds=min(seconds), peak=max(0, peak))


def in_process(*args) -> dict:
    "`measure` in a fresh process."
    done = subprocess.run([sys.executable, __file__, '--measure', *map(str, args)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def exponent(sizes, values) -> float:
    "k of values ~ sizes^k, by least squares on logarithms."
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def curve(what: str, sizes: list, path: str, repeats: int) -> list:
    "Rows of one curve, and of its exponents."
    often = lambda n: repeats if what == 'pairs loss' else max(1, min(repeats, 2000//n))   # the larger, the steadier
    found = [in_process(what, n, path, often(n)) for n in sizes]
    at = 'batch {}' if what == 'pairs loss' else '{} images'
    rows = [row('growth', f'{what}, {at.format(n)}, {kind}', value, measured_in, threads=1) for n, r in zip(sizes, found)
            for kind, value, measured_in in (('time', r['seconds'], 's'), ('memory', r['peak']/2**20, 'MiB'))]
    k, limit = exponent(sizes, [r['seconds'] for r in found]), 1.25 if what == 'pairs loss' else 1.1
    return rows + [row('growth', f'{what}, exponent of time', k, '', target=f'<= {limit}', threads=1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=20), parser.add_argument('--factors', type=int, nargs='+', default=[1, 10, 100])
    parser.add_argument('--batches', type=int, nargs='+', default=BATCHES), parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--out', type=Path), parser.add_argument('--measure', nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.measure:
        what, n, path, repeats = args.measure
        return print(json.dumps(measure(what, int(n), path, int(repeats))))
    sizes = [args.images*f for f in args.factors]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder)/'images.npy')
        draw_images(path, max(sizes))
        for what, at in (('normal statistics', sizes), ('scoring', sizes), ('pairs loss', args.batches)):
            show(curve(what, at, path, args.repeats), args.out)


if __name__ == '__main__': main()
