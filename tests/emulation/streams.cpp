// Streams and events. Nothing that is asynchronous on a GPU is done when it is called: it is
// queued, and done when somebody waits, a piece at a time from streams of chance, as far as events
// allow. Now and then a piece is done earlier, since a GPU may also be fast.
//
// MOETRAIN_EMULATION_LATE_STREAM=n: the n-th stream that was created, from 1, starts late: its work
// is done when no other has any.
#include "gpu.h"

#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include <algorithm>
#include <deque>

struct CUevent_st {
    uint64_t recorded, reached; // how often
    bool timing, destroyed;
    double milliseconds; // when it was last reached
};

namespace emulation {

namespace {

struct Work {
    uint64_t number; // in the order of calls
    const char *what;
    std::function<bool()> run; // false: not yet
    cudaEvent_t awaited;       // or NULL
    uint64_t awaited_count;
};

} // namespace

} // namespace emulation

struct CUstream_st {
    std::deque<emulation::Work> queue;
    bool follows_legacy; // stream 0 and this one wait for each other
};

namespace emulation {

namespace {

CUstream_st legacy = {{}, false};
std::vector<cudaStream_t> streams = {&legacy}; // in the order of their creation
std::vector<cudaEvent_t> events; // also destroyed ones, which queued work may still need
uint64_t works_called;
bool inside_work;

CUstream_st *stream_of(cudaStream_t stream) {
    if (stream == cudaStreamPerThread) die("cudaStreamPerThread is not emulated");
    CUstream_st *found = stream == nullptr || stream == cudaStreamLegacy ? &legacy : stream;
    if (std::find(streams.begin(), streams.end(), found) == streams.end())
        die("%p is not a stream, or no longer", (void *)stream);
    return found;
}

// Stream 0 and the streams that follow it run in the order of calls.
bool may_run(CUstream_st *stream) {
    if (stream->queue.empty()) return false;
    const Work &work = stream->queue.front();
    if (stream == &legacy) {
        for (CUstream_st *other : streams)
            if (other->follows_legacy && !other->queue.empty() &&
                other->queue.front().number < work.number)
                return false;
    } else if (stream->follows_legacy && !legacy.queue.empty() &&
               legacy.queue.front().number < work.number) {
        return false;
    }
    return !work.awaited || work.awaited->reached >= work.awaited_count;
}

// The stream of MOETRAIN_EMULATION_LATE_STREAM.
cudaStream_t late_stream;
unsigned streams_created;

void note_late_stream(cudaStream_t created) {
    const char *number = getenv("MOETRAIN_EMULATION_LATE_STREAM");
    if (number && strtoul(number, nullptr, 10) == ++streams_created) late_stream = created;
}

enum class Step { DONE, NOT_YET, NOTHING };

// Does one piece of work of some stream. NOT_YET: the only work there is waits for other processes.
Step run_one() {
    if (inside_work) die("work of a stream waits for a stream");
    CUstream_st *able[256];
    size_t count = 0;
    for (CUstream_st *stream : streams)
        if (count < 255 && stream != late_stream && may_run(stream)) able[count++] = stream;
    bool others = count > 0;
    if (late_stream && may_run(late_stream)) able[count++] = late_stream;
    if (count == 0) return Step::NOTHING;
    size_t first = order() == Order::RANDOM    ? random_bits() % count
                   : order() == Order::FORWARD ? 0
                                               : count - 1;
    // The late one goes last, for when all others wait for other processes.
    if (others && able[count - 1] == late_stream) first = 0;
    for (size_t i = 0; i < count; i++) {
        CUstream_st *stream = able[(first + i) % count];
        Work work = std::move(stream->queue.front());
        bool done = true;
        if (work.run) {
            inside_work = true;
            done = work.run();
            inside_work = false;
        }
        if (done) {
            stream->queue.pop_front();
            return Step::DONE;
        }
        stream->queue.front() = std::move(work);
    }
    return Step::NOT_YET;
}

// Runs works until the condition holds; fatal when none is left that could make it hold.
template <typename Condition> void run_until(const char *call, Condition holds) {
    if (holds()) return;
    DeviceAccess access;
    while (!holds()) {
        Step step = run_one();
        if (step == Step::NOTHING) {
            for (CUstream_st *stream : streams)
                if (!stream->queue.empty())
                    die("%s waits forever: a stream is stuck before %s", call,
                        stream->queue.front().what);
            die("%s waits forever, and no work is left", call);
        }
        if (step == Step::NOT_YET) sched_yield();
    }
}

void append(cudaStream_t stream, Work work) {
    CUstream_st *to = stream_of(stream);
    work.number = works_called++;
    to->queue.push_back(std::move(work));
    if (one_in(16)) run_a_little();
}

cudaEvent_t checked(cudaEvent_t event, const char *call) {
    if (std::find(events.begin(), events.end(), event) == events.end() || event->destroyed)
        die("%s: %p is not an event, or no longer", call, (void *)event);
    return event;
}
cudaError_t create(cudaEvent_t *event, unsigned flags) {
    *event = new CUevent_st{0, 0, !(flags & cudaEventDisableTiming), false, 0};
    events.push_back(*event);
    return cudaSuccess;
}
cudaError_t create(cudaStream_t *stream, unsigned flags) {
    *stream = new CUstream_st{{}, !(flags & cudaStreamNonBlocking)};
    streams.push_back(*stream);
    note_late_stream(*stream);
    return cudaSuccess;
}

double now_milliseconds() {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

} // namespace

void enqueue(cudaStream_t stream, const char *what, std::function<void()> work) {
    auto run = [work = std::move(work)] {
        work();
        return true;
    };
    append(stream, {0, what, std::move(run), nullptr, 0});
}
void enqueue_polled(cudaStream_t stream, const char *what, std::function<bool()> poll) {
    append(stream, {0, what, std::move(poll), nullptr, 0});
}

void finish_stream(cudaStream_t stream) {
    CUstream_st *which = stream_of(stream);
    run_until("waiting for a stream", [=] { return which->queue.empty(); });
}
void finish_all() {
    run_until("waiting for the device", [] {
        return std::all_of(streams.begin(), streams.end(),
                           [](CUstream_st *stream) { return stream->queue.empty(); });
    });
}
void run_a_little() {
    if (inside_work) return;
    DeviceAccess access;
    unsigned pieces = order() == Order::RANDOM ? (unsigned)random_bits() % 4 : 1;
    while (pieces-- > 0 && run_one() == Step::DONE) {
    }
}

} // namespace emulation

using namespace emulation;

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) {
    EMULATED_CALL(cudaErrorMemoryAllocation);
    return create(stream, flags);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    EMULATED_CALL(cudaErrorMemoryAllocation);
    return create(stream, flags);
}
cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    EMULATED_CALL(cudaErrorMemoryAllocation);
    return create(stream, cudaStreamDefault);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    EMULATED_CALL(cudaErrorInvalidValue);
    CUstream_st *which = stream_of(stream);
    if (which == &legacy) die("cudaStreamDestroy of stream 0");
    finish_stream(stream);
    streams.erase(std::find(streams.begin(), streams.end(), which));
    if (which == late_stream) late_stream = nullptr;
    delete which;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    EMULATED_CALL(cudaErrorLaunchFailure);
    finish_stream(stream);
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    EMULATED_CALL(cudaErrorLaunchFailure);
    CUstream_st *which = stream_of(stream);
    run_a_little();
    return which->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaDeviceSynchronize(void) {
    EMULATED_CALL(cudaErrorLaunchFailure);
    finish_all();
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    EMULATED_CALL(cudaErrorInvalidValue);
    checked(event, "cudaStreamWaitEvent");
    append(stream, {0, "cudaStreamWaitEvent", nullptr, event, event->recorded});
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    EMULATED_CALL(cudaErrorMemoryAllocation);
    return create(event, flags);
}
cudaError_t cudaEventCreate(cudaEvent_t *event) {
    EMULATED_CALL(cudaErrorMemoryAllocation);
    return create(event, cudaEventDefault);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    EMULATED_CALL(cudaErrorInvalidValue);
    checked(event, "cudaEventDestroy")->destroyed = true;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    EMULATED_CALL(cudaErrorInvalidValue);
    checked(event, "cudaEventRecord");
    event->recorded++;
    auto reach = [event, count = event->recorded] {
        event->reached = std::max(event->reached, count);
        event->milliseconds = now_milliseconds();
        return true;
    };
    append(stream, {0, "cudaEventRecord", reach, nullptr, 0});
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    EMULATED_CALL(cudaErrorLaunchFailure);
    checked(event, "cudaEventSynchronize");
    run_until("cudaEventSynchronize", [=] { return event->reached == event->recorded; });
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    EMULATED_CALL(cudaErrorLaunchFailure);
    checked(event, "cudaEventQuery");
    run_a_little();
    return event->reached == event->recorded ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    EMULATED_CALL(cudaErrorInvalidValue);
    checked(start, "cudaEventElapsedTime"), checked(end, "cudaEventElapsedTime");
    if (!start->timing || !end->timing || !start->recorded || !end->recorded)
        return failed(cudaErrorInvalidResourceHandle);
    if (start->reached != start->recorded || end->reached != end->recorded)
        return failed(cudaErrorNotReady);
    *milliseconds = (float)(end->milliseconds - start->milliseconds);
    return cudaSuccess;
}

} // extern "C"
