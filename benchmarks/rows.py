"""Rows of results/benchmarks.csv: one figure each, with what it was measured against in the same run."""
import os
import sys
import time
from pathlib import Path

import torch

from dla_nb.files import append_row, provenance
from dla_nb.metrics import METRIC_NAMES, evaluate

#: What a row says. `ratio` is `against`'s value over `value` for times, so more is better, unless the benchmark's text says
#: otherwise; `target` is what the ratio, or the value where there is no ratio, should be: '>= 10', '<= 16', or ''.
COLUMNS = ('benchmark', 'case', 'value', 'unit', 'against', 'ratio', 'target', 'device', 'threads', 'torch', 'commit', 'date')


def device_name(device: str = 'cpu') -> str:
    "The processor a row was measured on."
    if torch.device(device).type == 'cuda': return torch.cuda.get_device_name(device)
    info = Path('/proc/cpuinfo')
    names = [line.split(':')[1].strip() for line in info.read_text().splitlines() if 'model name' in line] if info.exists() else []
    return f'CPU, {names[0] if names else "unknown"}'


def metrics_of(maps, masks, labels) -> dict:
    "In %; None where a metric is undefined."
    found = evaluate(maps, masks, labels)
    return {name: round(100*found[name], 3) if found[name] == found[name] else None for name in METRIC_NAMES}


def row(benchmark: str, case: str, value: float, unit: str, against: str = '', ratio: float = None, target: str = '',
        device: str = 'cpu', threads: int = None) -> dict:
    "A figure, four digits of it."
    digits = lambda v: '' if v is None else f'{v:.4g}'
    return dict(zip(COLUMNS, (benchmark, case, digits(value), unit, against, digits(ratio), target, device_name(device),
                              threads or torch.get_num_threads(), torch.__version__, provenance()["commit"], time.strftime('%Y-%m-%d'))))


def met(r: dict) -> bool | None:
    "Is the target of a row met? None where it has none."
    if not r['target']: return None
    op, limit = r['target'].split()
    found = float(r['ratio'] if r['ratio'] != '' else r['value'])
    return found >= float(limit) if op == '>=' else found <= float(limit)


def show(rows: list, out=None) -> list:
    "Print rows, and append them to a file where one is named. Returns them."
    for r in rows:
        words = [f"{r['benchmark']:12} {r['case']:52} {r['value']:>9} {r['unit']:9}"]
        if r['ratio'] != '': words.append(f"{r['ratio']:>7} x  {r['against']}")
        if r['target']: words.append(f"(target {r['target']}: {'met' if met(r) else 'missed'})")
        print(' '.join(words), flush=True)
        if out: append_row(out, r, COLUMNS)
    return rows


def fastest(repeats: int, **jobs) -> dict:
    "Shortest seconds of each function; they take turns, so that a busy moment hits all alike, after one round to warm up."
    times = {name: [] for name in jobs}
    for turn in range(repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if turn: times[name].append(time.perf_counter() - start)
    return {name: min(t) for name, t in times.items()}


if os.environ.get('OMP_NUM_THREADS') == '1' and 'benchmarks' in sys.argv[0]:
    print('OMP_NUM_THREADS=1 is set: some libraries will not use more threads than that', file=sys.stderr)
