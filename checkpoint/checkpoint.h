// Checkpoints: one HDF5 file a checkpoint, RUN/checkpoints/step-NNNNNNNN.h5, independent of the
// number of ranks. README.md in this folder documents the schema.
//
// Commit protocol: room is checked; rank 0 lays the whole file out under a temporary name with the
// serial library; every rank writes its blocks at the datasets' offsets with pwrite, hashes them
// (XXH3-128) and fsyncs; rank 0 writes manifest, hashes and last the header that
// declares them valid, and fsyncs; all ranks open the file and compare manifest and hashes; rank 0
// renames it and fsyncs the directory; only then are older checkpoints pruned. The ranks agree
// after each step. A crash at any moment leaves the newest complete checkpoint loadable.
#ifndef MOETRAIN_CHECKPOINT_CHECKPOINT_H
#define MOETRAIN_CHECKPOINT_CHECKPOINT_H

#include "checkpoint/utilization.h"
#include "kernels/tensor.h"

enum { CHECKPOINT_FORMAT_VERSION = 1, CHECKPOINT_PATH_BYTES = 1024, RUN_ID_BYTES = 33 };

// How long what is to be saved stays as it is once its save has begun. One that training waits for
// does not ask.
typedef enum SavedStays {
    STAYS_BRIEFLY,      // until the next step of training begins
    STAYS_UNTIL_UPDATE, // of the parameters
    STAYS_UNTIL_SAVED,
} SavedStays;

// One global, logical dataset and the slice of it that this rank holds.
typedef struct SavedTensor {
    // HDF5 path below the root: "parameters/layers.0.moe.experts.down", "optimizer/m/…",
    // "optimizer/v/…". Letters, digits, "_-." and "/"; the groups "state", "utilization" and
    // "about" are taken. What lies in the group "watch" is not part of the digest.
    char name[128];
    DType dtype;
    int rank;         // 1..3
    int64_t shape[3]; // global
    // What is held here, in row-major order over the whole tensor: neighbouring elements, or the
    // rows of the first axis that `rows` names, one after the other; NULL: the former.
    int64_t first_element, elements;
    const int32_t *rows;
    // Every rank holds all of it (dense): the writing is shared out among ranks. Otherwise it is
    // written by the ranks that hold a slice with replica == 0; each element must have one such
    // rank. Blocks (manifest.h) never cross a row of the first axis then, and a slice consists of
    // whole blocks; what is read may be any slice.
    bool replicated;
    int replica; // 0 for the rank that writes a sharded slice; its other replicas only read
    SavedStays stays;
    void *data; // host memory, `elements` of them
    // Loading: a file may lack it, or have it in another shape; `data` then stays as it was.
    bool optional;
    bool found; // set by checkpoint_load: whether `data` was read
} SavedTensor;

// A list of n that every rank has. Not collective.
SavedTensor list_tensor(const char *name, DType dtype, int64_t n, void *data);

// Which run a checkpoint belongs to and how that run began. Not part of the digest: the same bits
// have the same digest whatever their story. All empty in files of programs that did not know of
// runs.
typedef struct RunIdentity {
    // 128 random bits in hex, made when the run began; empty: unknown
    char run[RUN_ID_BYTES];
    // the run whose checkpoint it began from; empty: none, or unknown
    char parent_run[RUN_ID_BYTES];
    int64_t parent_step;                    // of that checkpoint; -1: none
    char began_from[CHECKPOINT_PATH_BYTES]; // its path, as `resume` or `init` gave it; empty: none
    // 1: when this was saved, the last step was finite and its loss hardly above that of guessing
    // (worker/save.c). Pruning spares the newest healthy checkpoint.
    int64_t healthy;
} RunIdentity;

// Small state that is the same on every rank.
typedef struct TrainState {
    int64_t step;          // optimizer steps finished
    int64_t adam_steps;    // updates really applied (skipped ones are not counted)
    int64_t skipped_steps; // non-finite steps
    int64_t skipped_in_row;
    int64_t data_epoch, data_index; // cursor of the data loader
    int64_t tokens;                 // tokens trained on
    char data_id[40]; // hash and size of the training data, hex; a change is refused on resume
    // 1: the evaluation of this step was interrupted; not part of the digest
    int64_t evaluation_due;
    RunIdentity run;
} TrainState;

// What a checkpoint holds. Filled by worker/train.c for saving, and as the destination of loading.
typedef struct Checkpoint {
    SavedTensor *tensors;
    int tensor_count;
    TrainState state;
    // The resolved configuration, as --print-config prints it. Loading uses it, when it is not
    // NULL, only to name the keys that differ in the error message of a mismatch.
    const char *config_yaml;
    bool verify_rest; // loading: compare what is not asked for with its hashes as well
    UtilizationHistory *utilization; // meaningful on rank 0; may be NULL
    // Loading: called when a tensor has been read, in the list's order, so that several may share
    // their memory. False ends the loading. May be NULL.
    bool (*arrived)(void *context, const SavedTensor *tensor, Error *err);
    void *context; // of it
    // Saving: called on rank 0 before the file gets its name. Does not return when the folder has
    // become another job's. May be NULL.
    void (*before_publish)(void);
} Checkpoint;

// Which checkpoints stay when a newer one is there, beside the newest healthy one.
typedef struct CheckpointKeep {
    int64_t last;  // the newest of them; 0: all
    int64_t every; // those whose step is a multiple of it; 0: none
    int64_t from;  // those of this step and later; 0: none on that account
} CheckpointKeep;

// Saves RUN_DIR/checkpoints/step-%08lld.h5, replacing a file of that step, and removes what is not
// to be kept. False with exit 5 on every rank when any rank failed; the older checkpoints are then
// untouched and the temporary file is removed. Collective over all ranks.
bool checkpoint_save(const char *run_dir, const Checkpoint *checkpoint, CheckpointKeep keep,
                     Error *err);

// The same in parts, so that training can go on while the bytes travel.
typedef struct CheckpointSave CheckpointSave;
// Makes the file under its temporary name and says who writes which block of what. checkpoint's
// tensors, history and texts must stay as they are until checkpoint_save_write is done, or until
// they are copied. False as checkpoint_save. Collective over all ranks.
bool checkpoint_save_begin(CheckpointSave **save, const char *run_dir, const Checkpoint *checkpoint,
                           Error *err);
// A copy of what this rank is to write, so that training may change it. Memory is taken when there
// is not enough of it yet, and is for the caller to free. Not collective.
typedef struct CheckpointCopy {
    char *data;
    size_t bytes;
} CheckpointCopy;
// Copies what stays only briefly, and lays out the rest of the copy.
void checkpoint_save_begin_copy(CheckpointSave *save, CheckpointCopy *copy);
// Copies the rest, what stays until the update; before that changes anything, a call must have
// returned. From several threads at once: they share the work, and all return when it is done.
void checkpoint_save_copy(CheckpointSave *save);
// Copies what is not copied yet, writes and hashes this rank's blocks, and waits for the disk.
// Without MPI: from any one thread. Not collective.
bool checkpoint_save_write(CheckpointSave *save, Error *err);
// What is left once every rank has written, with what each had for an answer; frees the save.
// Collective over all ranks.
bool checkpoint_save_end(CheckpointSave *save, bool ok, CheckpointKeep keep, Error *err);

// Before training: whether a file can be made, written and removed in RUN_DIR/checkpoints, which is
// made if need be, and whether every rank sees it. `bytes` is about what a checkpoint takes: too
// low a limit on file sizes is an error, too little room a warning. False with exit 5. Collective
// over all ranks.
bool checkpoint_try_directory(const char *run_dir, int64_t bytes, Error *err);

// How much of a file is compared with its hashes: header and manifest, or every byte.
typedef enum VerifyDepth { VERIFY_INDEX, VERIFY_ALL } VerifyDepth;

// Finds the newest checkpoint of RUN_DIR of a step before `before` (INT64_MAX: any) that holds to
// this depth, trying older ones with a warning for each damaged file; VERIFY_INDEX is for a caller
// that loads it, which looks at the rest. *path is empty when the directory has none at all; false
// with exit 4 when there are only damaged ones. One that any rank cannot read is not damaged: false
// with exit 5, so that no newer state is given up for a network file system that was away.
// Collective over all ranks (hashing is shared out).
bool checkpoint_find_latest(const char *run_dir, int64_t before, VerifyDepth depth,
                            char path[CHECKPOINT_PATH_BYTES], Error *err);

// Verifies every byte of one file. False with exit 4 naming the dataset and the damaged block, or
// exit 4 when it cannot be read. Collective over all ranks (hashing is shared out).
bool checkpoint_verify(const char *path, Error *err);

// Reads step, state and utilization, then each tensor's slice into tensors[i].data. Every block is
// compared with its hash on the way; with verify_rest so is every other byte of the file. Names,
// dtypes and global shapes must match those of the file in every group ("parameters/",
// "optimizer/") from which a tensor is asked for, except those of optional tensors: otherwise false
// with exit 4, naming the first that differs, both shapes and the configuration keys that differ.
// On failure state and utilization are untouched; tensors may be partly overwritten. Collective
// over all ranks.
bool checkpoint_load(const char *path, Checkpoint *checkpoint, Error *err);

// The configuration stored in a checkpoint, NUL-terminated, to be freed by the caller. Reads and
// checks only manifest and configuration. Not collective.
bool checkpoint_read_config(const char *path, char **config_yaml, Error *err);

// The same of a text that is a tensor of bytes, which must be there. Not collective.
bool checkpoint_read_text(const char *path, const char *name, char **text, Error *err);

// The state stored in a checkpoint. Reads and checks only manifest and state. Not collective.
bool checkpoint_read_state(const char *path, TrainState *state, Error *err);

// The utilization history stored in a checkpoint, to be freed by the caller. Reads and checks only
// manifest and history. Not collective.
bool checkpoint_read_utilization(const char *path, UtilizationHistory *history, Error *err);

// The global shape of a stored tensor. Reads and checks only the manifest. Not collective.
bool checkpoint_read_shape(const char *path, const char *name, int64_t shape[3], Error *err);

// State, tensor table in name order (data NULL, replicated false, first 0, count shape[0]) and
// utilization of a file, for `inspect`. Verifies the whole file. Allocates; free with
// checkpoint_free_info. Not collective.
typedef struct CheckpointInfo {
    SavedTensor *tensors;
    int tensor_count;
    TrainState state;
    char *config_yaml;
    char program_version[64];
    char created_utc[32];
    UtilizationHistory utilization;
    char digest[40]; // hex, see checkpoint_digest
} CheckpointInfo;
bool checkpoint_read_info(const char *path, CheckpointInfo *info, Error *err);
void checkpoint_free_info(CheckpointInfo *info);
// Only the tensor table, from the sealed manifest: reads and hashes no tensor. The rest of *info is
// zero. Free it likewise. Not collective.
bool checkpoint_read_table(const char *path, CheckpointInfo *info, Error *err);

// XXH3-128 in hex over what was computed: for each tensor in name order its name, dtype, shape and
// bytes, among them the state; then, from the utilization history, its shape, its number of steps
// and every expert's choices routed and dropped in all of them. Not the configuration, version,
// time, run, layout or rows of the history: runs on different numbers of ranks that computed the
// same bits have the same digest, however often they logged. Reads and verifies the whole file. Not
// collective.
bool checkpoint_digest(const char *path, char digest[40], Error *err);

// Whether the dataset of this name goes into the digest as it lies in the file: what was computed,
// not how, when, in which run or how often it was looked at. Not collective.
bool checkpoint_in_digest(const char *name);

#endif
