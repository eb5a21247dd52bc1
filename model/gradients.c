#include "model/gradients.h"

#include <stdlib.h>

#include "kernels/integers.h"
#include "model/dense_gradient.h"

static bool by_tree(const Work *work) {
    return work->shape.reduce_order == REDUCE_FIXED_TREE;
}

// ---- layout -------------------------------------------------------------------------------------

void gradients_init(Gradients *gradients) {
    *gradients = (Gradients){0};
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

int gradients_add_share(Gradients *gradients, int row) {
    CHECK(gradients->share_count < GRADIENT_SHARES_MAX, "more than %d shares of gradients",
          (int)GRADIENT_SHARES_MAX);
    gradients->shared[gradients->share_count] = row;
    gradients->share_bucket[gradients->share_count] = gradients->count - 1;
    return gradients->share_count++;
}

// Whether a gradient's rows are marked: where it is nobody's sum with another's, which would have
// other rows.
static bool marks_rows(const Work *work) {
    return work->params->marks > 0 && work->shape.micro_batches == 1 &&
           work->shape.expert_replicas == 1;
}

static const Param *shared_row(const Gradients *gradients, const Work *work, int share) {
    return &work->params->rows[gradients->shared[share]];
}

// Shares lie one behind the other, each at a multiple of PARAM_ALIGNMENT.
static int64_t share_room(const Param *row) {
    return (param_elements(row) + PARAM_ALIGNMENT - 1) / PARAM_ALIGNMENT * PARAM_ALIGNMENT;
}

static GradientSet layout_set(const Gradients *gradients, const Work *work, Arena *arena) {
    GradientSet set = {.params = param_set_layout(work->params, arena, F32)};
    if (marks_rows(work)) set.params.marks = arena_1d(arena, I32, work->params->marks);
    int64_t elements = 0;
    for (int i = 0; i < gradients->share_count; i++)
        elements += share_room(shared_row(gradients, work, i));
    set.shares = arena_1d(arena, F32, elements);
    return set;
}

// The longest piece that is summed over ranks at once.
static int64_t longest(const Gradients *gradients, const Work *work) {
    int64_t most = 0;
    for (int i = 0; i < gradients->share_count; i++)
        most = larger(most, param_elements(shared_row(gradients, work, i)));
    for (int i = 0; i < gradients->count; i++)
        for (int run = 0; run < GRADIENT_RUNS; run++)
            most = larger(most, gradients->buckets[i].elements[run]);
    return most;
}

static int64_t scratch_elements(const Gradients *gradients, const Work *work) {
    int64_t most = longest(gradients, work);
    return larger(tree_sum_scratch_elements(work->shape.deal, most),
                  all_reduce_scratch_elements((int)work->shape.expert_replicas, most));
}

// From here on layers write into that set.
static void use_set(Gradients *gradients, Work *work, GradientSet set) {
    int64_t first = 0;
    work->gradients = set.params;
    gradients->shares = set.shares;
    for (int i = 0; i < gradients->share_count; i++) {
        const Param *row = shared_row(gradients, work, i);
        Tensor share = tensor_range(set.shares, first, param_elements(row));
        if (row->rank == 2) share = tensor_reshape_2d(share, row->shape[0], row->shape[1]);
        work->shares[i] = share;
        first += share_room(row);
    }
}

static bool in_bucket(const GradientBucket *bucket, const Param *row) {
    int64_t at = row->offset - bucket->first[row->run];
    return at >= 0 && at < bucket->elements[row->run];
}

// ---- sums over further nodes of a rank ----------------------------------------------------------
// They are needed until ranks have added them up, so that buckets take turns in two rooms: the last
// one that is declared, final norm and head, is written first, in room 0, and the embedding last,
// there as well, since tables are long. What belongs to modules of multi-token prediction, which is
// written while the head's waits, has room of its own.

enum { NODE_ROOMS = 2 };

static int main_buckets(const Gradients *gradients, const Work *work) {
    return gradients->count - (int)work->config->mtp.layers;
}

static int node_room(const Gradients *gradients, const Work *work, int bucket) {
    int last = main_buckets(gradients, work) - 1;
    return bucket == 0 ? 0 : (last - bucket) % NODE_ROOMS;
}

// Places a bucket and the shares that are written with it; returns what they take.
static int64_t place_nodes(Gradients *gradients, Work *work, int bucket, int64_t offset) {
    GradientBucket *placed = &gradients->buckets[bucket];
    int64_t elements = placed->elements[RUN_DENSE];
    placed->node_offset = offset;
    for (int i = 0; i < work->params->count; i++) {
        Param *row = &work->params->rows[i];
        if (row->run == RUN_DENSE && in_bucket(placed, row))
            row->node_offset = offset + row->offset - placed->first[RUN_DENSE];
    }
    for (int i = 0; i < gradients->share_count; i++) {
        if (gradients->share_bucket[i] != bucket) continue;
        work->node_share_offset[i] = offset + elements;
        elements += share_room(shared_row(gradients, work, i));
    }
    return elements;
}

// The same on all ranks.
static void layout_nodes(Gradients *gradients, Work *work, Arena *arena) {
    int main = main_buckets(gradients, work);
    int64_t offset = 0;
    for (int room = 0; room < NODE_ROOMS; room++) {
        int64_t most = 0;
        for (int bucket = 0; bucket < main; bucket++)
            if (node_room(gradients, work, bucket) == room)
                most = larger(most, place_nodes(gradients, work, bucket, offset));
        offset += most;
    }
    for (int bucket = main; bucket < gradients->count; bucket++)
        offset += place_nodes(gradients, work, bucket, offset);
    work->node_gradients = arena_2d(arena, F32, work->shape.most_nodes - 1, offset);
}

// Another bucket may have had other parameters in this one's room, which would be between them.
static void clear_node_room(const Gradients *gradients, const Work *work, int bucket) {
    const GradientBucket *cleared = &gradients->buckets[bucket];
    for (int node = 1; node < work->shape.node_count; node++)
        fill_zero(work->dev,
                  node_sums(work, node, cleared->node_offset, cleared->elements[RUN_DENSE]));
}

// Before the bucket that follows this one in the backward pass is written: its room is free.
// `begun`: sums that had been begun before this one's.
static void free_node_room(Gradients *gradients, const Work *work, int bucket, int begun) {
    if (work->shape.most_nodes == 1 || bucket == 0 || bucket >= main_buckets(gradients, work))
        return;
    if (node_room(gradients, work, bucket) == node_room(gradients, work, bucket - 1))
        begun = gradients->pending_count;
    for (int i = 0; i < begun; i++) collective_wait(&gradients->pending[i]);
    clear_node_room(gradients, work, bucket - 1);
}

// ---- all sets -----------------------------------------------------------------------------------

void gradients_layout(Gradients *gradients, Work *work, Arena *arena, Arena *scratch) {
    use_set(gradients, work, layout_set(gradients, work, arena));
    layout_nodes(gradients, work, arena);
    gradients->sum = work->gradients;
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
    size_t most = (size_t)gradients_sums(gradients);
    gradients->pending = calloc(most, sizeof *gradients->pending);
    CHECK_MEMORY(gradients->pending, "no memory for %zu sums of gradients", most);
}

size_t gradients_host_bytes(const Gradients *gradients) {
    return (size_t)gradients->capacity * sizeof *gradients->buckets +
           (size_t)gradients_sums(gradients) * sizeof *gradients->pending;
}

static int64_t dense_sent_bytes(const Work *work, int64_t elements) {
    return by_tree(work)
               ? tree_sum_sent_bytes(work->shape.deal, elements, F32)
               : all_reduce_sum_sent_bytes((int)work->shape.ranks, elements, F32, REDUCE_ANY_ORDER);
}

int64_t gradients_sent_bytes(const Gradients *gradients, const Work *work) {
    int replicas = (int)work->shape.expert_replicas;
    int64_t bytes = 0;
    for (int i = 0; i < gradients->count; i++) {
        const int64_t *elements = gradients->buckets[i].elements;
        bytes += dense_sent_bytes(work, elements[RUN_DENSE]) +
                 all_reduce_sum_sent_bytes(replicas, elements[RUN_EXPERT], F32,
                                           work->shape.reduce_order);
    }
    if (!by_tree(work)) return bytes;
    for (int i = 0; i < gradients->share_count; i++)
        bytes += dense_sent_bytes(work, param_elements(shared_row(gradients, work, i)));
    return work->shape.micro_batches * bytes;
}

// ---- one micro-batch ----------------------------------------------------------------------------

int64_t gradients_sums(const Gradients *gradients) {
    return (int64_t)gradients->count * GRADIENT_RUNS + gradients->share_count;
}
ParamRun gradients_sum_run(const Gradients *gradients, int64_t piece) {
    bool share = piece >= (int64_t)gradients->count * GRADIENT_RUNS;
    return share ? RUN_DENSE : (ParamRun)(piece % GRADIENT_RUNS);
}

static void note_local_sum(const Gradients *gradients, const Work *work, Tensor x, int64_t piece) {
    int64_t elements = tensor_elements(x);
    CheckedRuns all = {.count = 1, .rows = &elements, .except = -1};
    if (gradients->local_sums.data)
        checksums(work->dev, tensor_rows(gradients->local_sums, piece, 1),
                  tensor_reshape_1d(x, elements), all);
}

static void begin_sum(Gradients *gradients, const Work *work, Group *group, Tensor x,
                      int64_t piece) {
    note_local_sum(gradients, work, x, piece);
    gradients->pending[gradients->pending_count++] = all_reduce_sum_begin(
        group, x, work->shape.reduce_order, gradients->scratch, TRAFFIC_GRADIENTS);
}

// Of a dense piece, of which the other nodes' sums are at node_offset.
static void begin_dense_sum(Gradients *gradients, const Work *work, Tensor x, int64_t node_offset,
                            int64_t piece) {
    if (!by_tree(work)) {
        begin_sum(gradients, work, work->groups.world, x, piece);
        return;
    }
    Tensor others[SHARD_NODES_MAX];
    note_local_sum(gradients, work, x, piece);
    for (int i = 0; i < work->shape.node_count - 1; i++) {
        others[i] = node_sums(work, i + 1, node_offset, tensor_elements(x));
        note_local_sum(gradients, work, others[i], piece);
    }
    TreeShare share = {work->shape.deal, others, gradients->scratch};
    gradients->pending[gradients->pending_count++] =
        tree_sum_begin(work->groups.world, x, share, TRAFFIC_GRADIENTS);
}

// Adds shares to the gradients of a bucket's rows: by the fixed tree after both were summed over
// the step, since each is a tree of its own.
static void join_shares(const Gradients *gradients, Work *work, int bucket) {
    for (int i = 0; i < gradients->share_count; i++) {
        if (!in_bucket(&gradients->buckets[bucket], shared_row(gradients, work, i))) continue;
        Tensor own = work_gradient(work, gradients->shared[i]);
        add(work->dev, own, own, work->shares[i]);
    }
}

void gradients_share_ready(Gradients *gradients, Work *work, int share) {
    if (share != OWN_GRADIENT && by_tree(work))
        begin_dense_sum(gradients, work, work->shares[share], work->node_share_offset[share],
                        (int64_t)gradients->count * GRADIENT_RUNS + share);
}

void gradients_ready(Gradients *gradients, Work *work, int bucket) {
    const GradientBucket *ready = &gradients->buckets[bucket];
    int begun = gradients->pending_count;
    if (!by_tree(work)) join_shares(gradients, work, bucket);
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
        int64_t piece = (int64_t)bucket * GRADIENT_RUNS + run;
        if (run == RUN_DENSE)
            begin_dense_sum(gradients, work, x, ready->node_offset, piece);
        else
            begin_sum(gradients, work, work->groups.expert_replicas, x, piece);
    }
    free_node_room(gradients, work, bucket, begun);
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
            if (gradients->share_count > 0)
                add(work->dev, gradients->shares, waiting->shares, gradients->shares);
        } else if (!last) {
            GradientSet rested = *waiting;
            *waiting = (GradientSet){work->gradients, gradients->shares};
            use_set(gradients, work, rested);
            return;
        }
    }
    for (int bucket = 0; last && bucket < gradients->count; bucket++)
        join_shares(gradients, work, bucket);
    gradients->sum = work->gradients;
}

void gradients_finish(Gradients *gradients, Work *work) {
    for (int i = 0; i < gradients->pending_count; i++) collective_wait(&gradients->pending[i]);
    gradients->pending_count = 0;
    clear_node_room(gradients, work, main_buckets(gradients, work) - 1);
    if (by_tree(work)) accumulate(gradients, work);
}
