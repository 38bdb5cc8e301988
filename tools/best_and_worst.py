"""The pictures of the page "who wins": `python tools/best_and_worst.py bottle MODELS`.

MODELS holds a model file METHOD-CATEGORY.safetensors for each method; one that is missing is trained by the preset `quick` where
`--train` is given, which takes minutes, and left out of the picture otherwise. Of each method's defective test images the picture
has the map that agrees best with the mask and the one that agrees least, by the pixel AUROC within the image. The images
themselves are not ours to pass on, so there is the outline of the defect, which is what the map is to be compared with."""
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dla_nb.all   # all methods
from dla_nb.data import load_category, mvtec_path
from dla_nb.detector import Detector
from dla_nb.experiments import Scale
from dla_nb.images import center_crop
from dla_nb.metrics import auroc
from dla_nb.sweeps import _recipe_for

OUT = Path(__file__).resolve().parent.parent/'nbs'/'images'
METHODS = ('AE-SSIM', 'AE-L2', 'VAE', 'AnoGAN', 'U-Student')


def fitted(method: str, category: str, models: Path, train: bool):
    "A detector from its file; or trained, and kept there; or None."
    path = models/f'{method}-{category}.safetensors'
    recipe = _recipe_for(Scale('quick'), method, category)
    if path.exists():
        detector = Detector.load(path)
        if detector.recipe.hash != recipe.hash:
            raise SystemExit(f'{path} has another recipe than quick; remove it and pass --train')
        return detector
    if not train:
        return None
    detector = Detector.fit(mvtec_path()/category, method, recipe=recipe, holdout=0, progress=True)
    models.mkdir(parents=True, exist_ok=True)
    detector.save(path)
    return detector


def best_and_worst(detector, category: str) -> tuple:
    "Two of (mask, map, pixel AUROC within the image)."
    data = load_category(mvtec_path(), category, detector.recipe.resize, progress=False)
    chosen = np.flatnonzero(data.masks.any((1, 2)))
    maps = detector.method.score(data.test[chosen])
    masks = center_crop(data.masks[chosen], maps.shape[-1])
    values = [auroc(m[None], mask[None]) for m, mask in zip(maps, masks)]
    return [(masks[i], maps[i], values[i]) for i in (np.argmax(values), np.argmin(values))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('category')
    parser.add_argument('models', type=Path)
    parser.add_argument('--train', action='store_true')
    args = parser.parse_args()
    detectors = {m: fitted(m, args.category, args.models, args.train) for m in METHODS}
    known = {m: d for m, d in detectors.items() if d is not None}
    fig, axs = plt.subplots(len(known), 2, figsize=(5, 2.55*len(known)), layout='constrained')
    for line, (method, detector) in zip(axs, known.items()):
        found = best_and_worst(detector, args.category)
        for ax, what, (mask, anomaly_map, value) in zip(line, ('best', 'worst'), found):
            ax.imshow(anomaly_map, cmap='inferno', vmax=np.quantile(anomaly_map, .998))   # a few pixels do not darken the rest
            ax.contour(mask, [.5], colors='cyan', linewidths=1.2)
            ax.set_title(f'{what}: {100*value:.0f} %', fontsize=13)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(method, fontsize=13)
        print(method, [round(100*value, 1) for *_, value in found], flush=True)
    fig.savefig(OUT/f'best_and_worst_{args.category}.jpg', dpi=150, pil_kwargs={'quality': 80})


if __name__ == '__main__':
    main()
