"""Score images with a detector that `dla-nb export` wrote.

Needs onnxruntime, numpy and pillow; neither torch nor dla-nb.

    python score_onnx.py bottle.onnx photos/ another.png --maps maps/

prints a line of CSV for each image: its file, its score, and 1 where the score exceeds the
detector's threshold, if it has one. --maps writes each anomaly map as a grey PNG of the image's own
size, named by the line's number. Files that cannot be read are named and left out; the exit status
is then 3."""
import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

TYPES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


def read_rgb(path, white=65535):
    "Any image file as uint8 (height, width, 3): upright, opaque, 16 bits of grey scaled to 8."
    with open(path, 'rb') as file, Image.open(file) as stored:
        image = ImageOps.exif_transpose(stored)
        if image.mode.startswith('I;16') or (image.mode == 'I' and stored.format == 'PNG'):
            wide = np.asarray(image).astype(np.uint32)
            image = Image.fromarray(((np.minimum(wide, white)*255 + white//2)//white).astype(np.uint8))
        if image.mode in ('I', 'F'):
            raise ValueError('its pixels have 32 bits, so white is unknown')
        return np.asarray(image.convert('RGB'))


def find_images(paths):
    "Files as they are, and the images in folders."
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(p for p in path.rglob('*') if p.suffix.lower() in TYPES)
        else:
            yield path


def grey_map(found):
    "The map in grey: its smallest value black, its largest white; black where nothing was looked at."
    low, high = np.nanmin(found), np.nanmax(found)
    grey = 255*(found - low)/max(high - low, 1e-12)
    return Image.fromarray(np.nan_to_num(grey).astype(np.uint8))


def score(session, pixels):
    "The outputs for one image, by name."
    name = session.get_inputs()[0].name   # images_rgb: red first, unlike OpenCV's frames
    values = session.run(None, {name: pixels[None]})
    return {output.name: value[0] for output, value in zip(session.get_outputs(), values)}


def main(model, paths, maps=None):
    "The exit status."
    session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
    metadata = session.get_modelmeta().custom_metadata_map
    table = csv.writer(sys.stdout)
    table.writerow(['number', 'file', 'score', 'anomalous'])
    failed = 0
    for number, path in enumerate(find_images(paths)):
        try:
            pixels = read_rgb(path, int(metadata.get('white', 65535)))
            found = score(session, pixels)
        except Exception as error:   # whatever is wrong with this file, the others go on
            print(f'error: {path} is left out: {error}', file=sys.stderr)
            failed += 1
            continue
        label = int(found['anomalous']) if 'anomalous' in found else ''
        table.writerow([number, path, f'{found["score"]:.9g}', label])
        if maps:
            Path(maps).mkdir(parents=True, exist_ok=True)
            grey_map(found['map']).save(Path(maps)/f'{number}.png')
    return 3 if failed else 0


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model')
    parser.add_argument('paths', nargs='+')
    parser.add_argument('--maps')
    sys.exit(main(**vars(parser.parse_args())))
