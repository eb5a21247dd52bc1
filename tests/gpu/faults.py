#!/usr/bin/env python3
"""What goes wrong around GPUs, provoked in the emulation (tests/emulation): a clear message, the documented exit code, no hang.

  faults.py MOETRAIN [TEST ...]"""
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "parallel"))
from runs import main, ranks_of  # noqa: E402
from training import SMALL  # noqa: E402

CONFIG = dict(SMALL, **{"train.steps": 3, "eval.every": 0, "data.validation": None})


def expect(workspace, environment, code, words, ranks=1, changes=None, run="run"):
    """Runs with these variables set; the output holds every word, and the message once."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        outcome = workspace.run(run, dict(CONFIG, **(changes or {})), ranks, code=code)
    finally:
        os.environ.clear()
        os.environ.update(before)
    for word in words:
        assert word in outcome.output, f"{word!r} is missing\n{outcome}"
    return outcome


def without_a_gpu_cuda_is_refused(workspace):
    expect(workspace, {"MOETRAIN_EMULATION_DEVICES": "0"}, 7, ["no usable NVIDIA GPU", "device: cpu"])


def without_a_gpu_auto_trains_on_the_cpu(workspace):
    outcome = expect(workspace, {"MOETRAIN_EMULATION_DEVICES": "0"}, 0, ["oneDNN"], changes={"device": "auto"})
    assert "sm_" not in outcome.output, outcome


def with_a_gpu_auto_takes_it_and_says_so(workspace):
    expect(workspace, {}, 0, ["GPU 0", "sm_"], changes={"device": "auto"})


def an_old_driver_is_named(workspace):
    expect(workspace, {"MOETRAIN_EMULATION_DEVICES": "driver"}, 7, ["driver supports CUDA", "update the driver"])


def more_ranks_than_gpus_are_refused(workspace):
    outcome = expect(workspace, {"MOETRAIN_EMULATION_DEVICES": "1"}, 7, ["2 ranks on this host but 1 GPU"], ranks=2)
    assert outcome.output.count("2 ranks on this host") == 1, outcome


def two_ranks_with_the_same_gpu_are_refused(workspace):
    # As a wrong mask does: every rank sees one GPU, and it is the same one.
    outcome = expect(workspace, {"MOETRAIN_EMULATION_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "0"}, 7,
                     ["ranks 0 and 1 have the same GPU"], ranks=2)
    assert outcome.output.count("have the same GPU") == 1, outcome


def sizes_beyond_the_kernels_are_refused(workspace):
    expect(workspace, {}, 2, ["attention.d_head (272) is more than device: cuda takes, 256"],
           changes={"attention.d_head": 272, "attention.heads": 1})


def too_little_memory_is_said_with_the_plan(workspace):
    expect(workspace, {"MOETRAIN_EMULATION_MEMORY": str(64 << 20)}, 5, ["a rank needs", "MiB are free"],
           changes={"model.d_model": 512, "attention.heads": 4, "moe.d_ff": 512})


def a_failed_call_ends_all_ranks(workspace):
    expect(workspace, {"MOETRAIN_EMULATION_FAIL": "cudaEventRecord:20"}, 7, ["cudaEventRecord", "rank"], ranks=2)


def an_asynchronous_nccl_error_ends_all_ranks(workspace):
    # Also when nothing is a hang; and the thread that notices it calls no MPI.
    for timeout in (600, 0):
        outcome = expect(workspace, {"MOETRAIN_EMULATION_NCCL_ERROR": "12"}, 7, ["NCCL", "rank"], ranks=2,
                         changes={"train.steps": 2000, "run.hang_timeout": timeout})
        assert "MPI_ABORT was invoked" not in outcome.output, outcome


def a_stopped_rank_is_noticed(workspace):
    command = workspace.command("run", dict(CONFIG, **{"train.steps": 100000, "run.hang_timeout": 8}), 2)
    process = workspace.start(command)
    workspace.wait_for_step("run", 2, process)
    victim = ranks_of(process)[1]
    os.kill(victim, signal.SIGSTOP)
    try:
        outcome = workspace.finish(process, command)
    finally:
        time.sleep(0.1)
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            pass
    assert outcome.code == 8, outcome
    assert "no progress for" in outcome.output, outcome


if __name__ == "__main__":
    main([without_a_gpu_cuda_is_refused, without_a_gpu_auto_trains_on_the_cpu, with_a_gpu_auto_takes_it_and_says_so,
          an_old_driver_is_named, more_ranks_than_gpus_are_refused, two_ranks_with_the_same_gpu_are_refused,
          sizes_beyond_the_kernels_are_refused, too_little_memory_is_said_with_the_plan,
          a_failed_call_ends_all_ranks, an_asynchronous_nccl_error_ends_all_ranks, a_stopped_rank_is_noticed])
