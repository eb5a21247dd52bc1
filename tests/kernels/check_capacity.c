// Capacity and expert load: who is kept, and all counts, exactly and equal on every device; weight
// masses in f64.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Case {
    int64_t N, K, E, groups, capacity, first_token;
    DropPolicy policy;
    bool kept_alone;
    Tensor ids, weights;
    Tensor kept, tokens_per_expert, dropped, order; // of capacity_assign
    // of expert_load, over as many parts as groups
    Tensor load_tokens_per_expert, load_dropped, weight_mass;
} Case;

// Every word of the stream and of the counter is in use.
static const RngStream drop_stream = {
    .seed = 0x123456789abcdef, .purpose = RNG_DROP, .a = 0x89abcdef, .b = 0xfedcba98};

static void new_outputs(Case *c) {
    c->kept = new_2d(U8, c->N, c->K);
    c->tokens_per_expert = new_2d(I32, c->groups, c->E);
    c->dropped = new_2d(I32, c->groups, c->E);
    c->order = new_1d(I32, c->N * c->K + c->E + 1);
    c->load_tokens_per_expert = new_2d(I32, c->groups, c->E);
    c->load_dropped = new_2d(I32, c->groups, c->E);
    c->weight_mass = new_2d(F64, c->groups, c->E);
}

// Routing of N tokens to K different experts of the first `used`, the others starve; weights of
// sixteenths, with many ties, or all different.
static Case new_case(int64_t N, int64_t K, int64_t E, int64_t used, int64_t groups, bool ties) {
    Case c = {.N = N, .K = K, .E = E, .groups = groups, .first_token = ((int64_t)1 << 40) + 1000};
    c.ids = new_2d(I32, N, K);
    c.weights = new_2d(F32, N, K);
    for (int64_t n = 0; n < N; n++) {
        // Expert 0 gets twice its share.
        int64_t first = random_below(2) ? random_below(used) : random_below(used) / 2;
        for (int64_t k = 0; k < K; k++) {
            tensor_i32(c.ids)[n * K + k] = (int32_t)((first + k) % used);
            tensor_f32(c.weights)[n * K + k] =
                ties ? (float)random_below(9) / 16.0f
                     : (float)(1 + random_below(1 << 23)) / (float)(1 << 23);
        }
    }
    new_outputs(&c);
    return c;
}

static void run_assign(Device *dev, void *context) {
    Case *c = context;
    CapacityRule rule = {c->capacity, c->policy, drop_stream, c->first_token};
    capacity_assign(dev, c->kept, c->tokens_per_expert, c->dropped, c->ids, c->weights, rule,
                    c->order);
}
// The same of documents.
typedef struct DocumentCase {
    Case c;
    Tensor positions, capacities;
} DocumentCase;

static void run_documents(Device *dev, void *context) {
    DocumentCase *d = context;
    CapacityRule rule = {0, d->c.policy, drop_stream, d->c.first_token};
    capacity_assign_documents(dev, d->c.kept, d->c.tokens_per_expert, d->c.dropped, d->c.ids,
                              d->c.weights, d->positions, d->capacities, rule, d->c.order);
}
static void run_load(Device *dev, void *context) {
    Case *c = context;
    RouterSums sums = {.weight_mass = c->weight_mass,
                       .tokens_per_expert = c->load_tokens_per_expert,
                       .dropped = c->load_dropped};
    expert_load(dev, sums, c->ids, c->weights, c->kept, c->kept_alone);
}
static void run_both(Device *dev, void *context) {
    run_assign(dev, context);
    run_load(dev, context);
}
static void run_on_device(Device *dev, Case *c) {
    run_on(dev, run_both, c,
           TENSORS(&c->ids, &c->weights, &c->kept, &c->tokens_per_expert, &c->dropped, &c->order,
                   &c->load_tokens_per_expert, &c->load_dropped, &c->weight_mass));
}

// Another order of blocks and threads changes no bit.
static void expect_same_on_other_schedule(Device *dev, const Case *c) {
    if (dev->place == ON_HOST) return;
    Case again = *c;
    new_outputs(&again);
    begin_other_schedule();
    run_on_device(dev, &again);
    end_other_schedule();
    expect_same_bytes("kept, run again,", again.kept, c->kept.data);
    expect_same_bytes("tokens_per_expert, run again,", again.tokens_per_expert,
                      c->tokens_per_expert.data);
    expect_same_bytes("dropped, run again,", again.dropped, c->dropped.data);
    expect_same_bytes("load_tokens_per_expert, run again,", again.load_tokens_per_expert,
                      c->load_tokens_per_expert.data);
    expect_same_bytes("load_dropped, run again,", again.load_dropped, c->load_dropped.data);
    expect_same_bytes("weight_mass, run again,", again.weight_mass, c->weight_mass.data);
}

// One part computed alone gives the bits of its row: ranks may hold any number of parts.
static void expect_parts_alone(Device *dev, const Case *c) {
    int64_t tokens = c->N / c->groups;
    for (int64_t g = 0; g < c->groups; g++) {
        Case one = *c;
        one.N = tokens, one.groups = 1, one.first_token = c->first_token + g * tokens;
        one.ids = tensor_rows(c->ids, g * tokens, tokens);
        one.weights = tensor_rows(c->weights, g * tokens, tokens);
        new_outputs(&one);
        run_on_device(dev, &one);
        expect_same_bytes("kept of a group alone", one.kept,
                          tensor_rows(c->kept, g * tokens, tokens).data);
        expect_same_bytes("dropped of a group alone", one.dropped,
                          tensor_rows(c->dropped, g, 1).data);
        expect_same_bytes("weight_mass of a part alone", one.weight_mass,
                          tensor_rows(c->weight_mass, g, 1).data);
    }
}

// Straight from the definition, with the kept choices given.
static void expect_load(const Case *c, const uint8_t *kept) {
    int32_t *tokens_per_expert = new_2d(I32, c->groups, c->E).data,
            *dropped = new_2d(I32, c->groups, c->E).data;
    double *mass = new_doubles(c->groups * c->E);
    for (int64_t i = 0; i < c->groups * c->E; i++) mass[i] = tokens_per_expert[i] = dropped[i] = 0;
    int64_t choices = c->N / c->groups * c->K;
    for (int64_t i = 0; i < c->N * c->K; i++) {
        int64_t at = i / choices * c->E + tensor_i32(c->ids)[i];
        tokens_per_expert[at] += kept[i] || !c->kept_alone;
        dropped[at] += !kept[i] && !c->kept_alone;
        mass[at] += kept[i] ? (double)tensor_f32(c->weights)[i] : 0;
    }
    expect_same_bytes("load_tokens_per_expert", c->load_tokens_per_expert, tokens_per_expert);
    expect_same_bytes("load_dropped", c->load_dropped, dropped);
    // Numbers that are not negative, added in another order: each addition rounds by 2^-53 of the
    // sum.
    expect_near("weight_mass", c->weight_mass, mass, (double)choices * 0x1p-53, NULL, 0);
}

static const char *policy_name(DropPolicy policy) {
    return choice_row(DROP_CHOICES, (int)policy)->word;
}

static void check(int64_t N, int64_t K, int64_t E, int64_t used, int64_t groups, bool ties) {
    const int64_t capacities[] = {-1, 0, 1, 3, N * K / groups / (2 * used), 1000000};
    for (size_t i = 0; i < sizeof capacities / sizeof *capacities; i++)
        for (int policy = 0; policy < DROP_CHOICES.count; policy++) {
            Case c = new_case(N, K, E, used, groups, ties);
            c.capacity = capacities[i];
            c.policy = (DropPolicy)policy;
            c.kept_alone = capacities[i] == 3;
            uint8_t *kept = new_2d(U8, N, K).data;
            int32_t *tokens_per_expert = new_2d(I32, groups, E).data,
                    *dropped = new_2d(I32, groups, E).data;
            for (int64_t g = 0, tokens = N / groups; g < groups; g++)
                reference_capacity_assign(
                    kept + g * tokens * K, tokens_per_expert + g * E, dropped + g * E,
                    tensor_i32(c.ids) + g * tokens * K, tensor_f32(c.weights) + g * tokens * K,
                    tokens, K, E, c.capacity, c.policy, drop_stream, c.first_token + g * tokens);
            for (int d = 0; d < device_count(); d++) {
                Device *dev = device_at(d);
                begin_case("capacity on %s N=%lld K=%lld E=%lld (%lld used) groups=%lld "
                           "capacity=%lld by %s%s",
                           dev->name, (long long)N, (long long)K, (long long)E, (long long)used,
                           (long long)groups, (long long)c.capacity, policy_name(c.policy),
                           ties ? " ties" : "");
                new_outputs(&c);
                run_on_device(dev, &c);
                expect_same_bytes("kept", c.kept, kept);
                expect_same_bytes("tokens_per_expert", c.tokens_per_expert, tokens_per_expert);
                expect_same_bytes("dropped", c.dropped, dropped);
                expect_load(&c, kept);
                if (c.capacity == 3) {
                    expect_same_on_other_schedule(dev, &c);
                    if (groups > 1) expect_parts_alone(dev, &c);
                }
            }
            new_outputs(&c);
            expect_same_for_any_threads(run_both, &c,
                                        (Tensor[]){c.kept, c.tokens_per_expert, c.dropped,
                                                   c.load_tokens_per_expert, c.load_dropped,
                                                   c.weight_mass},
                                        6);
            release_all();
        }
}

// Too large for the reference, which compares all pairs: every device like the CPU.
static void check_large(int64_t N, int64_t K, int64_t E, int64_t used, int64_t groups,
                        int64_t capacity, bool ties) {
    for (int policy = 0; policy < DROP_CHOICES.count; policy++) {
        Case c = new_case(N, K, E, used, groups, ties);
        c.capacity = capacity;
        c.policy = (DropPolicy)policy;
        run_on_device(device_at(0), &c);
        Case cpu = c;
        for (int d = 0; d < device_count(); d++) {
            begin_case("capacity on %s N=%lld K=%lld E=%lld (%lld used) groups=%lld capacity=%lld "
                       "by %s%s",
                       device_at(d)->name, (long long)N, (long long)K, (long long)E,
                       (long long)used, (long long)groups, (long long)capacity,
                       policy_name(c.policy), ties ? " ties" : "");
            new_outputs(&c);
            run_on_device(device_at(d), &c);
            expect_same_bytes("kept", c.kept, cpu.kept.data);
            expect_same_bytes("tokens_per_expert", c.tokens_per_expert, cpu.tokens_per_expert.data);
            expect_same_bytes("dropped", c.dropped, cpu.dropped.data);
            expect_load(&c, tensor_u8(cpu.kept));
        }
        release_all();
    }
}

// With one expert and each capacity in turn, what is kept tells the order of all the random words.
static void check_random_words(int64_t N) {
    for (int d = 0; d < device_count(); d++) {
        Case c = new_case(N, 1, 1, 1, 1, false);
        c.policy = DROP_RANDOM;
        for (c.capacity = 0; c.capacity < N; c.capacity++) {
            begin_case("random words on %s, capacity %lld of %lld", device_at(d)->name,
                       (long long)c.capacity, (long long)N);
            run_on(
                device_at(d), run_assign, &c,
                TENSORS(&c.ids, &c.weights, &c.kept, &c.tokens_per_expert, &c.dropped, &c.order));
            bool same = true;
            for (int64_t n = 0; n < N; n++) {
                uint32_t own = rng_u32(drop_stream, (uint64_t)(c.first_token + n));
                int64_t ahead = 0;
                for (int64_t m = 0; m < N; m++)
                    ahead += rng_u32(drop_stream, (uint64_t)(c.first_token + m)) < own;
                same = same && tensor_u8(c.kept)[n] == (ahead < c.capacity);
            }
            expect(same, "kept are not those with the smallest words");
        }
        release_all();
    }
}

static void bench(int64_t N, int64_t K, int64_t E, int64_t capacity, DropPolicy policy) {
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Case c = new_case(N, K, E, E, 1, false);
        c.capacity = capacity;
        c.policy = policy;
        double assign = time_call(run_assign, &dev, &c), load = time_call(run_load, &dev, &c);
        printf("%lld tokens, top-%lld of %lld, capacity %lld by %s, %d threads: assign %.1f us, "
               "load %.1f us\n",
               (long long)N, (long long)K, (long long)E, (long long)capacity, policy_name(policy),
               threads, 1e6 * assign, 1e6 * load);
        release_all();
    }
}

static void check_documents(int64_t T, int64_t K, int64_t E, int64_t sequences, DropPolicy policy) {
    int64_t N = sequences * T;
    DocumentCase d = {.c = new_case(N, K, E, E, sequences, policy == DROP_PROBABILITY),
                      .positions = new_1d(I32, N),
                      .capacities = new_1d(I32, T + 1)};
    d.c.policy = policy;
    for (int64_t n = 0; n <= T; n++)
        tensor_i32(d.capacities)[n] = (int32_t)((n * K + 2 * E) / (3 * E));
    uint8_t *kept = new_2d(U8, N, K).data;
    int32_t *routed = new_1d(I32, E).data, *dropped = new_1d(I32, E).data;
    int64_t first = 0, lost = 0;
    tensor_i32(d.positions)[0] = 0;
    for (int64_t n = 1; n <= N; n++) {
        bool begins = n % T == 0 || random_below(T / 3 + 1) == 0;
        if (n < N) tensor_i32(d.positions)[n] = begins ? 0 : tensor_i32(d.positions)[n - 1] + 1;
        if (!begins) continue;
        reference_capacity_assign(
            kept + first * K, routed, dropped, tensor_i32(d.c.ids) + first * K,
            tensor_f32(d.c.weights) + first * K, n - first, K, E,
            tensor_i32(d.capacities)[n - first], policy, drop_stream, d.c.first_token + first);
        for (int64_t e = 0; e < E; e++) lost += dropped[e];
        first = n;
    }
    for (int i = 0; i < device_count(); i++) {
        begin_case("%s: documents of %lld x %lld, K=%lld E=%lld, drop %d", device_at(i)->name,
                   (long long)sequences, (long long)T, (long long)K, (long long)E, (int)policy);
        new_outputs(&d.c);
        run_on(device_at(i), run_documents, &d,
               TENSORS(&d.c.kept, &d.c.tokens_per_expert, &d.c.dropped, &d.c.ids, &d.c.weights,
                       &d.positions, &d.capacities, &d.c.order));
        expect(lost > 0, "nothing is dropped");
        expect_same_bytes("kept", d.c.kept, kept);
    }
    release_all();
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench(4096, 2, 8, -1, DROP_POSITION);
        bench(4096, 8, 64, 512, DROP_POSITION);
        bench(4096, 8, 64, 512, DROP_PROBABILITY);
        bench(4096, 8, 64, 512, DROP_RANDOM);
        return 0;
    }
    check(0, 2, 4, 4, 1, true);
    check(1, 1, 1, 1, 1, true);
    check(13, 3, 5, 4, 1, true);
    check(13, 3, 5, 4, 13, false);
    check(64, 2, 8, 8, 4, true);
    check(333, 2, 3, 3, 1, true); // lists longer than a block of threads
    check(333, 2, 3, 3, 3, false);
    check(600, 4, 130, 90, 1, true);            // more than one chunk of a group's queue
    check_large(17001, 4, 7, 7, 1, 9000, true); // more chunks than one warp sums
    check_large(17001, 4, 7, 7, 1, 9000, false);
    check_large(4098, 2, 37, 33, 2, 100, false);
    check_large(24, 8, 1024, 300, 2, 1, true);
    check_random_words(64);
    for (int policy = DROP_POSITION; policy <= DROP_RANDOM; policy++) {
        check_documents(60, 2, 5, 3, (DropPolicy)policy);
        check_documents(300, 3, 40, 1, (DropPolicy)policy);
    }
    return failures();
}
