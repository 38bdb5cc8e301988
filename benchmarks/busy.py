"""What does a training step cost beside other work?

    python benchmarks/busy.py [--out results/benchmarks.csv]

torch's threads wait for each other by spinning. With other processes on the machine they then wait for threads that are not even
running. `OMP_WAIT_POLICY=PASSIVE`, which the command line sets unless the user did, lets them sleep instead. The step is measured in a
process of its own, alone and beside two processes that never rest, under both policies; the ratio is beside over alone."""
import argparse
import os
import statistics
import subprocess
import sys

from rows import row, show

STEPS = '''
import time, warnings
warnings.simplefilter('ignore')
import numpy as np, torch
from fastai.callback.core import Callback
from dla_nb.methods.dla import DLA
torch.set_num_threads(2)
times = []
class Clock(Callback):
    order = 98
    def after_batch(self): times.append(time.perf_counter())
images = np.random.default_rng(0).integers(0, 256, (32, 3, 73, 73), np.uint8)
method = DLA(DLA.preset('demo'), epochs=EPOCHS)
learn = method.learner(images, device='cpu', cbs=[Clock()])
with learn.no_bar(), learn.no_logging(): learn.fit(EPOCHS)
print(np.median(np.diff(times)[2:]))
'''


def seconds_a_step(policy: str, epochs: int) -> float:
    "The median step of a training in its own process."
    env = {k: v for k, v in os.environ.items() if not k.startswith('OMP_')}
    code = STEPS.replace('EPOCHS', str(epochs))
    done = subprocess.run(
        [sys.executable, '-c', code], env=env | dict(OMP_WAIT_POLICY=policy), capture_output=True, text=True, check=True)
    return float(done.stdout)


def beside_two(work) -> float:
    "`work` while two processes never rest."
    busy = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(2)]
    try:
        return work()
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out')
    parser.add_argument('--epochs', type=int, default=12)
    parser.add_argument('--repeats', type=int, default=3)
    args = parser.parse_args()
    for policy, target in (('PASSIVE', '<= 2.5'), ('ACTIVE', '')):
        alone, beside = [], []
        for _ in range(args.repeats):   # in turns, so that a change of the machine's speed hits both
            alone.append(seconds_a_step(policy, args.epochs))
            beside.append(beside_two(lambda: seconds_a_step(policy, args.epochs)))
        ratio = statistics.median(b/a for a, b in zip(alone, beside))
        case = f'step of 32 images of 64 px beside two busy processes, {policy.lower()}'
        show([row('busy', case, statistics.median(beside), 's', 'the same step alone', ratio, target, threads=2)], args.out)


if __name__ == '__main__':
    main()
