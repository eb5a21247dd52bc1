// A file of routing as HDF5 sees it: what routing_process.c does for routing_file.h, which says
// what is in the file. HDF5 believes a file's own structures, and damaged or made-up ones make it
// read and write where it must not; so this runs in a process of its own and never where training
// runs. Not collective.
#ifndef MOETRAIN_CHECKPOINT_ROUTING_HDF5_H
#define MOETRAIN_CHECKPOINT_ROUTING_HDF5_H

#include "checkpoint/routing_file.h"

typedef struct RoutingHdf5 RoutingHdf5;

// As routing_file_record and routing_file_replay.
bool routing_hdf5_record(RoutingHdf5 **file, const char *path, const char *run, RoutingShape shape,
                         int64_t after, Error *err);
bool routing_hdf5_replay(RoutingHdf5 **file, const char *path, RoutingShape shape, int64_t after,
                         int64_t last, Error *err);
// A step is written between these two; it must be the next one.
bool routing_hdf5_begin_step(RoutingHdf5 *file, int64_t step, Error *err);
bool routing_hdf5_end_step(RoutingHdf5 *file, int64_t step, Error *err);
// The choices of one layer with experts, (tokens of the step, top_k), of the step that is written,
// or of any. They are not looked at.
bool routing_hdf5_write(RoutingHdf5 *file, int64_t step, int64_t layer, int32_t *ids, Error *err);
bool routing_hdf5_read(RoutingHdf5 *file, int64_t step, int64_t layer, int32_t *ids, Error *err);
void routing_hdf5_close(RoutingHdf5 *file); // legal on NULL

#endif
