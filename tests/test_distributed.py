"""Two gloo ranks against one process, and the command under torchrun."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import ranks

HERE = Path(__file__).parent


class Torchrun:
    """A launch of two ranks; on leaving, nothing of it is left behind."""

    def __init__(self, log: Path, *command: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launch = ["torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
        self.log = log
        with open(log, "w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *launch, *command], env=env, stdout=out, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> Torchrun:
        return self

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []

    def wait(self, seconds: int = 100) -> int:
        return self.process.wait(seconds)

    def text(self) -> str:
        return self.log.read_text()

    def __exit__(self, *error: object) -> None:
        for process in [*self.workers(), self.process]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def test_two_ranks_agree_and_equal_one_process_with_the_doubled_batch(tmp_path: Path) -> None:
    """One launch for all cases: torchrun starts slowly."""
    with Torchrun(tmp_path / "log", str(HERE / "ranks.py"), str(tmp_path)) as launch:
        assert launch.wait() == 0, launch.text()
    wrong = []
    for key, case in ranks.cases().items():
        first, second = (load_file(tmp_path / f"{key}.{rank}.safetensors") for rank in (0, 1))
        assert first.keys() == second.keys()
        own = {
            name for name in first if "running_" in name
        }  # batch statistics are each rank's own; the first one's count
        wrong += [
            f"{key} {name} differs by rank" for name in first.keys() - own if not torch.equal(first[name], second[name])
        ]
        if not key.startswith("agree"):
            one = ranks.result(*case)
            assert one.keys() == first.keys()
            far = [name for name in one if not torch.allclose(first[name], one[name], rtol=1e-5, atol=1e-7)]
            wrong += [f"{key} {name} differs from one process" for name in far]
    assert not wrong


def test_the_command_on_two_ranks_writes_one_run(tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    with Torchrun(
        log, "-m", "gansmith", "train", "ring8", "--images", "6400", "--set", "train.batch=128", "--out", str(out)
    ) as launch:
        assert launch.wait() == 0, launch.text()
    state = json.loads((out / "run.json").read_text())
    assert state["status"] == "finished" and state["plan"]["devices"] == 2
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    seen = [row["seen"] for row in rows]
    assert seen == sorted(set(seen)) and seen[-1] == 6400  # one writer
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "run"]
    assert launch.text().count("Done: 6,400 examples") == 1


@pytest.mark.slow
def test_a_signal_to_the_launcher_stops_all_ranks_saved(tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    with Torchrun(log, "-m", "gansmith", "train", "ring8", "--images", "100M", "--out", str(out)) as launch:
        until = time.monotonic() + 60
        while not (out / "latest.json").exists() and time.monotonic() < until:
            time.sleep(0.1)
        workers = launch.workers()
        time.sleep(1)
        launch.process.send_signal(signal.SIGTERM)
        launch.wait()
        assert json.loads((out / "run.json").read_text())["status"] == "interrupted", launch.text()
        assert int(json.loads((out / "latest.json").read_text())["checkpoint"]) > 0
        assert len(workers) == 2 and not any(worker.is_running() for worker in workers)
