"""Where does which local augmentation count? `python tools/weights.py [CATEGORY...]`, a minute a category on a CPU.

Eq. 4 and 5 on the good images of MVTec AD at the paper's size: for random regions, the change that each augmentation makes and
its weight. Means over a grid of places, by the region's centre, are appended to results/weights.csv."""
import os
import sys
from pathlib import Path

import numpy as np
import torch

from dla_nb.augment import LOCAL_AUGMENTATIONS, local_candidates, random_regions, shares
from dla_nb.core import Recipe, mvtec_path
from dla_nb.data import load_category
from dla_nb.experiments import append_row, environment, save_recipe
from dla_nb.training import to_float

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT/'results'
PLACES, DRAWS, RECIPE = 6, 12, Recipe()


def draws(images) -> tuple:
    "(centres (n,2) in [0,1], change inside the region (n,4), weights (n,4)) over random regions of all images."
    g, found = torch.Generator().manual_seed(0), []
    for _ in range(DRAWS):
        for part in np.array_split(np.arange(len(images)), -(-len(images)//16)):
            x = to_float(torch.as_tensor(np.asarray(images[part])), RECIPE.size)
            regions = random_regions(len(x), RECIPE.size, RECIPE.size, RECIPE, g)
            candidates = local_candidates(x, regions, RECIPE, g)
            d = (candidates - x).square().mean((2, 3, 4))*RECIPE.size**2/(regions.height*regions.width)
            centre = torch.stack([regions.top + regions.height/2, regions.left + regions.width/2], 1)/RECIPE.size
            found.append((centre, d.T, shares(d).T))
    return tuple(torch.cat(t) for t in zip(*found))


def main(categories: list) -> None:
    os.chdir(ROOT)
    torch.set_num_threads(1)
    source = mvtec_path()
    if source is None: sys.exit('MVTec AD is not here: set DLA_DATA to its folder')
    save_recipe(RECIPE, RESULTS/'recipes')
    for name in categories:
        centre, change, weight = draws(load_category(source, name, RECIPE, progress=False).train)
        place = (centre*PLACES).long().clamp(0, PLACES - 1)
        for r in range(PLACES):
            for c in range(PLACES):
                here = (place == torch.tensor([r, c])).all(1)
                values = {f'{what}_{k}': round(float(v), 6) if here.any() else '' for what, t in (('change', change), ('weight', weight))
                          for k, v in zip(LOCAL_AUGMENTATIONS, t[here].mean(0))}
                append_row(RESULTS/'weights.csv', dict(id=f'{source.name}-{name}-{RECIPE.hash}-{r}-{c}', source=source.name, category=name,
                           recipe=RECIPE.hash, places=PLACES, place_row=r, place_col=c, regions=int(here.sum()), **values,
                           largest_weight=round(float(weight[here].max(1).values.mean()), 6) if here.any() else '', **environment('cpu')))
        print(name, dict(zip(LOCAL_AUGMENTATIONS, weight.mean(0).tolist())), 'sd', weight.std(0).tolist(), flush=True)


if __name__ == '__main__': main(sys.argv[1:] or ['bottle', 'pill', 'grid'])
