"""The pictures of nbs/images: `python tools/method_picture.py`.

    architecture.svg   the network, its losses and its scores, boxes and arrows only
    method.png         a piece of synthetic cloth, its views, its corrupted copy, and the map of a defective piece
    matches.png        two views of a synthetic tablet, and matches on C3 of an untrained network
    maps.png           stage by stage: mean map, map of a defective piece, squared distance
    variance.png       the same of variance maps under dropout
    heat.png           input, mask, mask at a threshold, anomaly map: as in the paper's Fig. 4

The detector is trained by the preset `demo`: 64 px, 20 epochs, a minute on a CPU. With --keep FOLDER data and detector
stay there, and the next call only draws."""
import argparse
import re
import tempfile
from html import escape
from pathlib import Path

import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import ConnectionPatch, Rectangle

from dla_nb.augment import LOCAL_AUGMENTATIONS, VIEWS, apply_view, draw_view, global_view, local_augment
from dla_nb.data import load_category
from dla_nb.detector import Detector
from dla_nb.images import center_crop, to_float
from dla_nb.losses import dense_match
from dla_nb.methods.dla import DLA
from dla_nb.model import Trunk
from dla_nb.plots import examples, map_limits, overlay, to_hwc
from dla_nb.scoring import mc_variance, shared_passes
from dla_nb.toy import draw_sample, make_toy

OUT = Path(__file__).resolve().parent.parent/'nbs'/'images'
CATEGORY, KIND = 'weave', 'hole'
STAGES = ('c2', 'c3', 'c4')
RECIPE = DLA.preset('demo')
WIDTH = 7.2   # inches, 720 px
plt.rcParams.update({'font.size': 12, 'savefig.facecolor': 'white', 'image.interpolation': 'nearest'})


def prepare(folder: Path) -> tuple:
    "(category, trained detector)"
    root = make_toy(folder/f'toy_{CATEGORY}', categories=[CATEGORY], n_good=4, n_defect=4)
    parts = load_category(root, size=RECIPE.resize, cache_dir=folder/'cache', progress=False)
    path = folder/f'{CATEGORY}.safetensors'
    if not path.exists():
        Detector.fit(parts, recipe=RECIPE, holdout=0, device='cpu', seed=0).save(path)
    return parts, Detector.load(path, 'cpu')


def save(fig, name: str):
    fig.savefig(OUT/name, dpi=100, pil_kwargs=dict(optimize=True))
    plt.close(fig)


def panel(ax, image, title: str, colour: str = 'grey', **how):
    ax.imshow(image, **how)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=14)
    for spine in ax.spines.values():
        spine.set(edgecolor=colour, linewidth=2.5)


def framed(ax, region):
    "The rectangle of a local augmentation, outlined."
    ys, xs = torch.where(region)
    corner = (xs.min() - .5, ys.min() - .5)
    width = xs.max() - xs.min() + 1
    height = ys.max() - ys.min() + 1
    ax.add_patch(Rectangle(corner, width, height, fill=False, ec='yellow', lw=2))


def draw_learning(part, parts):
    "Two views and a corrupted copy of one good image."
    x = to_float(parts.train[:1], RECIPE.size)
    g = torch.Generator().manual_seed(3)
    views = [global_view(x, RECIPE, g) for _ in range(2)]
    sample = local_augment(x, RECIPE, g)
    axs = part.subplots(2, 2, gridspec_kw=dict(left=.12, right=.98, top=.93, bottom=.08, hspace=.36))
    for ax, v, name in zip(axs[0], views, ('view  t(x)', 'view  t′(x)')):
        panel(ax, to_hwc(v[0]), name, 'tab:blue')
    panel(axs[1, 0], to_hwc(x[0]), 'good image  x')
    panel(axs[1, 1], to_hwc(sample.image[0]), 'corrupted copy', 'tab:red')
    framed(axs[1, 1], sample.region[0, 0])
    part.text(.55, .49, '↑ pulled together ↑', ha='center', color='tab:blue')
    names = [name.replace('_', ' ').replace('color', 'colour') for name in LOCAL_AUGMENTATIONS]
    weights = ', '.join(f'{n} {w:.2f}' for n, w in zip(names, sample.weights[:, 0].tolist()))
    part.text(.55, .045, '↑ pushed apart ↑', ha='center', color='tab:red')
    part.text(.55, .01, weights, ha='center', color='tab:red', fontsize=12)


def draw_inspection(part, parts, detector):
    "A defective image, its map, and both."
    maps = detector.score(parts.test)
    i = parts.defects.index(KIND)
    limits = map_limits(maps)
    test = to_float(parts.test[i:i+1], RECIPE.size)[0]
    axs = part.subplots(1, 3, gridspec_kw=dict(left=.12, right=.98, top=.85, bottom=.02, wspace=.06))
    panel(axs[0], to_hwc(test), 'new image')
    panel(axs[1], maps[i], 'anomaly map', cmap='inferno', vmin=limits[0], vmax=limits[1])
    panel(axs[2], overlay(test, maps[i], limits), 'both')


def draw_method(parts, detector):
    "Two rows that learn and one that inspects, large enough for a phone."
    fig = plt.figure(figsize=(WIDTH, 9.2))
    learn, inspect = fig.subfigures(2, 1, height_ratios=(2.3, 1))
    draw_learning(learn, parts)
    draw_inspection(inspect, parts, detector)
    for part, word in ((learn, 'LEARN'), (inspect, 'INSPECT')):
        part.text(.03, .45, word, rotation=90, va='center', weight='bold', fontsize=14)
    save(fig, 'method.png')


def places(draw, S: int):
    "Centres of the S x S positions of a view, as x, y in pixels of its image, (S*S,2)."
    at = (torch.arange(S) + .5)/S
    along = at.flip(0) if draw.flip else at
    down = draw.crop.top + at*draw.crop.height
    right = draw.crop.left + along*draw.crop.width
    return torch.cartesian_prod(down, right).flip(1)


def draw_matches():
    "Positions of one view of a tablet and the most similar position of the other, by an untrained network."
    recipe = DLA.preset('quick')
    x = torch.from_numpy(draw_sample('tablet', 'good', recipe.size, 7)[0]).permute(2, 0, 1)[None]/255
    view = VIEWS[recipe.views]
    draws = [draw_view(x, view, torch.Generator().manual_seed(seed)) for seed in (37, 4)]
    views = [apply_view(x, d) for d in draws]
    torch.manual_seed(0)
    trunk = Trunk(recipe).eval()
    with torch.no_grad():
        f1, f2 = (trunk.trunk_maps(v)[1] for v in views)
    match, S = dense_match(f1, f2)[0], f1.shape[-1]
    distance = torch.cdist(*(places(d, S) for d in draws))[range(S*S), match]
    right = distance < 1.5*draws[1].crop.height.item()/S
    fig, axs = plt.subplots(1, 2, figsize=(WIDTH, 3.9), layout='constrained')
    for ax, v, name in zip(axs, views, ('view  t(x)', 'view  t′(x)')):
        panel(ax, to_hwc(v[0]), name, 'tab:blue', extent=(-.5, S - .5, S - .5, -.5))
    for s in [r*S + c for r in (4, 6, 8, 10) for c in (1, 4, 7, 10, 12)]:
        a, b = (s % S, s//S), (match[s] % S, match[s]//S)
        colour = 'lime' if right[s] else 'orange'
        fig.add_artist(ConnectionPatch(a, b, 'data', 'data', axesA=axs[0], axesB=axs[1], color=colour, lw=1.6))
        for ax, at in zip(axs, (a, b)):
            ax.plot(*at, 'o', ms=6, color=colour, mec='black')
    save(fig, 'matches.png')


def draw_stages(parts, detector, kind: str, name: str):
    "Per stage: the normal images' mean, this image, the squared distance. All are summed over channels."
    method, i = detector.method, parts.defects.index(KIND)
    x = to_float(parts.test[i:i+1], RECIPE.size)
    with torch.no_grad():
        distances = method.difference_maps(x)
        maps, variances = mc_variance(method.trunk, x, RECIPE, shared_passes(RECIPE))
    found = variances if kind == 'var' else maps
    error = 'uncertainty' if kind == 'var' else 'regression'
    fig, axs = plt.subplots(3, 3, figsize=(WIDTH, 7.4), layout='constrained')
    for row, s, h in zip(axs, STAGES, found):
        mean = getattr(method, f'{kind}_{s}')
        seen = [m.sum(0) if kind == 'var' else m.norm(dim=0) for m in (mean, h[0])]
        low, high = min(m.min() for m in seen), max(m.max() for m in seen)
        d = distances[f'{error}_{s}'][0]
        for ax, m, title in zip(row, seen, ('mean of good', 'this image')):
            panel(ax, m, title, vmin=low, vmax=high)
        panel(row[2], d, 'distance', cmap='inferno')
        row[0].set_ylabel(f'{s.upper()}  {len(mean)}×{len(d)}×{len(d)}', fontsize=13)
    save(fig, name)


def draw_heat(parts, detector):
    "One image of each kind: input, truth, what scores above every pixel of the good test images, its map."
    scores = detector.score(parts.test)
    some = examples(parts.defects)
    good = torch.as_tensor([d == 'good' for d in parts.defects])
    cut = scores[good].max()
    images, masks = (center_crop(v, RECIPE.size) for v in (parts.test, parts.masks))
    fig, axs = plt.subplots(4, len(some), figsize=(WIDTH, 6.1), layout='constrained')
    for column, i in zip(axs.T, some):
        for ax, image in zip(column, (to_hwc(images[i]), masks[i], scores[i] > cut)):
            ax.imshow(image, cmap='gray', vmin=0, vmax=1)
        column[3].imshow(scores[i], cmap='inferno')
        column[0].set_title(parts.defects[i].replace('_', ' '), fontsize=13)
        for ax in column:
            ax.set(xticks=[], yticks=[])
    for ax, label in zip(axs[:, 0], ('input', 'mask', 'found', 'map')):
        ax.set_ylabel(label, fontsize=13)
    save(fig, 'heat.png')


# The architecture: boxes (x, y, width, height, lines, colour) on a sheet 720 wide; _ before a letter in braces lowers it
BLUE, RED, GREY, GREEN, GOLD = '#dbe9f7', '#f9dcdc', '#eceff2', '#dff0e0', '#fbeecb'
BOXES = [
    (10, 96, 165, 64, ['view t(x)'], BLUE), (190, 96, 165, 64, ['view t′(x)'], BLUE),
    (365, 96, 165, 64, ['image x'], GREY), (545, 96, 165, 64, ['t_{local}(x)'], RED),
    (10, 200, 700, 92, ['ResNet-18, the same weights for all four', 'C2 64×56×56  ·  C3 128×28×28  ·  C4 256×14×14'], GREEN),
    (10, 332, 225, 98, ['on C3: 1×1 conv', 'f_{d}, then h_{d}', '128×28×28'], GREEN),
    (255, 332, 455, 98, ['average pool: 512', 'MLP f, giving z: 2048', 'MLP h, giving p: 2048'], GREEN),
    (10, 470, 225, 98, ['L_{dense}', 'matching positions', 'together'], BLUE), (255, 470, 215, 98, ['L_{global}', 'views together', '(all pairs)'], BLUE),
    (490, 470, 220, 98, ['L_{neg}', 'x and t_{local}(x)', 'apart'], RED),
    (10, 608, 700, 56, ['L  =  λ_{1} L_{global}  +  λ_{2} L_{dense}  −  λ_{3} L_{neg}'], GREY),
    (10, 762, 340, 60, ['all good images'], GREY), (370, 762, 340, 60, ['a new image'], GREY),
    (10, 862, 700, 92, ['the trained ResNet-18, up to C4:', 'once as it is, T times with dropout'], GREEN),
    (10, 994, 340, 92, ['mean maps μ', 'mean variances'], GREY), (370, 994, 340, 92, ['its maps h', 'its variances (Eq. 10)'], GREY),
    (10, 1126, 700, 92, ['squared distance at each position', 'of C2, of C3, of C4'], GOLD),
    (10, 1258, 700, 92, ['each enlarged to 224×224, then the mean:', 'e of maps (Eq. 9), u of variances (Eq. 11)'], GOLD),
    (10, 1390, 700, 56, ['anomaly map  s  =  α_{1} e  +  α_{2} u'], RED),
]
ARROWS = [(92, 160, 200), (272, 160, 200), (447, 160, 200), (627, 160, 200), (122, 292, 332), (482, 292, 332), (122, 430, 470), (362, 430, 470),
          (600, 430, 470), (122, 568, 608), (362, 568, 608), (600, 568, 608), (180, 822, 862), (540, 822, 862), (180, 954, 994), (540, 954, 994),
          (180, 1086, 1126), (540, 1086, 1126), (360, 1218, 1258), (360, 1350, 1390)]
HEADS = [(10, 40, 'Training: good images only', 28), (10, 80, 'a positive pair', 22), (365, 80, 'a negative pair', 22), (10, 722, 'Inspection', 28)]


def lowered(text: str) -> str:
    "SVG text with subscripts."
    return re.sub(r'_\{(\w+)\}', r'<tspan dy="6" font-size="16">\1</tspan><tspan dy="-6">&#8203;</tspan>', escape(text))


def draw_architecture():
    "The paper's Fig. 1 in our words, upright, so that a phone can show it."
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 1460" width="720" height="1460" font-family="DejaVu Sans, Verdana, sans-serif" font-size="22" fill="#1b2733">',
             '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#5b6773"/></marker></defs>',
             '<rect width="720" height="1460" fill="#fff"/>']
    for x, y, text, size in HEADS:
        weight = 700 if size > 22 else 400
        parts.append(f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}">{escape(text)}</text>')
    for x, y, w, h, lines, colour in BOXES:
        parts.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="10" fill="{colour}" stroke="#8593a1" stroke-width="1.5"/>')
        for k, line in enumerate(lines):
            middle = y + h/2 + 8 + 28*(k - (len(lines) - 1)/2)
            parts.append(f'<text x="{x + w/2:g}" y="{middle:g}" text-anchor="middle">{lowered(line)}</text>')
    for x, y1, y2 in ARROWS:
        line = f'M{x} {y1 + 3}V{y2 - 3}'
        parts.append(f'<path d="{line}" stroke="#5b6773" stroke-width="2.5" marker-end="url(#a)"/>')
    (OUT/'architecture.svg').write_text('\n'.join([*parts, '</svg>', '']), encoding='utf-8')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--keep', type=Path, help='folder of the data and the detector; default: a temporary one')
    parser.add_argument('--architecture', action='store_true', help='only architecture.svg, which needs no training')
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    draw_architecture()
    if args.architecture:
        return
    with tempfile.TemporaryDirectory() as tmp:
        parts, detector = prepare(args.keep or Path(tmp))
        draw_method(parts, detector)
        draw_matches()
        draw_heat(parts, detector)
        draw_stages(parts, detector, 'mean', 'maps.png')
        draw_stages(parts, detector, 'var', 'variance.png')


if __name__ == '__main__':
    main()
