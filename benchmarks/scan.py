"""How fast is a large archive of pictures read, and does memory stay flat?

    python benchmarks/scan.py PICTURES.zip

Scans the archive twice with an empty cache folder (first, then from the cached index), and then draws batches with the
encoded pictures not allowed into memory (data.cache=0), printing resident memory as they go by.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path


def resident() -> float:
    """This process's resident memory now, in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures")
    parser.add_argument("--batches", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["GANSMITH_CACHE"] = cache
        import torch

        from gansmith.config import Run
        from gansmith.data import LiveRows, open_data

        for which in ("first", "second"):
            began = time.perf_counter()
            data = open_data(given.pictures, Run())
            print(
                f"{which} scan of {len(data.raws):,} pictures: {time.perf_counter() - began:.2f} s, {resident():.0f} MB resident"
            )
        rows = LiveRows(data.codec, data.raws.take(data.parts["T"]))
        for i in range(given.batches + 1):
            if i % (given.batches // 5) == 0:
                print(f"after {i * 64:,} pictures read one by one: {resident():.0f} MB resident")
            rows.take(torch.arange(64) + 64 * i)


if __name__ == "__main__":
    main()
