"""nbs/images/method.png: what the method does, in one picture: `python tools/method_picture.py`.

A gear of the drawn data set, its views and its locally augmented copy, a really trained detector (64 px, a minute on a
CPU) and the anomaly map of a defective gear."""
import tempfile
from pathlib import Path

import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle

from dla_nb.augment import LOCAL_AUGMENTATIONS, global_view, local_augment
from dla_nb.core import PRESETS
from dla_nb.data import load_category
from dla_nb.detector import DLADetector
from dla_nb.plots import map_limits, overlay, to_hwc
from dla_nb.training import to_float

OUT = Path(__file__).resolve().parent.parent/'nbs'/'images'/'method.png'
CATEGORY, KIND = 'weave', 'hole'


def scene(folder: Path):
    "The panels of both rows: (image, title, colour of the frame)."
    from dla_nb.toy import make_toy
    recipe = PRESETS['demo']
    parts = load_category(make_toy(folder/'toy', categories=[CATEGORY], n_good=2, n_defect=2), recipe=recipe, cache_dir=folder, progress=False)
    x, g = to_float(torch.as_tensor(parts.train[:1]), recipe.size), torch.Generator().manual_seed(3)
    views = [global_view(x, recipe, g) for _ in range(2)]
    sample = local_augment(x, recipe, g)
    weights = ', '.join(f'{name.replace("_", " ")} {w:.2f}' for name, w in zip(LOCAL_AUGMENTATIONS, sample.weights[:, 0].tolist()))
    detector = DLADetector.fit(parts, recipe=recipe, device='cpu')
    maps = detector.score(parts.test).total
    i = parts.defects.index(KIND)
    test = to_float(torch.as_tensor(parts.test[i:i+1]), recipe.size)[0]
    heat = plt.get_cmap('inferno')((maps[i].numpy() - map_limits(maps)[0])/(map_limits(maps)[1] - map_limits(maps)[0]))[..., :3]
    learn = [(to_hwc(views[0][0]), "view  t(x)", 'tab:blue'), (to_hwc(views[1][0]), "view  t'(x)", 'tab:blue'),
             (to_hwc(x[0]), 'good image  x', 'grey'), (to_hwc(sample.image[0]), 'damaged copy  t_local(x)', 'tab:red')]
    inspect = [(to_hwc(test), 'new image', 'grey'), (heat, 'anomaly map', 'grey'), (overlay(test, maps[i], map_limits(maps)), 'overlay', 'grey')]
    return learn, inspect, sample.region[0, 0], weights


def panel(ax, image, title, colour):
    ax.imshow(image, interpolation='nearest')
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)
    for spine in ax.spines.values(): spine.set(edgecolor=colour, linewidth=2.5)


def draw(learn, inspect, region, weights):
    fig, axs = plt.subplots(2, 4, figsize=(8.6, 5.1), facecolor='white')
    for ax, p in zip(axs[0], learn): panel(ax, *p)
    for ax, p in zip(axs[1], inspect): panel(ax, *p)
    ys, xs = torch.where(region)
    axs[0, 3].add_patch(Rectangle((xs.min() - .5, ys.min() - .5), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1, fill=False, ec='yellow', lw=1.5))
    axs[1, 3].axis('off')
    axs[1, 3].text(0, .5, 'score = distance of its\nfeature maps to the mean\nof the good images\n+ α · the same for their\nvariance under dropout', va='center', fontsize=9.5)
    fig.tight_layout(rect=(.035, .02, 1, .96), h_pad=3.5)
    fig.text(.005, .74, 'LEARN', rotation=90, va='center', fontsize=11, weight='bold')
    fig.text(.005, .26, 'INSPECT', rotation=90, va='center', fontsize=11, weight='bold')
    fig.text(.28, .515, '← pulled together →', ha='center', color='tab:blue', fontsize=10)
    fig.text(.76, .515, '← pushed apart →', ha='center', color='tab:red', fontsize=10)
    fig.text(.99, .965, f'mixed by effect: {weights}', ha='right', color='dimgrey', fontsize=7.5)
    return fig


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as tmp: fig = draw(*scene(Path(tmp)))
    OUT.parent.mkdir(exist_ok=True)
    fig.savefig(OUT, dpi=95)
