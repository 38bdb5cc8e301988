"""How fast is a training step, against the bare network and against the usual way?

    python benchmarks/training.py --device cuda [--out results/benchmarks.csv]   # on a GPU; `--dry` shows that it runs, anywhere

- `whole`: training as it is, fastai's loop with views, local augmentation, losses, monitors and optimizer
- `bare`: forward and backward of the same network on random tensors of the same shapes, nothing else
- `plain`: PIL and torchvision image by image in 16 workers of a DataLoader, the network in float32 as torch comes

`whole` and `bare` are measured in float32 and, on a GPU, in bfloat16; the target is the ratio under the one that makes `bare` fastest.
Images are noise: speed does not depend on what they show."""
import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from augment import plain as plain_local
from dla_nb.augment import draw_local, random_regions
from dla_nb.core import seed_everything
from dla_nb.methods.dla import DLA, DLALoss, DLARecipe
from dla_nb.model import DLANet
from rows import row, show

SPEEDS = ('float32', 'bfloat16')


def synchronise(device) -> None:
    if torch.device(device).type == 'cuda': torch.cuda.synchronize()


class Clock(Callback):
    "Seconds of the epochs after the first few."
    order = 98
    def __init__(self, warm: int): self.warm = warm
    def after_epoch(self):
        if self.epoch in (self.warm - 1, self.n_epoch - 1):
            synchronise(self.dls.device)
            self.seconds, self.start = time.perf_counter() - getattr(self, 'start', 0), time.perf_counter()


def whole(images, recipe: DLARecipe, device, speed: str, steps: int, warm: int) -> float:
    "Images a second of training as it is, with one batch an epoch: the usual case, and the one with most around a step."
    clock = Clock(warm)
    learn = DLA(recipe).learner(images, device=device, cbs=[clock])
    if speed == 'bfloat16': learn.to_bf16()
    with learn.no_bar(), learn.no_logging(): learn.fit(warm + steps)
    return steps*len(images)/clock.seconds


def scalar(encoded: tuple) -> torch.Tensor:
    "A number that every part of the network has a say in."
    return sum(t.float().mean() for e in encoded for t in (e.p, e.dense_p) if t is not None)


def bare(images, recipe: DLARecipe, device, speed: str, steps: int, warm: int) -> float:
    "Images a second of the network alone, on random tensors."
    seed_everything(0)
    model = DLANet(recipe).to(device).train()
    xs = [torch.rand(len(images), 3, recipe.size, recipe.size, device=device) for _ in range(4)]
    for step in range(warm + steps):
        if step == warm:
            synchronise(device)
            start = time.perf_counter()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=speed == 'bfloat16'): loss = scalar(model(*xs))
        loss.backward()
        model.zero_grad(set_to_none=True)
    synchronise(device)
    return steps*len(images)/(time.perf_counter() - start)


class PlainSet(Dataset):
    "Image by image: two views as SimSiam's, the image, and a local augmentation, by PIL and torchvision."
    def __init__(self, images, recipe: DLARecipe):
        self.images, self.recipe = [Image.fromarray(np.moveaxis(np.asarray(v), 0, -1)) for v in images], recipe
        s, jitter = recipe.size, T.ColorJitter(.4, .4, .4, .1)
        self.view = T.Compose([T.RandomResizedCrop(s, (.2, 1.)), T.RandomHorizontalFlip(), T.RandomApply([jitter], .8), T.RandomGrayscale(.2),
                               T.RandomApply([T.GaussianBlur(2*(6*s//224) + 1, (.1, 2.*s/224))], .5), T.ToTensor()])

    def __len__(self): return len(self.images)

    def __getitem__(self, i):
        r, image = self.recipe, TF.center_crop(self.images[i], self.recipe.size)
        x = torch.empty(1).expand(1, 3, r.size, r.size)
        place, numbers = ([v.tolist()[0] for v in drawn] for drawn in (random_regions(x, r), draw_local(x, r)))
        return self.view(image), self.view(image), TF.to_tensor(image), plain_local(image, place, numbers)


def plain(images, recipe: DLARecipe, device, steps: int, warm: int, workers: int) -> float:
    "Images a second of the usual way."
    torch.set_num_threads(1 if workers else torch.get_num_threads())
    loader = DataLoader(PlainSet(images, recipe), len(images), shuffle=True, num_workers=workers, persistent_workers=bool(workers),
                        pin_memory=torch.device(device).type == 'cuda', prefetch_factor=2 if workers else None)
    model, loss_of = DLANet(recipe).to(device).train(), DLALoss(recipe)
    opt = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    for step in range(warm + steps):
        if step == warm: start = time.perf_counter()
        for batch in loader:
            loss = loss_of(model(*(x.to(device) for x in batch)))
            opt.zero_grad()
            loss.backward()
            opt.step()
            loss.item()
    synchronise(device)
    return steps*len(images)/(time.perf_counter() - start)


def best_of(turns: int, jobs: dict) -> dict:
    "Median images a second of each, in turns."
    found = {name: [] for name in jobs}
    for _ in range(turns):
        for name, job in jobs.items(): found[name].append(job())
    return {name: statistics.median(v) for name, v in found.items()}


def rates(images, recipe: DLARecipe, device, speeds: list, steps: int, warm: int, turns: int = 2) -> dict: # {speed: (whole, bare)}
    "The step and the bare network, in turns."
    out = {}
    for speed in speeds:
        rate = best_of(turns, dict(whole=lambda: whole(images, recipe, device, speed, steps, warm),
                                   bare=lambda: bare(images, recipe, device, speed, steps, warm)))
        out[speed] = rate['whole'], rate['bare']
    return out


def network_rows(found: dict, recipe: DLARecipe, batch: int, device) -> list:
    "Rows of `rates`; the target counts for the setting with the fastest bare network."
    fastest, what = max(found, key=lambda s: found[s][1]), f'{batch} images of {recipe.size} px'
    return [row('training', f'whole step, {speed}, {what}', w, 'images/s', 'bare network, same setting', w/b,
                '>= 0.85' if speed == fastest and recipe.size == 224 and batch == 200 else '', device) for speed, (w, b) in found.items()]


def plain_rows(found: dict, recipe: DLARecipe, images, device, workers: int, steps: int) -> list:
    "The fastest whole step against the usual way."
    rate, speed = max((w, s) for s, (w, _) in found.items())
    usual = plain(images, recipe, device, steps, 1, workers)
    return [row('training', f'whole step, {speed}, {len(images)} images of {recipe.size} px', rate, 'images/s',
                f'PIL image by image, {workers} workers, float32', rate/usual, '>= 10' if recipe.size == 224 and workers == 16 else '', device)]


def noise_images(n: int, side: int) -> np.ndarray: # uint8 (n,3,side,side)
    return np.random.default_rng(0).integers(0, 256, (n, 3, side, side), dtype=np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu'), parser.add_argument('--batch', type=int, default=200)
    parser.add_argument('--steps', type=int, default=20), parser.add_argument('--warm', type=int, default=4)
    parser.add_argument('--workers', type=int, default=16), parser.add_argument('--out', type=Path)
    parser.add_argument('--dry', action='store_true', help='tiny sizes: does it run?')
    args = parser.parse_args()
    recipe = DLARecipe()
    speeds = SPEEDS if torch.device(args.device).type == 'cuda' else SPEEDS[:1]
    if args.dry:
        recipe = DLA.preset('smoke')
        args.batch, args.steps, args.warm, args.workers = 8, 2, 1, 0
    images = noise_images(args.batch, recipe.resize)
    found = rates(images, recipe, args.device, speeds, args.steps, args.warm)
    show(network_rows(found, recipe, args.batch, args.device), args.out)
    show(plain_rows(found, recipe, images, args.device, args.workers, max(1, args.steps//4)), args.out)


if __name__ == '__main__': main()
