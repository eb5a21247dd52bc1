#!/usr/bin/env bash
# A save is killed before its system calls, by the kernel's count of them: an older checkpoint or the complete new one loads
# then, and the next save works.
#   checkpoint_crash.sh MOETRAIN    before the first and the last of each kind; FAULTS_ALL=1: before every call, and each that
#                                   can fail fails (check_power_loss and check_io_faults do both without strace)
set -uo pipefail
program=$(dirname "$1")/tests/parallel/check_checkpoint
[ -x "$program" ] || { echo "skipped: no $program"; exit 77; }
command -v strace >/dev/null || { echo "skipped: no strace"; exit 77; }
strace -qq -o /dev/null true 2>/dev/null || { echo "skipped: ptrace is not permitted"; exit 77; }

directory=$(mktemp -d)
trap 'rm -r "$directory"' EXIT
run=$directory/run
saved=$run/checkpoints/step-00000003.h5
# Only calls that touch the checkpoint count, not those of MPI.
traced=(strace -f -qq -P "$run/checkpoints" -P "$saved" -P "$saved.tmp")

complain() { cat "$directory/log"; echo "$*"; exit 1; }
quietly() { { timeout 60 "$@" >"$directory/log" 2>&1; } 2>/dev/null; } # not "Killed" either

# Runs CALL's N-th occurrence through ACTION (strace's inject syntax) while step 3 is saved by VERB.
inject() { # ACTION CALL N VERB
    rm -rf "$run"
    cp -r "$directory/good" "$run"
    quietly "${traced[@]}" -o /dev/null -e "trace=$2" -e "inject=$2:$1:when=$3" "$program" "$4" "$run" 3
}

for step in 1 2; do quietly "$program" save "$run" $step || complain "cannot save"; done
cp -r "$run" "$directory/good"
quietly "${traced[@]}" -o "$directory/calls" "$program" save "$run" 3 || complain "cannot save under strace"
count() { grep -cE "^[0-9]+ +$1\(" "$directory/calls"; }

# A power failure cannot be shown here, but the calls that survive one can: contents, fsync, header, fsync,
# rename, fsync of the directory.
order=$(grep -oE '(pwrite64|fsync|rename)\(' "$directory/calls" | uniq | tr -d '\n(')
[ "$order" = pwrite64fsyncpwrite64fsyncrenamefsync ] || complain "calls in the wrong order: $order"

kills=0
for call in mkdir statfs openat ftruncate pwrite64 pread64 fsync close rename unlink getdents64; do
    total=$(count $call)
    stride=1
    [ -n "${FAULTS_ALL:-}" ] || [ "$total" -lt 2 ] || stride=$((total - 1))
    for ((n = 1; n <= total; n += stride)); do
        inject signal=KILL $call $n save
        status=$?
        [ $status -eq 137 ] || complain "$call $n of $total: not killed, exit code $status"
        quietly "$program" intact "$run" 2 || complain "killed before $call $n of $total: not intact"
        kills=$((kills + 1))
    done
done
quietly "$program" save "$run" 4 || complain "no save after a crash"
[ -z "$(find "$run" -name '*.tmp')" ] || complain "a temporary file was left behind"
echo "ok      a save killed before a system call leaves an intact checkpoint ($kills faults)"

[ -n "${FAULTS_ALL:-}" ] || exit 0
failures=0
for fault in mkdir:EACCES statfs:EIO openat:EMFILE ftruncate:EFBIG pwrite64:ENOSPC pwrite64:EIO pread64:EIO \
    fsync:EIO rename:EACCES; do
    call=${fault%:*}
    first=1 last=$(count "$call")
    # The first lists the directory, to remove what crashes left; the last two list it again and look into the newest, to remove
    # old files. Failing there only warns.
    [ "$call" != openat ] || { first=2 last=$((last - 2)); }
    # Reads after the renaming look into the newest for the same purpose.
    [ "$call" != pread64 ] || last=$(sed '/ rename(/q' "$directory/calls" | grep -c 'pread64(')
    for ((n = first; n <= last; n++)); do
        inject error="${fault#*:}" $call $n fail || complain "$fault, call $n of $last: not reported"
        quietly "$program" intact "$run" 2 || complain "$fault, call $n of $last: not intact"
        failures=$((failures + 1))
    done
done
echo "ok      a failing system call of a save is reported and leaves an intact checkpoint ($failures faults)"
