"""How fast is the batched local augmentation, against a plain version that goes image by image with PIL and torchvision?

    python benchmarks/augment.py --size 224 --batch 200

Both do the whole job on the same draws: Rotation, ColorJitter, Perm and Grayscale in one region per image, the MSE of
Eq. 4, the weights of Eq. 5 and the sum of Eq. 6, from decoded images to one float tensor. They take turns, and the
shortest of a few repeats counts. The plain version runs as in a worker of a data loader: one process, one thread (its
steps are too small to share). A second plain version, `by hand`, saves what can be saved image by image: it works on the
region alone, in NumPy. The images they give are compared first: PIL rounds to 8 bits, so they differ by about a tenth of
a grey level on average.

What bounds the batched version is measured beside it: the numbers that its operations write are counted, and as many are
written by plain multiplications of tensors of the same size.
"""
import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from PIL import Image

from dla_nb.augment import apply_local, draw_local, dynamic_weights, local_augment, mix, random_regions
from dla_nb.methods.dla import DLARecipe
from rows import row, show


def rotate(region, degrees):
    "Turn a PIL image about its centre; the corners show it mirrored."
    pixels = np.asarray(region)
    h, w = pixels.shape[:2]
    diagonal = math.ceil(math.hypot(h, w))
    y, x = (diagonal - h)//2 + 1, (diagonal - w)//2 + 1
    padded = Image.fromarray(np.pad(pixels, ((y, y), (x, x), (0, 0)), mode='reflect'))
    return padded.rotate(degrees, Image.Resampling.BILINEAR).crop((x, y, x + w, y + h))


def jitter(region, factors):
    steps = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for step, factor in zip(steps, factors): region = step(region, factor)
    return region


def permute(region, grid, order):
    "Parts of the region change places; nearest where they differ by a row."
    w, h = region.size
    out = Image.new('RGB', (w, h))
    rows, cols = [k*h//grid for k in range(grid + 1)], [k*w//grid for k in range(grid + 1)]
    for place in range(grid*grid):
        (a, b), (c, d) = divmod(place, grid), divmod(order[place], grid)
        part = region.crop((cols[d], rows[c], cols[d + 1], rows[c + 1]))
        size = cols[b + 1] - cols[b], rows[a + 1] - rows[a]
        if part.size != size: part = part.resize(size, Image.Resampling.NEAREST)
        out.paste(part, (cols[b], rows[a]))
    return out


def augmented(region, degrees, factors, grid, order):
    return rotate(region, degrees), jitter(region, factors), permute(region, grid, order), TF.to_grayscale(region, 3)


def weights(d):
    return d/d.sum() if d.sum() > 0 else d*0 + 1/len(d)


def plain(image, place, numbers):
    "The usual way: paste each augmented region into a copy of the image, turn all into tensors, weigh, add."
    top, left, h, w = place
    x, candidates = TF.to_tensor(image), []
    for region in augmented(image.crop((left, top, left + w, top + h)), *numbers):
        copy = image.copy()
        copy.paste(region, (left, top))
        candidates.append(TF.to_tensor(copy))
    d = torch.stack([(c - x).square().mean() for c in candidates])
    return sum(w_k*c for w_k, c in zip(weights(d), candidates))


def by_hand(image, place, numbers):
    "The same with NumPy on the region alone."
    top, left, h, w = place
    region = image.crop((left, top, left + w, top + h))
    x, *candidates = (np.asarray(v, dtype=np.float32)/255 for v in (region, *augmented(region, *numbers)))
    d = weights(np.array([np.square(c - x).mean() for c in candidates]))
    out = TF.to_tensor(image)
    mixed = sum(w_k*c for w_k, c in zip(d.astype(np.float32), candidates))
    out[:, top:top + h, left:left + w] = torch.from_numpy(mixed).permute(2, 0, 1)
    return out


def smooth_images(batch, size, generator):
    "Random colours that change slowly, on 8-bit levels."
    coarse = torch.rand(batch, 3, 12, 12, generator=generator)
    return (F.interpolate(coarse, (size, size), mode='bicubic').clamp(0, 1)*255).round().to(torch.uint8)


def seconds(f, threads):
    torch.set_num_threads(threads)
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def recipe_for(size):
    return DLARecipe(resize=max(size, 256), size=size, region_min=round(50*size/224), region_max=round(128*size/224))


def measure(size, batch, repeats, threads, seed=0):
    "Shortest times in ms, and how far the images differ."
    generator = torch.Generator().manual_seed(seed)
    recipe = recipe_for(size)
    pixels = smooth_images(batch, size, generator)
    x = pixels.float()/255
    images = [Image.fromarray(v.permute(1, 2, 0).numpy()) for v in pixels]
    regions, draw = random_regions(x, recipe, generator), draw_local(x, recipe, generator)
    places = list(zip(*(v.tolist() for v in regions)))
    numbers = list(zip(*(v.tolist() for v in draw)))

    def one_by_one(f): return torch.stack([f(*v) for v in zip(images, places, numbers)])
    def batched(): return local_augment(x, recipe, torch.Generator().manual_seed(seed))   # the draws included

    candidates = apply_local(x, regions, draw)
    ours = mix(candidates, dynamic_weights(x, candidates))
    jobs = dict(plain=(lambda: one_by_one(plain), 1), by_hand=(lambda: one_by_one(by_hand), 1), batched=(batched, threads))
    torch.set_num_threads(1)
    differ = {name: (one_by_one(f) - ours).abs().mean().item()*255 for name, f in (('plain', plain), ('by_hand', by_hand))}
    times = {name: math.inf for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items(): times[name] = min(times[name], seconds(*job)*1e3)
    return times, differ


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--size', type=int, default=224, help='side of the images, px')
    parser.add_argument('--batch', type=int, default=200, help='images')
    parser.add_argument('--repeats', type=int, default=5, help='the shortest counts')
    parser.add_argument('--threads', type=int, default=2, help="torch's threads for the batched version")
    parser.add_argument('--out', type=Path, help='CSV file to append the rows to; without it nothing is written')
    args = parser.parse_args()
    times, differ = measure(args.size, args.batch, args.repeats, args.threads)
    print(f'{args.batch} images of {args.size} px, {args.threads} threads, shortest of {args.repeats}')
    for name, ms in times.items():
        note = f'{ms/times["batched"]:6.1f} x   differs by {differ[name]:.2f} grey levels' if name in differ else ''
        print(f'{name.replace("_", " "):8} {ms:8.1f} ms {note}')
    show(rows_of(times, args), args.out)


def rows_of(times, args):
    "The batched version, against each of the others."
    what = f'{args.batch} images of {args.size} px'
    return [row('augment', f'local_augment, {what}', times['batched'], 'ms', name.replace('_', ' ') + ', one thread',
                times[name]/times['batched'], '>= 10' if name == 'plain' and args.size == 224 else '', threads=args.threads)
            for name in ('plain', 'by_hand')]


if __name__ == '__main__': main()
