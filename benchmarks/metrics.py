"""How fast the exact metrics are: `evaluate` against scikit-learn's AUROC alone and an AUPRO that loops over thresholds.

    python benchmarks/metrics.py                              # prints seconds and ratios, about two minutes on two cores
    python benchmarks/metrics.py --out results/benchmarks.csv  # also appends the rows to the file

All contenders get the same drawn maps and take turns, `repeats` times; the fastest of each counts. `evaluate` is timed
as a whole: checks, image AUROC and the labelling of regions included. The loop comes in two forms: regions labelled
once, beforehand (the kindest), and anew at every threshold (as it is usually written, and what the target speaks of).
"""
from time import perf_counter

import numpy as np
from fastcore.script import call_parse
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from dla_nb.metrics import evaluate
from rows import row, show


def draw(n, side, seed=0):
    "n maps like squared distances of features at 1/8 of the resolution; three quarters with one to three elliptic defects."
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    masks = np.zeros((n, side, side), np.uint8)
    for i in range(n*3//4):
        for _ in range(rng.integers(1, 4)):
            centre, radius = rng.uniform(.1, .9, 2)*side, rng.uniform(.02, .18, 2)*side
            masks[i][((y - centre[0])/radius[0])**2 + ((x - centre[1])/radius[1])**2 < 1] = 255
    coarse = rng.standard_normal((n, -(-side//8), -(-side//8)))
    maps = np.stack([ndimage.zoom(c, 8, order=1)[:side, :side] for c in coarse])
    maps += rng.uniform(0, 2, (n, 1, 1))*(masks > 0) + .1*rng.standard_normal(masks.shape)
    return np.exp(maps).astype('float32'), masks


def regions_of(masks):
    "Each 8-connected region as its image and its pixels within it."
    for i, mask in enumerate(masks):
        labels, n = ndimage.label(mask, np.ones((3, 3)))
        for r in range(1, n + 1): yield i, labels == r


def loop_aupro(maps, masks, thresholds=200, limit=.3, label_each=False):
    "AUPRO as it is commonly computed: equally spaced thresholds, not exact."
    good, regions, curve = masks == 0, list(regions_of(masks)), [(0., 0.)]
    n_good, inside = good.sum(), [np.nonzero(region) for _, region in regions]
    for threshold in np.linspace(maps.max(), maps.min(), thresholds):
        hit = maps >= threshold
        if label_each: overlap = [hit[i][region].mean() for i, region in regions_of(masks)]
        else: overlap = [hit[i][at].mean() for (i, _), at in zip(regions, inside)]
        curve.append((np.count_nonzero(hit & good)/n_good, np.mean(overlap)))
    fpr, pro = np.array(curve).T
    x = np.append(fpr[fpr <= limit], limit)
    y = np.append(pro[fpr <= limit], np.interp(limit, fpr, pro))
    return (np.diff(x)*(y[1:] + y[:-1])/2).sum()/limit


def race(contenders, repeats):
    "Fastest seconds and the result of each; they take turns, so that a busy moment hits all alike."
    seconds, results = dict.fromkeys(contenders, np.inf), {}
    for _ in range(repeats):
        for name, run in contenders.items():
            start = perf_counter()
            results[name] = run()
            seconds[name] = min(seconds[name], perf_counter() - start)
    return seconds, results


@call_parse
def main(
    maps:int=160,     # number of maps
    side:int=224,     # pixels per side
    thresholds:int=200, # of the loop
    repeats:int=3,    # turns of each contender
    out:str='',       # CSV file to append the rows to; nothing is written without it
):
    "Time exact metrics against the usual ways, on the same drawn maps."
    scores, masks = draw(maps, side)
    seconds, results = race({
        'evaluate': lambda: evaluate(scores, masks),
        'sklearn': lambda: roc_auc_score(masks.ravel() > 0, scores.ravel()),
        'loop': lambda: loop_aupro(scores, masks, thresholds),
        'loop_label_each': lambda: loop_aupro(scores, masks, thresholds, label_each=True)}, repeats)
    exact = results['evaluate']
    print(f'{exact["n_pixels"]:,} pixels, {exact["n_defective_pixels"]:,} defective, {exact["n_regions"]} regions; fastest of {repeats}')
    print(f'evaluate: pixel AUROC, image AUROC and AUPRO   {seconds["evaluate"]:7.3f} s')
    for name, what in (('sklearn', 'scikit-learn: pixel AUROC alone'), ('loop', f'AUPRO, {thresholds} thresholds, labelled once'),
                       ('loop_label_each', f'AUPRO, {thresholds} thresholds, labelled each time')):
        print(f'{what:46} {seconds[name]:7.3f} s   evaluate is {seconds[name]/seconds["evaluate"]:5.1f} times as fast')
    print(f'AUROC minus scikit-learn\'s: {exact["pixel_auroc"] - results["sklearn"]:+.1e}; '
          f'AUPRO: exact {exact["aupro"]:.4f}, loop {results["loop"]:.4f}')
    what = f'evaluate, {exact["n_pixels"]/1e6:.1f} M pixels'
    targets = dict(sklearn='>= 5', loop_label_each='>= 10')
    names = dict(sklearn="scikit-learn's AUROC alone", loop=f'AUPRO at {thresholds} thresholds, regions labelled once',
                 loop_label_each=f'AUPRO at {thresholds} thresholds, labelled at each')
    show([row('metrics', what, seconds['evaluate'], 's', name, seconds[key]/seconds['evaluate'], targets.get(key, ''))
          for key, name in names.items()], out)
