#!/usr/bin/env bash
# Whether the sources compile with libraries that are older or newer than the ones here, as far as headers can be bent: NCCL without
# an all-to-all, cuBLAS with batch invariance.
#   other_versions.sh COMPILER INCLUDE_FOLDER ...      exit code 77 without nccl.h and cublasLt.h among the folders
set -euo pipefail
source_folder=$(cd "$(dirname "$0")/../.." && pwd)
compiler=$1
shift
folders=()
for folder in "$@"; do
    folders+=(-isystem "$folder")
    [ -f "$folder/nccl.h" ] && nccl=$folder/nccl.h
    [ -f "$folder/cublas_api.h" ] && cublas=$folder/cublas_api.h
done
[ -n "${nccl:-}" ] && [ -n "${cublas:-}" ] || { echo "skipped: no headers of NCCL and cuBLAS"; exit 77; }
bent=$(mktemp -d)
trap 'rm -rf "$bent"' EXIT
compile() { # SOURCE OPTION ...
    "$compiler" -std=gnu11 -DMOETRAIN_CUDA -D_GNU_SOURCE -Wall -Wextra -Wconversion -Wshadow -Werror -fsyntax-only \
        -I"$source_folder" -isystem "$bent" "${folders[@]}" "${@:2}" "$source_folder/$1"
}

sed -E 's/(NCCL_VERSION_CODE) [0-9]+/\1 22703/; s/ncclAlltoAll/ncclAlltoAllOfALaterVersion/' "$nccl" >"$bent/nccl.h"
grep -q 'NCCL_VERSION_CODE 22703' "$bent/nccl.h"
compile comm/collectives_nccl.c
rm "$bent/nccl.h"

sed -E 's/(CUBLAS_VER_MINOR) [0-9]+/\1 10/; s/(CUBLAS_VER_MAJOR) [0-9]+/\1 13/' "$cublas" >"$bent/cublas_api.h"
grep -q 'CUBLAS_VER_MINOR 10' "$bent/cublas_api.h"
invariance=()
if ! grep -q BATCH_INVARIANCE_FLAGS "$(dirname "$cublas")/cublasLt.h"; then
    invariance=(-DCUBLASLT_MATMUL_DESC_BATCH_INVARIANCE_FLAGS=41 -DCUBLASLT_BATCH_INVARIANCE_ALIGN_2B=1)
fi
compile kernels/cuda/matmul_plan.c "${invariance[@]}"
