// System calls and allocations of the product's own code. What libraries call (HDF5, MPI, stdio) is
// not seen from here.
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <unistd.h>

#include "fault.h"
#include "wrap.h"

static size_t half(size_t bytes) {
    return bytes > 1 ? bytes / 2 : bytes;
}

WRAP(int, open, const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fault_call("open", path, -1) == CALL_GOES_ON ? __real_open(path, flags, mode) : -1;
}

WRAP(ssize_t, read, int fd, void *data, size_t bytes) {
    CallFault fault = fault_call("read", NULL, fd);
    if (fault == CALL_FAILS) return -1;
    return __real_read(fd, data, fault == CALL_IS_SHORT ? half(bytes) : bytes);
}

WRAP(ssize_t, pread, int fd, void *data, size_t bytes, off_t offset) {
    CallFault fault = fault_call("pread", NULL, fd);
    if (fault == CALL_FAILS) return -1;
    return __real_pread(fd, data, fault == CALL_IS_SHORT ? half(bytes) : bytes, offset);
}

WRAP(ssize_t, write, int fd, const void *data, size_t bytes) {
    CallFault fault = fault_call("write", NULL, fd);
    if (fault == CALL_FAILS) return -1;
    return __real_write(fd, data, fault == CALL_IS_SHORT ? half(bytes) : bytes);
}

WRAP(ssize_t, pwrite, int fd, const void *data, size_t bytes, off_t offset) {
    CallFault fault = fault_call("pwrite", NULL, fd);
    if (fault == CALL_FAILS) return -1;
    return __real_pwrite(fd, data, fault == CALL_IS_SHORT ? half(bytes) : bytes, offset);
}

WRAP(int, ftruncate, int fd, off_t bytes) {
    return fault_call("ftruncate", NULL, fd) == CALL_GOES_ON ? __real_ftruncate(fd, bytes) : -1;
}

WRAP(int, fsync, int fd) {
    return fault_call("fsync", NULL, fd) == CALL_GOES_ON ? __real_fsync(fd) : -1;
}

WRAP(int, rename, const char *from, const char *to) {
    return fault_call("rename", to, -1) == CALL_GOES_ON ? __real_rename(from, to) : -1;
}

WRAP(int, link, const char *from, const char *to) {
    return fault_call("link", to, -1) == CALL_GOES_ON ? __real_link(from, to) : -1;
}

WRAP(int, unlink, const char *path) {
    return fault_call("unlink", path, -1) == CALL_GOES_ON ? __real_unlink(path) : -1;
}

WRAP(int, mkdir, const char *path, mode_t mode) {
    return fault_call("mkdir", path, -1) == CALL_GOES_ON ? __real_mkdir(path, mode) : -1;
}

WRAP(int, statvfs, const char *path, struct statvfs *info) {
    return fault_call("statvfs", path, -1) == CALL_GOES_ON ? __real_statvfs(path, info) : -1;
}

// ---- memory -------------------------------------------------------------------------------------

WRAP(void *, malloc, size_t bytes) {
    return fault_allocation(bytes) ? NULL : __real_malloc(bytes);
}

WRAP(void *, calloc, size_t count, size_t bytes) {
    return fault_allocation(count * bytes) ? NULL : __real_calloc(count, bytes);
}

WRAP(void *, realloc, void *memory, size_t bytes) {
    return fault_allocation(bytes) ? NULL : __real_realloc(memory, bytes);
}

WRAP(void *, aligned_alloc, size_t alignment, size_t bytes) {
    return fault_allocation(bytes) ? NULL : __real_aligned_alloc(alignment, bytes);
}

WRAP(char *, strdup, const char *text) {
    return fault_allocation(strlen(text) + 1) ? NULL : __real_strdup(text);
}

WRAP(void *, mmap, void *where, size_t bytes, int protection, int flags, int fd, off_t offset) {
    if (fault_allocation(bytes)) return MAP_FAILED;
    return __real_mmap(where, bytes, protection, flags, fd, offset);
}
