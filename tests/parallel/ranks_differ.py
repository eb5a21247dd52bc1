#!/usr/bin/env python3
"""Ranks that are not alike are found out at start: one error that names what differs, the ranks and their hosts, one exit code
for all, and nothing written.

Every rank runs in a folder of its own, which stands for its host: /proc/self/cwd/FILE is another file on each.

  ranks_differ.py MOETRAIN [TEST …]"""
import os
import shutil
import socket
import subprocess
import time

from runs import HANG_SECONDS, Workspace, generated_text, main, write

HOST = socket.gethostname()
OWN = "/proc/self/cwd"  # of each rank
CONFIG = {"data.train": f"{OWN}/train.txt", "data.validation": f"{OWN}/validation.txt", "train.steps": 2, "eval.every": 0}
NO_OTHER_CPU = "no instruction set to take away"


def hosts(space: Workspace, count=2):
    """A folder for each rank, with the same data."""
    folders = [space.path(f"host{rank}") for rank in range(count)]
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
        for name in ("train.txt", "validation.txt"):
            shutil.copy(space.path(name), folder)
    return folders


def launch(space: Workspace, folders, config, words=(), programs=None, environments=None, verb=()):
    """Rank r in folder r; words, programs and environments are those of the ranks in a dict, or of all."""
    _, *_, yaml, run_dir = space.command("run", dict(CONFIG, **config))
    command = ["mpirun", "--oversubscribe", "--bind-to", "none"]
    for rank, folder in enumerate(folders):
        own = words[rank] if isinstance(words, dict) else words
        variables = (environments or {}).get(rank, [])
        program = (programs or {}).get(rank, space.program)
        arguments = [*verb, *own] if verb else [yaml, run_dir, *own]
        command += [":"] * (rank > 0) + ["-np", "1", "-wdir", folder, "env", *variables, program, *arguments]
    return space.finish(space.start(command), command)


def errors(outcome):
    return [line for line in outcome.output.splitlines() if line.startswith("moetrain: error: ")]


def expect_error(outcome, code, *parts):
    found = errors(outcome)
    assert outcome.code == code and len(found) == 1, f"exit code {code} and one error expected\n{outcome}"
    for part in parts:
        assert part in found[0], f"'{part}' expected\n{outcome}"
    assert "fatal" not in outcome.output, outcome


def expect_nothing_written(space):
    assert not os.path.exists(space.path("run")), f"{os.listdir(space.path('run'))} was written"


def alike_they_train(space: Workspace):
    outcome = launch(space, hosts(space), {})
    assert outcome.code == 0 and "differ" not in outcome.output, outcome


def another_training_text_of_the_same_length(space: Workspace):
    folders = hosts(space, 4)
    write(os.path.join(folders[2], "train.txt"), generated_text(3, 30000))
    outcome = launch(space, folders, {})
    expect_error(outcome, 3, "data.train differs", f"rank 0 on {HOST} has 30000 tokens, identity",
                 f"rank 2 on {HOST} has 30000 tokens, identity", "file system that they share")
    expect_nothing_written(space)


def one_byte_of_rank_0(space: Workspace):
    folders = hosts(space, 4)
    with open(os.path.join(folders[0], "train.txt"), "r+b") as file:
        file.seek(20000)
        file.write(b"#")
    outcome = launch(space, folders, {"data.format": "characters"})
    expect_error(outcome, 3, "data.train differs", "rank 0 on ", "rank 1 on ", "the first of 3 others")


def validation_that_was_cut_off(space: Workspace):
    folders = hosts(space)
    with open(os.path.join(folders[1], "validation.txt"), "r+b") as file:
        file.truncate(3000)
    outcome = launch(space, folders, {})
    expect_error(outcome, 3, "data.validation differs", "has 4000 tokens", f"rank 1 on {HOST} has 3000 tokens")
    expect_nothing_written(space)


def a_large_file_that_is_stale_in_between(space: Workspace):
    """Neither head nor middle nor tail tells."""
    folders = hosts(space)
    for folder in folders:
        write(os.path.join(folder, "train.txt"), b"In the beginning " * (80 * 2**20 // 17))
    with open(os.path.join(folders[1], "train.txt"), "r+b") as file:
        file.seek(24 * 2**20)
        file.write(b"was " * 60000)
    outcome = launch(space, folders, {})
    expect_error(outcome, 3, "data.train differs", ", samples ")


def data_that_one_rank_does_not_have(space: Workspace):
    for rank, name in ((1, "train.txt"), (0, "validation.txt")):
        folders = hosts(space)
        os.remove(os.path.join(folders[rank], name))
        outcome = launch(space, folders, {})
        expect_error(outcome, 3, f"error: rank {rank} on {HOST}: {OWN}/{name}: ", "No such file")
        expect_nothing_written(space)


def data_that_no_rank_has(space: Workspace):
    folders = hosts(space)
    for folder in folders:
        os.remove(os.path.join(folder, "train.txt"))
    expect_error(launch(space, folders, {}), 3, f"error: {OWN}/train.txt: ")


def evaluation_of_other_data(space: Workspace):
    folders = hosts(space)
    space.run("run", {"train.steps": 1, "eval.every": 0})
    verb = ("evaluate", space.checkpoints("run")[0], f"data.validation={OWN}/validation.txt")
    outcome = launch(space, folders, {}, verb=verb)
    assert outcome.code == 0, outcome
    write(os.path.join(folders[1], "validation.txt"), generated_text(3, 4000))
    expect_error(launch(space, folders, {}, verb=verb), 3, "data.validation differs", f"rank 1 on {HOST} has")


def another_checkpoint(space: Workspace):
    folders = hosts(space)
    space.run("run", {"train.steps": 2, "checkpoint.every": 1, "eval.every": 0})
    for folder, checkpoint in zip(folders, space.checkpoints("run")):
        shutil.copy(checkpoint, os.path.join(folder, "checkpoint.h5"))
    outcome = launch(space, folders, {}, verb=("evaluate", f"{OWN}/checkpoint.h5"))
    expect_error(outcome, 4, "the checkpoint differs", "rank 0 on ", f"rank 1 on {HOST} has")
    outcome = launch(space, folders, {}, words=[f"resume={OWN}/checkpoint.h5", f"run.dir={space.path('other')}"])
    expect_error(outcome, 4, "the checkpoint differs", "rank 0 on ", f"rank 1 on {HOST} has")


def a_run_folder_of_each_host(space: Workspace):
    folders = hosts(space)
    os.mkdir(os.path.join(folders[1], "run"))  # of the same name, and not the same
    outcome = launch(space, folders, {}, words=[f"run.dir={OWN}/run"])
    expect_error(outcome, 5, f"rank 1 on {HOST}: what rank 0 writes into run.dir cannot be opened here", "file system that all hosts share")


def another_program(space: Workspace):
    folders = hosts(space, 3)
    other = os.path.join(folders[1], "moetrain")
    shutil.copy(space.program, other)
    outcome = launch(space, folders, {}, programs={1: other})  # the same bytes in another place
    assert "differ" not in outcome.output and outcome.code != 7, outcome
    with open(other, "ab") as file:
        file.write(b"\0")
    outcome = launch(space, folders, {}, programs={1: other})
    expect_error(outcome, 7, "the program differs", f"rank 0 on {HOST} has moetrain ", f"rank 1 on {HOST} has moetrain ",
                 other, "same build")


def other_words(space: Workspace):
    folders = hosts(space)
    outcome = launch(space, folders, {}, words={0: [], 1: ["train.lr=0.5"]})
    expect_error(outcome, 2, "the command line differs", f"rank 0 on {HOST} has no word 3",
                 f"rank 1 on {HOST} has 'train.lr=0.5' as word 3")
    outcome = launch(space, folders, {}, words={0: [], 1: ["--unknown"]})
    expect_error(outcome, 2, "the command line differs", "'--unknown' as word 3")
    many = [f"model.layers={'0' * 400}{layers}" for layers in range(1, 41)]
    outcome = launch(space, folders, {}, words={0: many, 1: [*many[:-1], "model.layers=7"]})
    expect_error(outcome, 2, "the command line differs", "42 words, the last ")
    outcome = launch(space, folders, {}, words={0: many[:2], 1: many[1:3]})
    expect_error(outcome, 2, "the command line differs", "0'... (", ") as word 3")
    expect_nothing_written(space)


def wrong_words_are_said_once(space: Workspace):
    folders = hosts(space)
    outcome = launch(space, folders, {}, words=["--unknown"])
    expect_error(outcome, 2, "error: command line: ", "--unknown")


def another_command(space: Workspace):
    """Also one that works without the others, who would wait for its rank for ever."""
    folders = hosts(space)
    space.command("run", CONFIG)
    for first, second in ((["help"], [space.path("run.yaml")]), ([space.path("run.yaml")], ["help"])):
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", "1", "-wdir", folders[0], space.program, *first,
                   ":", "-np", "1", "-wdir", folders[1], space.program, *second]
        outcome = space.finish(space.start(command), command)
        expect_error(outcome, 2, "the command line differs", f"'{first[0]}' as word 1", f"'{second[0]}' as word 1")


def one_command_of_one_rank_is_obeyed_once(space: Workspace):
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", "2", space.program, "help", "moe.top_k"]
    outcome = space.finish(space.start(command), command)
    assert outcome.code == 0 and outcome.output.count("moe.top_k: ") == 1, outcome
    command[-1] = "moe.unknown"
    expect_error(space.finish(space.start(command), command), 2, "moe.unknown")


def data_that_shrinks_on_one_host(space: Workspace):
    folders = hosts(space)
    _, *_, yaml, run_dir = space.command("run", dict(CONFIG, **{"train.steps": 1000000, "log.every": 100000}))
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", "1", "-wdir", folders[0], space.program, yaml,
               run_dir, ":", "-np", "1", "-wdir", folders[1], space.program, yaml, run_dir]
    process = space.start(command)
    deadline = time.monotonic() + HANG_SECONDS
    while not os.path.exists(space.path("run", "metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.01)
    with open(os.path.join(folders[1], "train.txt"), "r+b") as file:
        file.truncate(100)
    expect_error(space.finish(process, command), 3, f"error: rank 1 on {HOST}: {OWN}/train.txt: ")


def instruction_sets(space: Workspace):
    """One that the processor has and the matrix library does not choose of itself."""
    done = subprocess.run([space.program, "--version"], capture_output=True, text=True, timeout=HANG_SECONDS,
                          env=dict(os.environ, ONEDNN_MAX_CPU_ISA="SSE41"))
    return [] if "SSE4.1" not in done.stdout else ["ONEDNN_MAX_CPU_ISA=SSE41"]


def another_processor(space: Workspace):
    folders = hosts(space)
    variables = instruction_sets(space)
    if not variables:
        print(f"skipped {NO_OTHER_CPU}")
        return
    outcome = launch(space, folders, {}, environments={1: variables})
    expect_error(outcome, 7, "the processor differs", f"rank 0 on {HOST} has oneDNN", f"rank 1 on {HOST} has oneDNN",
                 "SSE4.1", "train.reproducible: run")
    outcome = launch(space, folders, {}, environments={0: variables, 1: variables})
    assert outcome.code == 0 and "differ" not in outcome.output, outcome
    outcome = launch(space, folders, {"train.reproducible": "run"}, environments={1: variables})
    warnings = [line for line in outcome.output.splitlines() if line.startswith("moetrain: warning: ")]
    assert outcome.code == 0 and "the processor differs" in warnings[0], outcome


def checks_of_data_remain_errors_without_reproducibility(space: Workspace):
    folders = hosts(space)
    write(os.path.join(folders[1], "train.txt"), generated_text(3, 30000))
    expect_error(launch(space, folders, {"train.reproducible": "off"}), 3, "data.train differs")


if __name__ == "__main__":
    main([alike_they_train, another_training_text_of_the_same_length, one_byte_of_rank_0, validation_that_was_cut_off,
          a_large_file_that_is_stale_in_between,
          data_that_one_rank_does_not_have, data_that_no_rank_has, evaluation_of_other_data, another_checkpoint,
          a_run_folder_of_each_host, another_program, other_words, wrong_words_are_said_once, another_command,
          one_command_of_one_rank_is_obeyed_once, data_that_shrinks_on_one_host, another_processor,
          checks_of_data_remain_errors_without_reproducibility])
