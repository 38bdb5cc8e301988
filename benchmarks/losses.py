"""Time and peak memory of the all-pairs loss (O(B d)) against the B x B table and the double loop, and of the match
with and without chunks. All versions run in turns in one process, so that their ratios share the same machine's mood.

    python benchmarks/losses.py                     # prints a table
    python benchmarks/losses.py --out FILE.csv      # and appends its rows
"""
import argparse
import os
import time
from pathlib import Path

os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # the memory profiler is talkative where there is no GPU

import torch
from torch.nn.functional import normalize

from dla_nb.losses import dense_match, global_loss, neg_cosine
from rows import row, show


def table_loss(p1, z1, p2, z2):
    "Eq. 2 over all pairs by way of the two B x B tables of cosines."
    def mean(p, z): return -(normalize(p) @ normalize(z).T).mean()
    return (mean(p1, z2.detach()) + mean(p2, z1.detach()))/2

def loop_loss(p1, z1, p2, z2):
    "Eq. 2 over all pairs, one pair after the other."
    n, total = len(p1), 0.
    for i in range(n):
        for j in range(n):
            total = total + neg_cosine(p1[i:i+1], z2[j:j+1].detach()) + neg_cosine(p2[j:j+1], z1[i:i+1].detach())
    return total.squeeze()/(2*n*n)

def synchronise(device):
    if device.type == 'cuda': torch.cuda.synchronize(device)

def seconds(f, device):
    "Seconds of one call."
    synchronise(device)
    start = time.perf_counter()
    f()
    synchronise(device)
    return time.perf_counter() - start

def peak_bytes(f, device):
    "The most memory that one call held beyond what was there before."
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        f()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof: f()
    held = peak = 0
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == '[memory]']
    for e in sorted(events, key=lambda e: e.start_ns()): peak = max(peak, held := held + e.nbytes())
    return peak

def compare(versions, device, repeats):
    "{name: (fastest seconds, peak bytes)} of functions called in turns, after one warm call each."
    for f in versions.values(): f()
    times = {name: [] for name in versions}
    for _ in range(repeats):
        for name, f in versions.items(): times[name].append(seconds(f, device))
    return {name: (min(times[name]), peak_bytes(f, device)) for name, f in versions.items()}

def forward_backward(loss, parts):
    "A call that does what a training step does with the loss."
    return lambda: torch.autograd.grad(loss(*parts), parts[::2])

def pairs_rows(args, device):
    "The all-pairs loss, forward and backward, at each batch size."
    for n in args.batches:
        g = torch.Generator(device).manual_seed(0)
        parts = [torch.randn(n, args.dim, generator=g, device=device).requires_grad_(k % 2 == 0) for k in range(4)]
        losses = dict(fast=global_loss, table=table_loss) | (dict(loop=loop_loss) if n <= args.loop_up_to else {})
        values = [loss(*parts) for loss in losses.values()]
        torch.testing.assert_close(values, [values[0]]*len(values), rtol=0, atol=1e-5)
        found = compare({k: forward_backward(v, parts) for k, v in losses.items()}, device, 1 if 'loop' in losses else args.repeats)
        if 'loop' in losses:  # the loop is slow and timed once; the others as often as asked
            found |= compare({k: forward_backward(losses[k], parts) for k in ('fast', 'table')}, device, args.repeats)
        yield from rows_of('pairs', found, 'fast', batch=n, dim=args.dim)

def match_rows(args, device):
    "The match on a batch of C3 maps, in chunks and all at once; the same result."
    n, c, s = args.match
    g = torch.Generator(device).manual_seed(0)
    f1, f2 = (torch.randn(n, c, s, s, generator=g, device=device).relu() for _ in range(2))
    versions = {f'chunk{chunk}': lambda chunk=chunk: dense_match(f1, f2, chunk) for chunk in (8, 32, n)}
    whole = dense_match(f1, f2, n)
    assert all(torch.equal(f(), whole) for f in versions.values()), 'chunks change the match'
    yield from rows_of('match', compare(versions, device, 3), 'chunk32', batch=n, dim=c)

def rows_of(what, found, ours, **sizes):
    "One row a version, with its ratios to ours."
    t, m = found[ours]
    for name, (seconds, peak) in found.items():
        yield dict(what=what, version=name, **sizes, seconds=f'{seconds:.3e}', peak_mib=f'{peak/2**20:.2f}',
                   times_slower=f'{seconds/t:.2f}', times_memory=f'{peak/m:.2f}')

def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--batches', type=int, nargs='+', default=[50, 100, 200, 400, 800, 1600, 3200], metavar='B')
    parser.add_argument('--dim', type=int, default=2048, help="width of z; SimSiam's is 2048")
    parser.add_argument('--loop-up-to', type=int, default=50, metavar='B', help='largest batch of the double loop')
    parser.add_argument('--match', type=int, nargs=3, default=[64, 128, 28], metavar=('N', 'C', 'S'), help='C3 maps of the match')
    parser.add_argument('--repeats', type=int, default=10, help='the fastest of this many is reported')
    parser.add_argument('--device', type=torch.device, default='cpu')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--out', type=Path, help='append the rows to this CSV file')
    return parser.parse_args()

def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    machine = torch.cuda.get_device_name(args.device) if args.device.type == 'cuda' else f'cpu, {args.threads} threads'
    print(f'{machine}, torch {torch.__version__}; seconds: fastest of {args.repeats} (double loop: once)')
    print(f'{"what":6}{"version":9}{"batch":>6}{"dim":>6}{"seconds":>11}{"peak MiB":>10}{"x time":>9}{"x memory":>10}')
    found = []
    for make in (pairs_rows, match_rows):
        for r in make(args, args.device):
            print('{what:6}{version:9}{batch:6}{dim:6}{seconds:>11}{peak_mib:>10}{times_slower:>9}{times_memory:>10}'.format(**r))
            found.append(r)
    t = {(r['version'], r['batch']): float(r['seconds']) for r in found if r['what'] == 'pairs'}
    low, high = min(args.batches), max(args.batches)
    print(f'from batch {low} to {high}, {high/low:g} times as many images: '
          + ', '.join(f'{v} takes {t[v, high]/t[v, low]:.0f} times as long' for v in ('fast', 'table')))
    if args.out: show(list(figures(found, args)), args.out)

def figures(found, args):
    "Rows of results/benchmarks.csv: our version against each other one, in time and in memory."
    ours = {(r['what'], r['batch']): r for r in found if r['version'] in ('fast', 'chunk32')}
    names = dict(table='the B x B table', loop='the double loop')
    for r in found:
        mine = ours[r['what'], r['batch']]
        if r is mine: continue
        case, against = f"{r['what']}, batch {r['batch']}", names.get(r['version'], r['version'])
        for name, unit, ratio in (('seconds', 's', 'times_slower'), ('peak_mib', 'MiB', 'times_memory')):
            yield row('losses', f'{case}, {"time" if unit == "s" else "memory"}', float(mine[name]), unit, against, float(r[ratio]), device=args.device)

if __name__ == '__main__': main()
