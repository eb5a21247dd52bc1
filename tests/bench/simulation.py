#!/usr/bin/python3
"""Steps that `moetrain simulate --cluster here` foretells beside measured ones: 1, 2, 4 and 8 ranks of this machine, and, as
root, 2 and 4 on two hosts in network namespaces whose links let through 1 Gbit/s. A table of both, and how far apart they are.

    tests/bench/simulation.py [local|hosts …]     (default: both)

Needs build/release on a quiet machine: runs take turns, and of the steps of each the fastest tenth is taken, which nothing
disturbed. One rank is measured beside another run of one rank, since cores that share caches, memory and a clock slow each
other down, and virtual ones may be halves of a core."""
import concurrent.futures, json, os, pathlib, statistics, subprocess, sys, tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "build/release/moetrain"
RATE, ROUNDS, STEPS, WARM_UP = "1gbit", 4, 12, 3
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


def on_this_host(words):
    return words, ENV


def finish(words, on=on_this_host):
    """Its output, of where `on` starts it."""
    words, env = on([str(word) for word in words])
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{words}\n{done.stdout}{done.stderr}exit code {done.returncode}")
    return done.stdout


def train(folder, path, mpirun, on):
    run = tempfile.mkdtemp(dir=folder)
    finish([*mpirun, PROGRAM, path, f"run.dir={run}"], on)
    rows = [json.loads(line) for line in open(f"{run}/metrics.jsonl")]
    return [row["step_ms"] for row in rows if row["step"] > WARM_UP]


def write_table(folder, steps):
    """As `moetrain scale` writes it."""
    table = pathlib.Path(folder) / "scale.csv"
    rows = [f"{n},even,{KEYS['train.batch']},8,{ROUNDS},0,{statistics.quantiles(ms, n=10)[0]}," for n, ms in sorted(steps.items())]
    table.write_text("\n".join(["ranks,routing,batch,experts,runs,failed,step_ms,", *rows]) + "\n")
    return table


def measure(folder, path, commands, one_rank=(on_this_host, on_this_host)):
    """A table of the steps by number of ranks: of one rank on two places at once, of more on the first."""
    steps = {}
    for _ in range(ROUNDS):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            both = list(pool.map(lambda on: train(folder, path, [], on), one_rank))
        steps.setdefault(1, []).extend(both[0] + both[1])
        for ranks, mpirun in commands.items():
            steps.setdefault(ranks, []).extend(train(folder, path, mpirun, one_rank[0]))
    return write_table(folder, steps)


def show(path, ranks, cluster, table):
    print(finish([PROGRAM, "simulate", path, "-np", ranks, "--cluster", cluster, "--measured", table]), flush=True)


def bench_local(folder):
    print("# ranks of this machine, a thread each")
    path, cluster = config(folder), f"{folder}/here.yaml"
    finish(["mpirun", "-np", 2, PROGRAM, "simulate", path, "-np", 8, "--cluster", "here", "-o", cluster])
    commands = {n: ["mpirun", "-np", n] for n in (2, 4, 8)}
    show(path, 8, cluster, measure(folder, path, commands))


def bench_hosts(folder):
    sys.path.insert(0, str(ROOT / "tests/cluster"))
    import namespaces
    path = config(folder)
    with namespaces.Hosts(2) as hosts:
        env = dict(ENV, **hosts.mpi)
        for name in hosts.names:
            hosts.run(name, f"tc qdisc add dev eth0 root tbf rate {RATE} burst 16kb latency 400ms".split(), check=True)

        def on(name):
            return lambda words: (hosts.command(name, words), env)
        for ranks in (2, 4):
            each = ranks // 2
            print(f"# {ranks} ranks on two hosts, {RATE} between them")
            cluster = f"{folder}/hosts-{each}.yaml"
            mpirun = ["mpirun", "--host", f"h1:{each},h2:{each}", "-np", ranks]
            finish([*mpirun, PROGRAM, "simulate", path, "-np", ranks, "--cluster", "here", "-o", cluster], on("h1"))
            # Each host sees all CPUs; they have one each.
            text = pathlib.Path(cluster).read_text().replace("node.cpus: 2", "node.cpus: 1")
            pathlib.Path(cluster).write_text(text)
            show(path, ranks, cluster, measure(folder, path, {ranks: mpirun}, (on("h1"), on("h2"))))


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["local", "hosts"]
    if len(wanted) > 1:  # hosts are in a namespace of their own, whose loopback is down
        sys.exit(max(subprocess.run([sys.executable, __file__, name]).returncode for name in wanted))
    if wanted == ["hosts"]:
        sys.path.insert(0, str(ROOT / "tests/cluster"))
        import namespaces
        namespaces.enter()
    with tempfile.TemporaryDirectory() as scratch:
        {"local": bench_local, "hosts": bench_hosts}[wanted[0]](scratch)
