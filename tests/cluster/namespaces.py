"""Several hosts on one machine: each has network, name, /dev/shm and processes of its own, joined by a bridge. As root.

  namespaces.enter()                 # first: from here on the script runs in a world of its own, which ends with it
  with namespaces.Hosts(2) as hosts:
      process = hosts.start("h1", ["mpirun", "--host", "h1:1,h2:1", …], env=dict(os.environ, **hosts.mpi))
      hosts.cut("h2"); hosts.mend("h2"); hosts.kill("h2"); hosts.boot("h2")

Host hN is 10.77.0.N; the script itself is `control`, 10.77.0.254. The file system is everybody's, like that of a cluster.
Process ids in the script are the script's own; on a host the same process has another one, as on a machine of its own."""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "parallel"))
from runs import kill, ranks_of, wait_until_gone, write  # noqa: E402

TOOLS = ("unshare", "nsenter", "ip", "mount", "hostname")
# Everything in it dies with the unshare that has made it. `exit` keeps the shell, which buries orphans.
NEW_WORLD = ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
             "--propagation", "private"]
CONTROL, NETWORK = "10.77.0.254", "10.77.0.0/24"


def enter():
    """Leaves with 77, a skipped test, where namespaces are not to be had."""
    if os.environ.get("MOETRAIN_TEST_WORLD"):
        return
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if os.getuid() != 0 or missing or subprocess.run([*NEW_WORLD, "true"], capture_output=True).returncode != 0:
        print(f"skipped: this needs root, namespaces and {', '.join(missing or TOOLS)}")
        sys.exit(77)
    os.environ["MOETRAIN_TEST_WORLD"] = "1"
    os.execvp("unshare", [*NEW_WORLD, "sh", "-c", '"$@"; exit $?', "sh", *sys.orig_argv])


class Hosts:
    """h1 to hN. `names` are theirs; `mpi` is the environment in which mpirun reaches the others from any of them."""

    def __init__(self, count):
        self.names = [f"h{i + 1}" for i in range(count)]
        self._scratch = tempfile.TemporaryDirectory(prefix="moetrain-hosts-")
        self._spaces = {}  # name: the unshare that holds its namespaces
        self._cut = set()
        agent = os.path.join(self._scratch.name, "agent")
        write(agent, f"#!/bin/sh\nexec {sys.executable} -BSE {os.path.abspath(__file__)} {agent}.socket \"$@\"\n")
        os.chmod(agent, 0o755)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(f"{agent}.socket")
        self._listener.listen()
        self.mpi = {"OMPI_MCA_plm": "rsh", "OMPI_MCA_plm_rsh_agent": agent, "OMPI_MCA_plm_rsh_no_tree_spawn": "1",
                    "OMPI_MCA_oob_tcp_if_include": NETWORK, "OMPI_MCA_btl": "self,vader,tcp",
                    "OMPI_MCA_btl_tcp_if_include": NETWORK}

    def __enter__(self):
        addresses = os.path.join(self._scratch.name, "hosts")
        lines = [f"127.0.0.1 localhost\n{CONTROL} control\n"]
        write(addresses, "".join(lines + [f"{self.address(name)} {name}\n" for name in self.names]))
        for command in (f"mount --bind {addresses} /etc/hosts", "hostname control", "ip link set lo up",
                        "ip link add bridge type bridge", f"ip addr add {CONTROL}/24 dev bridge", "ip link set bridge up"):
            subprocess.run(command.split(), check=True)
        threading.Thread(target=self._serve, daemon=True).start()
        for name in self.names:
            self.boot(name)
        return self

    def __exit__(self, *unused):
        for name in list(self._spaces):
            self.kill(name)
        self._listener.close()
        subprocess.run(["umount", "/etc/hosts"], check=True)
        subprocess.run(["ip", "link", "del", "bridge"], check=True)
        self._scratch.cleanup()

    def address(self, name):
        return f"10.77.0.{self.names.index(name) + 1}"

    # ---- what happens to hosts ----

    def boot(self, name):
        script = f"hostname {name} && mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo ready && sleep infinity; exit"
        space = subprocess.Popen([*NEW_WORLD, "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert space.stdout.readline() == b"ready\n", f"{name} does not start"
        self._spaces[name] = space
        for command in (f"ip link add veth-{name} type veth peer name eth0 netns {space.pid}",
                        f"ip link set veth-{name} master bridge up"):
            subprocess.run(command.split(), check=True)
        self.run(name, ["ip", "addr", "add", f"{self.address(name)}/24", "dev", "eth0"], check=True)
        self.run(name, ["ip", "link", "set", "eth0", "up"], check=True)

    def kill(self, name):
        """Its power fails: no process of it says a word. Nothing happens to one that is off."""
        space = self._spaces.pop(name, None)
        if not space:
            return
        first = ranks_of(space)  # when the first process of a host dies, so do all
        kill(space.pid)
        space.wait()
        space.stdout.close()
        wait_until_gone(first)
        subprocess.run(["ip", "link", "del", f"veth-{name}"], capture_output=True)  # it may be gone with its host
        self._cut.discard(name)

    def cut(self, name):
        """Its cable is pulled."""
        self._cut.add(name)
        subprocess.run(["ip", "link", "set", f"veth-{name}", "down"], check=True)

    def mend(self, name):
        subprocess.run(["ip", "link", "set", f"veth-{name}", "up"], check=True)
        self._cut.discard(name)

    # ---- what runs on them ----

    def command(self, name, words):
        """The command line of `words` on a host. Signals to it stop at nsenter: see processes()."""
        space = f"/proc/{self._spaces[name].pid}/ns"
        return ["nsenter", *(f"--{kind}={space}/{file}" for kind, file in (
            ("net", "net"), ("uts", "uts"), ("ipc", "ipc"), ("mount", "mnt"), ("pid", "pid_for_children"))),
                f"--wd={os.getcwd()}", "--", *words]

    def run(self, name, words, **how):
        return subprocess.run(self.command(name, words), **how)

    def start(self, name, words, **how):
        return subprocess.Popen(self.command(name, words), **how)

    def processes(self, name):
        """Process ids of all that runs on a host, as this script numbers them."""
        def network(pid):
            try:
                return os.readlink(f"/proc/{pid}/ns/net")
            except OSError:
                return None
        own = network(self._spaces[name].pid)
        return sorted(int(pid) for pid in os.listdir("/proc") if pid.isdigit() and network(pid) == own)

    # ---- what stands for ssh ----

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        message, streams, _, _ = socket.recv_fds(connection, 1 << 17, 3)
        caller, folder, name, command = json.loads(message)
        code = 255
        if name in self._spaces and not self._cut & {caller, name}:
            code = self.run(name, ["sh", "-c", f"cd '{folder}'; {command}"], stdin=streams[0], stdout=streams[1],
                            stderr=streams[2]).returncode
        for stream in streams:
            os.close(stream)
        connection.send(bytes([code & 255]))
        connection.close()


def agent(path, *words):
    """What mpirun starts in ssh's place: [-option …] HOST COMMAND …"""
    while words[0].startswith("-"):
        words = words[1:]
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(path)
    message = json.dumps([socket.gethostname(), os.getcwd(), words[0], " ".join(words[1:])]).encode()
    socket.send_fds(connection, [message], [0, 1, 2])
    sys.exit(connection.recv(1)[0])


if __name__ == "__main__":
    agent(*sys.argv[1:])
