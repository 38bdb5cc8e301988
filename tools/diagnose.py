"""Why does training not help more? `python tools/diagnose.py [CATEGORY...]`, minutes a category on a CPU.

MVTec AD at 64 px, one image of eight held out. For each way to train (and no training) and each way to score: the
label-free score on held-out images with pseudo-anomalies, and beside it, chosen by nothing, the test score. Rows are
appended to results/label_free.csv."""
import os
import sys
from pathlib import Path

from dla_nb.core import PRESETS, mvtec_path
from dla_nb.data import load_category
from dla_nb.detector import DLADetector, measure
from dla_nb.experiments import Run, append_row, environment, hold_out, label_free_score, pending, save_recipe
from dla_nb.scoring import untrained
from dla_nb.training import dla_learner, train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT/'results'/'label_free.csv'
BASE = PRESETS['demo']
TRAININGS = {'untrained': {}, 'DLA': {}, 'no L_neg': dict(local='none'), 'weak views': dict(views='weak'),
             'LA': dict(local='la'), 'pairs of the same image': dict(pairs='same')}
SCORINGS = [dict(features=f, batch_stats=b, reduce='sum') for f in ('raw', 'unit') for b in ('running', 'recomputed')]


def trained(name: str, recipe, images):
    "A network, its last and its untrained spread of C3."
    if name == 'untrained': return untrained(recipe, 0), {}
    learn = train(dla_learner(images, recipe, 0, 'cpu'))
    last = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1]))
    return learn.model, {k: last[k] for k in ('loss_global', 'loss_dense', 'loss_neg', 'spread_z', 'spread_c3')} | {
        'spread_c3_untrained': float(learn.collapse_monitor.reference['spread_c3'])}


def norms(stats) -> dict:
    "Mean squared length of the mean maps, per stage: their weight in Eq. 9."
    return {f'energy_c{i}': round(float(m.square().sum(0).mean()), 3) for i, m in enumerate(stats.mean, 2)}


def main(categories: list) -> None:
    os.chdir(ROOT)
    source = mvtec_path()
    if source is None: sys.exit('MVTec AD is not here: set DLA_DATA to its folder')
    for name in categories:
        category = load_category(source, name, BASE, progress=False)
        images, held = hold_out(category.train)
        for row, changes in TRAININGS.items():
            runs = [Run(row, source.name, name, 0, BASE.but(**changes, **s)) for s in SCORINGS]
            if not pending(runs, RESULTS): continue
            model, recorded = trained(row, BASE.but(**changes), images)
            start = {k: v.clone() for k, v in model.state_dict().items()}
            for run in runs:
                model.load_state_dict(start)
                detector = DLADetector.from_model(model, images, run.recipe, 'cpu')
                scores = dict(label_free=label_free_score(detector, held), test=measure(detector.score(category.test).total, category))
                save_recipe(run.recipe, ROOT/'results'/'recipes')
                append_row(RESULTS, dict(id=run.id, row=row, source=source.name, category=name, seed=0, recipe=run.recipe.hash,
                           **{k: getattr(run.recipe, k) for k in SCORINGS[0]},
                           **{f'{k}_pixel_auroc': round(100*m['pixel_auroc'], 3) for k, m in scores.items()}, **norms(detector.stats),
                           **{k: round(recorded[k], 4) if recorded.get(k) is not None else '' for k in ('loss_global', 'loss_dense', 'loss_neg', 'spread_z',
                              'spread_c3', 'spread_c3_untrained')}, **environment('cpu')))
            print(name, row, 'done', flush=True)


if __name__ == '__main__': main(sys.argv[1:] or ['bottle', 'pill', 'grid'])
