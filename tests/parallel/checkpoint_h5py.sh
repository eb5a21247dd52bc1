#!/usr/bin/env bash
# The example of checkpoint/README.md runs on a checkpoint saved by two ranks, and h5py sees in it what was
# saved: contents, the table of datasets, and places in the file that agree with it.
#   checkpoint_h5py.sh CHECK_CHECKPOINT
set -euo pipefail
program=$1 root=$(cd "$(dirname "$0")/../.." && pwd)
python=/usr/bin/python3 # Debian's h5py belongs to Debian's Python
"$python" -c 'import h5py' 2>/dev/null || { echo "skipped: $python has no h5py"; exit 77; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

directory=$(mktemp -d)
trap 'rm -r "$directory"' EXIT
file=$directory/checkpoints/step-00000005.h5
timeout 60 mpirun --oversubscribe --bind-to none -np 2 "$program" save "$directory" 5 >"$directory/log" 2>&1 ||
    { cat "$directory/log"; exit 1; }

sed -n '/^```python$/,/^```$/{/^```/d;p}' "$root/checkpoint/README.md" >"$directory/example.py"
"$python" "$directory/example.py" "$file" >"$directory/output" || { echo "the example fails"; exit 1; }
for text in "step 5 of a model of 3777" "experts.up (8, 6, 10) float32" "moe.top_k: 2" \
    "layer 1 most loaded of 8 experts: 7"; do
    grep -qF "$text" "$directory/output" || { cat "$directory/output"; echo "not printed: $text"; exit 1; }
done

"$python" - "$file" <<'PYTHON'
import sys
import h5py

with h5py.File(sys.argv[1]) as file:
    documented = {"parameters", "optimizer", "data", "state", "utilization", "config", "about", "manifest", "block_hashes"}
    assert set(file) == documented, set(file) ^ documented
    assert file.userblock_size == 512
    names = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    listed = {record["name"].decode(): record for record in file["manifest"][:]}
    assert set(names) - set(listed) == {"manifest", "block_hashes"} and set(listed) <= set(names)
    for name, record in listed.items():
        dataset = file[name]
        assert tuple(record["shape"][: record["rank"]]) == dataset.shape, name
        assert record["dtype"].decode() == dataset.dtype.kind + str(8 * dataset.dtype.itemsize), name
        assert dataset.chunks is None and not dataset.external and len(dataset.attrs) == 0, name
        if dataset.size:
            assert dataset.id.get_offset() == record["offset"], name
    assert file["state/data_id"][:].tobytes().rstrip(b"\0") == b"c0ffee-5"
    assert list(file["utilization/step"][:]) == [5, 10, 15, 20, 25]
    assert file["utilization/open/steps"][0] == 2
    assert file["utilization/routed"][1, 1, 3] == sum(range(6, 11)) * 11  # steps 6 to 10, layer 1, expert 3
    assert file["optimizer/empty"].shape == (8, 0)
PYTHON
echo "the example of the README runs, and h5py sees what was saved"
