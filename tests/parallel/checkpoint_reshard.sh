#!/usr/bin/env bash
# A checkpoint saved on N ranks is loaded bit for bit on M ranks, for all N and M, and its digest does not
# depend on N. From 3 ranks on some ranks hold replicas of experts.
#   checkpoint_reshard.sh CHECK_CHECKPOINT
set -uo pipefail
program=$1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

directory=$(mktemp -d)
trap 'rm -r "$directory"' EXIT
on_ranks() {
    timeout 60 mpirun --oversubscribe --bind-to none -np "$1" "$program" "${@:2}" \
        >"$directory/log" 2>&1 || { cat "$directory/log"; echo "failed on $1 ranks: ${*:2}"; exit 1; }
}

digests=()
for n in 1 2 3 4 8; do
    on_ranks "$n" save "$directory/$n" 5 large
    on_ranks 1 digest "$directory/$n" 5
    digests+=("$(grep '^digest' "$directory/log")")
    for m in 1 2 3 4 8; do on_ranks "$m" load "$directory/$n" 5 large; done
    echo "saved on $n ranks, loaded on 1, 2, 3, 4 and 8: ${digests[-1]}"
    rm -r "${directory:?}/$n"
done
[ "$(printf '%s\n' "${digests[@]}" | sort -u | wc -l)" -eq 1 ] || { echo "digests differ"; exit 1; }
