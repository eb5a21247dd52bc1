#!/usr/bin/env python3
"""What goes wrong around GPUs, provoked in the emulation (tests/emulation): a clear message, the documented exit code, no hang.

  faults.py MOETRAIN [TEST ...]"""
import os
import re
import shutil
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


def memory_for_kernels_is_kept(workspace):
    # A model of some KiB: all that does not fit is what kernels may want in the first step.
    expect(workspace, {"MOETRAIN_EMULATION_MEMORY": str(640 << 20)}, 5,
           ["a rank needs 64", "scratch and kernels", "MiB are free"], ranks=2)


def ranks_with_other_gpus_are_refused(workspace):
    outcome = expect(workspace, {"MOETRAIN_EMULATION_OTHER_GPU": "1"}, 7,
                     ["the GPU", "rank 0", "emulated GPU, sm_90, 4 SMs", "rank 1", "emulated GPU of another kind",
                      "train.reproducible: run"], ranks=2)
    assert outcome.output.count("emulated GPU of another kind") == 1, outcome


def ranks_with_other_gpus_train_where_bits_may_differ(workspace):
    expect(workspace, {"MOETRAIN_EMULATION_OTHER_GPU": "1"}, 0, [], ranks=2, changes={"train.reproducible": "run"})


def the_log_says_who_does_the_products(workspace):
    expect(workspace, {}, 0, ["product of any rows x 16, summed over 16, f32 to f32: cuBLASLt algorithm"])


def ranks_that_multiply_in_other_ways_are_refused(workspace):
    # Rank 1's library follows the number of rows, rank 0's does not.
    wrapper = workspace.path("wrapper.sh")
    with open(wrapper, "w") as file:
        file.write('#!/bin/sh\n[ "$OMPI_COMM_WORLD_RANK" = 1 ] && export MOETRAIN_EMULATION_CUBLASLT=rows\n'
                   f'exec "{workspace.program}" "$@"\n')
    os.chmod(wrapper, 0o755)
    program, workspace.program = workspace.program, wrapper
    try:
        outcome = expect(workspace, {}, 7, ["rank 0 and rank 1 do not multiply alike", "OWN KERNEL"], ranks=2)
    finally:
        workspace.program = program
    assert outcome.output.count("do not multiply alike") == 1, outcome


def what_a_gpu_may_do_changes_no_bit(workspace):
    """Copies that read late, streams that start late: what tests/emulation believes by default is not promised."""
    changes = {"train.micro_batches": 2, "parallel.expert": 2, "train.steps": 2}
    expect(workspace, {}, 0, [], ranks=2, changes=changes, run="usual")
    wanted = workspace.result("usual")
    for number, environment in enumerate([
            {"MOETRAIN_EMULATION_PAGEABLE": "late", "MOETRAIN_EMULATION_LATE_STREAM": "1"},
            {"MOETRAIN_EMULATION_UNIFIED": "1", "MOETRAIN_EMULATION_LATE_STREAM": "2"},
            {"MOETRAIN_EMULATION_LATE_STREAM": "3"}]):
        expect(workspace, environment, 0, [], ranks=2, changes=changes, run=f"other{number}")
        assert workspace.result(f"other{number}") == wanted, environment


def numbers_of_rows_that_are_refused_change_no_bit(workspace):
    changes = {"train.steps": 2, "train.context": 9}
    for ranks in 1, 2:
        expect(workspace, {"MOETRAIN_EMULATION_CUBLASLT": "few"}, 0,
               ["any rows x 16, summed over 16, f32 to f32: cuBLASLt"], ranks=ranks, changes=changes, run=f"np{ranks}")
    assert workspace.result("np1") == workspace.result("np2")


def a_failed_call_ends_all_ranks(workspace):
    expect(workspace, {"MOETRAIN_EMULATION_FAIL": "cudaEventRecord:20"}, 7, ["cudaEventRecord", "rank"], ranks=2)


def an_asynchronous_nccl_error_ends_all_ranks(workspace):
    # Also when nothing is a hang; and the thread that notices it calls no MPI.
    for timeout in (600, 0):
        outcome = expect(workspace, {"MOETRAIN_EMULATION_NCCL_ERROR": "12"}, 7, ["NCCL", "rank"], ranks=2,
                         changes={"train.steps": 2000, "run.hang_timeout": timeout})
        assert "MPI_ABORT was invoked" not in outcome.output, outcome


def rows_that_change_between_gpus_are_not_applied(workspace):
    changes = {"parallel.expert": 2, "run.check_exchanges": "on"}
    expect(workspace, {"MOETRAIN_EMULATION_NCCL_FLIP": "7"}, 7, ["step 1: layer 0, combine of outputs: rank ", "rows sent"], ranks=2,
           changes=changes)


def a_slow_rank_is_named(workspace):
    """The data of rank 1 lie on a slow disk; rank 0's GPU waits for its tokens."""
    if not shutil.which("strace"):
        return
    changes = {"parallel.expert": 2, "train.steps": 4, "log.straggler_steps": 2}
    slow = ["strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=pread64", "-e", "inject=pread64:delay_enter=500000"]
    command = workspace.command("run", dict(CONFIG, **changes), mpirun=())
    command += [":", "-np", "1", *slow, *command[-3:]]
    outcome = workspace.finish(workspace.start(command), command)
    assert outcome.code == 0, outcome
    assert set(re.findall(r"rank (\d) on \S+ is a straggler", outcome.output)) == {"1"}, outcome


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
          memory_for_kernels_is_kept, ranks_with_other_gpus_are_refused,
          ranks_with_other_gpus_train_where_bits_may_differ,
          the_log_says_who_does_the_products, ranks_that_multiply_in_other_ways_are_refused,
          what_a_gpu_may_do_changes_no_bit, numbers_of_rows_that_are_refused_change_no_bit,
          rows_that_change_between_gpus_are_not_applied, a_failed_call_ends_all_ranks,
          an_asynchronous_nccl_error_ends_all_ranks, a_slow_rank_is_named, a_stopped_rank_is_noticed])
