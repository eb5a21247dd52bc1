#include "nccl_operations.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "emulation.h"

namespace emulation {

double now_seconds() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double hang_seconds() {
    static const double seconds = [] {
        const char *text = getenv("MOETRAIN_EMULATION_HANG_SECONDS");
        return text ? atof(text) : 60.0;
    }();
    return seconds;
}

std::string text(const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    return line;
}

namespace {

// Moves what fits between `data` and the pipe; returns the bytes moved.
size_t move_bytes(Pipe &pipe, bool send, unsigned char *data, size_t bytes) {
    uint64_t written = pipe.written.load(std::memory_order_acquire);
    uint64_t read = pipe.read.load(std::memory_order_acquire);
    size_t room = send ? PIPE_BYTES - (size_t)(written - read) : (size_t)(written - read);
    size_t count = std::min(bytes, room);
    for (size_t i = 0; i < count;) {
        size_t at = (size_t)((send ? written : read) + i) % PIPE_BYTES;
        size_t piece = std::min(PIPE_BYTES - at, count - i);
        if (send)
            memcpy(pipe.bytes + at, data + i, piece);
        else
            memcpy(data + i, pipe.bytes + at, piece);
        i += piece;
    }
    if (send)
        pipe.written.store(written + count, std::memory_order_release);
    else
        pipe.read.store(read + count, std::memory_order_release);
    return count;
}

void compare_headers(const Message &m, const Header &wanted) {
    const Header &got = m.header;
    if (strncmp(got.call, wanted.call, sizeof got.call) != 0 || got.number != wanted.number)
        die("rank %d expects %s no. %llu of rank %d, which has called %s no. %llu: "
            "all ranks call the same collectives in the same order",
            m.comm->rank, wanted.call, (unsigned long long)wanted.number, m.peer, got.call,
            (unsigned long long)got.number);
    if (got.bytes != wanted.bytes)
        die("%s: rank %d expects %llu bytes from rank %d, which sends %llu", m.call, m.comm->rank,
            (unsigned long long)wanted.bytes, m.peer, (unsigned long long)got.bytes);
}

bool advance(Message &m) {
    Segment *segment = m.comm->segment;
    Pipe &pipe =
        m.send ? segment->pipes[m.comm->rank][m.peer] : segment->pipes[m.peer][m.comm->rank];
    size_t moved = 0;
    if (m.header_done < sizeof m.header) {
        // The receiver reads over the header that it expects.
        Header wanted = m.header;
        auto *bytes = reinterpret_cast<unsigned char *>(&m.header);
        // Headers go in one piece, so that `wanted` is never half overwritten.
        uint64_t held = pipe.written.load() - pipe.read.load();
        if ((m.send ? PIPE_BYTES - held : held) < sizeof m.header) return false;
        moved = move_bytes(pipe, m.send, bytes, sizeof m.header);
        m.header_done = sizeof m.header;
        if (!m.send) compare_headers(m, wanted);
    }
    size_t count = move_bytes(pipe, m.send, m.data + m.done, m.bytes - m.done);
    m.done += count;
    return moved + count > 0;
}

void say_status(const Operation &op, Communicator *comm) {
    std::string line = op.what + ": waits for";
    for (const Message &m : op.phases[op.phase].messages)
        if (!m.finished())
            line += text(" %s rank %d (%zu of %zu bytes)", m.send ? "room at" : "data of", m.peer,
                         m.done, m.bytes);
    if (op.never_ends) line += " nothing: an injected failure";
    snprintf(comm->segment->status[comm->rank], STATUS_BYTES, "%s", line.c_str());
}

[[noreturn]] void report_hang(const Operation &op) {
    Communicator *comm = op.comms[0];
    std::string lines;
    for (int r = 0; r < comm->ranks; r++)
        lines += text("\n  rank %d: %s", r, comm->segment->status[r]);
    die("rank %d: %s made no progress in %.0f s%s", comm->rank, op.what.c_str(), hang_seconds(),
        lines.c_str());
}

void begin(Operation &op) {
    op.begun = true;
    op.phase = 0;
    op.progress_seconds = now_seconds();
    for (Communicator *comm : op.comms) {
        comm->active = &op;
        if (op.collective) comm->collectives++;
    }
    for (Phase &phase : op.phases)
        for (Message &m : phase.messages) {
            m.header = {};
            bool pair = !strcmp(m.call, "ncclSend") || !strcmp(m.call, "ncclRecv");
            snprintf(m.header.call, sizeof m.header.call, "%s", pair ? "ncclSend" : m.call);
            m.header.bytes = m.bytes;
            m.header.number = pair ? 0 : m.comm->collectives;
            m.header_done = m.done = 0;
        }
}

// On one rank: of two alike, one more and one less, the sums over all ranks would not tell.
void flip_a_bit(Operation &op) {
    for (Phase &phase : op.phases)
        for (Message &m : phase.messages)
            if (!m.send && m.bytes > 0 && m.comm->rank == 0) {
                m.data[0] ^= 1;
                return;
            }
}

void end(Operation &op) {
    op.begun = false;
    if (op.flips_a_bit) flip_a_bit(op);
    for (Communicator *comm : op.comms) {
        comm->active = nullptr;
        snprintf(comm->segment->status[comm->rank], STATUS_BYTES,
                 "is in no operation; its last: %s", op.what.c_str());
    }
}

} // namespace

bool poll_operation(Operation &op) {
    if (!op.begun) {
        for (Communicator *comm : op.comms)
            if (comm->active) return false; // of another stream
        begin(op);
    }
    bool moved = false;
    while (!op.never_ends && op.phase < op.phases.size()) {
        Phase &phase = op.phases[op.phase];
        // Messages between two ranks of a communicator arrive in the order in which they are sent.
        std::set<std::tuple<Communicator *, bool, int>> busy;
        bool all = true;
        for (Message &m : phase.messages) {
            if (m.finished()) continue;
            if (busy.empty() || !busy.count({m.comm, m.send, m.peer})) moved |= advance(m);
            if (m.finished()) continue;
            all = false;
            busy.insert({m.comm, m.send, m.peer});
        }
        if (!all) break;
        if (phase.then) phase.then();
        op.phase++;
        moved = true;
    }
    if (!op.never_ends && op.phase == op.phases.size()) {
        end(op);
        return true;
    }
    if (moved) {
        op.progress_seconds = now_seconds();
        op.fruitless = 0;
    } else if (++op.fruitless % 64 == 0) {
        double idle = now_seconds() - op.progress_seconds;
        if (idle > hang_seconds()) report_hang(op);
        if (idle > 0.5 * hang_seconds())
            for (Communicator *comm : op.comms)
                if (op.phase < op.phases.size()) say_status(op, comm);
        usleep(50);
    } else {
        sched_yield();
    }
    return false;
}

} // namespace emulation
