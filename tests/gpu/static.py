#!/usr/bin/env python3
"""What the compiler made of every kernel, without a GPU: registers, shared memory, spills and occupancy for each target, kept
as the reviewed file kernels.csv; and whether tensor-core kernels contain tensor-core instructions.

  static.py BUILD_FOLDER            compares with kernels.csv; a difference or a spill that SPILLS does not allow fails. A build
                                    for one GPU (preset hopper) is compared with the rows of that one
  static.py BUILD_FOLDER --update   writes kernels.csv anew, from a build for all: review its diff

Occupancy is the share of an SM's warps that registers, static shared memory and __launch_bounds__ allow for the kernel's
largest block; dynamic shared memory, chosen at launch, is not in it. Registers are those of one compiler version: the first
line of the file names it, and with another one only spills and instructions are checked."""
import csv
import io
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = pathlib.Path(__file__).with_name("kernels.csv")
# Of an SM (CUDA C++ Programming Guide, compute capabilities): warps, registers, blocks, bytes of shared memory.
SM = {80: (64, 65536, 32, 164 << 10), 90: (64, 65536, 32, 228 << 10), 100: (64, 65536, 32, 228 << 10)}
MMA = r"mma\.sync\.aligned\.m16n8k16\S*\.f32\.bf16\.bf16\.f32"
WGMMA = r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k16\.f32\.bf16\.bf16"
# Kernels that must be made of tensor-core instructions: by file, the instruction and how their names begin. All that begin so
# are checked, and there must be some.
TENSOR_CORES = {
    "attention_cuda.cu": (MMA, ["attention_forward_bf16<"]),
    "attention_backward_cuda.cu": (MMA, ["attention_backward_keys_bf16<", "attention_backward_queries_bf16<"]),
    "attention_warpgroup_cuda.cu": (WGMMA, ["attention_forward_warpgroup_kernel<", "attention_backward_keys_warpgroup<",
                                            "attention_backward_queries_warpgroup<"]),
    "grouped_matmul_cuda.cu": (MMA, ["grouped_rows_kernel<bf16,", "grouped_weight_kernel<bf16,"]),
    "warpgroup_matmul_cuda.cu": (WGMMA, ["warpgroup_rows_kernel<", "warpgroup_weight_kernel<"]),
}
# Bytes that a kernel may spill, at its stores and loads, by how names begin; the others none: three tiles of sums in registers,
# and around its loop what the tree of parts needs; and at 255 registers where attention's masks of documents begin, or its later
# keys, which kernels of shaped scores alone know.
SPILLS = {"warpgroup_weight_kernel<": 112, "attention_forward_bf16<128, false>": 24, "attention_forward_bf16<256, true>": 16,
          "attention_forward_f32<64, true>": 72,
          "attention_backward_queries_bf16<256, false>": 40, "attention_backward_queries_f32<128, false>": 112}


def demangled(names):
    if not names:
        return []
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return [re.sub(r"\(.*", "", re.sub(r"\(anonymous namespace\)::|^void |\((?:int|bool)\)", "", line))
            .replace("__nv_bfloat16", "bf16") for line in text.splitlines()]


def compiler():
    text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"V([\d.]+)", text)[1]


def occupancy(target, threads, registers, shared):
    """Resident warps over possible warps. Registers are given to warps in pieces of 256 (8 a thread), by each of 4 quarters
    of an SM on its own."""
    warps_of_sm, registers_of_sm, blocks_of_sm, shared_of_sm = SM[target]
    warps = -(-threads // 32)
    by_registers = registers_of_sm // 4 // (-(-registers * 32 // 256) * 256) * 4 // warps
    by_shared = shared_of_sm // (shared + 1024) if shared else blocks_of_sm  # 1 KiB of each block is the system's
    return min(blocks_of_sm, warps_of_sm // warps, by_registers, by_shared) * warps / warps_of_sm


def kernels(log):
    """(target, mangled name, registers, shared bytes, spill bytes) of each kernel in what ptxas said."""
    found, target, name, spill = [], None, None, 0
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)' for 'sm_(\d+)\w*'", line):
            name, target, spill = match[1], int(match[2]), 0
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spill = int(match[1]) + int(match[2])
        elif (match := re.search(r"Used (\d+) registers(.*)", line)) and name:
            shared = re.search(r"(\d+) bytes smem", match[2])
            found.append((target, name, int(match[1]), int(shared[1]) if shared else 0, spill))
            name = None
    return found


def launch_bounds(ptx):
    """Largest block of each entry of a PTX text; 1024 where the source does not say."""
    bounds = {}
    for match in re.finditer(r"\.entry (\w+)\((?:.*?)\)(.*?)\{", ptx, re.DOTALL):
        bound = re.search(r"\.maxntid (\d+)", match[2])
        bounds[match[1]] = int(bound[1]) if bound else 1024
    return bounds


def check_tensor_cores(file, ptx):
    bodies = re.findall(r"\.entry (\w+)\(.*?\)[^{]*\{(.*?)\n\}", ptx, re.DOTALL)
    named = list(zip(demangled([name for name, _ in bodies]), [body for _, body in bodies]))
    instruction, beginnings = TENSOR_CORES.get(file, ("", []))
    for beginning in beginnings:
        meant = [(name, body) for name, body in named if name.startswith(beginning)]
        if not meant:
            yield f"{file}: no kernel is named {beginning}…"
        for name, body in meant:
            if not re.search(instruction, body):
                yield f"{file}: {name} has no {instruction}"


def main():
    build, update = pathlib.Path(sys.argv[1]), "--update" in sys.argv
    rows, problems, built = [], [], set()
    files = sorted(file.name for file in (ROOT / "kernels" / "cuda").glob("*.cu"))
    kept = {file.name: file for file in build.rglob("*.cu.o.ptx*")}  # by keep-ptx
    for file in files:
        if f"{file}.o.ptxas" not in kept or f"{file}.o.ptx" not in kept:
            sys.exit(f"{build}: no {file}.o.ptxas and .ptx; build the preset cuda, for all its targets")
        ptx = kept[f"{file}.o.ptx"].read_text()
        bounds = launch_bounds(ptx)
        problems += check_tensor_cores(file, ptx)
        found = kernels(kept[f"{file}.o.ptxas"].read_text())
        built = built or {target for target, *_ in found}
        if {(target, name) for target, name, *_ in found} != {(target, name) for target in built for name in bounds}:
            problems.append(f"{file}: {len(bounds)} kernels, but ptxas spoke of {len(found)} for {len(built)} targets; "
                            "build it anew")
        for (target, mangled, registers, shared, spill), name in zip(found, demangled([row[1] for row in found])):
            threads = bounds.get(mangled, 1024)
            rows.append([file, name, f"sm_{target}", threads, registers, shared, spill,
                         f"{occupancy(target, threads, registers, shared):.2f}"])
            if spill > max([0] + [most for beginning, most in SPILLS.items() if name.startswith(beginning)]):
                problems.append(f"{file}: {name} on sm_{target} spills {spill} bytes")
    rows.sort()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([f"nvcc {compiler()}"])
    writer.writerow(["file", "kernel", "target", "threads", "registers", "static_shared_bytes", "spill_bytes", "occupancy"])
    writer.writerows(rows)
    known = TABLE.read_text() if TABLE.exists() else ""
    known = "".join(line for line in known.splitlines(keepends=True)
                    if not (target := re.search(r",sm_(\d+),", line)) or int(target[1]) in built)
    if update and built != set(SM):
        sys.exit(f"{build} has {len(built)} of {len(SM)} targets: build the preset cuda")
    if update:
        TABLE.write_text(text.getvalue())
    elif known.splitlines()[:1] != text.getvalue().splitlines()[:1]:
        print(f"kernels.csv is of another compiler ({known.splitlines()[:1]}): registers are not compared")
    elif known != text.getvalue():
        old, new = set(known.splitlines()), set(text.getvalue().splitlines())
        problems += [f"kernels.csv has: {line}" for line in sorted(old - new)]
        problems += [f"now it is:       {line}" for line in sorted(new - old)]
        problems.append(f"review these and run: tests/gpu/static.py {build} --update")
    for problem in problems:
        print(problem)
    print(f"{len({(row[0], row[1]) for row in rows})} kernels in {len(files)} files for {len(built)} of {len(SM)} targets, "
          f"{sum(1 for row in rows if row[6])} with spills, most registers {max(row[4] for row in rows)}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
