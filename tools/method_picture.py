"""The pictures of nbs/images: `python tools/method_picture.py`.

    architecture.svg   the network, its losses and its scores, boxes and arrows only
    method.png         a piece of drawn cloth, its views, its damaged copy, and the anomaly map of a defective piece
    matches.png        two views of a drawn tablet, and matches on C3 of an untrained network
    maps.png           stage by stage: mean map, map of a defective piece, squared distance
    variance.png       the same of variance maps under dropout
    heat.png           input, mask, mask at a threshold, anomaly map: as in the paper's Fig. 4

All are of drawn images (`dla_nb.toy`). The detector is really trained, by the preset `demo`: 64 px, 20 epochs, a minute on a
CPU. With --keep FOLDER data and detector stay there, and the next call only draws."""
import argparse
import tempfile
from html import escape
from pathlib import Path

import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import ConnectionPatch, Rectangle

from dla_nb.augment import LOCAL_AUGMENTATIONS, apply_view, draw_view, global_view, local_augment
from dla_nb.core import PRESETS
from dla_nb.data import center_crop, load_category
from dla_nb.detector import DLADetector
from dla_nb.losses import dense_match
from dla_nb.plots import examples, map_limits, overlay, to_hwc
from dla_nb.scoring import STAGE_NAMES, mc_variance, untrained
from dla_nb.toy import draw_sample, make_toy
from dla_nb.training import to_float

OUT = Path(__file__).resolve().parent.parent/'nbs'/'images'
CATEGORY, KIND = 'weave', 'hole'
RECIPE = PRESETS['demo']
plt.rcParams.update({'font.size': 10, 'savefig.facecolor': 'white', 'image.interpolation': 'nearest'})


def prepare(folder: Path) -> tuple:
    "(category, trained detector)"
    root = make_toy(folder/f'toy_{CATEGORY}', categories=[CATEGORY], n_good=4, n_defect=4)
    parts, path = load_category(root, recipe=RECIPE, cache_dir=folder/'cache', progress=False), folder/f'{CATEGORY}.safetensors'
    if not path.exists(): DLADetector.fit(parts, recipe=RECIPE, holdout=0, device='cpu', seed=0).save(path)
    return parts, DLADetector.load(path)


def save(fig, name: str):
    fig.savefig(OUT/name, dpi=100, pil_kwargs=dict(optimize=True))
    plt.close(fig)


def panel(ax, image, title, colour='grey', **how):
    ax.imshow(image, **how)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=11)
    for spine in ax.spines.values(): spine.set(edgecolor=colour, linewidth=2.5)


def draw_method(parts, detector):
    "Two rows that learn and one that inspects, large enough for a phone."
    x, g = to_float(torch.as_tensor(parts.train[:1]), RECIPE.size), torch.Generator().manual_seed(3)
    views, sample = [global_view(x, RECIPE, g) for _ in range(2)], local_augment(x, RECIPE, g)
    maps, i = detector.score(parts.test).total, parts.defects.index(KIND)
    limits, test = map_limits(maps), to_float(torch.as_tensor(parts.test[i:i+1]), RECIPE.size)[0]
    fig = plt.figure(figsize=(5.4, 6.6))
    learn, inspect = fig.subfigures(2, 1, height_ratios=(2.05, 1))
    axs = learn.subplots(2, 2, gridspec_kw=dict(left=.12, right=.98, top=.9, bottom=.08, hspace=.42))
    for ax, v, name in zip(axs[0], views, ("view  t(x)", "view  t′(x)")): panel(ax, to_hwc(v[0]), name, 'tab:blue')
    panel(axs[1, 0], to_hwc(x[0]), 'good image  x')
    panel(axs[1, 1], to_hwc(sample.image[0]), 'damaged copy', 'tab:red')
    ys, xs = torch.where(sample.region[0, 0])
    axs[1, 1].add_patch(Rectangle((xs.min() - .5, ys.min() - .5), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1, fill=False, ec='yellow', lw=2))
    learn.text(.55, .485, '↑ pulled together ↑', ha='center', color='tab:blue')
    weights = ', '.join(f'{n.replace("_", " ").replace("color", "colour").replace("scale", "")} {w:.2f}' for n, w in zip(LOCAL_AUGMENTATIONS, sample.weights[:, 0].tolist()))
    learn.text(.55, .015, f'↑ pushed apart ↑   {weights}', ha='center', color='tab:red', fontsize=9)
    axs = inspect.subplots(1, 3, gridspec_kw=dict(left=.12, right=.98, top=.85, bottom=.02, wspace=.06))
    for ax, image, name in zip(axs, (to_hwc(test), maps[i], overlay(test, maps[i], limits)), ('new image', 'anomaly map', 'both')):
        panel(ax, image, name, **({} if image.ndim == 3 else dict(cmap='inferno', vmin=limits[0], vmax=limits[1])))
    for part, word in ((learn, 'LEARN'), (inspect, 'INSPECT')): part.text(.03, .45, word, rotation=90, va='center', weight='bold', fontsize=12)
    save(fig, 'method.png')


def places(draw, S: int):
    "Centres of the S x S positions of a view, as x, y in pixels of its image, (S*S,2)."
    at = (torch.arange(S) + .5)/S
    along = at.flip(0) if draw.flip else at
    return torch.cartesian_prod(draw.crop.top + at*draw.crop.height, draw.crop.left + along*draw.crop.width).flip(1)


def draw_matches():
    "Positions of one view of a tablet and the most similar position of the other, by an untrained network."
    quick, x = PRESETS['quick'], torch.from_numpy(draw_sample('tablet', 'good', 112, 7)[0]).permute(2, 0, 1)[None]/255
    draws = [draw_view(1, 112, 112, quick, torch.Generator().manual_seed(seed)) for seed in (37, 4)]
    views = [apply_view(x, d) for d in draws]
    with torch.no_grad(): f1, f2 = (untrained(quick).trunk_maps(v)[1] for v in views)
    match, S = dense_match(f1, f2)[0], f1.shape[-1]
    right = torch.cdist(*(places(d, S) for d in draws))[range(S*S), match] < 1.5*draws[1].crop.height.item()/S
    fig, axs = plt.subplots(1, 2, figsize=(5.4, 2.9), layout='constrained')
    for ax, v, name in zip(axs, views, ('view  t(x)', 'view  t′(x)')): panel(ax, to_hwc(v[0]), name, 'tab:blue', extent=(-.5, S - .5, S - .5, -.5))
    for s in [r*S + c for r in (4, 6, 8, 10) for c in (1, 4, 7, 10, 12)]:
        a, b, colour = (s % S, s//S), (match[s] % S, match[s]//S), 'lime' if right[s] else 'orange'
        fig.add_artist(ConnectionPatch(a, b, 'data', 'data', axesA=axs[0], axesB=axs[1], color=colour, lw=1.6))
        for ax, at in zip(axs, (a, b)): ax.plot(*at, 'o', ms=6, color=colour, mec='black')
    save(fig, 'matches.png')


def draw_stages(parts, detector, variance: bool, name: str):
    "Per stage: the normal images' mean, this image, the squared distance. Maps and variances are summed over channels."
    i = parts.defects.index(KIND)
    x, stats = to_float(torch.as_tensor(parts.test[i:i+1]), RECIPE.size), detector.stats
    scores, both = detector.score(parts.test[i:i+1]), mc_variance(detector.model, x, RECIPE, stats.seed)
    of, means = both[variance], stats.var if variance else stats.mean
    fig, axs = plt.subplots(3, 3, figsize=(5.4, 5.6), layout='constrained')
    for row, s, mean, h in zip(axs, STAGE_NAMES, means, of):
        seen = [m.sum(0) if variance else m.norm(dim=0) for m in (mean, h[0])]
        low, high = min(m.min() for m in seen), max(m.max() for m in seen)
        d = scores.stages[f'{"uncertainty" if variance else "regression"}_{s}'][0]
        for ax, m, title in zip(row, seen, ('mean of good', 'this image')): panel(ax, m, title, vmin=low, vmax=high)
        panel(row[2], d, 'distance', cmap='inferno')
        row[0].set_ylabel(f'{s.upper()}  {len(mean)}×{len(d)}×{len(d)}', fontsize=11)
    save(fig, name)


def draw_heat(parts, detector):
    "One image of each kind: input, truth, what scores above every pixel of the good test images, the map on its own scale."
    scores, some = detector.score(parts.test).total, [i for i in examples(parts.defects)]
    good = torch.as_tensor([d == 'good' for d in parts.defects])
    cut = scores[good].max()
    images, masks = (center_crop(v, RECIPE.size) for v in (parts.test, parts.masks))
    fig, axs = plt.subplots(4, len(some), figsize=(5.4, 4.6), layout='constrained')
    for column, i in zip(axs.T, some):
        for ax, image in zip(column, (to_hwc(images[i]), masks[i], scores[i] > cut)): ax.imshow(image, cmap='gray', vmin=0, vmax=1)
        column[3].imshow(scores[i], cmap='inferno')
        for ax in column: ax.set(xticks=[], yticks=[])
        column[0].set_title(parts.defects[i].replace('_', ' '), fontsize=10)
    for ax, word in zip(axs[:, 0], ('input', 'truth', 'found', 'map')): ax.set_ylabel(word, fontsize=11)
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
    import re
    return re.sub(r'_\{(\w+)\}', r'<tspan dy="6" font-size="16">\1</tspan><tspan dy="-6">&#8203;</tspan>', escape(text))


def draw_architecture():
    "The paper's Fig. 1 in our words, upright, so that a phone can show it."
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 1460" width="720" height="1460" font-family="DejaVu Sans, Verdana, sans-serif" font-size="22" fill="#1b2733">',
             '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#5b6773"/></marker></defs>',
             '<rect width="720" height="1460" fill="#fff"/>']
    for x, y, text, size in HEADS: parts.append(f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{700 if size > 22 else 400}">{escape(text)}</text>')
    for x, y, w, h, lines, colour in BOXES:
        parts.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="10" fill="{colour}" stroke="#8593a1" stroke-width="1.5"/>')
        for k, line in enumerate(lines):
            parts.append(f'<text x="{x + w/2:g}" y="{y + h/2 + 8 + 28*(k - (len(lines) - 1)/2):g}" text-anchor="middle">{lowered(line)}</text>')
    for x, y1, y2 in ARROWS: parts.append(f'<path d="M{x} {y1 + 3}V{y2 - 3}" stroke="#5b6773" stroke-width="2.5" marker-end="url(#a)"/>')
    (OUT/'architecture.svg').write_text('\n'.join([*parts, '</svg>', '']), encoding='utf-8')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--keep', type=Path, help='folder of the data and the detector; default: a temporary one')
    parser.add_argument('--architecture', action='store_true', help='only architecture.svg, which needs no training')
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    draw_architecture()
    if args.architecture: return
    with tempfile.TemporaryDirectory() as tmp:
        things = prepare(args.keep or Path(tmp))
        draw_method(*things), draw_matches(), draw_heat(*things)
        draw_stages(*things, False, 'maps.png'), draw_stages(*things, True, 'variance.png')


if __name__ == '__main__': main()
