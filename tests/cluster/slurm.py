#!/usr/bin/env python3
"""The batch scripts of launcher/slurm/ on a real Slurm of one host: munge, slurmctld and slurmd in a temporary folder, as
root, without systemd, accounting or cgroups. Exit code 77 when that is not possible here.

  slurm.py MOETRAIN [TEST …]"""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "parallel"))
from runs import ENVIRONMENT, HANG_SECONDS, Workspace, difference, kill, main  # noqa: E402

SOURCE = os.path.abspath(os.path.join(HERE, "..", ".."))
TOOLS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol")
LONG = {"train.steps": 100000, "eval.every": 0}

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
TmpFS={folder}/tmp
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
PlugStackConfig=/dev/null
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
JobRequeue=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 Boards=1 Sockets=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=1000
PartitionName=main Nodes=n1 Default=YES MaxTime=INFINITE State=UP
"""


def wait_until(true, what):
    deadline = time.monotonic() + HANG_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Slurm:
    """Three daemons, started and ended by their process ids."""

    def __init__(self):
        self._scratch = tempfile.TemporaryDirectory(prefix="moetrain-slurm-")
        self.folder = folder = self._scratch.name
        os.chmod(folder, 0o755)  # munge asks for it
        for name in ("state", "spool", "tmp"):
            os.mkdir(os.path.join(folder, name))
        with open(os.path.join(folder, "munge.key"), "wb") as file:
            file.write(os.urandom(1024))
        os.chmod(file.name, 0o600)
        with open(os.path.join(folder, "slurm.conf"), "w") as file:
            file.write(CONFIG.format(host=socket.gethostname().split(".")[0], folder=folder, ports=free_ports(2)))
        self.environment = dict(os.environ, **ENVIRONMENT, SLURM_CONF=file.name, OMP_NUM_THREADS="1",
                                OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_hwloc_base_binding_policy="none")
        self.pids = []

    def _daemon(self, name, *command):
        done = subprocess.run(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=HANG_SECONDS)
        path = os.path.join(self.folder, f"{name}.pid")
        wait_until(lambda: os.path.exists(path) and open(path).read().strip(), f"{name} runs ({done.returncode})")
        self.pids.append(int(open(path).read()))

    def start(self):
        path = self.folder
        self._daemon("munged", "munged", "--force", f"--key-file={path}/munge.key", f"--socket={path}/munge.sock",
                     f"--pid-file={path}/munged.pid", f"--log-file={path}/munged.log", f"--seed-file={path}/munge.seed")
        self._daemon("slurmctld", "slurmctld", "-c")
        self._daemon("slurmd", "slurmd", "-N", "n1")
        wait_until(self.idle, "a node that is idle")

    def idle(self):
        return self.call("sinfo", "-h", "-t", "idle", "-o", "%D") == "1"

    def stop(self):
        subprocess.run(["scancel", "--full", "--user=root"], env=self.environment, capture_output=True, timeout=60)
        for pid in reversed(self.pids):
            kill(pid, signal.SIGTERM)
        for pid in self.pids:
            wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), "the end of a daemon")
        self._scratch.cleanup()

    def call(self, *command):
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60).stdout.strip()

    def submit(self, space, template, run, config):
        """The number of a job of two ranks, begun when its third step is done."""
        keys = space.command(run, config)[-2:]  # configuration, run.dir
        environment = dict(self.environment, MOETRAIN=space.program, MOETRAIN_MPIRUN=f"{SOURCE}/launcher/mpirun")
        done = subprocess.run(["sbatch", "--parsable", "-n", "2", "-t", "10", "-o", space.path(f"{run}.out"),
                               f"{SOURCE}/launcher/slurm/{template}.sbatch", *keys], cwd=space.folder, env=environment,
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        self.wait_for_step(space, run, 3)
        return done.stdout.strip()

    def wait_for_step(self, space, run, step):
        path = space.path(run, "metrics.jsonl")
        wait_until(lambda: os.path.exists(path) and f'{{"step":{step},' in open(path).read(), f"step {step} of {run}")

    def field(self, job, name):
        words = self.call("scontrol", "show", "job", job).split()
        return next((word.split("=", 1)[1] for word in words if word.startswith(f"{name}=")), "")

    def wait_for_state(self, job, *states):
        wait_until(lambda: self.field(job, "JobState") in states, f"job {job} {states}: {self.field(job, 'JobState')}")


slurm = None


def processes(matches):
    """Process ids whose words of the command line match."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                if matches(file.read().decode(errors="replace").split("\0")):
                    found.append(int(entry))
        except OSError:
            continue
    return sorted(found)


def ranks_in(space, run):
    return processes(lambda words: words[0] == space.program and f"run.dir={space.path(run)}" in words)


def step_daemons(job):
    return processes(lambda words: words[0].startswith(f"slurmstepd: [{job}."))


def output(space, run):
    with open(space.path(f"{run}.out"), errors="replace") as file:
        return file.read()


def a_requeued_job_computes_what_an_unbroken_one_does(space: Workspace):
    config = {"train.steps": 300, "eval.every": 0, "checkpoint.every": 0}
    job = slurm.submit(space, "srun", "run", config)
    slurm.call("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1@300 does before the time limit
    slurm.wait_for_state(job, "PENDING")
    assert "stopped by SIGUSR1" in output(space, "run"), output(space, "run")
    # Slurm would wait two minutes, for the end of what the job leaves behind.
    wait_until(lambda: slurm.idle() and not step_daemons(job), "the end of the first half")
    time.sleep(2)  # a credential of the second in which the old ones were revoked counts as revoked
    slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now")
    slurm.wait_for_state(job, "COMPLETED", "FAILED", "CANCELLED")
    shown = slurm.call("scontrol", "show", "job", job)
    assert "JobState=COMPLETED" in shown and "Restarts=1" in shown, shown + output(space, "run")
    space.run("unbroken", config)
    assert space.result("run") == space.result("unbroken"), difference(space.metrics("run"), space.metrics("unbroken")) + output(space, "run")


def a_cancelled_job_is_saved_and_does_not_come_back(space: Workspace):
    for template in ("srun", "mpirun"):
        job = slurm.submit(space, template, template, LONG)
        slurm.call("scancel", job)
        slurm.wait_for_state(job, "CANCELLED", "PENDING", "COMPLETED", "FAILED")
        wait_until(lambda: not ranks_in(space, template), "the end of the ranks")
        wait_until(lambda: job not in slurm.call("squeue", "-h", "-o", "%A").split(), "a queue without the job")
        text = output(space, template)
        assert slurm.field(job, "JobState") == "CANCELLED" and slurm.field(job, "Restarts") == "0", text
        assert len(space.checkpoints(template)) == 1, f"{template}: not saved\n{text}"


def mpirun_in_a_job_is_requeued_too(space: Workspace):
    job = slurm.submit(space, "mpirun", "run", LONG)
    slurm.call("scancel", "--batch", "--signal=USR1", job)
    slurm.wait_for_state(job, "PENDING")
    slurm.call("scancel", job)
    assert "stopped by SIGUSR1" in output(space, "run"), output(space, "run")


def a_killed_rank_ends_the_job(space: Workspace):
    job = slurm.submit(space, "srun", "run", dict(LONG, **{"run.hang_timeout": 0}))
    kill(ranks_in(space, "run")[1])
    slurm.wait_for_state(job, "FAILED")
    assert slurm.field(job, "ExitCode") == "137:0", slurm.field(job, "ExitCode")


def a_stopped_rank_ends_the_job(space: Workspace):
    job = slurm.submit(space, "srun", "run", dict(LONG, **{"run.hang_timeout": 3}))
    stopped = ranks_in(space, "run")[1]
    kill(stopped, signal.SIGSTOP)
    slurm.wait_for_state(job, "FAILED")
    kill(stopped)
    assert "no progress for 3 s" in output(space, "run"), output(space, "run")


def a_supervised_job_survives_a_killed_rank_and_is_requeued(space: Workspace):
    job = slurm.submit(space, "supervise", "run", dict(LONG, **{"run.hang_timeout": 0, "checkpoint.every": 1}))
    kill(ranks_in(space, "run")[-1])
    journal = space.path("run", "attempts.jsonl")
    wait_until(lambda: os.path.exists(journal), "the end of the first start")
    status = space.path("run", "status.json")
    wait_until(lambda: '/2"' in open(status).read() and '"loss"' in open(status).read(), "a second start")
    slurm.call("scancel", "--batch", "--signal=USR1", job)
    slurm.wait_for_state(job, "PENDING")
    slurm.call("scancel", job)
    with open(journal) as file:
        codes = [json.loads(line)["exit_code"] for line in file]
    assert codes == [137, 75], output(space, "run")


def run_all():
    global slurm
    if os.getuid() != 0 or any(not shutil.which(tool) for tool in TOOLS):
        print("skipped: this needs root and Slurm with munge (launcher/install-packages test)")
        sys.exit(77)
    slurm = Slurm()
    try:
        slurm.start()
        main([a_requeued_job_computes_what_an_unbroken_one_does, a_cancelled_job_is_saved_and_does_not_come_back,
              mpirun_in_a_job_is_requeued_too, a_killed_rank_ends_the_job, a_stopped_rank_ends_the_job,
              a_supervised_job_survives_a_killed_rank_and_is_requeued])
    finally:
        slurm.stop()


run_all()
