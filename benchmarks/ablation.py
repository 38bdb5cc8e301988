"""What each part of DLA+ is worth: every part taken away in turn.

    python benchmarks/ablation.py                                # MVTec AD, seed 0
    python benchmarks/ablation.py --categories bottle --seeds 0 1 2
    python benchmarks/ablation.py --data FOLDER --categories A --side 128
    python benchmarks/ablation.py --variants whole 'no *'        # only these, by name or pattern
    python benchmarks/ablation.py --list

Each variant is fitted to the first four fifths of the good images. It is scored on the test images,
and on the last fifth with pseudo-anomalies of shapes and sources that no variant is trained on:
that is the label-free score. Variants that need the same LocalStats share it.

Rows are appended to results/ablation.csv as they are measured, one for each set, side, variant and
seed; the same command goes on where it stopped. Delete rows where the code has changed.
"""
import argparse
import time
from fnmatch import fnmatch
from pathlib import Path

import torch

from dla_nb.core import BaseRecipe, seed_everything
from dla_nb.data import load_category, mvtec_path
from dla_nb.files import append_row, provenance, read_rows
from dla_nb.images import to_float
from dla_nb.methods.dla_plus import DLAPlus
from dla_nb.methods.local_stats import LocalStatsRecipe, _last_fifth
from dla_nb.metrics import METRIC_NAMES
from dla_nb.pseudo import SHAPES, SOURCES, corrupt, pseudo_names
from rows import device_name, metrics_of

OUT = Path(__file__).parent.parent/'results'/'ablation.csv'
KEY = ('set', 'side', 'variant', 'seed')


def recipe_of(side: int) -> BaseRecipe:
    "The default, with fewer corrupted images, and fewer Gaussians where images are small."
    default = DLAPlus.presets['default']
    small = dict(clusters=512, samples=100_000) if side < 100 else {}
    return default.but(resize=side, size=side, corrupted=512, **small)


def variants() -> dict:
    "Name -> (changes of the recipe, the part whose map is scored; None: the whole map)."
    shapes = pseudo_names(SHAPES, 'seen')
    sources = pseudo_names(SOURCES, 'seen')
    others = [name for name in sources if name != 'dynamic']
    found = {
        'whole': ({}, None),
        'LocalStats alone': ({}, 'local'),
        'network alone': ({}, 'network'),
        'sum weighs the network as much': (dict(few=0), None),
        'the network only adds': (dict(fusion='adds'), None),
    }
    changes = {
        'no reference place': dict(references='global image'),
        'no reference global': dict(references='place image'),
        'no reference image': dict(references='place global'),
        'lengths, no residuals': dict(inputs='lengths'),
        'gate, no vote': dict(network='gate'),
        'free network': dict(network='free'),
        'no cross-fitting': dict(cross_fit=False),
        'no masks': dict(labels='images'),
        'λ = 0': dict(lambdas=(0.,)),
        'λ = 30': dict(lambdas=(30.,)),
        'a quarter of the Gaussians': dict(clusters='a quarter'),
        "only the paper's augmentations, dynamic weights": dict(left_out=' '.join(others)),
        "only the paper's augmentations, drawn by weight": dict(left_out=' '.join(others), local='drawn'),
        "only the paper's augmentations, drawn at random": dict(left_out=' '.join(others), local='random'),
        "no paper's augmentations": dict(left_out='dynamic'),
        'one of the four, drawn by weight': dict(local='drawn'),
        'one of the four, drawn at random': dict(local='random'),
        'only rectangles': dict(left_out=' '.join(name for name in shapes if name != 'rectangle')),
    }
    for name in others:
        changes[f'no {name}'] = dict(left_out=name)
    return found | {name: (change, None) for name, change in changes.items()}


def fitted(recipe, images, seed: int, device, known: dict) -> DLAPlus:
    "A variant; LocalStats is taken from `known` where it was fitted before."
    method = DLAPlus(recipe).to(device)
    key = LocalStatsRecipe.of(recipe).hash
    measure = method.local.measure

    def once(images, progress=False):
        if key not in known:
            known[key] = measure(images, progress).state_dict()
        method.local.load_state_dict(known[key])
        method.local.version += 1
        return method.local

    method.local.measure = once
    return method.fit(images, seed, device)


def label_free_set(held, size: int) -> tuple:
    "Good images and corrupted copies, uint8, with masks and labels; the same for all variants."
    x = to_float(held, size)
    copies = x.repeat(40//len(x) + 1, 1, 1, 1)[:100]
    changed, masks = corrupt(copies, torch.Generator().manual_seed(0), 'unseen', 'unseen')
    images = torch.cat([x, changed]).mul(255).round().byte()
    masks = torch.cat([torch.zeros(len(x), *masks.shape[1:], dtype=torch.bool), masks])
    return images, masks, masks.any(2).any(1).long()


def measure(category, name: str, side: int, seed: int, wanted: dict, device, out: Path) -> None:
    "All variants of one set and seed."
    base = recipe_of(side)
    kept, held = _last_fifth(DLAPlus(base).prepare(category.train))
    free, free_masks, free_labels = label_free_set(held, side)
    known = {}
    methods = {}
    for variant, (changes, part) in wanted.items():
        if changes.get('clusters') == 'a quarter':
            changes = dict(clusters=base.clusters//4)
        recipe = base.but(**changes)
        trained = recipe.but(**{name: getattr(base, name) for name in DLAPlus.scoring_fields})
        begun = time.process_time()
        if trained not in methods:
            methods.clear()
            seed_everything(seed)
            methods[trained] = fitted(trained, kept, seed, device, known)
        method = methods[trained].rescored(recipe, kept) if recipe != trained else methods[trained]
        spent = time.process_time() - begun
        row = dict(set=name, side=side, variant=variant, seed=seed, recipe=recipe.hash)
        for kind, images, masks, labels in (('test', category.test, category.masks, category.labels),
                                            ('label_free', free, free_masks, free_labels)):
            maps = method.score_parts(images)[part] if part else method.score(images)
            found = metrics_of(maps, masks, labels)
            row |= {f'{kind}_{metric}': value for metric, value in found.items()}
        made = provenance()
        row |= dict(weight=float(method.local.fine.weight), cpu_seconds=round(spent), device=device_name(device),
                    commit=made['commit'] or 'unknown', date=made['date'])
        append_row(out, row, KEY)
        print(f"{name} {seed} {variant}: " + ' / '.join(str(row[f'test_{m}']) for m in METRIC_NAMES)
              + '; label-free ' + ' / '.join(str(row[f'label_free_{m}']) for m in METRIC_NAMES)
              + f'; {spent:.0f} s', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', type=Path, default=None, help='folder of categories (default: MVTec AD)')
    parser.add_argument('--categories', nargs='+', default=['bottle', 'pill', 'grid'])
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--side', type=int, default=64, help='px')
    parser.add_argument('--variants', nargs='+', default=['*'], help='names or patterns')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--out', type=Path, default=OUT)
    parser.add_argument('--list', action='store_true', help='the names of the variants')
    args = parser.parse_args()
    chosen = {name: how for name, how in variants().items() if any(fnmatch(name, p) for p in args.variants)}
    if not chosen:
        parser.error(f'--variants {" ".join(args.variants)}: no variant has such a name; see --list')
    if args.list:
        print('\n'.join(chosen))
        return
    root = args.data or mvtec_path()
    for seed in args.seeds:
        for name in args.categories:
            done = read_rows(args.out)
            if len(done):
                mine = done[(done['set'] == name) & (done.side == args.side) & (done.seed == seed)]
                done = set(mine.variant)
            wanted = {v: how for v, how in chosen.items() if v not in done}
            if wanted:
                category = load_category(root, name, args.side)
                measure(category, name, args.side, seed, wanted, args.device, args.out)


if __name__ == '__main__':
    main()
