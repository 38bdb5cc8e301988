"""Does L_neg push images and their corrupted copies apart, and is the score better for it?

    python benchmarks/separation.py                              # bottle, 64 px, 600 steps of 32
    python benchmarks/separation.py --variants 'plain*'          # only these, by name or pattern
    python benchmarks/separation.py --category grid --side 112
    python benchmarks/separation.py --list

A variant says which heads, which pairs, which local augmentation and which weight L_neg has; the rest
is the paper's. At some steps of the training the network is frozen and looked at:

- the losses of that batch, as training sees them;
- cosines of prediction and projection on held-out good images, BatchNorm as in scoring: of two views
  of an image, of an image and its corrupted copy, of two different images;
- the label-free score: pixel AUROC on held-out images and corrupted copies (`dla` is what L_neg
  trains on, `stroke` is not), with Eq. 9 raw and on unit vectors;
- the score on the test images, at the last step only. It chooses nothing.

Rows are appended to results/separation.csv, one for each variant, seed and step; the same command goes
on with the variants that have no last step yet.
"""
import argparse
import time
from fnmatch import fnmatch
from pathlib import Path

import torch
from fastai.callback.core import Callback
from torch.nn import functional as F

from dla_nb.augment import global_view, local_augment
from dla_nb.data import load_category, mvtec_path
from dla_nb.files import append_row, provenance, read_rows
from dla_nb.images import center_crop, to_float
from dla_nb.methods.dla import DLA
from dla_nb.metrics import evaluate
from dla_nb.tuning import hold_out, label_free_score
from rows import device_name

OUT = Path(__file__).parent.parent/'results'/'separation.csv'
KEY = ('category', 'side', 'variant', 'seed', 'step')
STEPS = (0, 10, 30, 60, 120, 240, 400, 600, 1000)
BATCH = 32


def variants() -> dict:
    "Name -> changes of the recipe."
    found = {}
    for heads in ('plain', 'no_last_bn', 'simsiam'):
        for pairs in ('same', 'all'):
            name = f'{heads} heads, {pairs} pairs'
            which = dict(heads=heads, pairs=pairs)
            found[f'{name}, DLA'] = which
            found[f'{name}, no L_neg'] = which | dict(local='none')
            found[f'{name}, LA'] = which | dict(local='la')
            found[f'{name}, DLA, λ_neg 2'] = which | dict(lambda_neg=2.)
            found[f'{name}, DLA, λ_neg 8'] = which | dict(lambda_neg=8.)
            found[f'{name}, DLA, rate .1'] = which | dict(lr=.1)
            found[f'{name}, DLA, no L_dense'] = which | dict(lambda_dense=0.)
    return found


def recipe_of(side: int, steps: int, n_images: int, changes: dict):
    "The paper's recipe at another size, over at least so many steps."
    per_epoch = max(1, n_images//BATCH)
    ratio = side/224
    size = dict(size=side, resize=round(side*256/224), region_min=round(50*ratio), region_max=round(128*ratio))
    return DLA.presets['paper'].but(epochs=-(-steps//per_epoch), batch_size=BATCH, n_passes=5, **size, **changes)


@torch.no_grad()
def cosines(net, x, recipe) -> dict:
    "Of predictions and projections, in evaluation mode; the same views and corruptions each time."
    generator = torch.Generator(x.device).manual_seed(0)
    v1 = net.encode(global_view(x, recipe, generator), False)
    v2 = net.encode(global_view(x, recipe, generator), False)
    bad = net.encode(local_augment(x, recipe.but(local='dla'), generator).image, False, 'neg')
    good = net.encode(x, False, 'neg')
    table = F.normalize(good.p, dim=1) @ F.normalize(good.z, dim=1).T
    others = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    return dict(cosine_views=F.cosine_similarity(v1.p, v2.z).mean(),
                cosine_corrupted=F.cosine_similarity(good.p, bad.z).mean(),
                cosine_others=table[others].mean())


class Look(Callback):
    "Measures the network after some of the steps."
    order = 90

    def __init__(self, method, images, held, steps: int, write):
        self.method = method
        self.images = images
        self.held = held
        self.steps = steps
        self.write = write
        self.step = 0

    def before_batch(self):
        if self.step == 0 and self.training: self.look(0)

    def after_batch(self):
        self.step += 1
        if self.step in STEPS or self.step == self.steps: self.look(self.step)

    def look(self, step: int):
        with torch.random.fork_rng():
            self._look(step)

    def _look(self, step: int):
        self.learn.model.eval()
        recipe = self.method.recipe
        row = {name: float(value) for name, value in self.learn.loss_func.parts.items()} if step else {}
        x = to_float(self.method.prepare(self.held), recipe.size, self.method.device)
        row |= {name: round(float(value), 4) for name, value in cosines(self.learn.model, x, recipe).items()}
        for features in ('raw', 'unit'):
            scored = self.method.rescored(recipe.but(features=features), self.images)
            found = label_free_score(scored, self.held, ('dla', 'stroke'))
            row |= {f'label_free_{kind}_{features}': round(100*value, 3) for kind, value in found.items()}
        self.write(step, row)
        self.learn.model.train()


def measure(category, variant: str, changes: dict, side: int, steps: int, seed: int, device: str, out: Path):
    "One training, its looks, and the test score of its end."
    kept, held = hold_out(category.train)
    recipe = recipe_of(side, steps, len(kept), changes)
    method = DLA(recipe)
    images = method.prepare(kept)
    masks = center_crop(torch.as_tensor(category.masks), side)
    total = recipe.epochs*max(1, len(images)//BATCH)   # whole epochs
    begun = time.process_time()

    def write(step: int, row: dict):
        made = provenance()
        last = step == total
        if last:
            for features in ('raw', 'unit'):
                scored = method.rescored(recipe.but(features=features), images)
                found = evaluate(scored.score(category.test), masks, category.labels)
                row |= {f'test_{name}_{features}': round(100*value, 3) for name, value in found.items()
                        if name in ('pixel_auroc', 'aupro')}
        key = dict(category=category.name, side=side, variant=variant, seed=seed, step=step)
        empty = dict.fromkeys(COLUMNS)
        row = empty | key | row | dict(last=last, recipe=recipe.hash, cpu_seconds=round(time.process_time() - begun),
                                       device=device_name(device), commit=made['commit'] or 'unknown', date=made['date'])
        append_row(out, row, KEY)
        shown = {name: value for name, value in row.items() if isinstance(value, float)}
        print(variant, step, ' '.join(f'{name} {value:.3f}' for name, value in shown.items()), flush=True)

    look = Look(method, images, held, total, write)
    learn = method.learner(images, seed, device, [look])
    with learn.no_bar(), learn.no_logging():
        learn.fit(recipe.epochs)


COLUMNS = (*KEY, 'last', 'recipe', 'loss_global', 'loss_dense', 'loss_neg', 'cosine_views', 'cosine_corrupted', 'cosine_others',
           *(f'label_free_{kind}_{features}' for features in ('raw', 'unit') for kind in ('dla', 'stroke')),
           *(f'test_{name}_{features}' for features in ('raw', 'unit') for name in ('pixel_auroc', 'aupro')),
           'cpu_seconds', 'device', 'commit', 'date')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', type=Path, default=None, help='folder of categories (default: MVTec AD)')
    parser.add_argument('--category', default='bottle')
    parser.add_argument('--side', type=int, default=64, help='px')
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--variants', nargs='+', default=['*'], help='names or patterns')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--out', type=Path, default=OUT)
    parser.add_argument('--list', action='store_true', help='only say what there is')
    args = parser.parse_args()
    wanted = {name: change for name, change in variants().items() if any(fnmatch(name, p) for p in args.variants)}
    if not wanted: parser.error(f'no variant is called {" or ".join(args.variants)}; --list shows them')
    if args.list: return print('\n'.join(wanted))
    size = recipe_of(args.side, 1, BATCH, {}).resize
    category = load_category(args.data or mvtec_path(), args.category, size)
    rows = read_rows(args.out)
    done = set()
    if len(rows):
        ended = rows[rows['last'].astype(str) == 'True']
        done = set(zip(ended.category, ended.side, ended.variant, ended.seed))
    for seed in args.seeds:
        for variant, changes in wanted.items():
            if (args.category, args.side, variant, seed) not in done:
                measure(category, variant, changes, args.side, args.steps, seed, args.device, args.out)


if __name__ == '__main__':
    main()
