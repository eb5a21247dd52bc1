// Power losses: what a disk may hold when it goes dark at any moment of three saves. What was
// written and not synced since is there or not, sector by sector; so are names whose folder was not
// synced. Every file that bears a checkpoint's name is whole then, and the newest save that was
// reported done is among them.
//
// The test is tested too: without fsync, without the folder's, and with a copy in the place of the
// renaming it has to find damage.
// On one rank. Six images of each moment; FAULTS_ALL=1: sixty.
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm/comm.h"
#include "kernels/log.h"
#include "tests/faults/inject/wrap.h"
#include "tests/parallel/checkpoint_sample.h"

enum { SECTOR = 512, FILES_MAX = 64, NAMES_MAX = 64, PENDING_MAX = 4096, FDS_MAX = 256, SAVES = 3 };

static char run_dir[] = "/dev/shm/check_power_loss.XXXXXX", image_dir[64];

// ---- the disk -----------------------------------------------------------------------------------

typedef struct Write {
    int64_t offset, bytes; // bytes -1: the file is made `offset` bytes long
    char *data;
} Write;

// What is sure to survive, and what was written since.
typedef struct DiskFile {
    char *data;
    int64_t bytes, room;
    Write *pending;
    int pending_count;
} DiskFile;

typedef struct Name {
    char path[256];
    int file; // -1: of no file
} Name;

// A name appears, goes, or changes; `from` empty: it is new; `to` empty: it goes.
typedef struct NameChange {
    char from[256], to[256];
    int file;
} NameChange;

static DiskFile files[FILES_MAX];
static int file_count;
static Name names[NAMES_MAX], names_now[NAMES_MAX]; // on the disk; as the program sees them
static NameChange changes[PENDING_MAX];
static int change_count;
static int open_files[FDS_MAX]; // 1 + the file; 0: none of ours; -1: a folder

typedef enum Mutant { SOUND, NO_FSYNC, NO_FOLDER_SYNC, COPY_FOR_RENAME } Mutant;
static Mutant mutant;
static bool recording = false;
static int moments, images_a_moment = 6, images, damaged;
static int64_t reported; // step of the newest save that has returned

static void try_images(void);

static Name *name_find(Name *list, const char *path) {
    Name *unused = NULL;
    for (int i = 0; i < NAMES_MAX; i++) {
        if (list[i].path[0] && strcmp(list[i].path, path) == 0) return &list[i];
        if (!list[i].path[0] && !unused) unused = &list[i];
    }
    CHECK(unused, "too many names");
    unused->file = -1;
    return unused;
}

static void name_set(Name *list, const char *path, int file) {
    Name *name = name_find(list, path);
    snprintf(name->path, sizeof name->path, "%s", path);
    name->file = file;
}

static void name_clear(Name *list, const char *path) {
    *name_find(list, path) = (Name){.file = -1};
}

static void name_apply(Name *list, const NameChange *change) {
    if (change->from[0]) name_clear(list, change->from);
    if (change->to[0]) name_set(list, change->to, change->file);
}

static void change_name(const char *from, const char *to, int file) {
    CHECK(change_count < PENDING_MAX, "too many names change");
    NameChange *change = &changes[change_count++];
    snprintf(change->from, sizeof change->from, "%s", from);
    snprintf(change->to, sizeof change->to, "%s", to);
    change->file = file;
    name_apply(names_now, change);
    try_images();
}

static bool is_ours(const char *path) {
    return recording && strncmp(path, run_dir, strlen(run_dir)) == 0;
}

static DiskFile *file_of(int fd) {
    return recording && fd >= 0 && fd < FDS_MAX && open_files[fd] > 0 ? &files[open_files[fd] - 1]
                                                                      : NULL;
}

static void file_room(DiskFile *file, int64_t bytes) {
    if (bytes <= file->room) return;
    file->data = realloc(file->data, (size_t)bytes);
    CHECK(file->data, "no memory");
    memset(file->data + file->room, 0, (size_t)(bytes - file->room));
    file->room = bytes;
}

// keeps(sector) of a write reach the disk.
static void file_apply(DiskFile *file, const Write *write, bool (*keeps)(void)) {
    if (write->bytes < 0) {
        file_room(file, write->offset);
        if (write->offset < file->bytes)
            memset(file->data + write->offset, 0, (size_t)(file->bytes - write->offset));
        file->bytes = write->offset;
        return;
    }
    int64_t end = write->offset + write->bytes;
    file_room(file, end);
    for (int64_t at = write->offset; at < end;) {
        int64_t next = (at / SECTOR + 1) * SECTOR < end ? (at / SECTOR + 1) * SECTOR : end;
        if (keeps()) {
            memcpy(file->data + at, write->data + (at - write->offset), (size_t)(next - at));
            if (next > file->bytes) file->bytes = next;
        }
        at = next;
    }
}

static bool always(void) {
    return true;
}

static void pend(DiskFile *file, const void *data, int64_t bytes, int64_t offset) {
    if (!file->pending) file->pending = calloc(PENDING_MAX, sizeof *file->pending);
    CHECK(file->pending && file->pending_count < PENDING_MAX, "too many writes");
    Write *write = &file->pending[file->pending_count++];
    *write = (Write){offset, bytes, bytes > 0 ? malloc((size_t)bytes) : NULL};
    if (bytes > 0) memcpy(write->data, data, (size_t)bytes);
    try_images();
}

static void settle_file(DiskFile *file) {
    for (int i = 0; i < file->pending_count; i++) {
        file_apply(file, &file->pending[i], always);
        free(file->pending[i].data);
    }
    file->pending_count = 0;
}

static void settle_names(void) {
    for (int i = 0; i < change_count; i++) name_apply(names, &changes[i]);
    change_count = 0;
}

// ---- the calls ----------------------------------------------------------------------------------

WRAP(int, open, const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    int fd = __real_open(path, flags, mode);
    if (fd < 0 || !is_ours(path)) return fd;
    CHECK(fd < FDS_MAX, "descriptor %d", fd);
    const Name *known = name_find(names_now, path);
    open_files[fd] = flags & O_DIRECTORY ? -1 : known->file + 1;
    if (open_files[fd] == 0) { // a new one
        CHECK(flags & O_CREAT && file_count < FILES_MAX, "%s is unknown", path);
        open_files[fd] = ++file_count;
        change_name("", path, file_count - 1);
    }
    return fd;
}

WRAP(int, close, int fd) {
    if (recording && fd >= 0 && fd < FDS_MAX) open_files[fd] = 0;
    return __real_close(fd);
}

WRAP(ssize_t, pwrite, int fd, const void *data, size_t bytes, off_t offset) {
    ssize_t written = __real_pwrite(fd, data, bytes, offset);
    DiskFile *file = file_of(fd);
    if (file && written > 0) pend(file, data, written, offset);
    return written;
}

WRAP(int, ftruncate, int fd, off_t bytes) {
    DiskFile *file = file_of(fd);
    if (file) pend(file, NULL, -1, bytes);
    return __real_ftruncate(fd, bytes);
}

// Tests need not wait for a disk.
WRAP(int, fsync, int fd) {
    DiskFile *file = file_of(fd);
    if (file && mutant != NO_FSYNC) settle_file(file);
    bool folder = recording && fd < FDS_MAX && open_files[fd] < 0;
    if (folder && mutant != NO_FSYNC && mutant != NO_FOLDER_SYNC) settle_names();
    if (file || folder) try_images();
    return 0;
}

// The file's contents written once more, under the other name.
static void copy_instead(const char *from, const char *to, int file) {
    DiskFile whole = {0};
    file_room(&whole, files[file].bytes);
    memcpy(whole.data, files[file].data, (size_t)files[file].bytes);
    whole.bytes = files[file].bytes;
    for (int i = 0; i < files[file].pending_count; i++)
        file_apply(&whole, &files[file].pending[i], always);
    change_name("", to, file_count++);
    pend(&files[file_count - 1], whole.data, whole.bytes, 0);
    change_name(from, "", -1);
    free(whole.data);
}

WRAP(int, rename, const char *from, const char *to) {
    int result = __real_rename(from, to);
    if (result != 0 || !is_ours(to)) return result;
    int file = name_find(names_now, from)->file;
    if (mutant == COPY_FOR_RENAME) {
        copy_instead(from, to, file);
    } else {
        change_name(from, to, file);
    }
    return result;
}

WRAP(int, unlink, const char *path) {
    int result = __real_unlink(path);
    if (result == 0 && is_ours(path)) change_name(path, "", -1);
    return result;
}

// ---- images -------------------------------------------------------------------------------------

static uint64_t chance = 1;

static bool toss(void) {
    chance = chance * 6364136223846793005u + 1442695040888963407u;
    return chance >> 63;
}

static bool never(void) {
    return false;
}

static void write_image_file(const char *path, const DiskFile *file) {
    char where[320];
    snprintf(where, sizeof where, "%s%s", image_dir, path + strlen(run_dir));
    int fd = open(where, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    CHECK(fd >= 0 && pwrite(fd, file->data, (size_t)file->bytes, 0) == file->bytes, "%s", where);
    close(fd);
}

static bool is_checkpoint(const char *path) {
    return strcmp(path + strlen(path) - 3, ".h5") == 0;
}

// What the disk holds when what is pending has reached it as `keeps` says. Returns the names.
static void make_image(bool (*keeps)(void), Name image[NAMES_MAX]) {
    memcpy(image, names, sizeof names);
    for (int i = 0; i < change_count; i++)
        if (keeps()) name_apply(image, &changes[i]);
    for (int i = 0; i < NAMES_MAX; i++) {
        if (!image[i].path[0] || image[i].file < 0 || !is_checkpoint(image[i].path)) continue;
        const DiskFile *disk = &files[image[i].file];
        DiskFile file = {0};
        file_room(&file, disk->bytes + 1);
        if (disk->bytes > 0) memcpy(file.data, disk->data, (size_t)disk->bytes);
        file.bytes = disk->bytes;
        for (int w = 0; w < disk->pending_count; w++)
            if (disk->pending[w].bytes >= 0 || keeps()) file_apply(&file, &disk->pending[w], keeps);
        write_image_file(image[i].path, &file);
        free(file.data);
    }
}

static bool holds(const Name image[NAMES_MAX]) {
    char path[CHECKPOINT_PATH_BYTES], where[320];
    Error err = {0};
    bool ok = checkpoint_find_latest(image_dir, INT64_MAX, VERIFY_ALL, path, &err);
    int64_t newest = 0;
    if (ok && path[0]) {
        Sample sample;
        sample_init(&sample, 0, 0, 1, false);
        sample_clear(&sample);
        ok = checkpoint_load(path, &sample.checkpoint, &err);
        newest = sample.checkpoint.state.step;
        ok = ok && sample_equals(&sample, newest, 0);
        sample_free(&sample);
    }
    ok = ok && newest >= reported;
    for (int i = 0; i < NAMES_MAX; i++) {
        if (!image[i].path[0] || !is_checkpoint(image[i].path)) continue;
        snprintf(where, sizeof where, "%s%s", image_dir, image[i].path + strlen(run_dir));
        ok = ok && (image[i].file < 0 || checkpoint_verify(where, &err));
        unlink(where);
    }
    return ok;
}

static void try_images(void) {
    Name image[NAMES_MAX];
    recording = false;
    moments++;
    for (int i = 0; i < images_a_moment; i++) {
        make_image(i == 0 ? never : i == 1 ? always : toss, image);
        images++;
        if (!holds(image)) damaged++;
    }
    recording = true;
}

// ---- saves --------------------------------------------------------------------------------------

static void forget_disk(void) {
    for (int i = 0; i < file_count; i++) {
        settle_file(&files[i]);
        free(files[i].data);
        free(files[i].pending);
    }
    memset(files, 0, sizeof files);
    memset(names, 0, sizeof names);
    memset(names_now, 0, sizeof names_now);
    file_count = change_count = moments = images = damaged = 0;
    reported = 0;
    for (int i = 0; i < NAMES_MAX; i++) names[i].file = names_now[i].file = -1;
}

static void save_three_times(Mutant how) {
    char command[320];
    snprintf(command, sizeof command, "rm -rf '%s/checkpoints' '%s' && mkdir -p '%s/checkpoints'",
             run_dir, image_dir, image_dir);
    CHECK(system(command) == 0, "%s", command);
    forget_disk();
    mutant = how;
    for (int64_t step = 1; step <= SAVES; step++) {
        Sample sample;
        Error err = {0};
        sample_init(&sample, step, 0, 1, false);
        recording = true;
        bool ok = checkpoint_save(run_dir, &sample.checkpoint, (CheckpointKeep){.last = 1}, &err);
        reported = step;
        try_images();
        recording = false;
        CHECK(ok, "%s", err.message);
        sample_free(&sample);
    }
}

int main(int argc, char **argv) {
    static const char *const without[] = {"", "fsync", "the folder's fsync", "a renaming"};
    bool ok = true;
    char command[128];
    if (getenv("FAULTS_ALL")) images_a_moment = 60;
    CHECK(mkdtemp(run_dir), "no temporary folder");
    snprintf(image_dir, sizeof image_dir, "%s.image", run_dir);
    comm_init(&argc, &argv);
    log_set_rank(1); // which is silent: what an image lacks is no news

    save_three_times(SOUND);
    ok = damaged == 0 && moments > 50;
    printf("%s a power loss at any moment leaves what was saved (%d faults)\n",
           ok ? "ok     " : "FAILED ", images);
    for (int how = NO_FSYNC; how <= COPY_FOR_RENAME; how++) {
        save_three_times((Mutant)how);
        printf("%s without %s it does not (%d faults)\n", damaged > 0 ? "ok     " : "FAILED ",
               without[how], images);
        ok = ok && damaged > 0;
    }
    comm_finalize();
    snprintf(command, sizeof command, "rm -r '%s' '%s'", run_dir, image_dir);
    return system(command) == 0 && ok ? 0 : 1;
}
