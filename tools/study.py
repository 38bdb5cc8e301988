"""What does each reading, and each way to train, do? `python tools/study.py CATEGORY [NETWORK...]`, 5 to 10 minutes a network on a CPU core.

MVTec AD at 64 px (the preset `demo`, about 100 steps of 32 images), one good image of eight held out of training and of the
normal statistics. Rows are appended and what is there is not measured again:

- results/tuning.csv: a network under a scoring reading: pixel AUROC on held-out images with four kinds of made-up damage, and beside
  it, chosen by nothing, on the test images;
- results/dynamics.csv: what happens to the features while a network trains;
- results/gains.csv: how much of the differences is one factor an image;
- results/histograms.csv: scores of good and defective test pixels.

`--checkpoint FILE` scores a network of tools/cpu_runs.py that was kept with --keep. It has seen the held-out images in training."""
import argparse
import os
import sys
from hashlib import sha256
from pathlib import Path
from types import MethodType

import numpy as np
import torch
from fastai.callback.core import Callback
from scipy.stats import spearmanr
from torch import nn

from dla_nb.core import PRESETS, Recipe, mvtec_path
from dla_nb.data import center_crop, load_category
from dla_nb.detector import measure
from dla_nb.experiments import append_row, environment, hold_out, read_rows, save_recipe
from dla_nb.metrics import auroc
from dla_nb.model import DLANet, Encoded
from dla_nb.scoring import evaluating, image_batches, untrained, upsample
from dla_nb.training import CHECKPOINT_FORMAT, dla_learner, read_safetensors, to_float, train
from dla_nb.tuning import MAP_FIELDS, PSEUDO_KINDS, ScoredSets, pseudo_anomalies

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT/'results'
BASE = PRESETS['demo']
EPOCHS = dict(bottle=20, pill=14, grid=14)   # about 100 steps each
NETWORKS = {
    'untrained': {}, 'DLA': {}, 'no L_neg': dict(local='none'), 'LA': dict(local='la'), 'weak views': dict(views='weak'),
    'learning rate 0.005': dict(lr=.005), 'learning rate 0.1': dict(lr=.1), 'lambda_neg 0.1': dict(lambda_neg=.1), 'lambda_neg 1': dict(lambda_neg=1.),
    'lambda_dense 0.5': dict(lambda_dense=.5), 'pairs of the same image': dict(pairs='same'), 'no dropout in training': dict(train_dropout=False),
    'same image, no L_neg': dict(pairs='same', local='none'), 'same image, LA': dict(pairs='same', local='la'),
    'joint BatchNorm': {}, 'joint BatchNorm, LA': dict(local='la'), 'joint BatchNorm, same image': dict(pairs='same'),
    'batches of 16': dict(batch_size=16), 'untrained, layer2-4': dict(stages='layer2-4'), 'LA, mean': dict(local='la', static_la='mean'),
}
#: One at a time from each of the two readings of the features.
CHEAP = [dict(), dict(reduce='mean'), dict(combine='standardised'), dict(combine='standardised', alpha_uncertainty=1.),
         dict(alpha_uncertainty=0.), dict(alpha_uncertainty=1.), dict(alpha_regression=0., alpha_uncertainty=1.)]
DEAR = [dict(dropout=.3), dict(dropout=.5), dict(dropout_site='block'), dict(n_passes=20)]
STEPS = (0, 2, 5, 10, 20, 40, 70, 100, 150, 200, 300)
STAGES = ('c2', 'c3', 'c4')


def joint_forward(model, *inputs):
    "`DLANet.forward` in one pass: BatchNorm sees views, images and damaged images as one batch. No switch of the recipe."
    n, given = len(inputs[0]), [o for o in inputs if o is not None]
    whole = model.encode(torch.cat(given), model.with_dense)
    return tuple(Encoded(*(None if t is None else t[i*n:(i + 1)*n] for t in whole)) for i in range(len(given)))


def readings(thorough: bool) -> list:
    "Changes of scoring fields."
    found = []
    for features in ('raw', 'unit'):
        found += [dict(features=features, **c) for c in CHEAP]
        found += [dict(features=features, batch_stats='recomputed', **c) for c in CHEAP[:2]]
        if thorough: found += [dict(features=features, **c) for c in DEAR]
    return found


def identity(*parts) -> str: return sha256('|'.join(map(str, parts)).encode()).hexdigest()[:12]


def percent(v) -> float | str: return '' if v != v else round(100*float(v), 3)


class Study:
    "One network on one category."
    def __init__(self, category: str, network: str, recipe: Recipe, seed: int = 0, seen: bool = False):
        self.recipe, self.network, self.seed, self.seen = recipe, network, seed, seen
        self.category = load_category(mvtec_path(), category, recipe, progress=False)
        self.kept, self.held = hold_out(self.category.train)
        self.pseudo = {k: pseudo_anomalies(self.held, recipe, k) for k in PSEUDO_KINDS}
        self.masks = center_crop(np.asarray(self.category.masks), recipe.size) > 0
        self.key = dict(network=network, source=mvtec_path().name, category=category, seed=seed, size=recipe.size, seen='yes' if seen else 'no')

    def id(self, *parts): return identity(*self.key.values(), self.recipe.hash, *parts)

    def append(self, name, row): append_row(RESULTS/f'{name}.csv', row | environment('cpu'))

    def done(self, name, *parts):
        known = read_rows(RESULTS/f'{name}.csv')
        return len(known) and self.id(*parts) in set(known['id'])

    def readings(self, model, steps, changes, batch=False):
        "Rows of tuning.csv; `batch`: BatchNorm by the statistics of the batch at hand, as in training mode."
        made = {}
        for change in changes:
            asked = self.recipe.but(**change)
            name = 'batch' if batch else asked.batch_stats
            if self.done('tuning', asked.hash, name): continue
            key = tuple(getattr(asked, k) for k in MAP_FIELDS)
            if key not in made:
                made.clear()   # one at a time in memory
                made[key] = ScoredSets(model, self.kept, {'test': self.category.test} | {k: v.images for k, v in self.pseudo.items()}, asked, 'cpu')
            scores = made[key].under('test', asked)
            test = measure(scores.total, self.category, smooth=4*asked.size/224)
            save_recipe(asked, RESULTS/'recipes')
            self.append('tuning', dict(id=self.id(asked.hash, name), **self.key, steps=steps, recipe=asked.hash,
                **{k: getattr(asked, k) for k in ('features', 'reduce', 'combine', 'alpha_regression', 'alpha_uncertainty')}, batch_stats=name,
                **{k: getattr(asked, k) for k in ('dropout', 'dropout_site', 'n_passes')},
                **{f'label_free_{k}': percent(auroc(made[key].under(k, asked).total, v.masks)) for k, v in self.pseudo.items()},
                **{f'test_{k}': percent(test[k]) for k in ('pixel_auroc', 'image_auroc', 'aupro', 'pixel_auroc_smooth')},
                **{f'test_{k}': percent(measure(scores.stage(k), self.category)['pixel_auroc']) for k in scores.stages}))

    def maps(self, model, images):
        "Stage maps of uint8 images or of floats, all in memory."
        batches = image_batches(images, self.recipe, 64, 'cpu') if images.dtype in (torch.uint8, np.uint8) else images.split(64)
        with torch.no_grad(), evaluating(model): return [torch.cat(m) for m in zip(*(model.trunk_maps(x) for x in batches))]

    def snapshot(self, model, step, parts):
        "A row of dynamics.csv."
        if self.done('dynamics', step): return
        normal, held, test, pseudo = (self.maps(model, x) for x in (self.kept, self.held, self.category.test, self.pseudo['dla'].images))
        row = dict(id=self.id(step), **self.key, step=step, **{k: round(float(parts[k]), 4) if k in parts else '' for k in
              ('loss_global', 'loss_dense', 'loss_neg', 'spread_z', 'spread_c3')})
        for features in ('raw', 'unit', 'whitened'): row |= self.found(features, normal, test, pseudo)
        for name, a, b in zip(STAGES, normal, held): row |= self.geometry(name, a, b)
        self.append('dynamics', row)

    def found(self, features, normal, test, pseudo):
        "Pixel AUROC of Eq. 9 alone: each stage and the mean of the stages."
        unit = (lambda h: nn.functional.normalize(h, dim=1)) if features == 'unit' else (lambda h: h)
        stages = {}
        for name, a, t, p in zip(STAGES, normal, test, pseudo):
            mean, var = unit(a).mean(0), a.var(0, unbiased=False)
            weight = 1/(var + 1e-3*var.mean()) if features == 'whitened' else 1.
            stages[name] = [upsample(((unit(h) - mean).square()*weight).sum(1), self.recipe.size) for h in (t, p)]
        total = [sum(maps)/3 for maps in zip(*stages.values())]
        values = {f'{features}_test': auroc(total[0], self.masks), f'{features}_label_free': auroc(total[1], self.pseudo['dla'].masks)}
        return {k: percent(v) for k, v in (values | {f'{features}_{s}_test': auroc(m[0], self.masks) for s, m in stages.items()}).items()}

    def geometry(self, name, normal, held):
        "Scale, spread over directions and what the score of a good pixel follows, on held-out good images."
        mean, energy = normal.mean(0), held.square().sum(1)
        residual = held - mean
        values = torch.linalg.eigvalsh(torch.cov(residual.transpose(0, 1).flatten(1).double())).clamp_min(0).flip(0)
        share = values/values.sum()
        entropy = -(share*share.clamp_min(1e-12).log()).sum()
        distance = residual.square().sum(1)
        numbers = dict(energy=energy.mean(), residual=distance.mean()/energy.mean(), rank=entropy.exp(), top=share[0],
                       uneven=energy.flatten().quantile(.99)/energy.median(), follows_energy=spearmanr(distance.flatten(), energy.flatten())[0])
        return {f'{k}_{name}': float(f'{float(v):.5g}') for k, v in numbers.items()}

    def gain(self, model, steps):
        "A row of gains.csv: how much of a good image's difference from the mean map is one factor on the whole image."
        if self.done('gains', steps): return
        normal, held, test = (self.maps(model, x) for x in (self.kept, self.held, self.category.test))
        row, plain, level = dict(id=self.id(steps), **self.key, steps=steps, pairs=self.recipe.pairs), [], []
        for name, a, b, t in zip(STAGES, normal, held, test):
            mean = a.mean(0)
            factor = lambda h: ((h*mean).flatten(1).sum(1)/mean.square().sum())[:, None, None, None]
            residual, left = b - mean, b - factor(b)*mean
            row[f'explained_{name}'] = round(float(1 - left.square().sum()/residual.square().sum()), 4)
            row[f'factor_sd_{name}'] = round(float(factor(b).std()), 4)
            for maps, h in ((plain, t), (level, t/factor(t))): maps.append(upsample((h - mean).square().sum(1), self.recipe.size))
        row |= dict(raw_test=percent(auroc(sum(plain)/3, self.masks)), raw_without_factor_test=percent(auroc(sum(level)/3, self.masks)))
        self.append('gains', row)

    def histogram(self, model, steps, bins=np.linspace(-2, 3, 51)):
        "Rows of histograms.csv: shares of pixels per bin of log10(score / median score of good test pixels)."
        for features in ('raw', 'unit'):
            if self.done('histograms', features, steps): continue
            unit = (lambda h: nn.functional.normalize(h, dim=1)) if features == 'unit' else (lambda h: h)
            pairs = zip(self.maps(model, self.kept), self.maps(model, self.category.test))
            score = (sum(upsample((unit(t) - unit(a).mean(0)).square().sum(1), self.recipe.size) for a, t in pairs)/3).numpy()
            middle = np.median(score[~self.masks])
            for what, pixels in (('good', score[~self.masks]), ('defective', score[self.masks])):
                share = np.histogram(np.log10(pixels/middle).clip(bins[0], bins[-1] - 1e-9), bins)[0]/len(pixels)
                row = dict(id=self.id(features, steps) if what == 'defective' else self.id(features, steps, what), **self.key, steps=steps, features=features, pixels=what)
                self.append('histograms', row | {f'{b:.1f}': round(float(s), 5) for b, s in zip(bins, share)})


class Snapshots(Callback):
    "A row of dynamics.csv after some of the steps. Draws nothing."
    run_valid, order = False, 30
    def __init__(self, study): self.study = study
    def after_batch(self):
        if self.train_iter in STEPS[1:]: self.study.snapshot(self.model, self.train_iter, self.loss_func.parts | self.collapse_monitor.last)


def measure_network(category: str, network: str, thorough: bool, epochs: int | None, seed: int) -> None:
    recipe = BASE.but(epochs=epochs or EPOCHS.get(category, 20)).but(**NETWORKS[network])
    study = Study(category, network if not epochs else f'{network}, {epochs} epochs', recipe, seed)
    wanted = readings(thorough)
    if all(study.done('tuning', recipe.but(**c).hash, recipe.but(**c).batch_stats) for c in wanted): return
    model, steps = untrained(recipe, seed), 0
    if not network.startswith('untrained'):
        learn = dla_learner(study.kept, recipe, seed, 'cpu', cbs=[Snapshots(study)])
        study.snapshot(learn.model, 0, {})
        if network.startswith('joint'): learn.model.forward = MethodType(joint_forward, learn.model)
        checkpoint = ROOT/'runs'/f'study-{study.id()}.checkpoint'
        model, steps = train(learn, checkpoint).model, len(learn.dls.train)*recipe.epochs
        checkpoint.unlink(missing_ok=True)
    model.__dict__.pop('forward', None)
    study.gain(model, steps)
    study.readings(model, steps, wanted)
    if network in ('untrained', 'DLA'):
        study.histogram(model, steps)
        plain = nn.Module.eval(model)
        for m in plain.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm): m.running_mean = m.running_var = None
        study.readings(plain, steps, [dict(features=f) for f in ('raw', 'unit')], batch=True)
    print(category, study.network, 'done', flush=True)


def measure_checkpoint(category: str, path: Path, thorough: bool, gain_only: bool = False) -> None:
    tensors, header = read_safetensors(path, CHECKPOINT_FORMAT)
    recipe = Recipe.from_json(header['recipe'])
    model = DLANet(recipe)
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith('model.')})
    study = Study(category, {'dla': 'DLA', 'la': 'LA', 'none': 'no L_neg'}[recipe.local], recipe, header['seed'], seen=True)
    names = ('train_loss', 'loss_global', 'loss_dense', 'loss_neg', 'spread_z', 'spread_c3')
    last = {k: v for k, v in zip(names, header['recorder']['values'][-1]) if v is not None}
    study.gain(model.eval(), header['train_iter'])
    if gain_only: return
    study.snapshot(model, header['train_iter'], last)
    study.histogram(model, header['train_iter'])
    few = [dict(features=f, **c) for f in ('raw', 'unit') for c in CHEAP if 'combine' not in c]   # those cost a second pass over the images
    study.readings(model, header['train_iter'], readings(True) if thorough else few)
    print(category, study.network, path.name, 'done', flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('category')
    parser.add_argument('network', nargs='*', default=['untrained', 'DLA'], help=', '.join(NETWORKS))
    parser.add_argument('--thorough', action='store_true', help='also the readings that run the network again')
    parser.add_argument('--epochs', type=int, help='instead of about 100 steps')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--checkpoint', type=Path)
    parser.add_argument('--gain', action='store_true', help='of the checkpoint only the row of results/gains.csv')
    args = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    if mvtec_path() is None: sys.exit('MVTec AD is not here: set DLA_DATA to its folder')
    if args.checkpoint: measure_checkpoint(args.category, args.checkpoint, args.thorough, args.gain)
    else:
        for name in args.network: measure_network(args.category, name, args.thorough, args.epochs, args.seed)
