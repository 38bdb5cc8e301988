"""How long U-Student's students have to be trained, and on patches of which size, without test images.

    python benchmarks/student.py --category bottle --patches 33 --epochs 26 --at 6 10 18

Prints, and appends to --out where that is given, a row for each epoch of --at and for the end: how much of the teacher's
variance the students leave on the images that were held out, and the pixel AUROC on the same images with pseudo-anomalies.

    python benchmarks/student.py --category bottle --places MODEL

tells of a model file how far its scores depend on the place and on contrast, on test images (results/student_places.csv).
"""
import argparse
import time

import numpy as np
import torch
from fastai.callback.core import Callback
from scipy.stats import spearmanr
from torch.nn import functional as F

from dla_nb.data import load_category, mvtec_path
from dla_nb.detector import Detector
from dla_nb.files import append_row, provenance
from dla_nb.methods.student import UStudent
from dla_nb.metrics import auroc
from dla_nb.pseudo import corrupt

COLUMNS = ('category', 'patches', 'width', 'descriptor', 'epochs', 'epoch', 'left', 'pseudo_auroc', 'torch', 'commit', 'date')
PLACES = ('category', 'epochs', 'what', 'value')


def pseudo_set(images, recipe) -> tuple:
    "Held-out good images twice over, with pseudo-anomalies, and their masks."
    x = torch.from_numpy(np.ascontiguousarray(images[::recipe.held_out])).float()/255
    draw = torch.Generator().manual_seed(7)
    found = [corrupt(x, draw, role, role) for role in ('seen', 'unseen')]
    return torch.cat([x for x, _ in found]), torch.cat([masks for _, masks in found])


class Curve(Callback):
    "Rows at the end of some epochs."
    order = 80
    def __init__(self, method, category: str, images, at: list, out):
        self.method, self.category, self.images, self.at, self.out = method, category, images, at, out

    def after_epoch(self):
        r = self.method.recipe
        if self.epoch + 1 not in {*self.at, r.epochs}: return
        looked_at = UStudent(r)
        looked_at.net.load_state_dict(self.learn.model.state_dict())
        looked_at.measure(self.images)
        x, masks = pseudo_set(self.images, r)
        with torch.no_grad(): maps = torch.cat([looked_at.eval()(some) for some in x.split(16)])
        left = looked_at.error_mean.mean().item()/r.descriptor
        values = (self.category, '+'.join(map(str, r.patches)), r.width, r.descriptor, r.epochs, self.epoch + 1, round(left, 3),
                  round(100*auroc(maps, masks), 1), torch.__version__, provenance()['commit'], time.strftime('%Y-%m-%d'))
        row = dict(zip(COLUMNS, values))
        print(row, flush=True)
        if self.out: append_row(self.out, row, COLUMNS)


def places(path: str, category: str, out) -> None:
    "What is said of a model file's scores at each place: printed, and appended to a file where one is named."
    method = Detector.load(path).method
    data = load_category(mvtec_path(), category, method.recipe.resize, progress=False)
    normal = method.score(data.train[::5])
    maps = method.score(data.test)
    masks = np.asarray(data.masks)
    good = np.flatnonzero(~masks.any((1, 2)))
    grey = torch.from_numpy(np.ascontiguousarray(data.test[good])).float().mean(1, keepdim=True)/255
    grey = F.pad(grey, (16,)*4, mode='reflect')
    contrast = F.avg_pool2d(grey*grey, 33, 1) - F.avg_pool2d(grey, 33, 1)**2
    found = {
        'pixel AUROC %': round(100*auroc(maps, masks), 1),
        "pixel AUROC % minus the good images' mean at each place": round(100*auroc(maps - normal.mean(0), masks), 1),
        "share of the scores' variance on good images that is between places": round((normal.mean(0).var()/normal.var()).item(), 2),
        'rank correlation of score and contrast on good images': round(spearmanr(maps[good].flatten(), contrast.flatten())[0], 2),
    }
    for what, value in found.items():
        print(what, value)
        if out: append_row(out, dict(category=category, epochs=method.recipe.epochs, what=what, value=value), PLACES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--category', default='bottle')
    parser.add_argument('--preset', default='quick')
    parser.add_argument('--patches', type=int, nargs='+')
    parser.add_argument('--epochs', type=int)
    parser.add_argument('--at', type=int, nargs='*', default=[])
    parser.add_argument('--out', help='such as results/student.csv, or results/student_places.csv')
    parser.add_argument('--places', help='a model file: look at it instead')
    args = parser.parse_args()
    if args.places: return places(args.places, args.category, args.out)
    recipe = UStudent.preset(args.preset)
    if args.patches: recipe = recipe.but(patches=tuple(args.patches))
    if args.epochs: recipe = recipe.but(epochs=args.epochs)
    images = load_category(mvtec_path(), args.category, recipe.resize, progress=False).train
    method = UStudent(recipe)
    method.fit(images, seed=0, device='cpu', cbs=[Curve(method, args.category, images, args.at, args.out)])


if __name__ == '__main__':
    main()
