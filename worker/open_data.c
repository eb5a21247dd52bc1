#include "worker/open_data.h"

#include "comm/comm.h"
#include "worker/compare_ranks.h"

bool open_data(DataFile **file, const char *key, const char *path, const Vocabulary *vocabulary,
               char identity[40], Error *err) {
    bool ok = data_file_open(file, path, vocabulary, comm_rank(), comm_size(), err) &&
              data_file_identity(*file, identity, err);
    return comm_agree(ok, err) && compare_data_files(key, path, *file, identity, err);
}
