#!/usr/bin/env python3
"""What a run has routed (moe.record) and what another one obeys (moe.replay): the same bits on other ranks, a resume that
goes on in its file, and files that do not fit refused before anything is trained.

  routing_record.py MOETRAIN [TEST …]"""
import os
import shutil
import signal
import struct

import h5py
import numpy

from runs import Workspace, children_of, difference, kill, main, ranks_of, write

# Layers of different sizes, one without experts; drops, which count what was chosen before them.
CONFIG = {
    "model.layers": 3, "moe.experts": "[8, 0, 4]", "moe.top_k": "[2, 1, 3]", "moe.capacity_factor": 1,
    "moe.bias_update": "sign", "train.batch": 16, "train.shards": 8, "eval.every": 0,
}
TOKENS = 16 * 16


def record(space, run="recorded", **changes):
    file = space.path("routing.h5")
    space.run(run, dict(CONFIG, **{"moe.record": file}, **changes))
    return file


def assert_same(space, run, wanted):
    result = space.result(run)
    assert result == wanted, difference(result[0], wanted[0])


def a_recorded_run_is_replayed_on_other_ranks_and_micro_batches(space: Workspace):
    file = record(space, **{"train.micro_batches": 2})
    wanted = space.result("recorded")
    for ranks, micro_batches, expert_parallel in ((1, 1, 1), (4, 2, 4), (2, 4, 1), (6, 1, 2)):
        run = f"replayed{ranks}"
        space.run(run, dict(CONFIG, **{"moe.replay": file, "train.micro_batches": micro_batches,
                                       "parallel.expert": expert_parallel}), ranks)
        assert_same(space, run, wanted)
    space.run("alone", CONFIG)
    assert_same(space, "alone", wanted)  # recording changes nothing
    with h5py.File(file, "r") as routing:
        assert routing["step"][:].tolist() == [1, 2, 3, 4, 5]
        assert list(routing["layers"]) == ["0", "2"]
        for layer, experts, top_k in (("0", 8, 2), ("2", 4, 3)):
            ids = routing[f"layers/{layer}"]
            assert ids.dtype == numpy.uint16 and ids.shape == (5, 2, TOKENS // 2, top_k), ids
            assert ids.attrs["experts"] == experts and ids[:].max() < experts
            assert all(len(set(token)) == top_k for token in ids[:].reshape(-1, top_k).tolist())


def what_is_replayed_decides(space: Workspace):
    file = record(space)
    with h5py.File(file, "r+") as routing:
        ids = routing["layers/0"]
        ids[:] = numpy.broadcast_to(numpy.array([3, 1], numpy.uint16), ids.shape)
    space.run("replayed", dict(CONFIG, **{"moe.replay": file}))
    with h5py.File(space.checkpoints("replayed")[-1], "r") as checkpoint:
        asked = checkpoint["utilization/routed"][:] + checkpoint["utilization/dropped"][:]
    steps = asked.shape[0]
    assert (asked[:, 0, [1, 3]] == TOKENS).all() and asked[:, 0].sum() == 2 * TOKENS * steps, asked


def a_layer_may_have_nothing_to_compute(space: Workspace):
    """Every choice is of a zero-computation expert: no row travels, and no expert has a gradient."""
    for kind in ("identity", "null"):
        config = dict(CONFIG, **{"moe.zero_experts": 4, "moe.zero_kind": kind, "train.steps": 2,
                                 "log.utilization_every": 1, "checkpoint.every": 1, "checkpoint.keep_last": 0})
        file = space.path(f"{kind}.h5")
        space.run(f"{kind}-recorded", dict(config, **{"moe.record": file}))
        with h5py.File(space.checkpoints(f"{kind}-recorded")[-1], "r") as checkpoint:
            used = checkpoint["utilization"]
            asked = sum(used[name][:].sum(axis=2) for name in ("routed", "dropped", "zero"))
            assert (asked == TOKENS * numpy.array([2, 3])).all(), asked  # moe.top_k of the layers with experts
            assert used["zero"][:].any() and used["dropped"][:].any()
        with h5py.File(file, "r+") as routing:
            for layer, experts, top_k in (("0", 8, 2), ("2", 4, 3)):
                ids = routing[f"layers/{layer}"]
                assert ids.attrs["experts"] == experts + 4
                ids[:] = numpy.broadcast_to(experts + numpy.arange(top_k, dtype=numpy.uint16), ids.shape)
        for ranks, expert_parallel in ((1, 1), (4, 4)):
            run = f"{kind}{ranks}"
            space.run(run, dict(config, **{"moe.replay": file, "parallel.expert": expert_parallel}), ranks)
            assert_same(space, run, space.result(f"{kind}1"))
        rows = [row for row in space.metrics(f"{kind}1") if "zero_share" in row and "loss" in row]
        assert all(row["zero_share"] == 1 and row["drop_rate"] == 0 and row["max_vio"] == 0 for row in rows), rows
        first, last = (h5py.File(path, "r") for path in space.checkpoints(f"{kind}1")[-2:])
        with first, last:
            for name, moves in (("experts.down", False), ("router", True)):
                m = last[f"optimizer/m/layers.0.moe.{name}"][:]
                assert m.any() == moves, (kind, name)


def recording_on_ranks_gives_the_same_ids(space: Workspace):
    one = record(space)
    with h5py.File(one, "r") as routing:
        wanted = {layer: routing[f"layers/{layer}"][:] for layer in routing["layers"]}
    os.rename(one, space.path("one.h5"))
    command = space.command("three", dict(CONFIG, **{"moe.record": one, "train.micro_batches": 2}), 3)
    outcome = space.finish(space.start(command), command)
    assert outcome.code == 0, str(outcome)
    with h5py.File(one, "r") as routing:
        for layer, ids in wanted.items():
            assert (routing[f"layers/{layer}"][:].reshape(ids.shape) == ids).all(), layer


def a_resume_goes_on_in_its_file(space: Workspace):
    file = record(space, "unbroken")
    with h5py.File(file, "r") as routing:
        wanted = routing["layers/2"][:]
    os.remove(file)
    config = dict(CONFIG, **{"moe.record": file, "checkpoint.every": 2, "checkpoint.keep_last": 0})
    space.run("cut", config)
    os.remove(space.checkpoints("cut")[-1])  # of step 5: steps 5 and on are removed and written again
    outcome = space.run("cut", config, ranks=2)
    assert "at step 4" in outcome.output, str(outcome)
    with h5py.File(file, "r") as routing:
        assert routing["step"][:].tolist() == [1, 2, 3, 4, 5]
        assert (routing["layers/2"][:] == wanted).all()
    outcome = space.run("other", config, code=4)
    assert "routing.h5" in outcome.output and "another run" in outcome.output, str(outcome)


def files_that_do_not_fit_are_refused_before_training(space: Workspace):
    file = record(space)
    write(space.path("text.h5"), "no routing")
    shutil.copy(space.checkpoints("recorded")[-1], space.path("checkpoint.h5"))
    shutil.copy(file, space.path("alien.h5"))
    with h5py.File(space.path("alien.h5"), "r+") as routing:
        routing["layers/2"][3, 0, 7, 1] = 4
    for replayed, changes, words in (
            (file, {"moe.top_k": "[2, 1, 2]"}, ["layer 2", "2 choices", "moe.top_k"]),
            (file, {"moe.experts": "[8, 0, 8]"}, ["layer 2 has 8 experts", "and 4,"]),
            (file, {"moe.experts": 8, "moe.top_k": 2}, ["layer 1", "none"]),
            (file, {"train.context": 15}, ["240 tokens", "256"]),
            (file, {"train.steps": 6}, ["5 steps", "1 to 6"]),
            (space.path("text.h5"), {}, ["no HDF5 file"]),
            (space.path("checkpoint.h5"), {}, ["moe.record"]),
            (space.path("absent.h5"), {}, ["cannot be read"])):
        shutil.rmtree(space.path("replayed"), ignore_errors=True)
        outcome = space.run("replayed", dict(CONFIG, **{"moe.replay": replayed}, **changes), code=4)
        assert all(word in outcome.output for word in [replayed, "moe.replay", *words]), str(outcome)
        assert "step 1/" not in outcome.output, str(outcome)
    outcome = space.run("alien", dict(CONFIG, **{"moe.replay": space.path("alien.h5")}), ranks=2, code=4)
    assert "step 4, layer 2 names expert 4 of 4" in outcome.output, str(outcome)


def hostile_files_are_refused_before_anything_is_read(space: Workspace):
    """What would make HDF5 read another file, run a filter, or fill more memory than there is."""
    good = record(space)
    shutil.copy(good, space.path("other.h5"))
    write(space.path("raw"), "x" * 65536)

    def replaced(routing, name, **how):
        ids, experts = routing[name][:], routing[name].attrs["experts"]
        del routing[name]
        made = routing.create_dataset(name, **dict({"shape": ids.shape, "dtype": ids.dtype}, **how))
        made.attrs["experts"] = experts

    def external_link(routing):
        del routing["layers/2"]
        routing["layers/2"] = h5py.ExternalLink("other.h5", "/layers/2")

    def soft_link(routing):
        routing.move("layers", "hidden")
        routing["layers"] = h5py.SoftLink("/hidden")

    def virtual(routing):
        there = routing["layers/2"]
        layout = h5py.VirtualLayout(shape=there.shape, dtype=there.dtype)
        layout[:] = h5py.VirtualSource("other.h5", "layers/2", shape=there.shape)
        del routing["layers/2"]
        routing.create_virtual_dataset("layers/2", layout).attrs["experts"] = 4

    def external_storage(routing):
        replaced(routing, "layers/2", external=[(space.path("raw"), 0, h5py.h5f.UNLIMITED)])

    def another_filter(routing):
        replaced(routing, "layers/2", chunks=True, fletcher32=True)

    def floats(routing):
        replaced(routing, "layers/2", dtype="f4")

    def negative(routing):
        replaced(routing, "layers/2", dtype="i2", data=numpy.full(routing["layers/2"].shape, -3))

    def long_attribute(routing):
        routing["layers/2"].attrs["experts"] = numpy.full(4096, 4)

    def endless_steps(routing):
        routing["step"].resize((10**15,))

    def chunk_without_axes(path):  # HDF5 1.10 divides by what they hold
        with open(path, "r+b") as file:
            file.seek(file.read().index(struct.pack("<II", 1024, 8)) - 9)
            file.write(bytes(1))

    for change, words in ((external_link, "layers/2"), (soft_link, "layers/0"), (virtual, "layers/2"),
                          (external_storage, "layers/2"), (another_filter, "layers/2"), (floats, "layers/2"),
                          (negative, "names expert -3"), (long_attribute, "experts"), (endless_steps, "moe.record"),
                          (chunk_without_axes, "")):
        hostile = space.path(f"{change.__name__}.h5")
        shutil.copy(good, hostile)
        if change == chunk_without_axes:
            change(hostile)
        else:
            with h5py.File(hostile, "r+") as routing:
                change(routing)
        shutil.rmtree(space.path("replayed"), ignore_errors=True)
        outcome = space.run("replayed", dict(CONFIG, **{"moe.replay": hostile}), code=4)
        assert hostile in outcome.output and words in outcome.output, str(outcome)


def a_crash_of_hdf5_ends_a_run_with_a_message(space: Workspace):
    """It has the file in a process of its own."""
    command = space.command("crash", dict(CONFIG, **{"moe.record": space.path("crash.h5"), "train.steps": 100000}), 2)
    process = space.start(command)
    space.wait_for_step("crash", 3, process)
    (child,) = [child for rank in ranks_of(process) for child in children_of(rank)]
    kill(child, signal.SIGSEGV)
    outcome = space.finish(process, command)
    assert outcome.code == 4 and "is damaged: HDF5 crashes" in outcome.output, str(outcome)
    assert space.path("crash.h5") in outcome.output and "moe.record" in outcome.output, str(outcome)


def checkpoints_of_every_chooser_are_read_again(space: Workspace):
    for run, changes, code in (("hashed", {"moe.router": "hash"}, 0), ("first", {"moe.hash_layers": 1}, 0),
                               ("forced", {"moe.force": "hot_rank"}, 0),
                               ("choosing", {"moe.router": "expert_choice", "moe.allow_noncausal": "true"}, 2)):
        space.run(run, dict({"train.steps": 1, "eval.every": 0}, **changes))
        texts = []
        for how in ([], ["--recompute"]):
            command = [space.program, "generate", space.checkpoints(run)[-1], "--tokens", "20", *how]
            outcome = space.finish(space.start(command, errors="replace"), command)
            assert outcome.code == code, str(outcome)
            texts.append(outcome.output)
        assert texts[0] == texts[1], texts
        assert code == 0 or "nothing can be generated" in texts[0], texts


main([a_recorded_run_is_replayed_on_other_ranks_and_micro_batches, what_is_replayed_decides,
      a_layer_may_have_nothing_to_compute, recording_on_ranks_gives_the_same_ids, a_resume_goes_on_in_its_file,
      files_that_do_not_fit_are_refused_before_training, hostile_files_are_refused_before_anything_is_read,
      a_crash_of_hdf5_ends_a_run_with_a_message,
      checkpoints_of_every_chooser_are_read_again])
