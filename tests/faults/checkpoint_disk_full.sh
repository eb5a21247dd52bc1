#!/usr/bin/env bash
# A save without room fails before it begins, leaves the older checkpoint alone, and works again once there
# is room.
#   checkpoint_disk_full.sh MOETRAIN
set -uo pipefail
program=$(dirname "$1")/tests/parallel/check_checkpoint
[ -x "$program" ] || { echo "skipped: no $program"; exit 77; }

directory=$(mktemp -d)
cleanup() {
    umount "$directory/disk" 2>/dev/null
    rm -r "$directory"
}
trap cleanup EXIT
expect() { # TEXT COMMAND…: succeeds and prints the text
    timeout 60 "${@:2}" >"$directory/log" 2>&1 && grep -q "$1" "$directory/log" ||
        { cat "$directory/log"; echo "failed: ${*:2}"; exit 1; }
}

mkdir "$directory/disk"
mount -t tmpfs -o size=2m tmpfs "$directory/disk" 2>/dev/null ||
    { echo "skipped: a small file system cannot be mounted"; exit 77; }
run=$directory/disk/run
expect passed "$program" save "$run" 1
head -c 1200k /dev/zero >"$directory/disk/filler"
expect "MB free and .* MB are to be written" "$program" fail "$run" 2
expect passed "$program" load "$run" 1
rm "$directory/disk/filler"
expect passed "$program" save "$run" 2
expect passed "$program" load "$run" 2
echo "ok      a save without room is refused beforehand, and works once there is room (1 faults)"
