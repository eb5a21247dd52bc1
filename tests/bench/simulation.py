#!/usr/bin/python3
"""Steps that `moetrain simulate --cluster here` foretells beside measured ones: 1, 2, 4 and 8 ranks of this machine, and, as
root, 2 and 4 on two hosts in network namespaces whose links let through 1 Gbit/s. A table of both, and how far apart they are.

    tests/bench/simulation.py [local|hosts …]     (default: both)

Needs build/release on a quiet machine: runs take turns, and the median step of each is taken."""
import json, os, pathlib, statistics, subprocess, sys, tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "build/release/moetrain"
RATE, ROUNDS, STEPS, WARM_UP = "1gbit", 3, 12, 3
ENV = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_mpi_yield_when_idle="1",
           OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", OMPI_MCA_rmaps_base_oversubscribe="1",
           OMPI_MCA_hwloc_base_binding_policy="none")
# The shape of makeMoE, with twice its tokens.
KEYS = {"model.d_model": 128, "model.layers": 8, "attention.heads": 8, "moe.experts": 8, "moe.top_k": 2, "moe.d_ff": 512,
        "model.activation": "relu", "train.batch": 16, "train.context": 64, "moe.force": "balanced", "eval.every": 0,
        "log.every": 1000, "log.every_row": "true", "train.warmup": 2, "train.steps": STEPS}


def config(folder):
    text = pathlib.Path(folder) / "text.txt"
    text.write_text(" ".join("word%d" % (i * i % 997) for i in range(50000)))
    path = pathlib.Path(folder) / "bench.yaml"
    path.write_text(f"data.train: {text}\n" + "".join(f"{key}: {value}\n" for key, value in KEYS.items()))
    return str(path)


def call(words, run=subprocess.run, env=ENV):
    done = run([str(word) for word in words], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{words}\n{done.stdout}{done.stderr}exit code {done.returncode}")
    return done.stdout


def train(folder, path, mpirun, **how):
    run = tempfile.mkdtemp(dir=folder)
    call([*mpirun, PROGRAM, path, f"run.dir={run}"], **how)
    rows = [json.loads(line) for line in open(f"{run}/metrics.jsonl")]
    return [row["step_ms"] for row in rows if row["step"] > WARM_UP]


def write_table(folder, steps):
    """As `moetrain scale` writes it."""
    table = pathlib.Path(folder) / "scale.csv"
    rows = [f"{n},even,{KEYS['train.batch']},8,{ROUNDS},0,{statistics.median(ms)},{min(ms)}" for n, ms in sorted(steps.items())]
    table.write_text("\n".join(["ranks,routing,batch,experts,runs,failed,step_ms,step_ms_p10", *rows]) + "\n")
    return table


def measure(folder, path, commands, **how):
    """Median steps by number of ranks; those of one rank are always of one host."""
    steps = {}
    for _ in range(ROUNDS):
        for ranks, mpirun in commands.items():
            steps.setdefault(ranks, []).extend(train(folder, path, mpirun, **how))
    return write_table(folder, steps)


def show(path, ranks, cluster, table):
    print(call([PROGRAM, "simulate", path, "-np", ranks, "--cluster", cluster, "--measured", table]), flush=True)


def bench_local(folder):
    print("# ranks of this machine, a thread each")
    path, cluster = config(folder), f"{folder}/here.yaml"
    call(["mpirun", "-np", 2, PROGRAM, "simulate", path, "-np", 8, "--cluster", "here", "-o", cluster])
    commands = {1: [], **{n: ["mpirun", "-np", n] for n in (2, 4, 8)}}
    show(path, 8, cluster, measure(folder, path, commands))


def bench_hosts(folder):
    sys.path.insert(0, str(ROOT / "tests/cluster"))
    import namespaces
    path = config(folder)
    with namespaces.Hosts(2) as hosts:
        env = dict(ENV, **hosts.mpi)
        for name in hosts.names:
            hosts.run(name, f"tc qdisc add dev eth0 root tbf rate {RATE} burst 16kb latency 400ms".split(), check=True)

        def on_h1(words, **how):
            return hosts.run("h1", words, **how)
        for ranks in (2, 4):
            each = ranks // 2
            print(f"# {ranks} ranks on two hosts, {RATE} between them")
            cluster = f"{folder}/hosts-{each}.yaml"
            mpirun = ["mpirun", "--host", f"h1:{each},h2:{each}", "-np", ranks]
            call([*mpirun, PROGRAM, "simulate", path, "-np", ranks, "--cluster", "here", "-o", cluster], run=on_h1, env=env)
            # Each host sees all CPUs; they have one each.
            text = pathlib.Path(cluster).read_text().replace("node.cpus: 2", "node.cpus: 1")
            pathlib.Path(cluster).write_text(text)
            show(path, ranks, cluster, measure(folder, path, {1: [], ranks: mpirun}, run=on_h1, env=env))


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["local", "hosts"]
    if "hosts" in wanted:
        sys.path.insert(0, str(ROOT / "tests/cluster"))
        import namespaces
        namespaces.enter()
    with tempfile.TemporaryDirectory() as scratch:
        for name in wanted:
            {"local": bench_local, "hosts": bench_hosts}[name](scratch)
