"""Memory and speed of `dla-nb predict` on folders of growing size: `python benchmarks/predicting.py [--images 200 2000] [--tile]`.

Draws good images, saves a detector with an untrained network, and predicts each folder in a process of its own, with overlays
and masks written. Prints resident memory (not its peak, which importing the libraries decides), images a second, and the share of good images called anomalous. With
`--tile` the folder is one image whose height grows instead."""
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CHILD = '''
import os, sys, time
from pathlib import Path
import torch
from dla_nb.detector import Detector
from dla_nb.predict import predict_to_files
torch.set_num_threads(1)
def resident(): return int(open('/proc/self/statm').read().split()[1])*os.sysconf('SC_PAGE_SIZE')/2**20
detector, start, seen = Detector.load(sys.argv[1], 'cpu'), time.perf_counter(), [resident()]
def watched(predictions):
    for p in predictions: seen.append(resident()); yield p
n = predict_to_files(detector, [sys.argv[2]], Path(sys.argv[2])/'out', progress=watched)
seconds = time.perf_counter() - start
print(f'{n["images"]:6} images: resident {seen[0]:.0f} MiB before, at most {max(seen):.0f} MiB, {seen[-1]:.0f} at the last; '
      f'{n["images"]/seconds:.1f} images/s, {n["anomalous"]/n["images"]:.1%} called anomalous')
'''


def draw(rng, height: int, width: int) -> np.ndarray:
    "A shaded texture with some noise, (height,width,3) uint8."
    y, x = np.mgrid[:height, :width]
    base = 120 + 50*np.sin(x*.4)*np.sin(y*.4) + rng.normal(0, 6, (height, width))
    return base.clip(0, 255).astype(np.uint8)[..., None].repeat(3, -1)


def main(counts: list, tile: bool) -> None:
    from dla_nb.detector import Detector
    from dla_nb.methods.dla import Untrained
    rng = np.random.default_rng(0)
    recipe = Untrained.Recipe(resize=64, size=64, backbone='tiny', n_passes=3)
    good = np.stack([draw(rng, 64, 64).transpose(2, 0, 1) for _ in range(240)])
    images = [image.transpose(1, 2, 0) for image in good[:40]] if tile else good[:40]
    detector = Detector.fit(images, 'untrained', recipe=recipe, holdout=0, device='cpu', tile=64 if tile else None)
    detector.calibrate([draw(rng, 256, 256) for _ in range(20)] if tile else good[40:], .05)
    print('threshold', detector.threshold)
    with tempfile.TemporaryDirectory() as tmp:
        model = detector.save(Path(tmp)/'model.safetensors')
        for n in counts:
            folder = Path(tmp)/str(n)
            folder.mkdir()
            if tile: Image.fromarray(draw(rng, 64*n, 1024)).save(folder/'large.png')
            else:
                for i in range(n): Image.fromarray(draw(rng, 64, 64)).save(folder/f'{i:05}.png')
            if tile: print(f'{64*n} x 1024 px, {3*64*n*1024/2**20:.0f} MiB as pixels, {4*64*n*1024/2**20:.0f} MiB as a map')
            subprocess.run([sys.executable, '-W', 'ignore', '-c', CHILD, model, folder], check=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', nargs='+', type=int, help='default: 200 2000; with --tile heights of 4 16 64 times 64 px')
    parser.add_argument('--tile', action='store_true', help='one large image in tiles')
    args = parser.parse_args()
    main(args.images or ([4, 16, 64] if args.tile else [200, 2000]), args.tile)
