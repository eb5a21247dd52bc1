// Seconds by kind of traffic, where a kind is its name (traffic_name): a string constant, which is
// known by its address. Not collective.
#ifndef MOETRAIN_COMM_KIND_SECONDS_H
#define MOETRAIN_COMM_KIND_SECONDS_H

enum { MOST_KIND_SECONDS = 16 }; // kinds that are told apart

typedef struct KindSeconds {
    const char *kinds[MOST_KIND_SECONDS];
    double seconds[MOST_KIND_SECONDS];
    double others; // of no kind, NULL, and of those for which there was no room
} KindSeconds;

static inline void kind_seconds_add(KindSeconds *table, const char *kind, double seconds) {
    int i = 0;
    while (kind && i < MOST_KIND_SECONDS && table->kinds[i] && table->kinds[i] != kind) i++;
    if (!kind || i == MOST_KIND_SECONDS) {
        table->others += seconds;
        return;
    }
    table->kinds[i] = kind;
    table->seconds[i] += seconds;
}

static inline double kind_seconds_of(const KindSeconds *table, const char *kind) {
    if (!kind) return table->others;
    for (int i = 0; i < MOST_KIND_SECONDS && table->kinds[i]; i++)
        if (table->kinds[i] == kind) return table->seconds[i];
    return 0;
}

#endif
