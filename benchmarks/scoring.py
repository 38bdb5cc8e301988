"""What scoring costs: T passes of Monte-Carlo dropout against whole forward passes of ResNet-18 (limit for T = 20: 16). How time and memory grow with the
number of images is measured by growth.py.

Usage: python benchmarks/scoring.py [--size 224] [--batch 8] [--passes 20] [--repeats 3] [--threads 2] [--out FILE.csv]
"""
import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torchvision.models import resnet18

from dla_nb.methods.dla import Untrained
from rows import row, show

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
    whole = resnet18(weights=None).eval()
    x = torch.rand(args.batch, 3, args.size, args.size)
    images = (255*x).byte().numpy()
    method = Untrained(size=args.size, resize=args.size, n_passes=args.passes).fit(images, device='cpu')
    t = fastest(args.repeats, whole=lambda: whole(x), score=lambda: method(x))
    ratio = t['score']/t['whole']
    print(f'{args.batch} images of {args.size} px, T = {args.passes}, {args.threads} thread(s):')
    print(f'  one whole pass {t["whole"][0]:.3f} s, scoring {t["score"][0]:.3f} s: {ratio[0]:.1f} whole passes '
          f'({ratio[1]:.1f} in processor time)')
    what = f'T = {args.passes}, {args.batch} images of {args.size} px, in whole passes'
    target = '<= 16' if args.passes == 20 else ''
    return [row('scoring', what, t['score'][0], 's', 'one whole pass of ResNet-18', ratio[0], target),
            row('scoring', f'{what}, processor time', t['score'][1], 's', 'one whole pass of ResNet-18', ratio[1], target)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (('size', 224), ('batch', 8), ('passes', 20), ('repeats', 3), ('threads', 2)):
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--out', type=Path, help='append the rows to this CSV file')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    show(passes(args), args.out)


if __name__ == '__main__': main()
