"""Score images with a detector that `dla-nb export` wrote. Needs onnxruntime, numpy and pillow; neither torch nor dla-nb.

    python score_onnx.py bottle.onnx photos/ another.png --maps maps/

prints a line of CSV for each image: its file, its score, and 1 where the score is above the detector's threshold, if it
has one. --maps writes each anomaly map as a grey PNG of the image's own size, named by the line's number. Files that
cannot be read are named and left out, and the exit status is 3."""
import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

TYPES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


def read_rgb(path):
    "Any image file as uint8 (height, width, 3): upright, transparency dropped, 16 bits of grey scaled to 8."
    with open(path, 'rb') as file, Image.open(file) as stored:
        image = ImageOps.exif_transpose(stored)
        if image.mode.startswith('I;16') or (image.mode == 'I' and stored.format == 'PNG'):
            wide = np.asarray(image).astype(np.uint32)
            image = Image.fromarray(((wide*255 + 32767)//65535).astype(np.uint8))
        if image.mode in ('I', 'F'): raise ValueError('its pixels have 32 bits, so white is unknown')
        return np.asarray(image.convert('RGB'))


def find_images(paths):
    "Files as they are, and the images in folders."
    for path in map(Path, paths):
        if path.is_dir(): yield from sorted(p for p in path.rglob('*') if p.suffix.lower() in TYPES)
        else: yield path


def grey_map(found, metadata, width, height):
    "The map of the central crop at the image's size, its smallest value black, its largest white; black around it."
    side, size = int(metadata['resize']), int(metadata['size'])
    canvas, start = np.zeros((side, side), np.uint8), (side - size)//2
    canvas[start:start + size, start:start + size] = 255*(found - found.min())/max(np.ptp(found), 1e-12)
    return Image.fromarray(canvas).resize((width, height), Image.Resampling.BILINEAR)


def score(session, path):
    "(outputs by name, the image's pixels)"
    pixels = read_rgb(path)
    values = session.run(None, {'images': pixels[None]})
    return {output.name: value[0] for output, value in zip(session.get_outputs(), values)}, pixels


def main(model, paths, maps=None):
    "The exit status."
    session, table, failed = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider']), csv.writer(sys.stdout), 0
    table.writerow(['number', 'file', 'score', 'anomalous'])
    for number, path in enumerate(find_images(paths)):
        try: found, pixels = score(session, path)
        except Exception as error:   # whatever is wrong with this file, the others go on
            print(f'error: {path} is left out: {error}', file=sys.stderr)
            failed += 1
            continue
        table.writerow([number, path, f'{found["score"]:.9g}', int(found['anomalous']) if 'anomalous' in found else ''])
        if maps:
            Path(maps).mkdir(parents=True, exist_ok=True)
            grey_map(found['map'], session.get_modelmeta().custom_metadata_map, pixels.shape[1], pixels.shape[0]).save(Path(maps)/f'{number}.png')
    return 3 if failed else 0


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model'), parser.add_argument('paths', nargs='+'), parser.add_argument('--maps')
    sys.exit(main(**vars(parser.parse_args())))
