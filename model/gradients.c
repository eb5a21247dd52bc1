#include "model/gradients.h"

#include <stdlib.h>

#include "kernels/integers.h"

static bool by_tree(const Work *work) {
    return work->shape.reduce_order == REDUCE_FIXED_TREE;
}

// ---- layout -------------------------------------------------------------------------------------

void gradients_init(Gradients *gradients) {
    *gradients = (Gradients){.tied = -1};
}

void gradients_free(Gradients *gradients) {
    free(gradients->buckets);
    free(gradients->pending);
    *gradients = (Gradients){0};
}

int gradients_add_bucket(Gradients *gradients, const ParamTable *table) {
    if (gradients->count == gradients->capacity) {
        gradients->capacity = gradients->capacity > 0 ? 2 * gradients->capacity : 16;
        gradients->buckets =
            realloc(gradients->buckets, (size_t)gradients->capacity * sizeof *gradients->buckets);
        CHECK_MEMORY(gradients->buckets, "no memory for %d buckets", gradients->capacity);
    }
    const GradientBucket *before =
        gradients->count > 0 ? &gradients->buckets[gradients->count - 1] : NULL;
    GradientBucket bucket;
    for (int run = 0; run < GRADIENT_RUNS; run++) {
        bucket.first[run] = before ? before->first[run] + before->elements[run] : 0;
        bucket.elements[run] = table->elements[run] - bucket.first[run];
    }
    gradients->buckets[gradients->count] = bucket;
    return gradients->count++;
}

void gradients_tie(Gradients *gradients, int row) {
    gradients->tied = row;
}

// Whether a gradient's rows are marked: where it is nobody's sum with another's, which would have
// other rows.
static bool marks_rows(const Work *work) {
    return work->params->marks > 0 && work->shape.micro_batches == 1 &&
           work->shape.expert_replicas == 1;
}

static GradientSet layout_set(const Gradients *gradients, const Work *work, Arena *arena) {
    GradientSet set = {.params = param_set_layout(work->params, arena, F32)};
    if (marks_rows(work)) set.params.marks = arena_1d(arena, I32, work->params->marks);
    if (gradients->tied >= 0) {
        const Param *row = &work->params->rows[gradients->tied];
        set.head = arena_2d(arena, F32, row->shape[0], row->shape[1]);
    }
    return set;
}

static int64_t tied_elements(const Gradients *gradients, const Work *work) {
    return gradients->tied >= 0 ? param_elements(&work->params->rows[gradients->tied]) : 0;
}

// The longest piece that is summed over ranks at once.
static int64_t longest(const Gradients *gradients, const Work *work) {
    int64_t most = tied_elements(gradients, work);
    for (int i = 0; i < gradients->count; i++)
        for (int run = 0; run < GRADIENT_RUNS; run++)
            if (gradients->buckets[i].elements[run] > most)
                most = gradients->buckets[i].elements[run];
    return most;
}

static int64_t scratch_elements(const Gradients *gradients, const Work *work) {
    int64_t most = longest(gradients, work);
    return larger(all_reduce_scratch_elements((int)work->shape.ranks, most),
                  all_reduce_scratch_elements((int)work->shape.expert_replicas, most));
}

void gradients_layout(Gradients *gradients, Work *work, Arena *arena, Arena *scratch) {
    GradientSet current = layout_set(gradients, work, arena);
    work->gradients = gradients->sum = current.params;
    work->head_gradient = current.head;
    gradients->waiting_count = 0;
    for (int64_t m = work->shape.micro_batches - 1; by_tree(work) && m > 0; m /= 2) {
        CHECK(gradients->waiting_count < WAITING_MAX, "%lld micro-batches",
              (long long)work->shape.micro_batches);
        gradients->waiting[gradients->waiting_count++] = layout_set(gradients, work, arena);
    }
    if (!by_tree(work) && work->shape.micro_batches > 1)
        gradients->sum = param_set_layout(work->params, arena, F32);
    gradients->scratch =
        arena_1d(scratch, F32, by_tree(work) ? scratch_elements(gradients, work) : 0);
    if (gradients->pending) return;
    size_t most = (size_t)gradients->count * GRADIENT_RUNS + 1;
    gradients->pending = calloc(most, sizeof *gradients->pending);
    CHECK_MEMORY(gradients->pending, "no memory for %zu sums of gradients", most);
}

size_t gradients_host_bytes(const Gradients *gradients) {
    return (size_t)gradients->capacity * sizeof *gradients->buckets +
           ((size_t)gradients->count * GRADIENT_RUNS + 1) * sizeof *gradients->pending;
}

int64_t gradients_sent_bytes(const Gradients *gradients, const Work *work) {
    int replicas = (int)work->shape.expert_replicas, world = (int)work->shape.ranks;
    int64_t bytes = 0;
    for (int i = 0; i < gradients->count; i++) {
        const int64_t *elements = gradients->buckets[i].elements;
        bytes += all_reduce_sum_sent_bytes(world, elements[RUN_DENSE], F32) +
                 all_reduce_sum_sent_bytes(replicas, elements[RUN_EXPERT], F32);
    }
    if (!by_tree(work)) return bytes;
    bytes += all_reduce_sum_sent_bytes(world, tied_elements(gradients, work), F32);
    return work->shape.micro_batches * bytes;
}

// ---- one micro-batch ----------------------------------------------------------------------------

int64_t gradients_sums(const Gradients *gradients) {
    return (int64_t)gradients->count * GRADIENT_RUNS + 1;
}
ParamRun gradients_sum_run(const Gradients *gradients, int64_t piece) {
    return piece == gradients_sums(gradients) - 1 ? RUN_DENSE : (ParamRun)(piece % GRADIENT_RUNS);
}

static void begin_sum(Gradients *gradients, const Work *work, Group *group, Tensor x,
                      int64_t piece) {
    int64_t elements = tensor_elements(x);
    CheckedRuns all = {1, NULL, &elements, -1};
    if (gradients->local_sums.data)
        checksums(work->dev, tensor_rows(gradients->local_sums, piece, 1),
                  tensor_reshape_1d(x, elements), all);
    gradients->pending[gradients->pending_count++] = all_reduce_sum_begin(
        group, x, work->shape.reduce_order, gradients->scratch, TRAFFIC_GRADIENTS);
}

// Adds the head's share to the gradient of a tied table: by the fixed tree after both were summed
// over the step, since each is a tree of its own.
static void join_head(const Gradients *gradients, Work *work) {
    if (gradients->tied < 0) return;
    Tensor dtable = work_gradient(work, gradients->tied);
    add(work->dev, dtable, dtable, work->head_gradient);
}

void gradients_head_ready(Gradients *gradients, Work *work) {
    if (gradients->tied >= 0 && by_tree(work))
        begin_sum(gradients, work, work->groups.world, work->head_gradient,
                  gradients_sums(gradients) - 1);
}

void gradients_ready(Gradients *gradients, Work *work, int bucket) {
    const GradientBucket *ready = &gradients->buckets[bucket];
    if (bucket == 0 && !by_tree(work)) join_head(gradients, work);
    for (int run = 0; run < GRADIENT_RUNS; run++) {
        int64_t first = ready->first[run], elements = ready->elements[run];
        if (elements == 0) continue;
        Tensor x = tensor_range(work->gradients.run[run], first, elements);
        if (!by_tree(work) && work->shape.micro_batches > 1) {
            Tensor sum = tensor_range(gradients->sum.run[run], first, elements);
            if (work->step.micro_batch == 0)
                copy(work->dev, sum, x);
            else
                add(work->dev, sum, sum, x);
            if (work->step.micro_batch < work->shape.micro_batches - 1) continue;
            x = sum;
        }
        begin_sum(gradients, work,
                  run == RUN_DENSE ? work->groups.world : work->groups.expert_replicas, x,
                  (int64_t)bucket * GRADIENT_RUNS + run);
    }
}

// The finished micro-batch takes its place in the fixed tree over micro-batches, which works like a
// binary counter: the sum over an aligned block of 1, 2, 4, … waits until its other half is there.
// After the last one all that waits is added up, so that the sum is the whole step's.
static void accumulate(Gradients *gradients, Work *work) {
    bool last = work->step.micro_batch == work->shape.micro_batches - 1;
    for (int level = 0; level < gradients->waiting_count; level++) {
        GradientSet *waiting = &gradients->waiting[level];
        if (work->step.micro_batch >> level & 1) {
            for (int run = 0; run < GRADIENT_RUNS; run++)
                add(work->dev, work->gradients.run[run], waiting->params.run[run],
                    work->gradients.run[run]);
            if (gradients->tied >= 0)
                add(work->dev, work->head_gradient, waiting->head, work->head_gradient);
        } else if (!last) {
            GradientSet rested = *waiting;
            *waiting = (GradientSet){work->gradients, work->head_gradient};
            work->gradients = rested.params;
            work->head_gradient = rested.head;
            return;
        }
    }
    if (last) join_head(gradients, work);
    gradients->sum = work->gradients;
}

void gradients_finish(Gradients *gradients, Work *work) {
    for (int i = 0; i < gradients->pending_count; i++) collective_wait(&gradients->pending[i]);
    gradients->pending_count = 0;
    if (by_tree(work)) accumulate(gradients, work);
}
