// That a fuzzer reaches what it is for. An input that is refused at once looks like one that holds:
// so each fuzzer names the places where inputs have been accepted, and the seeds in its corpus must
// come to all of them before it begins.
#ifndef MOETRAIN_TESTS_FUZZ_SEEDS_H
#define MOETRAIN_TESTS_FUZZ_SEEDS_H

#include <stddef.h>

// An input has come to this place.
void reached(const char *place);
// For LLVMFuzzerInitialize: runs the seeds of this fuzzer and ends the program with the name of a
// place, of the NULL-ended list, that none has come to. 0.
int seeds_must_reach(const char *const places[]);

// The input as a file, for parsers that want a path: in /dev/shm, since a disk takes a hundred
// times as long.
void write_input(const char *path, const void *bytes, size_t count);

#endif
