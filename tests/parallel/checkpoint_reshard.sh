#!/usr/bin/env bash
# A checkpoint saved on N ranks is loaded bit for bit on M ranks, for all N and M, and its digest does not
# depend on N. From 3 ranks on some ranks hold replicas of experts.
#   checkpoint_reshard.sh CHECK_CHECKPOINT [RANKS ...]
set -uo pipefail
program=$1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

directory=$(mktemp -d)
trap 'rm -r "$directory"' EXIT
on_ranks() {
    timeout 60 mpirun --oversubscribe --bind-to none -np "$1" "$program" "${@:2}" \
        >"$directory/log" 2>&1 || { cat "$directory/log"; echo "failed on $1 ranks: ${*:2}"; exit 1; }
}

counts=("${@:2}") digests=()
[ $# -gt 1 ] || counts=(1 2 3 4 8)
for n in "${counts[@]}"; do
    on_ranks "$n" save "$directory/$n" 5 large
    "$program" digest "$directory/$n" 5 >"$directory/log" 2>&1 || { cat "$directory/log"; exit 1; }
    digests+=("$(grep '^digest' "$directory/log")")
done
folders=("${counts[@]/#/$directory/}")
for m in "${counts[@]}"; do
    on_ranks "$m" load "${folders[0]}" 5 large "${folders[@]:1}"
    echo "loaded on $m ranks what was saved on ${counts[*]}"
done
printf '%s\n' "${digests[@]}"
[ "$(printf '%s\n' "${digests[@]}" | sort -u | wc -l)" -eq 1 ] || { echo "digests differ"; exit 1; }
