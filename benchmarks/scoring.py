"""What scoring costs, as ratios of things measured in the same run.

- T passes of Monte-Carlo dropout against whole forward passes of ResNet-18 (limit for T = 20: 16)
- time and peak memory over the number of images, for the tiny network

Usage: python benchmarks/scoring.py [--size 224] [--batch 8] [--passes 20] [--repeats 3] [--threads 2] [--out FILE.csv]
"""
import argparse
import csv
import platform
import time
import weakref
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import resnet18

from dla_nb.core import Recipe
from dla_nb.scoring import normal_stats, score_images, score_maps, untrained

TINY = Recipe(backbone='tiny', proj_dim=16, pred_hidden=4, dense_hidden=8, dense_dim=8,
              size=64, resize=73, region_min=14, region_max=36, n_passes=4)


class PeakBytes(TorchDispatchMode):
    "The most bytes that tensors made inside held at once."
    def __init__(self):
        super().__init__()
        self.now, self.peak, self.alive = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if torch.is_tensor(t): self.count(t.untyped_storage())
        return out

    def count(self, storage):
        key, n = storage._cdata, storage.nbytes()
        if key in self.alive: return
        self.alive.add(key)
        self.now += n
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.free, key, n)

    def free(self, key, n):
        self.alive.discard(key)
        self.now -= n


def seconds(f):
    "Wall and processor seconds. With one thread the second is the steadier one on a busy machine."
    wall, cpu = time.perf_counter(), time.process_time()
    f()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])


def fastest(repeats, **what):
    "The minimum of each, measured in turn so that a busy machine disturbs all alike; one round first to warm up."
    rounds = [{name: seconds(f) for name, f in what.items()} for _ in range(repeats + 1)][1:]
    return {name: np.min([r[name] for r in rounds], 0) for name in what}


@torch.no_grad()
def passes(args):
    "Scoring a batch, in whole forward passes of ResNet-18."
    recipe = Recipe(size=args.size, resize=args.size, region_min=1, region_max=1, n_passes=args.passes)
    model, whole = untrained(recipe), resnet18(weights=None).eval()
    x = torch.rand(args.batch, 3, args.size, args.size)
    images = (255*x).byte().numpy()
    stats = normal_stats(model, images, recipe, batch_size=args.batch)
    t = fastest(args.repeats, whole=lambda: whole(x), score=lambda: score_maps(model, stats, x, recipe).total)
    ratio = t['score']/t['whole']
    print(f'{args.batch} images of {args.size} px, T = {args.passes}, {args.threads} thread(s):')
    print(f'  one whole pass {t["whole"][0]:.3f} s, scoring {t["score"][0]:.3f} s: {ratio[0]:.1f} whole passes '
          f'({ratio[1]:.1f} in processor time)')
    return dict(whole_pass_s=t['whole'][0], score_s=t['score'][0], score_in_whole_passes=ratio[0],
                score_in_whole_passes_cpu=ratio[1])


def growth(args, counts=(50, 100, 200)):
    "Time and peak memory of statistics and scores over the number of images."
    model, out = untrained(TINY), {}
    images = np.random.default_rng(0).integers(0, 256, (max(counts), 3, 73, 73), dtype=np.uint8)
    stats = normal_stats(model, images[:8], TINY)
    for name, f in (('normal_stats', lambda n: normal_stats(model, images[:n], TINY, batch_size=25)),
                    ('score_images', lambda n: score_images(model, stats, images[:n], TINY, batch_size=25))):
        t, peak = fastest(args.repeats, **{str(n): (lambda n=n: f(n)) for n in counts}), {}
        for n in counts:
            with PeakBytes() as meter: f(n)
            peak[n] = meter.peak
        first, texts = counts[0], []
        for n in counts[1:]:
            (wall, cpu), memory = t[str(n)]/t[str(first)], peak[n]/peak[first]
            out |= {f'{name}_time_{n}_over_{first}': wall, f'{name}_cpu_{n}_over_{first}': cpu, f'{name}_memory_{n}_over_{first}': memory}
            texts.append(f'{n}: time {wall:.2f} ({cpu:.2f} in processor time), peak memory {memory:.3f}')
        print(f'{name}, tiny network, {TINY.size} px, against {first} images: ' + '; '.join(texts))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (('size', 224), ('batch', 8), ('passes', 20), ('repeats', 3), ('threads', 2)):
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--out', type=Path, help='append one row a number to this CSV file')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    numbers = passes(args) | growth(args)
    if args.out: write(args, numbers)


def write(args, numbers):
    setting = dict(date=time.strftime('%Y-%m-%d'), torch=torch.__version__, machine=platform.machine(), size=args.size,
                   batch=args.batch, passes=args.passes, threads=args.threads)
    new = not args.out.exists()
    with args.out.open('a', newline='') as f:
        writer = csv.DictWriter(f, [*setting, 'name', 'value'])
        if new: writer.writeheader()
        for name, value in numbers.items(): writer.writerow(setting | dict(name=name, value=f'{value:.4g}'))


if __name__ == '__main__': main()
