// The history of every expert's load: a series of rows, one each `log.utilization_every` steps,
// kept by rank 0 and in every checkpoint, and continued by a resume. Sums cover all steps since the
// previous row, so nothing is lost between rows; a checkpoint between two rows saves the open row
// too.
//
// It is bounded: when its room is full (4096 rows, fewer where they would take more than 256 MiB,
// but at least 8) the older half of the rows is merged, two neighbours into one, so that sums stay
// exact and only the resolution of what is long ago is halved. When that happens depends on the
// shape and the number of rows alone, never on ranks or resumes. Nothing here is collective.
#ifndef MOETRAIN_CHECKPOINT_UTILIZATION_H
#define MOETRAIN_CHECKPOINT_UTILIZATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Index of cell (row, layer, expert): (row * layers + layer) * experts + expert.
typedef struct UtilizationHistory {
    int64_t layers, experts; // MoE layers and experts a layer; 0 for a dense model
    int64_t rows, capacity;  // closed rows, room: utilization_room
    int64_t *step;           // (rows) last step that the row covers
    int64_t *steps;          // (rows) how many steps it covers
    int64_t *routed;         // (rows, layers, experts) choices that reached the expert
    int64_t *dropped;        // (rows, layers, experts) others; both together are all choices
    double *weight_mass;     // (rows, layers, experts) sum of gate weights of the choices kept
    double *entropy; // (rows, layers) mean entropy of the router's full softmax, nats a token
    // The open row, sums so far.
    int64_t open_steps;
    int64_t *open_routed, *open_dropped; // (layers, experts)
    double *open_weight_mass;            // (layers, experts)
    double *open_entropy;                // (layers) sum over the open steps of the mean
} UtilizationHistory;

// Takes all the memory the history will ever need (pages are touched as rows come); zeroed. Free
// with utilization_free (legal on a zeroed struct).
void utilization_init(UtilizationHistory *history, int64_t layers, int64_t experts);
void utilization_free(UtilizationHistory *history);
// Adds one step to the open row: arrays (layers, experts), entropy (layers) mean of the step.
void utilization_add(UtilizationHistory *history, const int64_t *routed, const int64_t *dropped,
                     const double *weight_mass, const double *entropy);
// Closes the open row as the row of `step` (nothing happens when it is empty). Does not allocate.
void utilization_close_row(UtilizationHistory *history, int64_t step);
// Makes room for at least `rows` closed rows, for a file that holds more; the present ones stay.
void utilization_reserve(UtilizationHistory *history, int64_t rows);
// Rows that a history of this shape holds at most, and the bytes of all of it when they are full.
int64_t utilization_room(int64_t layers, int64_t experts);
size_t utilization_bytes(int64_t layers, int64_t experts);

#endif
