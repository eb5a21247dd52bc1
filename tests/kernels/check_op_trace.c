// The trace of a device's ops: the same lines on any number of threads, and an error in the last
// bit that one op makes is in its result alone, in the first line that differs.
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "kernels/op_trace.h"

enum { ROWS = 40, WIDTH = 24, HIDDEN = 36, LINE_BYTES = 1024, LINES = 6 };
typedef struct Case {
    Tensor x, w, product, hidden, out, statistics, weight;
} Case;

static void run_ops(Device *dev, void *context) {
    Case *c = context;
    Segments rows = {.groups = 1, .parts = 1, .offsets = (const int64_t[]){0, ROWS}};
    fill_zero(dev, c->out);
    matmul_forward(dev, c->product, c->x, c->w, rows);
    activation_forward(dev, c->hidden, c->product, RELU2);
    matmul_backward_input(dev, c->out, c->hidden, c->w, rows);
    normalize_forward(dev, c->out, c->statistics, (Tensor){0}, c->x, (Tensor){0},
                      (NormParams){.weight = c->weight}, (NormRule){RMSNORM, 1e-5f});
    multiply_by(dev, c->out, c->out, 0.5f);
}

// ---- a device whose table has one wrong op ------------------------------------------------------

static const Backend *right_table;
static void activation_one_bit_off(Device *dev, Tensor out, Tensor in, Activation kind) {
    int32_t bits;
    right_table->op.activation_forward(dev, out, in, kind);
    right_table->download(dev, &bits, out.data, sizeof bits);
    bits ^= 1;
    right_table->upload(dev, out.data, &bits, sizeof bits);
}

static void leave_open(Device *dev) {
    (void)dev;
}

// ---- traces -------------------------------------------------------------------------------------

static char folder[] = "/tmp/check_op_trace-XXXXXX", prefix[64], path[128];
static int devices; // that have been traced

// Traces into `path`.
static void open_trace(Device *dev) {
    char further[32] = "";
    Error err = {0};
    if (++devices > 1) snprintf(further, sizeof further, "-device-%d", devices);
    snprintf(path, sizeof path, "%s-rank-0%s.txt", prefix, further);
    expect(op_trace_open(dev, prefix, &err), "%s", err.message);
}

typedef struct Trace {
    char lines[LINES][LINE_BYTES];
} Trace;

// What has been traced into `path`.
static Trace read_trace(int lines) {
    Trace trace = {0};
    FILE *file = fopen(path, "r");
    CHECK(file, "%s is not there", path);
    for (int i = 0; i < lines; i++)
        expect(fgets(trace.lines[i], LINE_BYTES, file), "%d lines in the trace, not %d", i, lines);
    expect(fgetc(file) == EOF, "more than %d lines in the trace", lines);
    fclose(file);
    unlink(path);
    release_all();
    return trace;
}

// A device like another, which stays open, whose ops are traced; `table` is its own.
static Device open_traced(const Device *dev, Backend *table) {
    Device traced = *dev;
    table->close = leave_open;
    traced.bare = traced.backend = table;
    open_trace(&traced);
    return traced;
}

static Trace trace_of(const Device *dev, bool wrong) {
    Backend table = *dev->bare;
    right_table = dev->bare;
    if (wrong) table.op.activation_forward = activation_one_bit_off;
    Device traced = open_traced(dev, &table);
    Case c = {.x = new_2d(F32, ROWS, WIDTH), .w = new_3d(F32, 1, HIDDEN, WIDTH)};
    for (int64_t i = 0; i < ROWS * WIDTH; i++) tensor_f32(c.x)[i] = (float)(i % 31 - 15) / 16;
    for (int64_t i = 0; i < HIDDEN * WIDTH; i++) tensor_f32(c.w)[i] = (float)(i % 29 - 14) / 32;
    c.product = new_2d(F32, ROWS, HIDDEN);
    c.hidden = new_2d(F32, ROWS, HIDDEN);
    c.out = new_2d(F32, ROWS, WIDTH);
    c.statistics = new_2d(F32, 1, ROWS);
    c.weight = tensor_1d(c.w.data, F32, WIDTH);
    run_on(&traced, run_ops, &c,
           TENSORS(&c.x, &c.w, &c.product, &c.hidden, &c.out, &c.statistics, &c.weight));
    device_close(&traced);
    return read_trace(LINES);
}

// A line without its hashes.
static void expect_line(const char *line, const char *want) {
    char text[LINE_BYTES], *to = text;
    for (const char *at = line; *at && *at != '\n'; at++) {
        *to++ = *at;
        if (*at == ':') at += strspn(at + 1, "0123456789abcdef");
    }
    *to = '\0';
    expect(strcmp(text, want) == 0, "'%s', not '%s'", text, want);
}

// The first word in which lines differ; "" where they are equal.
static const char *first_difference(const char *line, const char *other) {
    size_t word = 0, at = 0;
    for (; line[at] && line[at] == other[at]; at++)
        if (line[at] == ' ') word = at + 1;
    return line[at] == other[at] ? "" : line + word;
}

static void check_trace(const Device *dev) {
    begin_case("the trace of the device %s", dev->name);
    static const char *const WANT[LINES] = {
        "1 fill_zero x=f32[40,24]:",
        "2 matmul_forward y=f32[40,36]: x=f32[40,24]: w=f32[1,36,24]: rows.device_offsets=-",
        "3 activation_forward out=f32[40,36]: in=f32[40,36]: kind=5",
        "4 matmul_backward_input dx=f32[40,24]: dy=f32[40,36]: w=f32[1,36,24]: "
        "rows.device_offsets=-",
        "5 normalize_forward out=f32[40,24]: statistics=f32[1,40]: sum=- x=f32[40,24]: branch=- "
        "params.weight=f32[24]: params.bias=-",
        "6 multiply_by out=f32[40,24]: x=f32[40,24]: factor=0.5",
    };
    // What the wrong op has made, then what reads it, dy, and maybe dx, and nothing else.
    static const char *const DIFFERS[LINES] = {"", "", "out=", "d", "", ""};
    Trace right = trace_of(dev, false), wrong = trace_of(dev, true);
    for (int i = 0; i < LINES; i++) {
        expect_line(right.lines[i], WANT[i]);
        const char *at = first_difference(right.lines[i], wrong.lines[i]);
        expect(DIFFERS[i][0] ? strncmp(at, DIFFERS[i], strlen(DIFFERS[i])) == 0 : !at[0],
               "line %d differs from '%s' on, expected '%s'", i + 1, at, DIFFERS[i]);
    }
    const char *in = strstr(right.lines[2], " in=");
    expect(in && strstr(wrong.lines[2], in), "what the wrong op has read differs");
}

// ---- what an op has room in, or does not touch --------------------------------------------------

typedef struct Choices {
    Tensor logits, ids, weights, lse, kept, order, tokens_per_expert, dropped;
    RouterSums sums;
} Choices;
enum { TOKENS = 12, EXPERTS = 5, TOP_K = 2, CHOOSING_LINES = 2 };

static void choose_all(Device *dev, void *context) {
    Choices *c = context;
    router_forward(dev, (Routing){.ids = c->ids, .weights = c->weights, .lse = c->lse}, c->sums,
                   c->logits, (Tensor){0}, (RouterRule){.kind = SOFTMAX_TOPK});
    capacity_assign(dev, c->kept, c->tokens_per_expert, c->dropped, c->ids, c->weights,
                    (CapacityRule){.capacity = -1}, c->order);
}

// An evaluation's choices, where `before` is what lay in everything that ops are to write.
static Trace trace_of_choices(const Device *dev, int before) {
    Backend table = *dev->bare;
    Device traced = open_traced(dev, &table);
    Choices c = {.logits = new_2d(F32, TOKENS, EXPERTS),
                 .ids = new_2d(I32, TOKENS, TOP_K),
                 .weights = new_2d(F32, TOKENS, TOP_K),
                 .lse = new_1d(F32, TOKENS),
                 .kept = new_2d(U8, TOKENS, TOP_K),
                 .order = new_1d(I32, TOKENS * TOP_K + EXPERTS + 1),
                 .tokens_per_expert = new_2d(I32, 1, EXPERTS),
                 .dropped = new_2d(I32, 1, EXPERTS),
                 .sums = {.prob_sum = new_2d(F64, 1, EXPERTS),
                          .entropy_sum = new_1d(F64, 1),
                          .lse2_sum = new_1d(F64, 1),
                          .weight_mass = new_2d(F64, 1, EXPERTS),
                          .tokens_per_expert = new_2d(I32, 1, EXPERTS),
                          .dropped = new_2d(I32, 1, EXPERTS),
                          .first_choices = new_2d(I32, 1, EXPERTS)}};
    Tensor *all[] = {&c.logits,
                     &c.ids,
                     &c.weights,
                     &c.lse,
                     &c.kept,
                     &c.order,
                     &c.tokens_per_expert,
                     &c.dropped,
                     &c.sums.prob_sum,
                     &c.sums.entropy_sum,
                     &c.sums.lse2_sum,
                     &c.sums.weight_mass,
                     &c.sums.tokens_per_expert,
                     &c.sums.dropped,
                     &c.sums.first_choices};
    enum { COUNT = sizeof all / sizeof *all };
    for (int i = 1; i < COUNT; i++) memset(all[i]->data, before, tensor_bytes(*all[i]));
    for (int64_t i = 0; i < TOKENS * EXPERTS; i++) tensor_f32(c.logits)[i] = (float)(i % 7);
    run_on(&traced, choose_all, &c, all, COUNT);
    device_close(&traced);
    return read_trace(CHOOSING_LINES);
}

static void check_room(const Device *dev) {
    begin_case("the trace of the device %s where other numbers lay before", dev->name);
    Trace zeros = trace_of_choices(dev, 0), ones = trace_of_choices(dev, 1);
    for (int i = 0; i < CHOOSING_LINES; i++) {
        const char *at = first_difference(zeros.lines[i], ones.lines[i]);
        expect(!at[0], "line %d differs from '%s' on", i + 1, at);
    }
}

static int lines_of(const char *file_path) {
    FILE *file = fopen(file_path, "r");
    int lines = 0, letter;
    CHECK(file, "%s is not there", file_path);
    while ((letter = fgetc(file)) != EOF) lines += letter == '\n';
    fclose(file);
    unlink(file_path);
    return lines;
}

static void check_two_devices(void) {
    begin_case("two devices of a process");
    char paths[2][sizeof path];
    Device traced[2];
    Tensor x = new_2d(F32, ROWS, WIDTH);
    for (int i = 0; i < 2; i++) {
        traced[i] = open_cpu(1);
        open_trace(&traced[i]);
        memcpy(paths[i], path, sizeof path);
        fill_zero(&traced[i], x);
    }
    fill_zero(&traced[0], x);
    for (int i = 0; i < 2; i++) {
        device_close(&traced[i]);
        int lines = lines_of(paths[i]);
        expect(lines == 2 - i, "%d lines of device %d", lines, i);
    }
    release_all();
}

static void check_threads(void) {
    begin_case("traces of 1 and 3 threads");
    Trace traces[2];
    for (int i = 0; i < 2; i++) {
        Device dev = open_cpu(i == 0 ? 1 : 3);
        traces[i] = trace_of(&dev, false);
        device_close(&dev);
    }
    expect(memcmp(&traces[0], &traces[1], sizeof(Trace)) == 0, "they differ");
    open_cpu(0);
}

int main(void) {
    CHECK(mkdtemp(folder), "no temporary folder");
    snprintf(prefix, sizeof prefix, "%s/ops", folder);
    for (int i = 0; i < device_count(); i++) {
        check_trace(device_at(i));
        check_room(device_at(i));
    }
    check_two_devices();
    check_threads();
    begin_case("a trace in a folder that is not there");
    Device dev = open_cpu(1);
    Error err = {0};
    expect(!op_trace_open(&dev, "/nowhere/trace", &err), "it is written");
    expect(err.exit_code == EXIT_IO && strstr(err.message, "/nowhere/trace-rank-0"),
           "exit code %d: %s", err.exit_code, err.message);
    device_close(&dev);
    rmdir(folder);
    return failures();
}
