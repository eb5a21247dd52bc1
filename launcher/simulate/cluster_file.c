#include "launcher/simulate/cluster_file.h"

#include <string.h>

#include "kernels/suggest.h"
#include "launcher/cli_numbers.h"
#include "launcher/config_yaml.h"

typedef enum FieldType { FIELD_REAL, FIELD_COUNTED, FIELD_SWITCH } FieldType;

typedef struct ClusterField {
    const char *name; // "section.field"
    FieldType type;
    size_t offset;
    bool needed;
    double unit, least,
        most; // numbers are in units of the name, in the struct in seconds and bytes
    const char *meaning;
} ClusterField;

#define PLACE(member) offsetof(Cluster, member)

// clang-format off
static const ClusterField FIELDS[] = {
    {"rank.gflops", FIELD_REAL, PLACE(products), true, 1e9, 1e-3, 1e9, "GFLOP/s of matrix products, at best"},
    {"rank.memory_gb_s", FIELD_REAL, PLACE(memory), true, 1e9, 1e-3, 1e9, "GB/s that it reads and writes, at best"},
    {"rank.reached", FIELD_REAL, PLACE(reached), false, 1, 1e-6, 100, "the share of both that a step reaches"},
    {"rank.step_ms", FIELD_REAL, PLACE(step), false, 1e-3, 0, 1e9, "what a step takes whatever it computes"},
    {"node.ranks", FIELD_COUNTED, PLACE(node_ranks), true, 1, 1, 65536, "ranks of a node"},
    {"node.cpus", FIELD_COUNTED, PLACE(node_cpus), false, 1, 0, 65536, "ranks of a node that compute at once; 0: all"},
    {"node.memory_gb_s", FIELD_REAL, PLACE(node_memory), false, 1e9, 0, 1e9, "GB/s of all ranks of a node together; 0: no limit"},
    {"node.links", FIELD_COUNTED, PLACE(between_links), false, 1, 1, 65536, "network cards of a node"},
    {"inside.latency_us", FIELD_REAL, PLACE(inside.latency), true, 1e-6, 0, 1e9, "of a message in a node"},
    {"inside.gap_us", FIELD_REAL, PLACE(inside.gap), false, 1e-6, 0, 1e9, "that a further message adds"},
    {"inside.bandwidth_gb_s", FIELD_REAL, PLACE(inside.bandwidth), true, 1e9, 1e-6, 1e9, "GB/s of a rank, one way"},
    {"between.latency_us", FIELD_REAL, PLACE(between.latency), true, 1e-6, 0, 1e9, "of a message to another node"},
    {"between.gap_us", FIELD_REAL, PLACE(between.gap), false, 1e-6, 0, 1e9, "that a further message adds"},
    {"between.bandwidth_gb_s", FIELD_REAL, PLACE(between.bandwidth), true, 1e9, 1e-6, 1e9, "GB/s of a network card, one way"},
    {"overlap", FIELD_SWITCH, PLACE(overlap), true, 1, 0, 1, "bytes travel while ranks compute: true of GPUs"},
};
// clang-format on
enum { FIELD_COUNT = sizeof FIELDS / sizeof *FIELDS };

typedef struct ClusterReader {
    Cluster *cluster;
    YamlPlace places[FIELD_COUNT]; // line 0: not given
} ClusterReader;

static void *field_of(Cluster *cluster, const ClusterField *field) {
    return (char *)cluster + field->offset;
}

static int find_field(const char *name) {
    for (int i = 0; i < FIELD_COUNT; i++)
        if (strcmp(FIELDS[i].name, name) == 0) return i;
    return -1;
}

static bool take_value(Cluster *cluster, const ClusterField *field, const char *text, Error *err) {
    char quoted[80];
    value_quote(text, quoted);
    if (field->type == FIELD_SWITCH) {
        bool *flag = field_of(cluster, field);
        *flag = strcmp(text, "true") == 0;
        return *flag || strcmp(text, "false") == 0 ||
               error_set(err, EXIT_CONFIG, "%s is %s, but must be true or false: %s", field->name,
                         quoted, field->meaning);
    }
    if (field->type == FIELD_COUNTED)
        return whole_number(text, (int64_t)field->least, (int64_t)field->most,
                            field_of(cluster, field)) ||
               error_set(err, EXIT_CONFIG, "%s is %s, but must be a whole number from %g to %g: %s",
                         field->name, quoted, field->least, field->most, field->meaning);
    double value;
    if (!number(text, field->least, field->most, &value))
        return error_set(err, EXIT_CONFIG, "%s is %s, but must be a number from %g to %g: %s",
                         field->name, quoted, field->least, field->most, field->meaning);
    *(double *)field_of(cluster, field) = value * field->unit;
    return true;
}

static bool visit(void *context, const char *name, const YamlValue *value, YamlPlace *place,
                  Error *err) {
    ClusterReader *reader = context;
    int i = find_field(name);
    if (i < 0) {
        const char *names[FIELD_COUNT + 1] = {NULL};
        char quoted[80];
        for (int f = 0; f < FIELD_COUNT; f++) names[f] = FIELDS[f].name;
        const char *near = suggest_word(name, names);
        value_quote(name, quoted);
        return error_set(err, EXIT_CONFIG, "a cluster has no %s; %s%s%s", quoted,
                         near ? "did you mean '" : "see the files of configs/clusters",
                         near ? near : "", near ? "'?" : "");
    }
    if (reader->places[i].line > 0)
        return error_set(err, EXIT_CONFIG, "%s is given twice, first in line %d; keep one", name,
                         reader->places[i].line);
    reader->places[i] = *place;
    if (value->list) return error_set(err, EXIT_CONFIG, "%s is a list; write one value", name);
    return take_value(reader->cluster, &FIELDS[i], value->items[0].text, err);
}

// Where a missing field could stand: behind one of its section, or at the beginning.
static YamlPlace place_of(const ClusterReader *reader, const char *name) {
    YamlPlace place = {1, 1};
    size_t section = strcspn(name, ".");
    for (int i = 0; i < FIELD_COUNT; i++)
        if (strncmp(FIELDS[i].name, name, section) == 0 && FIELDS[i].name[section] == '.' &&
            reader->places[i].line > 0)
            place = reader->places[i];
    return place;
}

bool cluster_read(Cluster *cluster, const char *source, const char *text, size_t bytes,
                  Error *err) {
    ClusterReader reader = {.cluster = cluster};
    *cluster = (Cluster){.reached = 1, .between_links = 1, .inside.gap = -1, .between.gap = -1};
    if (!yaml_read(source, text, bytes, visit, &reader, err)) return false;
    for (int i = 0; i < FIELD_COUNT; i++) {
        const ClusterField *field = &FIELDS[i];
        if (!field->needed || reader.places[i].line > 0) continue;
        YamlPlace place = place_of(&reader, field->name);
        return error_set(err, EXIT_CONFIG, "%.400s:%d:%d: %s is missing: %s; add it", source,
                         place.line, place.column, field->name, field->meaning);
    }
    if (cluster->inside.gap < 0) cluster->inside.gap = cluster->inside.latency;
    if (cluster->between.gap < 0) cluster->between.gap = cluster->between.latency;
    return true;
}

void cluster_print(FILE *out, const Cluster *cluster) {
    Cluster copy = *cluster;
    for (int i = 0; i < FIELD_COUNT; i++) {
        const ClusterField *field = &FIELDS[i];
        const void *value = field_of(&copy, field);
        fprintf(out, "%s: ", field->name);
        switch (field->type) {
        case FIELD_REAL:
            fprintf(out, "%.6g", *(const double *)value / field->unit);
            break;
        case FIELD_COUNTED:
            fprintf(out, "%lld", (long long)*(const int64_t *)value);
            break;
        case FIELD_SWITCH:
            fputs(*(const bool *)value ? "true" : "false", out);
            break;
        }
        fprintf(out, "  # %s\n", field->meaning);
    }
}
