#!/usr/bin/env python3
"""The batch scripts of launcher/slurm/, and those that `moetrain slurm` writes, on a real Slurm: munge and slurmctld here,
a slurmd on each of seven hosts that are namespaces of this one, without systemd, accounting or cgroups. Exit code 77 when
that is not possible here.

  slurm.py MOETRAIN [TEST …]"""
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import namespaces

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "parallel"))
from runs import ENVIRONMENT, HANG_SECONDS, Workspace, difference, kill, main, write  # noqa: E402

SOURCE = os.path.abspath(os.path.join(HERE, "..", ".."))
TOOLS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol", "squeue")
PARTS = ("compute", "imbalance", "wait", "exchange", "reduction", "other")
LONG = {"train.steps": 100000, "eval.every": 0}

CONFIG = """
ClusterName=test
SlurmctldHost=control(10.77.0.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
PlugStackConfig=/dev/null
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=pmix
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=DEFAULT CPUs=4 Boards=1 Sockets=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
"""


def wait_until(true, what):
    deadline = time.monotonic() + HANG_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"never: {what() if callable(what) else what}"
        time.sleep(0.1)


class Slurm:
    """Daemons here and on the hosts; what is left of them ends with the hosts, and with this script's world."""

    def __init__(self, hosts):
        self.hosts = hosts
        self._scratch = tempfile.TemporaryDirectory(prefix="moetrain-slurm-")
        self.folder = folder = self._scratch.name
        os.chmod(folder, 0o755)  # munge asks for it
        for name in ("state", *(f"{kind}-{host}" for kind in ("spool", "tmp") for host in hosts.names)):
            os.mkdir(os.path.join(folder, name))
        write(os.path.join(folder, "munge.key"), os.urandom(1024))
        os.chmod(os.path.join(folder, "munge.key"), 0o600)
        nodes = "\n".join(f"NodeName={host} NodeAddr={hosts.address(host)}" for host in hosts.names)
        write(os.path.join(folder, "slurm.conf"), CONFIG.format(folder=folder, nodes=nodes))
        os.environ.update(ENVIRONMENT, SLURM_CONF=os.path.join(folder, "slurm.conf"), OMP_NUM_THREADS="1",
                          OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_hwloc_base_binding_policy="none",
                          OMPI_MCA_oob_tcp_if_include=namespaces.NETWORK, OMPI_MCA_btl_tcp_if_include=namespaces.NETWORK)

    def __enter__(self):
        path = self.folder
        self._daemon("munged", "--force", f"--key-file={path}/munge.key", f"--socket={path}/munge.sock",
                     f"--pid-file={path}/munged.pid", f"--log-file={path}/munged.log", f"--seed-file={path}/munge.seed")
        self._daemon("slurmctld", "-c")
        for host in self.hosts.names:
            self.start_node(host)
        return self

    def __exit__(self, *unused):
        self.call("scancel", "--full", "--user=root")
        for name in ("slurmctld", "munged"):
            with open(os.path.join(self.folder, f"{name}.pid")) as file:
                pid = int(file.read())
            kill(pid, signal.SIGTERM)
            wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), f"the end of {name}")
        for host in list(self.hosts.names):
            self.hosts.kill(host)
        self._scratch.cleanup()

    def _daemon(self, name, *words):
        subprocess.run([name, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       timeout=HANG_SECONDS, check=True)
        path = os.path.join(self.folder, f"{name}.pid")
        wait_until(lambda: os.path.exists(path) and open(path).read().strip(), f"{name} runs")

    def start_node(self, host):
        self.hosts.run(host, ["slurmd"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       timeout=HANG_SECONDS, check=True)
        wait_until(lambda: self.call("sinfo", "-h", "-n", host, "-o", "%T") == "idle", f"{host} is idle")

    def call(self, *command):
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()

    def submit(self, space, run, script, *words, options=(), step=3, fault=None):
        """The number of a job, begun when that step is done; with the program of the faults."""
        script = [script] if script else []  # or --wrap among the options
        faulty = {"MOETRAIN": f"{space.program}_faults", "MOETRAIN_FAULT": fault} if fault else {}
        done = subprocess.run(["sbatch", "--parsable", "-o", space.path(f"{run}.out"), *options, *script, *words],
                              cwd=space.folder, capture_output=True, text=True, timeout=60,
                              env=dict(os.environ, **{"MOETRAIN": space.program, "MOETRAIN_SOURCE": SOURCE, **faulty}))
        assert done.returncode == 0, done.stderr
        job = done.stdout.strip()
        if step:
            path = space.path(run, "metrics.jsonl")
            wait_until(lambda: os.path.exists(path) and f'{{"step":{step},' in open(path).read(),
                       lambda: f"step {step} of {run}\n{self.describe(job)}\n{output(space, run)}")
        return job

    def submit_template(self, space, template, run, config, options=("-n", "2", "-t", "10"), fault=None):
        keys = space.command(run, config)[-2:]  # configuration, run.dir
        return self.submit(space, run, f"{SOURCE}/launcher/slurm/{template}.sbatch", *keys, options=options, fault=fault)

    def write_script(self, space, run, config, *options, program=None):
        keys = space.command(run, config)[-2:]
        done = subprocess.run([program or space.program, "slurm", *keys, *options, "-o", space.path(f"{run}.sbatch")],
                              cwd=space.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return space.path(f"{run}.sbatch")

    def describe(self, job):
        return self.call("scontrol", "show", "job", job)

    def field(self, job, name):
        words = self.describe(job).split()
        return next((word.split("=", 1)[1] for word in words if word.startswith(f"{name}=")), "")

    def wait_for_state(self, job, *states):
        wait_until(lambda: self.field(job, "JobState") in states, lambda: f"job {job} {states}: {self.describe(job)}")

    def start_now(self, job):
        """Slurm would wait two minutes, for the end of what the job leaves behind."""
        self.wait_for_state(job, "PENDING")
        wait_until(lambda: not step_daemons(job), f"the end of what job {job} was")
        time.sleep(2)  # a credential of the second in which the old ones were revoked counts as revoked
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now")

    def expect_result(self, space, job, config):
        """The job ends well, after a restart, with the bits of the unbroken run."""
        self.wait_for_state(job, "COMPLETED", "FAILED", "CANCELLED")
        shown = self.describe(job)
        assert "JobState=COMPLETED" in shown and "Restarts=0" not in shown, shown + output(space, "run")
        space.run("unbroken", config)
        assert space.result("run") == space.result("unbroken"), \
            difference(space.metrics("run"), space.metrics("unbroken")) + output(space, "run")


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
    return processes(lambda words: words[0] == space.program and f"run.dir={space.path(run)}" in words and
                     "supervise" not in words)


def called(space, *words):
    """What the program says in the folder, here."""
    done = subprocess.run([space.program, *words], cwd=space.folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done


def step_daemons(job):
    return processes(lambda words: words[0].startswith(f"slurmstepd: [{job}."))


def output(space, run):
    try:
        with open(space.path(f"{run}.out"), errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


SHORT = {"train.steps": 60, "eval.every": 0, "checkpoint.every": 0, "log.every": 1}


def a_preempted_job_is_requeued_and_computes_what_an_unbroken_one_does(space: Workspace):
    script = slurm.write_script(space, "run", SHORT, "-N", "2", "--ntasks-per-node", "2", "--launcher", "srun", "--time", "10",
                                program=f"{space.program}_faults")
    job = slurm.submit(space, "run", script, options=("--exclusive",), fault=space.slow_after(3))
    nodes = slurm.field(job, "NodeList")
    urgent = slurm.submit(space, "urgent", None, options=("-p", "urgent", "-w", nodes, "-N2", "--exclusive", "--wrap",
                                                                 "true"), step=0)
    slurm.wait_for_state(urgent, "COMPLETED")
    assert "stopped by SIGUSR1" in output(space, "run"), output(space, "run")
    space.hurry()
    slurm.start_now(job)
    slurm.expect_result(space, job, SHORT)


def a_cancelled_job_is_saved_and_does_not_come_back(space: Workspace):
    for template in ("srun", "mpirun"):
        job = slurm.submit_template(space, template, template, LONG)
        slurm.call("scancel", job)
        slurm.wait_for_state(job, "CANCELLED", "PENDING", "COMPLETED", "FAILED")
        wait_until(lambda: not ranks_in(space, template), "the end of the ranks")
        wait_until(lambda: job not in slurm.call("squeue", "-h", "-o", "%A").split(), "a queue without the job")
        text = output(space, template)
        assert slurm.field(job, "JobState") == "CANCELLED" and slurm.field(job, "Restarts") == "0", text
        assert len(space.checkpoints(template)) == 1, f"{template}: not saved\n{text}"


def mpirun_on_two_nodes_is_requeued_too(space: Workspace):
    job = slurm.submit_template(space, "mpirun", "run", LONG, ("-N2", "--ntasks-per-node=1", "-t", "10"))
    slurm.call("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1@300 does before the time limit
    slurm.wait_for_state(job, "PENDING")
    slurm.call("scancel", job)
    assert "stopped by SIGUSR1" in output(space, "run"), output(space, "run")


def a_killed_rank_ends_the_job(space: Workspace):
    job = slurm.submit_template(space, "srun", "run", dict(LONG, **{"run.hang_timeout": 0}))
    kill(ranks_in(space, "run")[1])
    slurm.wait_for_state(job, "FAILED")
    assert slurm.field(job, "ExitCode") == "137:0", slurm.field(job, "ExitCode")


def a_stopped_rank_ends_the_job(space: Workspace):
    job = slurm.submit_template(space, "srun", "run", dict(LONG, **{"run.hang_timeout": 3}))
    stopped = ranks_in(space, "run")[1]
    kill(stopped, signal.SIGSTOP)
    slurm.wait_for_state(job, "FAILED")
    kill(stopped)
    assert "no progress for 3 s" in output(space, "run"), output(space, "run")


def a_supervised_job_survives_a_killed_rank_and_is_requeued(space: Workspace):
    job = slurm.submit_template(space, "supervise", "run", dict(LONG, **{"run.hang_timeout": 0, "checkpoint.every": 1}))
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


def the_runs_of_an_array_differ_in_what_their_lines_say(space: Workspace):
    config = dict(SHORT, **{"train.steps": 5})
    script = slurm.write_script(space, "array", config, "-N", "1", "--ntasks-per-node", "2", "--array",
                                "train.lr=0.001; -np 1;run.seed=2")
    job = slurm.submit(space, "array", script, step=0)
    wait_until(lambda: not slurm.call("squeue", "-h", "-j", job), lambda: output(space, "array"))
    for number, changes in (("1", {"train.lr": 0.001}), ("2", {}), ("3", {"run.seed": 2})):
        space.run(f"alone-{number}", dict(config, **changes))
        assert space.result(f"runs/array-{number}") == space.result(f"alone-{number}"), output(space, "array")
    with open(space.path("runs/array-2", "starts.jsonl")) as file:
        assert json.loads(file.read())["ranks"] == 1


def the_tasks_of_a_comparison_are_its_runs(space: Workspace):
    """On two ranks each, from the script that compare writes; the losses are those of the runs alone."""
    config = dict(SHORT, **{"train.steps": 4})
    keys = space.command("unused", config)[-2:]
    write(space.path("rows.yaml"), f"config: {keys[0]}\nseeds: [1, 2]\nrows: {{as_it_is: , slow: {{train.lr: 0.001}}}}\n")

    def compare(*words):
        return called(space, "compare", "rows.yaml", *words).stdout

    compare("-N", "1", "--ntasks-per-node", "2", "--script", "rows.sbatch")
    job = slurm.submit(space, "rows", space.path("rows.sbatch"), step=0)
    wait_until(lambda: not slurm.call("squeue", "-h", "-j", job), lambda: output(space, "rows"))
    for row, changes in (("as_it_is", {}), ("slow", {"train.lr": 0.001})):
        space.run(f"{row}-alone", dict(config, **changes, **{"run.seed": 2}))
        assert space.result(f"runs/rows/{row}/seed-2") == space.result(f"{row}-alone"), output(space, "rows")
    text = compare()  # the table of all of them; nothing is trained
    assert "run 1 of" not in text and text.count("| 2 of 2 |") == 2, text


POINTS = ("--np", "1,2", "--steps", "2", "--warm-up", "0", "--repeats", "1")


def points_that_ran(space, folder):
    """Ranks, routing and hosts of the points of scale.csv, each of which has run once."""
    found = []
    with open(space.path(folder, "scale.csv"), newline="") as file:
        for row in csv.DictReader(file):
            assert row["runs"] == "1" and abs(sum(float(row[part]) for part in PARTS) - 1) < 1e-6, row
            with open(space.path(folder, f"np-{row['ranks']}", f"{row['routing']}-1", "starts.jsonl")) as starts:
                (start,) = map(json.loads, starts)  # not run again
            found.append((row["ranks"], row["routing"], list(start["hosts"].values())))
    return found


def the_tasks_of_a_scaling_experiment_are_its_points(space: Workspace):
    """On two nodes, from the script that scale writes; afterwards it tables all and measures nothing."""
    config = space.command("unused", SHORT)[-2]
    called(space, "scale", config, *POINTS, "-o", "out", "-N", "2", "--script", "points.sbatch")
    job = slurm.submit(space, "points", space.path("points.sbatch"), step=0)
    wait_until(lambda: not slurm.call("squeue", "-h", "-j", job), lambda: output(space, "points"))
    again = called(space, "scale", config, *POINTS, "-o", "out", "--oversubscribe")
    assert "a step" not in again.stderr and "2 ranks do" in again.stdout, f"{again.stderr}{output(space, 'points')}"
    assert points_that_ran(space, "out") == [("1", "learned", [1]), ("1", "even", [1]), ("2", "learned", [1, 1]),
                                             ("2", "even", [1, 1])], output(space, "points")


def a_scaling_experiment_in_a_job_takes_its_nodes_by_srun(space: Workspace):
    config = space.command("unused", SHORT)[-2]
    write(space.path("mpirun"), "#!/bin/sh\nexit 99\n")
    os.chmod(space.path("mpirun"), 0o700)
    scale = " ".join((space.program, "scale", config, *POINTS, "-o", "out", "model.feed_forward=dense"))
    job = slurm.submit(space, "scale", None, step=0, options=(
        "-N2", "--ntasks-per-node=1", "--wrap", f"PATH={space.folder}:$PATH {scale}; {scale.replace('1,2', '1,3')}; exit 0"))
    slurm.wait_for_state(job, "COMPLETED", "FAILED")
    assert points_that_ran(space, "out") == [("1", "learned", [1]), ("2", "learned", [1, 1])], output(space, "scale")
    assert "3 ranks share 2 tasks of this job" in output(space, "scale"), output(space, "scale")


# ---- begun before the other tests, since Slurm takes its time ----

LOST = dict(SHORT, **{"checkpoint.every": 10})


def begin_a_job_whose_node_fails(space):
    job = slurm.submit_template(space, "srun", "run", LOST, ("-N2", "-x", "h3,h4,h5,h6,h7", "--ntasks-per-node=1", "-t", "10"),
                                fault=space.slow_after(10))
    wait_until(lambda: space.checkpoints("run"), "a checkpoint")
    lost = slurm.field(job, "BatchHost")  # of rank 0, which holds the lock
    slurm.hosts.kill(lost)
    slurm.call("scontrol", "update", f"NodeName={lost}", "State=DOWN", "Reason=lost")  # as after SlurmdTimeout
    space.hurry()
    slurm.call("scontrol", "update", f"JobId={job}", "ExcNodeList=")
    return job


def a_job_whose_node_fails_is_requeued_and_takes_the_lock_of_the_lost_holder(unused: Workspace):
    job, space = begun["lost"]
    slurm.start_now(job)
    slurm.expect_result(space, job, LOST)
    assert "which does not answer any more: taken over" in output(space, "run"), output(space, "run")


LEFT = dict(SHORT, **{"checkpoint.every": 10, "run.hang_timeout": 20})


def begin_a_supervised_job_that_loses_a_node(space):
    job = slurm.submit_template(space, "supervise", "run", LEFT,
                                ("-N2", "-w", "h6,h7", "--ntasks-per-node=1", "--no-kill", "-t", "10"), fault=space.slow_after(10))
    wait_until(lambda: space.checkpoints("run"), "a checkpoint")
    lost = {"h6": "h7", "h7": "h6"}[slurm.field(job, "BatchHost")]
    slurm.hosts.kill(lost)
    slurm.call("scontrol", "update", f"NodeName={lost}", "State=DOWN", "Reason=lost")
    space.hurry()
    return job


def a_supervised_job_goes_on_with_the_nodes_that_are_left(unused: Workspace):
    job, space = begun["left"]
    slurm.wait_for_state(job, "COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL")
    with open(space.path("run", "attempts.jsonl")) as file:
        assert [json.loads(line)["ranks"] for line in file] == [2, 1], output(space, "run")
    assert "1 ranks from now on, on 1 of 2 nodes" in output(space, "run") and slurm.field(job, "Restarts") == "0"
    space.run("unbroken", LEFT)
    assert space.digest("run") == space.digest("unbroken"), output(space, "run")


def begin_a_job_whose_time_is_nearly_over_when_its_ranks_start(space):
    keys = " ".join(space.command("run", LONG)[-2:])
    return slurm.submit(space, "run", None, options=(
        "-n2", "-t1", "-w", "h5", "--requeue", "--open-mode=append", "--wrap",
        f"sleep 45; exec bash {SOURCE}/launcher/slurm/srun.sbatch {keys}"), step=0)


def a_job_without_a_signal_is_saved_before_its_time_limit(unused: Workspace):
    job, space = begun["limited"]
    wait_until(lambda: "everything is saved" in output(space, "run"), lambda: slurm.describe(job) + output(space, "run"))
    slurm.call("scancel", job)
    text = output(space, "run")
    assert f"says Slurm job {job}" in text and "stopped by the time limit" in text, text
    assert space.checkpoints("run"), text  # one, or more where it has come back by now


begun = {}  # name: job, workspace


def begin(name, do):
    space = Workspace(sys.argv[1])
    begun[name] = do(space), space


if __name__ == "__main__":
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        print(f"skipped: there is no {', '.join(missing)} (launcher/install-packages test)")
        sys.exit(77)
    namespaces.enter()
    with namespaces.Hosts(7) as hosts, Slurm(hosts) as slurm:
        begin("limited", begin_a_job_whose_time_is_nearly_over_when_its_ranks_start)
        begin("lost", begin_a_job_whose_node_fails)
        begin("left", begin_a_supervised_job_that_loses_a_node)
        main([a_preempted_job_is_requeued_and_computes_what_an_unbroken_one_does,
              a_cancelled_job_is_saved_and_does_not_come_back, mpirun_on_two_nodes_is_requeued_too, a_killed_rank_ends_the_job,
              a_stopped_rank_ends_the_job, a_supervised_job_survives_a_killed_rank_and_is_requeued,
              the_runs_of_an_array_differ_in_what_their_lines_say, the_tasks_of_a_comparison_are_its_runs,
              the_tasks_of_a_scaling_experiment_are_its_points, a_scaling_experiment_in_a_job_takes_its_nodes_by_srun,
              a_job_without_a_signal_is_saved_before_its_time_limit,
              a_job_whose_node_fails_is_requeued_and_takes_the_lock_of_the_lost_holder,
              a_supervised_job_goes_on_with_the_nodes_that_are_left])
