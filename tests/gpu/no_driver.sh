#!/usr/bin/env bash
# A build with the CUDA backend on a machine without a driver: it starts, says its version, trains on the CPU when asked for
# the best there is, and refuses a GPU with a message.   no_driver.sh MOETRAIN
set -euo pipefail
program=$1
if nvidia-smi >/dev/null 2>&1; then
    echo "skipped: this machine has a driver"
    exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
printf 'the quick brown fox jumps over the lazy dog\n%.0s' $(seq 200) >"$folder/train.txt"
cat >"$folder/tiny.yaml" <<'YAML'
data.train: train.txt
model: {d_model: 16, layers: 1}
attention.heads: 2
moe: {experts: 4, top_k: 2, d_ff: 16}
train: {steps: 3, batch: 4, context: 16}
YAML

# shows LOG MESSAGE: fails, with the whole log, when the message is not in it.
shows() {
    grep -q "$2" "$folder/$1" || { echo "no '$2' in:" && cat "$folder/$1" && exit 1; }
}
"$program" --version >"$folder/version.log"
shows version.log 'device cpu'
"$program" "$folder/tiny.yaml" device=auto run.dir="$folder/run" >"$folder/auto.log" 2>&1 || { cat "$folder/auto.log"; exit 1; }
shows auto.log 'oneDNN'
code=0
"$program" "$folder/tiny.yaml" device=cuda run.dir="$folder/run" >"$folder/cuda.log" 2>&1 || code=$?
shows cuda.log 'no usable NVIDIA GPU'
[ $code = 7 ] || { echo "device=cuda: exit code $code, wanted 7" && exit 1; }
echo "without a driver: device=auto trains on the CPU, device=cuda says why it cannot"
