"""The runs on real images that two CPU cores can afford: `python tools/cpu_runs.py [--preset quick] [--steps N] [CATEGORY...]`.

MVTec AD at 64 px (the preset `demo` with 40 epochs, 16 for grid; or another preset as it is, or with about N steps of 32
images), rows of Table 2 with the two controls, one seed, scored as printed and under the readings that need no other training.
Rows are appended to results/runs.csv; what is there is not run again, and a run that was stopped goes on from its checkpoint
in runs/."""
import argparse
import os
import sys
from pathlib import Path

from dla_nb.core import PRESETS, mvtec_path
from dla_nb.data import load_category
from dla_nb.experiments import TABLE_ROWS, Run, append_row, control_rows, measure_run, pending, save_recipe, table_runs

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT/'results'/'runs.csv'
EPOCHS = dict(bottle=40, pill=40, grid=16)   # grid has the most steps an epoch
READINGS = [dict(features='unit'), dict(batch_stats='recomputed'), dict(features='unit', batch_stats='recomputed')]


def recipe_for(name: str, args):
    "The preset, or its short version for the category."
    if not args.preset: return PRESETS['demo'].but(epochs=EPOCHS.get(name, 40))
    recipe = PRESETS[args.preset]
    if not args.steps: return recipe
    images = len(load_category(mvtec_path(), name, recipe, progress=False).train)
    return recipe.but(batch_size=32, epochs=max(1, round(args.steps/max(1, images//32))))


def main(categories: list, recipe, rows: list = ('DLA',), seed: int = 0, keep: bool = False) -> None:
    os.chdir(ROOT)
    source = mvtec_path()
    if source is None: sys.exit('MVTec AD is not here: set DLA_DATA to its folder')
    for run in pending(table_runs(recipe, source.name, categories, rows, seeds=[seed]), RESULTS):
        category = load_category(source, run.category, recipe, progress=False)
        print(f'{run.row} on {category!r}', flush=True)
        checkpoint = ROOT/'runs'/f'{run.id}.checkpoint'
        rows = measure_run(run, category, READINGS, checkpoint=checkpoint, progress=sys.stderr.isatty())
        recipes = [run.recipe.but(**change) for change in ({}, *READINGS)]
        for row, scored in reversed(list(zip(rows, recipes))): add(row, scored)   # the run's own row last: it says that all is there
        if not keep: checkpoint.unlink(missing_ok=True)
    for name in categories:
        for change in ({}, dict(features='unit')):
            scored = recipe.but(**change)
            if not pending([Run('untrained', source.name, name, seed, scored)], RESULTS): continue
            for row in control_rows(source.name, load_category(source, name, recipe, progress=False), scored, seed): add(row, scored)


def add(row: dict, recipe) -> None:
    save_recipe(recipe, ROOT/'results'/'recipes')
    append_row(RESULTS, row)
    print({k: row[k] for k in ('row', 'category', 'recipe', 'pixel_auroc', 'image_auroc', 'aupro')}, flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('category', nargs='*', default=['bottle', 'pill', 'grid'])
    parser.add_argument('--preset', choices=list(PRESETS), help='default: demo with more epochs')
    parser.add_argument('--rows', nargs='+', default=['DLA'], choices=list(TABLE_ROWS), help='of Table 2')
    parser.add_argument('--steps', type=int, help='batches of 32, as many epochs as come nearest to so many steps')
    parser.add_argument('--keep', action='store_true', help='leave the last checkpoint in runs/, for tools/study.py --checkpoint')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    args = parser.parse_args()
    for seed in args.seeds:
        for name in args.category: main([name], recipe_for(name, args), args.rows, seed, args.keep)
