"""Processes that tests fork, start with torchrun, wait for and kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable

import pytest
import torch

cannot_fork = pytest.mark.skipif(
    not hasattr(os, "fork") or torch.cuda.is_available(),
    reason="forks; autograd's threads for a GPU do not survive that",
)


def forks(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that forks: it runs before threads start, and not where there is a GPU."""
    return pytest.mark.forks(cannot_fork(test))


def in_child(work, log) -> int:
    """Fork, work, exit with what it returns; gives the process's number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        torch.set_num_threads(1)
        code = work() or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait(pid, limit=60.0) -> int:
    """The exit code of a process; minus the signal that ended it."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"no end within {limit} s")


def until(holds, limit=60.0) -> None:
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def torchrun(*given, restarts=0):
    """Run to the end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", str(restarts), *map(str, given)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        out, err = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        process.terminate()  # it ends its workers
        out, err = process.communicate(timeout=60)
        pytest.fail(f"torchrun did not end: {err[-3000:]}")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ranks(work, folder, world=2):
    """Fork processes that find each other as torchrun's do; their numbers."""
    port = str(free_port())

    def one(rank):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ.update({k: str(v) for k, v in names.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
        warnings.simplefilter("ignore")
        return work(rank)

    return [
        in_child(lambda rank=rank: one(rank), folder / f"rank{rank}.log") for rank in range(world)
    ]


def said(folder):
    return "".join(p.read_text() for p in sorted(folder.glob("rank*.log")))
