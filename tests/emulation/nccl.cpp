// The part of NCCL that the program uses, among processes of one host. Stricter than the library:
// counts and kinds of operations of the two sides must match, buffers must be device memory of the
// right size and must not overlap where the library says so, and who waits for whom is told after a
// minute. Reductions add in rank order.
//
// Long because each operation checks both of its sides.
#include <fcntl.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <set>

#include "emulation.h"
#include "host_mpi.h"
#include "nccl_operations.h"

// First line of a function of the library: an error injected by MOETRAIN_EMULATION_FAIL.
#define FAIL_WHEN_ASKED()                                                                          \
    if (emulation::fails(__func__)) return ncclSystemError

namespace {

using namespace emulation;

// Where the other ranks find the segment.
struct Invitation {
    char magic[16];
    int process, descriptor;
};
const char MAGIC[16] = "emulated nccl";

struct Call { // of a group that is still open
    Communicator *comm;
    cudaStream_t stream;
    std::string what;
    std::vector<Message> messages;    // of a send or receive
    std::shared_ptr<Operation> whole; // of a collective
};

std::mutex registry_lock; // ncclCommGetAsyncError is called by any thread
std::set<Communicator *> registry;
int group_depth = 0;
std::vector<Call> group_calls;
long calls_enqueued = 0;
char last_error[512];

Communicator *communicator(ncclComm_t handle, const char *call) {
    auto *comm = reinterpret_cast<Communicator *>(handle);
    std::lock_guard guard(registry_lock);
    if (!registry.count(comm)) die("%s: this communicator is not open", call);
    return comm;
}

size_t type_bytes(ncclDataType_t type, const char *call) {
    switch (type) {
    case ncclInt8:
    case ncclUint8:
        return 1;
    case ncclBfloat16:
        return 2;
    case ncclInt32:
    case ncclFloat32:
        return 4;
    case ncclInt64:
    case ncclFloat64:
        return 8;
    default:
        die("%s: data type %d is not emulated", call, (int)type);
    }
}

// ---- operations ---------------------------------------------------------------------------------

long number_asked(const char *name) {
    const char *number = getenv(name);
    return number ? atol(number) : 0;
}

// MOETRAIN_EMULATION_NCCL_ERROR=n: the n-th operation fails behind the host's back.
// MOETRAIN_EMULATION_NCCL_FLIP=n: of what the n-th brings to rank 0, a bit is another one.
void enqueue(cudaStream_t stream, std::shared_ptr<Operation> op) {
    static const long failing = number_asked("MOETRAIN_EMULATION_NCCL_ERROR");
    static const long flipping = number_asked("MOETRAIN_EMULATION_NCCL_FLIP");
    if (++calls_enqueued == failing) {
        op->never_ends = true;
        for (Communicator *comm : op->comms) comm->error = ncclRemoteError;
    }
    op->flips_a_bit = calls_enqueued == flipping;
    emulation::enqueue_polled(stream, "an NCCL operation", [op] { return poll_operation(*op); });
}

// All calls of a group: collectives one after the other, then every send and receive at once.
ncclResult_t close_group() {
    std::vector<Call> calls;
    calls.swap(group_calls);
    if (calls.empty()) return ncclSuccess;
    auto op = std::make_shared<Operation>();
    Phase pairs;
    for (Call &call : calls) {
        if (call.stream != calls[0].stream)
            die("%s: a group on two streams is not emulated", call.what.c_str());
        if (std::find(op->comms.begin(), op->comms.end(), call.comm) == op->comms.end())
            op->comms.push_back(call.comm);
        if (call.whole) {
            op->collective = true;
            for (Phase &phase : call.whole->phases) op->phases.push_back(phase);
            for (auto &memory : call.whole->memory) op->memory.push_back(memory);
        }
        for (Message &m : call.messages) pairs.messages.push_back(m);
    }
    for (const Message &a : pairs.messages)
        for (const Message &b : pairs.messages)
            if (&a != &b && !a.send && a.data < b.data + b.bytes && b.data < a.data + a.bytes)
                die("ncclRecv from rank %d overlaps the buffer of %s with rank %d of the "
                    "same group",
                    a.peer, b.call, b.peer);
    if (!pairs.messages.empty()) op->phases.push_back(pairs);
    op->what = calls.size() == 1 ? calls[0].what
                                 : text("a group of %zu calls, the first %s", calls.size(),
                                        calls[0].what.c_str());
    enqueue(calls[0].stream, op);
    return ncclSuccess;
}

ncclResult_t add_call(Call call) {
    group_calls.push_back(std::move(call));
    return group_depth > 0 ? ncclSuccess : close_group();
}

ncclResult_t pair(const char *name, bool send, void *data, size_t count, ncclDataType_t type,
                  int peer, ncclComm_t handle, cudaStream_t stream) {
    Communicator *comm = communicator(handle, name);
    size_t bytes = count * type_bytes(type, name);
    if (peer < 0 || peer >= comm->ranks) die("%s: peer %d of %d ranks", name, peer, comm->ranks);
    check_device_memory(data, bytes, name, send ? "sendbuff" : "recvbuff");
    Call call{comm, stream, text("%s of %zu bytes, rank %d", name, bytes, peer), {}, nullptr};
    call.messages.push_back(
        {comm, send, peer, static_cast<unsigned char *>(data), bytes, name, {}, 0, 0});
    return add_call(std::move(call));
}

// The parts that collectives are made of.
struct Collective {
    const char *name;
    Communicator *comm;
    cudaStream_t stream;
    std::shared_ptr<Operation> op = std::make_shared<Operation>();

    Collective(const char *name_, ncclComm_t handle, cudaStream_t stream_)
        : name(name_), comm(communicator(handle, name_)), stream(stream_) {}

    unsigned char *scratch(size_t bytes) {
        op->memory.push_back(std::make_shared<std::vector<unsigned char>>(bytes + 1));
        return op->memory.back()->data();
    }
    Phase &phase() {
        op->phases.emplace_back();
        return op->phases.back();
    }
    void send(Phase &phase, int peer, const void *data, size_t bytes) {
        phase.messages.push_back({comm,
                                  true,
                                  peer,
                                  static_cast<unsigned char *>(const_cast<void *>(data)),
                                  bytes,
                                  name,
                                  {},
                                  0,
                                  0});
    }
    void receive(Phase &phase, int peer, void *data, size_t bytes) {
        phase.messages.push_back(
            {comm, false, peer, static_cast<unsigned char *>(data), bytes, name, {}, 0, 0});
    }
    // Fatal unless the two ranges are apart or exactly as the library allows: `in` at `allowed` in
    // `out`.
    void check_overlap(const void *in, size_t in_bytes, const void *out, size_t out_bytes,
                       const void *allowed) {
        auto *a = static_cast<const char *>(in), *b = static_cast<const char *>(out);
        if (a != allowed && a < b + out_bytes && b < a + in_bytes)
            die("%s: sendbuff and recvbuff overlap", name);
    }
    ncclResult_t add(size_t bytes) {
        Call call{comm, stream, text("%s of %zu bytes", name, bytes), {}, op};
        return add_call(std::move(call));
    }
};

template <typename T> void add_ranks(void *out, const unsigned char *blocks, size_t count, int n) {
    auto *sum = static_cast<T *>(out);
    auto *in = reinterpret_cast<const T *>(blocks);
    for (size_t i = 0; i < count; i++) {
        T value = in[i];
        for (int r = 1; r < n; r++) value += in[(size_t)r * count + i];
        sum[i] = value;
    }
}

// out = block 0 + block 1 + …, in rank order.
void reduce(void *out, const unsigned char *blocks, size_t count, int n, ncclDataType_t type) {
    switch (type) {
    case ncclFloat32:
        return add_ranks<float>(out, blocks, count, n);
    case ncclFloat64:
        return add_ranks<double>(out, blocks, count, n);
    case ncclInt32:
        return add_ranks<uint32_t>(out, blocks, count, n); // wraps around
    case ncclInt64:
        return add_ranks<uint64_t>(out, blocks, count, n);
    default:
        die("a reduction of data type %d is not emulated", (int)type);
    }
}

void check_sum(const char *name, ncclRedOp_t op, ncclDataType_t type) {
    if (op != ncclSum) die("%s: only ncclSum is emulated, not %d", name, (int)op);
    if (type != ncclFloat32 && type != ncclFloat64 && type != ncclInt32 && type != ncclInt64)
        die("%s: a reduction of data type %d is not emulated", name, (int)type);
}

} // namespace

// ---- the library --------------------------------------------------------------------------------

extern "C" {

ncclResult_t ncclGetVersion(int *version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
    switch (result) {
    case ncclSuccess:
        return "no error";
    case ncclUnhandledCudaError:
        return "unhandled cuda error";
    case ncclSystemError:
        return "unhandled system error";
    case ncclInternalError:
        return "internal error";
    case ncclInvalidArgument:
        return "invalid argument";
    case ncclInvalidUsage:
        return "invalid usage";
    case ncclRemoteError:
        return "remote process exited or there was a network error";
    case ncclInProgress:
        return "operation in progress";
    default:
        return "unknown result code";
    }
}

const char *ncclGetLastError(ncclComm_t) {
    return last_error;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    FAIL_WHEN_ASKED();
    int descriptor = memfd_create("emulated nccl", 0);
    if (descriptor < 0 || ftruncate(descriptor, sizeof(Segment)) != 0)
        die("ncclGetUniqueId: no shared memory");
    Invitation invitation{};
    memcpy(invitation.magic, MAGIC, sizeof MAGIC);
    invitation.process = getpid();
    invitation.descriptor = descriptor;
    memset(id, 0, sizeof *id);
    memcpy(id, &invitation, sizeof invitation);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *handle, int ranks, ncclUniqueId id, int rank) {
    FAIL_WHEN_ASKED();
    Invitation invitation;
    memcpy(&invitation, &id, sizeof invitation);
    if (memcmp(invitation.magic, MAGIC, sizeof MAGIC) != 0)
        die("ncclCommInitRank: this is no id of ncclGetUniqueId");
    if (ranks < 1 || ranks > MAX_RANKS || rank < 0 || rank >= ranks)
        die("ncclCommInitRank: rank %d of %d (at most %d are emulated)", rank, ranks, MAX_RANKS);
    finish_device_work(); // the other ranks may be waiting for it
    int descriptor = invitation.descriptor;
    bool host = invitation.process == getpid();
    if (!host)
        descriptor =
            open(text("/proc/%d/fd/%d", invitation.process, invitation.descriptor).c_str(), O_RDWR);
    void *memory =
        mmap(nullptr, sizeof(Segment), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (descriptor < 0 || memory == MAP_FAILED)
        die("ncclCommInitRank: the memory of process %d cannot be shared", invitation.process);
    auto *segment = static_cast<Segment *>(memory);

    int ordinal = -1, expected = 0;
    if (cudaGetDevice(&ordinal) != cudaSuccess) die("ncclCommInitRank: no device");
    if (!segment->ranks.compare_exchange_strong(expected, ranks) && expected != ranks)
        die("ncclCommInitRank: rank %d says %d ranks, another said %d", rank, ranks, expected);
    if (segment->ordinal[rank].exchange(ordinal + 1) != 0)
        die("ncclCommInitRank: two ranks say that they are rank %d", rank);
    snprintf(segment->status[rank], STATUS_BYTES, "has done nothing yet");
    segment->joined++;
    double start = now_seconds();
    while (segment->joined < ranks) {
        usleep(100);
        if (now_seconds() - start > hang_seconds())
            die("ncclCommInitRank: %d of %d ranks came", segment->joined.load(), ranks);
    }
    close(descriptor);
    for (int other = 0; other < ranks; other++)
        if (other != rank && segment->ordinal[other] == ordinal + 1)
            die("ncclCommInitRank: ranks %d and %d both use GPU %d", rank, other, ordinal);
    auto *comm = new Communicator;
    comm->segment = segment;
    comm->rank = rank;
    comm->ranks = ranks;
    communicators_open(+1);
    std::lock_guard guard(registry_lock);
    registry.insert(comm);
    *handle = reinterpret_cast<ncclComm_t>(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *handle, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
    if (config && config->blocking == 0)
        die("ncclCommInitRankConfig: communicators that do not block are not emulated");
    return ncclCommInitRank(handle, ranks, id, rank);
}

ncclResult_t ncclCommFinalize(ncclComm_t handle) {
    FAIL_WHEN_ASKED();
    Communicator *comm = communicator(handle, "ncclCommFinalize");
    if (comm->error == ncclSuccess) finish_device_work();
    return ncclSuccess;
}

static void forget(ncclComm_t handle, const char *call) {
    Communicator *comm = communicator(handle, call);
    std::lock_guard guard(registry_lock);
    registry.erase(comm);
    snprintf(comm->segment->status[comm->rank], STATUS_BYTES, "has left");
    munmap(comm->segment, sizeof(Segment));
    if (!comm->active) delete comm;
    communicators_open(-1);
}

ncclResult_t ncclCommDestroy(ncclComm_t handle) {
    FAIL_WHEN_ASKED();
    if (communicator(handle, "ncclCommDestroy")->error == ncclSuccess) finish_device_work();
    forget(handle, "ncclCommDestroy");
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t handle) {
    if (communicator(handle, "ncclCommAbort")->active)
        die("ncclCommAbort: ending an operation under way is not emulated");
    forget(handle, "ncclCommAbort");
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t handle, int *count) {
    *count = communicator(handle, "ncclCommCount")->ranks;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t handle, int *rank) {
    *rank = communicator(handle, "ncclCommUserRank")->rank;
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t *state) {
    *state = (ncclResult_t)communicator(handle, "ncclCommGetAsyncError")->error.load();
    if (*state != ncclSuccess)
        snprintf(last_error, sizeof last_error,
                 "failure injected by MOETRAIN_EMULATION_NCCL_ERROR");
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void) {
    FAIL_WHEN_ASKED();
    group_depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
    FAIL_WHEN_ASKED();
    if (group_depth == 0) die("ncclGroupEnd without ncclGroupStart");
    return --group_depth > 0 ? ncclSuccess : close_group();
}

ncclResult_t ncclSend(const void *data, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t handle, cudaStream_t stream) {
    FAIL_WHEN_ASKED();
    return pair("ncclSend", true, const_cast<void *>(data), count, type, peer, handle, stream);
}

ncclResult_t ncclRecv(void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t handle,
                      cudaStream_t stream) {
    FAIL_WHEN_ASKED();
    return pair("ncclRecv", false, data, count, type, peer, handle, stream);
}

ncclResult_t ncclBroadcast(const void *in, void *out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t handle, cudaStream_t stream) {
    FAIL_WHEN_ASKED();
    Collective c("ncclBroadcast", handle, stream);
    size_t bytes = count * type_bytes(type, c.name);
    int own = c.comm->rank;
    if (root < 0 || root >= c.comm->ranks)
        die("%s: root %d of %d ranks", c.name, root, c.comm->ranks);
    check_device_memory(out, bytes, c.name, "recvbuff");
    Phase &phase = c.phase();
    if (own == root) {
        check_device_memory(in, bytes, c.name, "sendbuff");
        c.check_overlap(in, bytes, out, bytes, out);
        for (int r = 0; r < c.comm->ranks; r++)
            if (r != root) c.send(phase, r, in, bytes);
        if (in != out) phase.then = [=] { memcpy(out, in, bytes); };
    } else {
        c.receive(phase, root, out, bytes);
    }
    return c.add(bytes);
}

ncclResult_t ncclAllGather(const void *in, void *out, size_t count, ncclDataType_t type,
                           ncclComm_t handle, cudaStream_t stream) {
    FAIL_WHEN_ASKED();
    Collective c("ncclAllGather", handle, stream);
    size_t bytes = count * type_bytes(type, c.name);
    int n = c.comm->ranks, own = c.comm->rank;
    auto *blocks = static_cast<unsigned char *>(out);
    check_device_memory(in, bytes, c.name, "sendbuff");
    check_device_memory(out, bytes * (size_t)n, c.name, "recvbuff");
    c.check_overlap(in, bytes, out, bytes * (size_t)n, blocks + (size_t)own * bytes);
    Phase &phase = c.phase();
    for (int r = 0; r < n; r++) {
        if (r == own) continue;
        c.send(phase, r, in, bytes);
        c.receive(phase, r, blocks + (size_t)r * bytes, bytes);
    }
    phase.then = [=] { memmove(blocks + (size_t)own * bytes, in, bytes); };
    return c.add(bytes);
}

ncclResult_t ncclAlltoAll(const void *in, void *out, size_t count, ncclDataType_t type,
                          ncclComm_t handle, cudaStream_t stream) {
    FAIL_WHEN_ASKED();
    Collective c("ncclAlltoAll", handle, stream);
    size_t bytes = count * type_bytes(type, c.name);
    int n = c.comm->ranks, own = c.comm->rank;
    auto *to = static_cast<unsigned char *>(out);
    auto *from = static_cast<const unsigned char *>(in);
    check_device_memory(in, bytes * (size_t)n, c.name, "sendbuff");
    check_device_memory(out, bytes * (size_t)n, c.name, "recvbuff");
    c.check_overlap(in, bytes * (size_t)n, out, bytes * (size_t)n, nullptr);
    Phase &phase = c.phase();
    for (int r = 0; r < n; r++) {
        if (r == own) continue;
        c.send(phase, r, from + (size_t)r * bytes, bytes);
        c.receive(phase, r, to + (size_t)r * bytes, bytes);
    }
    phase.then = [=] { memcpy(to + (size_t)own * bytes, from + (size_t)own * bytes, bytes); };
    return c.add(bytes);
}

ncclResult_t ncclReduceScatter(const void *in, void *out, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t handle, cudaStream_t stream) {
    FAIL_WHEN_ASKED();
    Collective c("ncclReduceScatter", handle, stream);
    check_sum(c.name, op, type);
    size_t bytes = count * type_bytes(type, c.name);
    int n = c.comm->ranks, own = c.comm->rank;
    auto *from = static_cast<const unsigned char *>(in);
    check_device_memory(in, bytes * (size_t)n, c.name, "sendbuff");
    check_device_memory(out, bytes, c.name, "recvbuff");
    const unsigned char *own_block = from + (size_t)own * bytes;
    if (out != own_block) c.check_overlap(in, bytes * (size_t)n, out, bytes, nullptr);
    unsigned char *blocks = c.scratch(bytes * (size_t)n);
    Phase &phase = c.phase();
    for (int r = 0; r < n; r++) {
        if (r == own) continue;
        c.send(phase, r, from + (size_t)r * bytes, bytes);
        c.receive(phase, r, blocks + (size_t)r * bytes, bytes);
    }
    phase.then = [=] {
        memcpy(blocks + (size_t)own * bytes, own_block, bytes);
        reduce(out, blocks, count, n, type);
    };
    return c.add(bytes);
}

// Rank r adds up piece r, then everybody gets it.
ncclResult_t ncclAllReduce(const void *in, void *out, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t handle, cudaStream_t stream) {
    FAIL_WHEN_ASKED();
    Collective c("ncclAllReduce", handle, stream);
    check_sum(c.name, op, type);
    size_t width = type_bytes(type, c.name), bytes = count * width;
    int n = c.comm->ranks, own = c.comm->rank;
    check_device_memory(in, bytes, c.name, "sendbuff");
    check_device_memory(out, bytes, c.name, "recvbuff");
    c.check_overlap(in, bytes, out, bytes, out);
    size_t piece = (count + (size_t)n - 1) / (size_t)n;
    auto first = [=](int r) { return std::min((size_t)r * piece, count); };
    auto piece_bytes = [=](int r) { return (first(r + 1) - first(r)) * width; };
    auto *from = static_cast<const unsigned char *>(in);
    auto *to = static_cast<unsigned char *>(out);
    size_t own_bytes = piece_bytes(own);
    unsigned char *blocks = c.scratch(own_bytes * (size_t)n);
    unsigned char *sum = c.scratch(own_bytes);
    Phase &gather = c.phase();
    for (int r = 0; r < n; r++) {
        if (r == own) continue;
        c.send(gather, r, from + first(r) * width, piece_bytes(r));
        c.receive(gather, r, blocks + (size_t)r * own_bytes, own_bytes);
    }
    gather.then = [=] {
        memcpy(blocks + (size_t)own * own_bytes, from + first(own) * width, own_bytes);
        reduce(sum, blocks, own_bytes / width, n, type);
    };
    Phase &spread = c.phase();
    for (int r = 0; r < n; r++) {
        if (r == own) continue;
        c.send(spread, r, sum, own_bytes);
        c.receive(spread, r, to + first(r) * width, piece_bytes(r));
    }
    spread.then = [=] { memcpy(to + first(own) * width, sum, own_bytes); };
    return c.add(bytes);
}

} // extern "C"
