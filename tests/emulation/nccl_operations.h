// What an NCCL operation is in the emulation: a row of phases; in a phase this rank sends and
// receives several messages at once, and then does some arithmetic. Messages go through byte pipes
// in memory that the ranks of a communicator share.
#ifndef MOETRAIN_TESTS_EMULATION_NCCL_OPERATIONS_H
#define MOETRAIN_TESTS_EMULATION_NCCL_OPERATIONS_H

#include <nccl.h>
#include <stdint.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace emulation {

inline constexpr int MAX_RANKS = 16;
inline constexpr size_t PIPE_BYTES = 1 << 16;
inline constexpr size_t STATUS_BYTES = 256;

// What runs ahead of every message, so that both sides can be compared.
struct Header {
    char call[24]; // "ncclSend", or the collective
    uint64_t bytes;
    uint64_t number; // of the collective in its communicator; 0 for sends
};

struct Pipe { // from one rank to another
    std::atomic<uint64_t> written, read;
    unsigned char bytes[PIPE_BYTES];
};

// Shared by the ranks of one communicator; zeroed by the system.
struct Segment {
    std::atomic<int> joined, ranks;
    std::atomic<int> ordinal[MAX_RANKS];  // of each rank's GPU, plus one
    char status[MAX_RANKS][STATUS_BYTES]; // what each rank does, for the message about a hang
    Pipe pipes[MAX_RANKS][MAX_RANKS];
};

struct Operation;
struct Communicator {
    Segment *segment;
    int rank, ranks;
    uint64_t collectives = 0;    // finished or begun
    Operation *active = nullptr; // a communicator does one thing at a time
    std::atomic<int> error{ncclSuccess};
};

struct Message {
    Communicator *comm;
    bool send;
    int peer;
    unsigned char *data;
    size_t bytes;
    const char *call;
    // Progress.
    Header header;
    size_t header_done, done;

    bool finished() const { return header_done == sizeof header && done == bytes; }
};

struct Phase {
    std::vector<Message> messages;
    std::function<void()> then;
};

struct Operation {
    std::string what;
    std::vector<Communicator *> comms;
    std::vector<Phase> phases;
    std::vector<std::shared_ptr<std::vector<unsigned char>>> memory;
    bool collective = false;  // or sends and receives alone
    bool never_ends = false;  // the injected failure
    bool flips_a_bit = false; // of what arrives, another one
    // Progress; reset at the end, since a captured operation runs more than once.
    bool begun = false;
    size_t phase = 0;
    double progress_seconds = 0;
    unsigned fruitless = 0;
};

// One round over the messages of the phase. True when the operation is done.
bool poll_operation(Operation &op);

// After so long without progress an operation ends the test, saying what every rank waits for: 60,
// or MOETRAIN_EMULATION_HANG_SECONDS.
double hang_seconds();
double now_seconds();
std::string text(const char *format, ...) __attribute__((format(printf, 1, 2)));

} // namespace emulation

#endif
