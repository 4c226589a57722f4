"""``make fuzz``: so many damaged inputs, in as many processes as there are CPUs; exit 1 when one of them failed.

Input number I of a target follows from the seed alone.  What fails is written to a file, with the command that runs it
again (and all inputs of its block before it, since tables fill up over a block).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

from fuzz.run import Outcome, Run, set_seeds
from fuzz.seeds import demo_records, make_seeds
from fuzz.targets import BLOCK, TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=...", description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=5_000_000, help="over all targets (default: 5 million)")
    parser.add_argument("--seconds", type=float, help="stop after that time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only these (may be repeated)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this input of the one target, after its block's")
    parser.add_argument(
        "--keep", type=Path, default=Path(tempfile.gettempdir()) / "pvnet-fuzz", help="where inputs go that failed"
    )
    args = parser.parse_args()
    names = args.target or list(TARGETS)
    seeds = make_seeds(demo_records())
    set_seeds(seeds)
    if args.only is not None:
        outcome = Run(names[0], args.seed, args.only // BLOCK, args.only % BLOCK + 1)()
        print(outcome.failure or "no failure")
        return bool(outcome.failure)
    total = sum(TARGETS[name][1] for name in names)
    runs = []
    for name in names:
        count = round(args.inputs * TARGETS[name][1] / total)
        runs += [
            ((first + BLOCK / 2) / count, Run(name, args.seed, first // BLOCK, min(BLOCK, count - first)))
            for first in range(0, count, BLOCK)
        ]
    order = [run for _, run in sorted(runs, key=lambda run: run[0])]  # all targets side by side
    shown, failures = carry_out(order, seeds, args)
    for name in names:
        if name in shown:
            print(shown[name].line(name))
    count = sum(outcome.count for outcome in shown.values())
    print(f"{count} inputs, {len(failures)} failed")
    return bool(failures)


def carry_out(order: list[Run], seeds: object, args: argparse.Namespace) -> tuple[dict[str, Outcome], list[str]]:
    shown: dict[str, Outcome] = {}
    failures: list[str] = []
    start = said = time.monotonic()
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), set_seeds, (seeds,)) as pool:
        under_way: set[Future[Outcome]] = set()
        pending = iter(order)
        while True:
            is_late = args.seconds is not None and time.monotonic() - start > args.seconds
            while not is_late and len(under_way) < args.jobs + 1 and (run := next(pending, None)) is not None:
                under_way.add(pool.submit(run))
            if not under_way:
                break
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = future.result()
                shown.setdefault(outcome.target, Outcome(outcome.target)).add(outcome)
                if outcome.failure:
                    failures.append(outcome.failure)
                    args.keep.mkdir(exist_ok=True)
                    path = args.keep / f"{outcome.target}-{args.seed}-{outcome.number}"
                    path.write_bytes(outcome.data)
                    again = f"--target {outcome.target} --seed {args.seed} --only {outcome.number}"
                    print(f"{outcome.failure}\n{path}: {len(outcome.data)} bytes; make fuzz ARGS='{again}'", flush=True)
            if time.monotonic() - said > 30:
                said = time.monotonic()
                print(f"{sum(outcome.count for outcome in shown.values())} inputs, {said - start:.0f} s", flush=True)
    return shown, failures


if __name__ == "__main__":
    sys.exit(main())
