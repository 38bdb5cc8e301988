"""Is it the paper's training or its scoring that falls short? Local statistics on DLA's own maps.

    python benchmarks/own_maps.py                                        # MVTec AD, paper recipe
    python benchmarks/own_maps.py --categories bottle --preset quick     # what a CPU can do
    python benchmarks/own_maps.py --set heads=plain pairs=same           # another reading

The network is trained as the recipe says; its twin keeps the initial weights of the same seed. Of each
network the same test images are scored in these ways:

- Eq. 12, as the paper has it, and once more with the smoothing of LocalStats;
- local statistics of C2, of C3 and of C4, and the mean of the three maps.

Local statistics are LocalStats' own, with the stage in place of its filters: as many principal
components a position as LocalStats has features, the same mixture of local Gaussians, the same
choice of λ on held-out good images, the same smoothing.

Rows are appended to results/own_maps.csv, one for each category, recipe, seed, network and way.
"""
import argparse
import time
from pathlib import Path

import torch
from sklearn.decomposition import PCA
from torch.nn import functional as F

from dla_nb.core import seed_everything
from dla_nb.data import load_category, mvtec_path
from dla_nb.files import append_row, provenance, read_rows
from dla_nb.images import center_crop
from dla_nb.methods.dla import DLA, Untrained
from dla_nb.methods.local_stats import LocalStats, enlarged
from dla_nb.metrics import METRIC_NAMES
from rows import device_name, metrics_of

OUT = Path(__file__).parent.parent/'results'/'own_maps.csv'
KEY = ('category', 'recipe', 'seed', 'network', 'way')
STAGES = ('C2', 'C3', 'C4')


class StageStats(LocalStats):
    "LocalStats of a stage of a network, at that stage's one scale."
    def of(self, trunk, stage: int) -> 'StageStats':
        self.trunk = trunk
        self.stage = stage
        self.components = None
        return self

    def mixtures(self):
        return (self.fine,)

    def features(self, x):
        "The stage, (n,c,h,w); its principal components, (n,d,h,w), as soon as they are known."
        maps = self.trunk.trunk_maps(x)[self.stage].float()
        return maps if self.components is None else F.conv2d(maps, *self.components), None

    @torch.no_grad()
    def learn_filters(self, images, seed: int):
        "Principal components of the stage at random positions of good images."
        self.seed.fill_(seed)
        generator = torch.Generator().manual_seed(seed)
        rows, _ = self._sample(images, self.recipe.samples//2, 0, generator)
        pca = PCA(self.recipe.responses + self.recipe.energies, svd_solver='covariance_eigh').fit(rows.double().cpu().numpy())
        directions = torch.from_numpy(pca.components_)
        shift = -directions @ torch.from_numpy(pca.mean_)
        self.components = [t.float().to(self.device) for t in (directions[:, :, None, None], shift)]

    def forward(self, x):
        start, excess = self.tails[0]
        return (self._enlarged(self.fine(self.features(x)[0])) - start)/excess


def ways(method, images, test, seed: int, device) -> dict:
    "Way -> (maps of the test images (n,size,size), λ or None)."
    maps = method.score(test)
    recipe = LocalStats.presets['paper'].but(resize=method.recipe.resize, size=method.recipe.size)
    found = {'Eq. 12': (maps, None), 'Eq. 12, smoothed': (enlarged(maps, recipe.size, recipe.smoothing), None)}
    for i, stage in enumerate(STAGES):
        local = StageStats(recipe).of(method.trunk, i).fit(images, seed, device)
        found[f'local statistics of {stage}'] = (local.score(test), float(local.fine.weight))
    three = [maps for maps, _ in list(found.values())[-3:]]
    return found | {'local statistics, mean of the three': (torch.stack(three).mean(0), None)}


def has_rows(out: Path, category: str, recipe, seed: int) -> bool:
    rows = read_rows(out)
    if not len(rows): return False
    mine = (rows.category == category) & (rows.recipe == recipe.hash) & (rows.seed == seed)
    return mine.sum() == len(STAGES) + 3


def measure(category, recipe, seed: int, device: str, out: Path) -> None:
    "Both networks of a category. The untrained one has no heads or losses: readings share its rows."
    masks = center_crop(torch.as_tensor(category.masks), recipe.size)
    for network, kind in (('untrained', Untrained), ('trained', DLA)):
        begun = time.process_time()
        own = kind.Recipe.of(recipe)
        if has_rows(out, category.name, own, seed): continue
        seed_everything(seed)
        method = kind(own).fit(category.train, seed, device)
        images = method.prepare(category.train)
        for way, (maps, weight) in ways(method, images, method.prepare(category.test), seed, device).items():
            made = provenance()
            row = dict(category=category.name, recipe=own.hash, side=own.size, seed=seed, network=network, way=way)
            row |= metrics_of(maps, masks, category.labels)
            row |= dict(weight=weight, cpu_seconds=round(time.process_time() - begun), device=device_name(device),
                        commit=made['commit'] or 'unknown', date=made['date'])
            append_row(out, row, KEY)
            print(f"{category.name} {network} {way}: " + ' / '.join(str(row[m]) for m in METRIC_NAMES), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', type=Path, default=None, help='folder of categories (default: MVTec AD)')
    parser.add_argument('--categories', nargs='+', default=['bottle', 'pill', 'grid', 'capsule', 'transistor'])
    parser.add_argument('--preset', default='paper', help="one of DLA's")
    parser.add_argument('--set', nargs='+', default=[], metavar='FIELD=VALUE', help='change fields of the recipe')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--out', type=Path, default=OUT)
    args = parser.parse_args()
    recipe = DLA.preset(args.preset).set(args.set)
    for name in args.categories:
        measure(load_category(args.data or mvtec_path(), name, recipe.resize), recipe, args.seed, args.device, args.out)


if __name__ == '__main__':
    main()
