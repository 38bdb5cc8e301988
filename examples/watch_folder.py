"""A line for each image that appears in a folder: python examples/watch_folder.py MODEL FOLDER"""
import sys
import time
from pathlib import Path

from dla_nb.all import DataError, Detector
from dla_nb.images import IMAGE_TYPES


def watch(model, folder, rounds=None, pause=1.):
    "Predict what is new, once a second; without `rounds` until Ctrl-C."
    detector, seen = Detector.load(model), set()
    while rounds is None or rounds > 0:
        for path in sorted(Path(folder).iterdir()):
            if path in seen or path.suffix.lower() not in IMAGE_TYPES: continue
            try: found = detector.predict(path)
            except DataError as error: print(path.name, error, file=sys.stderr)
            else: print(path.name, found.label, f'{found.score:.2f}', flush=True)
            seen.add(path)
        if rounds is not None: rounds -= 1
        if rounds != 0: time.sleep(pause)


if __name__ == '__main__':
    watch(*sys.argv[1:3])
