// One file of the safetensors format (github.com/huggingface/safetensors):
//
//   u64 length | JSON {"NAME": {"dtype", "shape", "data_offsets": [begin, end]}, …} | bytes
//
// little-endian; offsets count from the end of the JSON. The tensors' bytes lie apart from each
// other and leave no gap, so that a file holds nothing that its header does not name: a header that
// says otherwise is refused before anything is read by it. Not collective.
#ifndef MOETRAIN_WORKER_HUGGINGFACE_SAFETENSORS_H
#define MOETRAIN_WORKER_HUGGINGFACE_SAFETENSORS_H

#include "checkpoint/hash.h"
#include "kernels/check.h"

enum {
    SAFETENSORS_NAME_BYTES = 192,
    SAFETENSORS_AXES = 4,
    SAFETENSORS_HEADER_MOST = 100000000, // bytes of JSON, as the format has it
};

// F8 is E4M3 without infinities; it and U8 are of quantised weights (quantized_weights.h).
typedef enum StoredType { STORED_F32, STORED_BF16, STORED_F16, STORED_F8, STORED_U8 } StoredType;
int64_t stored_type_bytes(StoredType type);
bool stored_type_is_float(StoredType type);    // what safetensors_read takes
const char *stored_type_name(StoredType type); // "F32"

typedef struct StoredTensor {
    char name[SAFETENSORS_NAME_BYTES];
    StoredType type;
    int rank; // 0..4
    int64_t shape[SAFETENSORS_AXES];
    int64_t offset, bytes; // in the file
} StoredTensor;

// ---- reading ------------------------------------------------------------------------------------

typedef struct Safetensors {
    int fd;
    StoredTensor *tensors; // ascending by name
    int64_t count;
} Safetensors;

// Opens a file and checks its whole header. False with exit 4 when it is damaged or holds what is
// not known, exit 5 when it cannot be read. The messages do not name the file.
bool safetensors_open(Safetensors *file, const char *path, Error *err);
void safetensors_close(Safetensors *file); // legal on a zeroed one

// Elements [first, first + count) as f32, exactly. False with exit 4 where one is not finite, which
// names the tensor and the element's place; exit 4 or 5 when it cannot be read.
bool safetensors_read(int fd, const StoredTensor *tensor, int64_t first, int64_t count, float *out,
                      Error *err);
// Elements of one byte as they are. False with exit 4 or 5.
bool safetensors_read_bytes(int fd, const StoredTensor *tensor, int64_t first, int64_t count,
                            uint8_t *out, Error *err);
// The same check for f32 numbers of any tensor.
bool check_finite(const char *name, int rank, const int64_t *shape, int64_t first, int64_t count,
                  const float *values, Error *err);

// ---- writing ------------------------------------------------------------------------------------

typedef struct SafetensorsWriter {
    int fd;
    int64_t at;     // where the next byte goes
    Hasher *hasher; // of all bytes so far
} SafetensorsWriter;

// Begins a file that must not exist for these tensors, whose offsets are filled in; their bytes
// follow in this order. False with exit 5.
bool safetensors_create(SafetensorsWriter *writer, const char *path, StoredTensor *tensors,
                        int64_t count, Error *err);
// The next elements, narrowed to `type`, to the nearest, ties to even.
bool safetensors_append(SafetensorsWriter *writer, StoredType type, const float *values,
                        int64_t count, Error *err);
// Waits for the disk and closes the file, in any case. *hash is that of the whole file.
bool safetensors_finish(SafetensorsWriter *writer, bool ok, Hash *hash, Error *err);

#endif
