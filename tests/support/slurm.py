"""A Slurm of one node on this machine: its own munge, ports and folders, and nothing else's."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
WHERE = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
# a requeued job waits until its credential has expired: by default for two minutes
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
JobRequeue=1
KillWait=10
MinJobAge=300
ReturnToService=2
SlurmdParameters=config_overrides
LaunchParameters=disable_send_gids
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class CannotStart(Exception):
    """Why there is no Slurm here."""


@contextlib.contextmanager
def slurm(folder: Path, slots: int = 2) -> Iterator[None]:
    """A cluster that runs `slots` jobs at a time; `SLURM_CONF` points to it.

    Raises:
        CannotStart: where Debian's slurm-wlm and munge are not installed, or do not start.
    """
    absent = [program for program in PROGRAMS if shutil.which(program, path=WHERE) is None]
    if absent:
        raise CannotStart(f"{', '.join(absent)} not found; apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        raise CannotStart("slurmd needs root")
    with contextlib.ExitStack() as daemons:
        daemons.callback(_restore, os.environ.get("SLURM_CONF"))
        _start(folder, slots, daemons)
        yield


def _restore(configuration: str | None) -> None:
    os.environ.pop("SLURM_CONF", None)
    if configuration is not None:
        os.environ["SLURM_CONF"] = configuration


def _start(folder: Path, slots: int, daemons: contextlib.ExitStack) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    munge = folder / "munge.socket"
    _daemon(  # --force: of root, and in a folder that others may not enter
        *("munged", "--foreground", "--force", f"--socket={munge}", f"--key-file={key}"),
        *(f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munged.seed"),
        folder=folder,
        daemons=daemons,
    )
    _wait_until(munge.exists, folder, "munged")
    controller_port, node_port = _free_ports(2)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            **{"folder": folder, "slots": slots},
            **{"controller_port": controller_port, "node_port": node_port},
        )
    )
    os.environ["SLURM_CONF"] = str(configuration)
    _daemon("slurmctld", "-D", "-f", str(configuration), folder=folder, daemons=daemons)
    _daemon("slurmd", "-D", "-f", str(configuration), folder=folder, daemons=daemons)
    _wait_until(lambda: "idle" in told("sinfo", "-h", "-o", "%T"), folder, "slurmd")
    daemons.callback(_end_jobs)


def told(*words: str) -> str:
    """What a command of Slurm prints, "" if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode == 0 else ""


def _daemon(name: str, *words: str, folder: Path, daemons: contextlib.ExitStack) -> None:
    program = shutil.which(name, path=WHERE)
    assert program is not None
    with (folder / f"{name}.out").open("wb") as lines:
        process = subprocess.Popen(
            [program, *words], stdout=lines, stderr=lines, start_new_session=True
        )
    daemons.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_jobs() -> None:
    """Leave no job behind: it does not end with the daemons."""
    told("scancel", f"--user={getpass.getuser()}")
    deadline = time.monotonic() + 30
    while told("squeue", "-h") and time.monotonic() < deadline:
        time.sleep(0.2)


def _wait_until(ready: Callable[[], bool], folder: Path, name: str, patience: float = 60) -> None:
    deadline = time.monotonic() + patience
    while not ready():
        if time.monotonic() > deadline:
            logs = [folder / f"{name}.{ending}" for ending in ("out", "log")]
            lines = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
            raise CannotStart(f"{name} does not start: {' | '.join(lines[-3:]) or 'no message'}")
        time.sleep(0.1)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
