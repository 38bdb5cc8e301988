"""The sample pictures of the front page: `python tools/samples_picture.py demo` after `dla-nb demo`.

Of each category's defective test images the one whose score is the median, so that the pictures are neither the best nor the
worst; then one good image, likewise. None of them was seen in training. The demo sets no threshold, so every second good test
image does."""
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from dla_nb.detector import Detector

OUT = Path(__file__).resolve().parent.parent/'nbs'/'images'/'samples.jpg'


def median(detector, paths: list):
    "The prediction with the median score."
    found = sorted((detector.predict(path) for path in paths), key=lambda p: p.score)
    return found[len(found)//2]


def main(demo: Path) -> None:
    found = []
    for path in sorted(demo.glob('*.safetensors')):
        detector = Detector.load(path)
        test = sorted((demo/'toy'/path.stem/'test').glob('*/*.png'))
        bad = [p for p in test if p.parent.name != 'good']
        good = [p for p in test if p.parent.name == 'good']
        detector.calibrate(good[::2])
        found.append((f'{path.stem}, defective', median(detector, bad)))
    found.append((f'{path.stem}, good', median(detector, good[1::2])))
    fig, axs = plt.subplots(3, len(found), figsize=(1.75*len(found), 5.6), layout='constrained')
    for column, (title, p) in zip(axs.T, found):
        limits = (p.pixel_threshold.value - 3, p.pixel_threshold.value + 6)
        column[0].imshow(p.image)
        column[1].imshow(p.map, cmap='inferno', vmin=limits[0], vmax=limits[1])
        column[2].imshow(p.image)
        column[2].contour(p.mask, [.5], colors='red', linewidths=1.5)
        column[0].set_title(title, fontsize=10)
        column[2].set_xlabel(p.label, fontsize=10)
    for ax in axs.flat:
        ax.set(xticks=[], yticks=[])
        ax.set_facecolor('.85')
    for ax, name in zip(axs[:, 0], ('image', 'anomaly map', 'outline')):
        ax.set_ylabel(name, fontsize=10)
    fig.savefig(OUT, dpi=110, pil_kwargs={'quality': 82})


if __name__ == '__main__':
    main(Path(sys.argv[1]))
