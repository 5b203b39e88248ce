"""Our speed beside PyTorch's and timm's: the same work, in turns, on one machine.

    python3 -m venv peers && peers/bin/pip install -r benches/peers/requirements.txt
    cargo build --profile dev --workspace --bins
    peers/bin/python benches/peers/compare.py [--markdown] [--backbone NAME] [--work NAME] [--batch N] [--rounds N]

Two processes stay alive; in each round each of them in turn makes the same number of steps. A case's time is the median
over all its steps after the first round, the ratio PyTorch's over ours: above 1 we are faster.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CASES = {
    "vit-128x6": (["infer", "full", "bias", "head"], [1, 10, 32, 128]),
    "vit-192x6": (["infer", "full", "bias", "head"], [1, 10, 32, 128]),
    "vit-768x2": (["infer", "full", "bias", "head"], [1, 4, 10, 32]),
    "resnet18-20": (["infer", "full"], [1, 10, 20, 32, 128]),
}


class Peer:
    def __init__(self, command, greets):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.greeting = self.process.stdout.readline().strip() if greets else ""

    def times(self, name, work, batch, steps):
        self.process.stdin.write(f"{name} {work} {batch} {steps}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer or answer.startswith("error"):
            sys.exit(f"{name} {work} {batch}: {answer.strip() or 'the process has ended'}")
        return [float(t) for t in answer.split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--backbone", choices=CASES)
    parser.add_argument("--work", choices=["infer", "full", "bias", "head"])
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each side in each round, about")
    options = parser.parse_args()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).expanduser()
    # As .cargo/config.toml has it for `cargo run`.
    os.environ.setdefault("MIMALLOC_PURGE_DELAY", "-1")
    ours = Peer([target / "debug" / "peer"], greets=False)
    theirs = Peer([sys.executable, pathlib.Path(__file__).with_name("torch_peer.py")], greets=True)
    version, threads = theirs.greeting.split()
    print(f"PyTorch {version} with {threads} threads; medians over {options.rounds} rounds, in turns\n")
    row = "| {:<12} | {:<5} | {:>5} | {:>9} | {:>9} | {:>5} |" if options.markdown else "{:<12} {:<5} {:>5} {:>9} {:>9} {:>5}"
    print(row.format("backbone", "work", "batch", "ours/s", "PyTorch/s", "ratio"))
    if options.markdown:
        print("|---|---|--:|--:|--:|--:|")
    for name, (works, batches) in CASES.items():
        if options.backbone not in (None, name):
            continue
        for work in works:
            if options.work not in (None, work):
                continue
            for batch in batches:
                if options.batch not in (None, batch):
                    continue
                # The first steps allocate; the second round's length follows from them.
                first = max(ours.times(name, work, batch, 2)[1], theirs.times(name, work, batch, 2)[1])
                steps = max(2, min(200, round(options.seconds / first)))
                ours.times(name, work, batch, steps), theirs.times(name, work, batch, steps)
                a, b = [], []
                for _ in range(options.rounds):
                    a += ours.times(name, work, batch, steps)
                    b += theirs.times(name, work, batch, steps)
                a, b = statistics.median(a), statistics.median(b)
                print(row.format(name, work, batch, f"{batch / a:.1f}", f"{batch / b:.1f}", f"{b / a:.2f}"), flush=True)


if __name__ == "__main__":
    main()
