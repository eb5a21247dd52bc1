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
"$program" --version | grep -q 'device cpu'
train=("$program" data.train="$folder/train.txt" train.steps=3 model.d_model=16 model.layers=1 attention.heads=2
    train.context=16 train.batch=4 run.dir="$folder/run")
"${train[@]}" device=auto >"$folder/auto.log" 2>&1 || { cat "$folder/auto.log"; exit 1; }
grep -q 'oneDNN' "$folder/auto.log"
code=0
"${train[@]}" device=cuda >"$folder/cuda.log" 2>&1 || code=$?
[ $code = 7 ] && grep -q 'no usable NVIDIA GPU' "$folder/cuda.log" || { cat "$folder/cuda.log"; exit 1; }
